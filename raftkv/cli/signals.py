"""SIGINT and SIGTERM for commands that have something to give back."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from raftkv.cli.exits import CtlError

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interrupted(CtlError):
    """Raised in the main thread by the first signal, wherever it is; never twice."""

    def __init__(self) -> None:
        super().__init__("context canceled")


class Signals:
    """What the signals do now. They are raised until `defer` or `hand_over`."""

    def __init__(self) -> None:
        self._raises = True
        self._heir: Callable[[], None] | None = None

    def defer(self) -> None:
        """From now on signals are let pass."""
        self._raises = False

    def hand_over(self, heir: Callable[[], None]) -> None:
        """From now on signals call this, in the main thread, wherever it is."""
        self._heir = heir

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """A signal came."""
        if self._heir is not None:
            self._heir()
        elif self._raises:
            self._raises = False  # what is given back now must be given back in peace
            raise Interrupted


@contextmanager
def caught() -> Iterator[Signals]:
    """Within, signals raise Interrupted instead of ending the process."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before: list[Any] = [signal.signal(number, signals.on_signal) for number in _SIGNALS]
    try:
        yield signals
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
