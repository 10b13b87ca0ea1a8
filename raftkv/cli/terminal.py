"""What a terminal offers: colours, keys, a screen that is drawn again, a progress bar.

Nothing here is used where the output is not a terminal, and rich, which draws, is imported only
where it is. NO_COLOR (any value but an empty one) takes the colours away.
"""

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Self

QUIT_KEYS = b"qQ\x03\x04\x1b"
# What arrows and the like send, and a key that is pressed with Alt.
_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[@-~]|[^\x00-\x1f])")


def has_colours(stream: IO[str]) -> bool:
    """Whether to colour what is written to `stream`."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return stream.isatty()


def is_screen(stream: IO[str]) -> bool:
    """Whether `stream` can be drawn on again and again."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


@contextmanager
def keys() -> Iterator[Callable[[float], bool]]:
    """A function that waits up to so many seconds for a key and tells whether it was to quit.

    Without a terminal on standard input it only waits.
    """
    if not sys.stdin.isatty():
        yield _only_wait
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)

    def quits(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while select.select([number], [], [], max(deadline - time.monotonic(), 0))[0]:
            if wants_to_quit(os.read(number, 64)):
                return True
        return False

    tty.setcbreak(number)
    try:
        yield quits
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def wants_to_quit(pressed: bytes) -> bool:
    """Whether a key to quit is among what was read at once; nothing: the terminal is gone.

    An arrow key begins with ESC too, and neither quits nor hides what was pressed behind it.
    """
    alone = _SEQUENCE.sub(b"", pressed)
    return not pressed or any(key in QUIT_KEYS for key in alone)


def _only_wait(seconds: float) -> bool:
    time.sleep(max(seconds, 0))
    return False


class Screen:
    """The whole terminal, drawn anew each time and given back at the end."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(highlight=False)
        self._live = Live(console=self._console, screen=True, auto_refresh=False)

    @property
    def columns(self) -> int:
        """Its width now."""
        return self._console.width

    def draw(self, lines: list[tuple[str, str]]) -> None:
        """lines: (text, rich style or empty)."""
        from rich.text import Text

        text = Text(no_wrap=True, overflow="crop")
        for line, style in lines[: self._console.height]:
            text.append(line + "\n", style or None)
        self._live.update(text, refresh=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()


class Progress:
    """A bar on standard error if that is a terminal; else nothing at all.

    label: what is done. total: in whatever is counted; None: not known.
    """

    def __init__(self, label: str, total: int | None) -> None:
        self._bar: Any = None
        if not is_screen(sys.stderr):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bar.add_task(label, total=total)

    def to(self, done: int, total: int | None = None) -> None:
        """So much is done. total: if that is known only now."""
        if self._bar is not None:
            given = {} if total is None else {"total": total}
            self._bar.update(self._task, completed=done, **given)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
