"""`python -m raftkv.sim`: run many seeds, or replay one, or hunt the known-wrong variants.

    python -m raftkv.sim --seeds 1000 [--start 0] [--nodes 3|5|mixed] [--seconds 20]
    python -m raftkv.sim --seed 17 --verbose
    python -m raftkv.sim --load watch --seeds 30 --seconds 6 --least-events 10000000
    python -m raftkv.sim --mutants

Ends with exit code 1 if any seed failed, if all together did too little (or any mutant survived).
"""

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import click

from raftkv.sim.floors import faults_missing, watching_missing
from raftkv.sim.run import LOADS, Summary, run_seed
from raftkv.sim.world import SECOND

_NODES = {"mixed": 0, "3": 3, "5": 5}
_TRACE_LINES: Final = 60


class Pinned(NamedTuple):
    """What to run. seconds: virtual time of faults. without: kinds of faults left out.

    load: of `run.LOADS`.
    """

    seed: int
    seconds: float
    without: tuple[str, ...] = ()
    load: str = "mixed"

    def command(self, nodes: str) -> str:
        """How to repeat this run and see it."""
        words = [f"python -m raftkv.sim --seed {self.seed} --nodes {nodes}"]
        words += [f"--load {self.load}"] if self.load != "mixed" else []
        words += [f"--seconds {self.seconds}", *(f"--without '{one}'" for one in self.without)]
        return " ".join((*words, "--verbose"))


class Totals:
    """Sums over all runs."""

    def __init__(self) -> None:
        self.runs = 0
        self.failed: list[Summary] = []
        self.sums: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.watching: Counter[str] = Counter()
        self.leasing: Counter[str] = Counter()
        self.sessions: Counter[str] = Counter()
        self.chosen: Counter[str] = Counter()  # kinds of faults, by run
        self.struck: Counter[str] = Counter()
        self.viewing: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()

    def add(self, summary: Summary) -> None:
        """One more run."""
        self.runs += 1
        if summary.failure:
            self.failed.append(summary)
        for name in (
            "virtual_us",
            "events",
            "operations",
            "acknowledged",
            "elections",
            "snapshots",
            "restarts",
            "changes",
        ):
            self.sums[name] += getattr(summary, name)
        self.faults += summary.faults
        self.frames += summary.frames
        self.watching += summary.watching
        self.leasing += summary.leasing
        self.sessions += summary.sessions
        self.chosen.update(summary.kinds)
        self.struck += summary.struck
        self.viewing += summary.viewing
        self.checked += summary.checked

    def missing(self, load: str, seconds: float, least_events: int) -> list[str]:
        """What all runs together should have done and did not."""
        watch = load == "watch"
        found = faults_missing(self.chosen, self.struck, self.runs, even=watch)
        if watch:
            found += watching_missing(self.viewing, self.runs, seconds)
        events = self.checked["reliable"]
        if events < least_events:
            found.append(f"checked events of watches: {events} of at least {least_events}")
        return found

    def lines(self, wall_seconds: float) -> list[str]:
        """The summary as text."""
        sums = self.sums
        virtual_seconds = sums["virtual_us"] / SECOND
        return [
            f"{self.runs} runs, {len(self.failed)} failed; {virtual_seconds / 3600:.2f} simulated "
            f"hours in {wall_seconds:.0f} s ({virtual_seconds / max(wall_seconds, 1e-9):.0f} x)",
            f"operations {sums['operations']}, acknowledged {sums['acknowledged']}, "
            f"events {sums['events']}",
            f"elections {sums['elections']}, snapshots installed {sums['snapshots']}, "
            f"restarts {sums['restarts']}, configurations {sums['changes']}",
            _line("faults begun", self.faults),
            _line("faults that struck", self.struck),
            _line("watches", self.watching),
            _line("load for watches", self.viewing),
            _line("checked", self.checked),
            _line("leases", self.leasing),
            _line("sessions", self.sessions),
            _line("frames", self.frames),
        ]


def _line(name: str, counts: Counter[str]) -> str:
    return f"{name}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))


def _report_failure(summary: Summary, replay: str) -> None:
    click.echo(f"\nseed {summary.seed} FAILED: {summary.failure}")
    for line in summary.trace[-_TRACE_LINES:]:
        click.echo(f"    {line}")
    click.echo(f"  replay: {replay}")


