"""A run as a child of a series: who interrupts the series interrupts the run, once.

The run needs some time then: it heals, stops what it started and writes its report. So its end is
waited for, however long that takes; a second signal is handed on like the first. The child has a
process group of its own, because a terminal would tell it of Ctrl-C besides.
"""

import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import NamedTuple

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Ended(NamedTuple):
    """code: the exit code. interrupted: a signal came meanwhile, so nothing more is wanted."""

    code: int
    interrupted: bool


def run_child(command: Sequence[str], environment: Mapping[str, str]) -> Ended:
    """Runs a command to its end. Only for the main thread. Errors: OSError."""
    came: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        came.append(number)
        child.send_signal(number)

    with subprocess.Popen(command, env=environment, process_group=0) as child:
        before = {number: signal.signal(number, hand_on) for number in _SIGNALS}
        try:
            code = child.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return Ended(code, bool(came))
