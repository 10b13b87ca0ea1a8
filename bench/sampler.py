"""Runs a module and samples its Python stack by CPU time.

    python -m bench.sampler OUTPUT MODULE ARGUMENT...

SIGUSR1 starts the sampling, the next one stops it and writes the stacks to OUTPUT, one line
`frame;frame;frame count` for each, outermost first. The timer counts CPU time of the whole
process (ITIMER_PROF), so a process that waits for a CPU, or was preempted while it woke
another one up, is charged nothing for it; a sampler by wall clock shows such places instead
of costs. Samples are taken by the main thread, at the next call or loop: CPU time that other
threads use meanwhile is charged to what the main thread does.
"""

import runpy
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Final

INTERVAL_SECONDS: Final = 0.002


class Sampler:
    """Counts stacks while it is on. output: where they are written."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._on = False
        self._stacks: Counter[tuple[CodeType, ...]] = Counter()

    def toggle(self, number: int, frame: FrameType | None) -> None:
        """Starts, or stops and writes."""
        self._on = not self._on
        interval = INTERVAL_SECONDS if self._on else 0.0
        signal.setitimer(signal.ITIMER_PROF, interval, interval)
        if self._on:
            self._stacks.clear()
            return
        lines = [
            f"{';'.join(map(describe, stack))} {count}\n" for stack, count in self._stacks.items()
        ]
        partial = self._output.with_suffix(".partial")
        partial.write_text("".join(lines))
        partial.rename(self._output)

    def sample(self, number: int, frame: FrameType | None) -> None:
        """Counts the stack that is running."""
        stack = []
        while frame is not None:
            stack.append(frame.f_code)
            frame = frame.f_back
        self._stacks[tuple(reversed(stack))] += 1


def describe(code: CodeType) -> str:
    """A function's name with its file and first line."""
    parts = Path(code.co_filename).parts
    return f"{code.co_qualname} ({'/'.join(parts[-3:])}:{code.co_firstlineno})"


def main() -> None:
    """Installs the sampler and becomes the module."""
    sampler = Sampler(Path(sys.argv[1]))
    signal.signal(signal.SIGUSR1, sampler.toggle)
    signal.signal(signal.SIGPROF, sampler.sample)
    signal.siginterrupt(signal.SIGPROF, False)
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
