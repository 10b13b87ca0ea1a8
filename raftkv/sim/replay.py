"""What decides a run: its seed, and what differs from what the seed alone would draw.

A `Replay` goes to other processes, makes the command that repeats the run, and is what
`sim.shrinking` makes smaller.
"""

import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from raftkv.sim.run import LOADS, Summary, run_seed

EPISODIC: Final = ("swarm", "calm")  # loads whose faults can be left out one by one
SECONDS: Final[Mapping[str, float]] = {"swarm": 50.0, "calm": 120.0}  # of faults, by load
_NODES: Final = {"mixed": 0, "3": 3, "5": 5}


class Replay(NamedTuple):
    """What to run.

    seconds: virtual time of faults. without: kinds of faults, or what clients do, left out. load:
    of `run.LOADS`. nodes: 3, 5 or 0 for drawn. only: episodes that happen, None: all. mutant: name
    of a known-wrong variant, empty for the real code.
    """

    seed: int
    seconds: float
    without: tuple[str, ...] = ()
    load: str = "mixed"
    nodes: int = 0
    only: tuple[str, ...] | None = None
    mutant: str = ""

    def command(self) -> str:
        """How to repeat this run and see it."""
        words = ["python", "-m", "raftkv.sim", "--seed", str(self.seed), "--load", self.load]
        words += ["--nodes", next(name for name, number in _NODES.items() if number == self.nodes)]
        words += ["--seconds", f"{self.seconds:g}"]
        for one in self.without:
            words += ["--without", one]
        if self.only is not None:
            words += ["--only", ",".join(self.only)]
        if self.mutant:
            words += ["--mutant", self.mutant]
        return shlex.join((*words, "--verbose"))

    def run(self, echo: Callable[[str], None] | None = None) -> Summary:
        """Run it. echo: is given every event as a line."""
        began = time.process_time()
        summary = self._run(echo)
        summary.cpu_us = int(1e6 * (time.process_time() - began))
        return summary

    def _run(self, echo: Callable[[str], None] | None) -> Summary:
        if self.mutant:
            from raftkv.sim.mutants import MUTANTS, applied  # they patch all that there is

            with applied(next(one for one in MUTANTS if one.name == self.mutant)):
                return self._run_seed(echo)
        return self._run_seed(echo)

    def _run_seed(self, echo: Callable[[str], None] | None) -> Summary:
        return run_seed(
            self.seed,
            nodes=self.nodes,
            seconds=self.seconds,
            without=self.without,
            load=self.load,
            only=self.only,
            echo=echo,
        )


def nodes_named(name: str) -> int:
    """The number of members that `--nodes` stands for; 0: drawn."""
    return _NODES[name]


NODE_CHOICES: Final = tuple(sorted(_NODES))


def read_seeds(path: Path) -> list[Replay]:
    """The seeds of a file: one a line, `#` begins a comment.

    A line is the seed, the virtual seconds of faults, and `-kind` for each kind of fault that
    is left out because it did not exist when the seed was found (with _ for spaces). `+watch`,
    `+swarm` and `+calm`: a run of that load. `=1.2,3.0`: only these episodes.
    """
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    found = []
    for seed, seconds, *words in filter(None, lines):
        loads = [word[1:] for word in words if word[0] == "+"]
        only = next((word[1:] for word in words if word[0] == "="), None)
        found.append(
            Replay(
                int(seed),
                float(seconds),
                tuple(word[1:].replace("_", " ") for word in words if word[0] == "-"),
                loads[0] if loads else "mixed",
                only=None if only is None else tuple(only.split(",")),
            )
        )
    assert all(one.load in LOADS for one in found), path
    return found
