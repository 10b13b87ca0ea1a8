"""Something that is done again and again in a thread while load is measured."""

import threading
from collections.abc import Callable
from typing import Generic, Self, TypeVar

Result = TypeVar("Result")


class Beside(Generic[Result]):
    """Calls `do` one time after the other until it is left, at least once.

    A context manager. results: what each call returned. Errors: on leaving, what a call raised,
    which also ends the calls.
    """

    def __init__(self, do: Callable[[], Result], pause_seconds: float = 0.0) -> None:
        self.results: list[Result] = []
        self._do = do
        self._pause_seconds = pause_seconds
        self._error: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.results.append(self._do())
            while not self._stop.wait(self._pause_seconds):
                self.results.append(self._do())
        except Exception as error:  # noqa: BLE001  (raised on leaving)
            self._error = error

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