def _run_all(
    seeds: Iterable[Pinned],
    job: Callable[[Pinned], Summary],
    processes: int,
) -> Iterable[Summary]:
    if processes <= 1:
        yield from map(job, seeds)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share threads that it lacks
    with context.Pool(processes) as pool:
        yield from pool.imap_unordered(job, seeds, chunksize=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default=100, show_default=True, help="How many seeds to run.")
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run this one seed only.")
@click.option(
    "--without",
    multiple=True,
    help="A kind of fault, `watches`, `leases` or `sessions`: not these (with --seed).",
)
@click.option(
    "--seeds-file", type=click.Path(exists=True, path_type=Path), help="Run the seeds listed here."
)
@click.option("--nodes", type=click.Choice(sorted(_NODES)), default="mixed", show_default=True)
@click.option(
    "--seconds", default=20.0, show_default=True, help="Virtual seconds of faults per seed."
)
@click.option("--load", type=click.Choice(sorted(LOADS)), default="mixed", show_default=True)
@click.option("--least-events", default=0, help="Fail below so many checked events of watches.")
@click.option("--processes", default=2, show_default=True)
@click.option("--verbose", is_flag=True, help="Print every event (with --seed).")
@click.option("--mutants", is_flag=True, help="Check that every known-wrong variant is caught.")
@click.option("--keep-going", is_flag=True, help="Run all seeds although some failed.")
def main(
    seeds: int,
    start: int,
    seed: int | None,
    without: tuple[str, ...],
    seeds_file: Path | None,
    nodes: str,
    seconds: float,
    load: str,
    least_events: int,
    processes: int,
    verbose: bool,
    mutants: bool,
    keep_going: bool,
) -> None:
    """Deterministic simulation of a whole cluster: same seed, same run."""
    if mutants:
        from raftkv.sim.mutants import print_kill_list

        sys.exit(0 if print_kill_list(processes) else 1)
    chosen = [Pinned(number, seconds, (), load) for number in range(start, start + seeds)]
    if seeds_file is not None:
        chosen = read_seeds(seeds_file)
    if seed is not None:
        chosen, processes = [Pinned(seed, seconds, without, load)], 1
    echo = click.echo if verbose and seed is not None else None
    job = partial(_run_one, nodes=_NODES[nodes], echo=echo)
    commands = {one.seed: one.command(nodes) for one in chosen}
    totals, began = Totals(), time.monotonic()
    for summary in _run_all(chosen, job, processes):
        totals.add(summary)
        if seed is not None:
            click.echo(f"trace hash {summary.trace_hash}")
        if summary.failure:
            _report_failure(summary, commands[summary.seed])
            if not keep_going and len(totals.failed) >= 5:
                break
    click.echo("\n".join(totals.lines(time.monotonic() - began)))
    if totals.failed:
        click.echo(f"failed seeds: {sorted(one.seed for one in totals.failed)}")
    missing = totals.missing(load, seconds, least_events) if seed is None else []
    for line in missing:
        click.echo(f"too little: {line}")
    sys.exit(1 if totals.failed or missing else 0)


def _run_one(chosen: Pinned, *, nodes: int, echo: Callable[[str], None] | None) -> Summary:
    return run_seed(
        chosen.seed,
        nodes=nodes,
        seconds=chosen.seconds,
        without=chosen.without,
        load=chosen.load,
        echo=echo,
    )


def read_seeds(path: Path) -> list[Pinned]:
    """The seeds of a file: one a line, `#` begins a comment.

    A line is the seed, the virtual seconds of faults, and `-kind` for each kind of fault that
    is left out because it did not exist when the seed was found (with _ for spaces). `+watch`: a
    run of the load for watches.
    """
    lines = (line.partition("#")[0].split() for line in path.read_text().splitlines())
    return [
        Pinned(
            int(words[0]),
            float(words[1]),
            tuple(word[1:].replace("_", " ") for word in words[2:] if word[0] == "-"),
            "watch" if "+watch" in words else "mixed",
        )
        for words in lines
        if words
    ]


if __name__ == "__main__":
    main()
