"""`python -m raftkv.sim`: run many seeds, or replay one, or hunt the known-wrong variants.

    python -m raftkv.sim --seeds 1000 [--start 0] [--nodes 3|5|mixed] [--seconds 60]
    python -m raftkv.sim --seed 17 --verbose
    python -m raftkv.sim --load calm --nodes 3 --seeds 20 --processes 1
    python -m raftkv.sim --load watch --seeds 30 --seconds 6 --least-events 10000000
    python -m raftkv.sim --seeds 5 --mutant "vote for any log"
    python -m raftkv.sim --mutants

Prints each seed with what it drew and did. A seed that fails is printed with the command that
replays it, then made smaller (`sim.shrinking`), and printed again. Ends with exit code 1 if any
seed failed, if all together did too little (or any mutant survived).
"""

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from raftkv.sim.replay import (
    EPISODIC,
    NODE_CHOICES,
    SECONDS,
    Replay,
    nodes_named,
    read_seeds,
)
from raftkv.sim.run import LOADS, Summary
from raftkv.sim.shrinking import DEFAULT_RUNS, shrink
from raftkv.sim.totals import Totals
from raftkv.sim.world import SECOND

_TRACE_LINES: Final = 60
_MOST_FAILURES: Final = 5


def _report_failure(summary: Summary, replay: Replay, shrink_runs: int) -> None:
    click.echo(f"\nseed {summary.seed} FAILED: {summary.failure}")
    for line in summary.trace[-_TRACE_LINES:]:
        click.echo(f"    {line}")
    click.echo(f"  replay: {replay.command()}")
    if shrink_runs and replay.load in EPISODIC:
        for line in shrink(replay, summary, runs=shrink_runs).lines():
            click.echo(f"  {line}")


def _one_line(summary: Summary) -> str:
    """A seed: what became of it, what it did, what it drew."""
    return (
        f"seed {summary.seed} {'FAILED' if summary.failure else 'ok'}, "
        f"{summary.virtual_us / SECOND:.0f} s, {summary.operations} operations, "
        f"{sum(summary.struck.values())} faults | {summary.settings}"
    )


def _run_all(
    chosen: Iterable[Replay], job: Callable[[Replay], Summary], processes: int
) -> Iterable[Summary]:
    if processes <= 1:
        yield from map(job, chosen)
        return
    context = multiprocessing.get_context("spawn")  # a fork would share threads that it lacks
    with context.Pool(processes) as pool:
        yield from pool.imap_unordered(job, chosen, chunksize=1)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seeds", default=100, show_default=True, help="How many seeds to run.")
@click.option("--start", default=0, show_default=True, help="The first seed.")
@click.option("--seed", type=int, help="Run this one seed only.")
@click.option(
    "--without",
    multiple=True,
    help="A kind of fault, `watches`, `leases` or `sessions`: not these (with --seed).",
)
@click.option("--only", help="Names of episodes, with commas: only these faults (with --seed).")
@click.option(
    "--seeds-file", type=click.Path(exists=True, path_type=Path), help="Run the seeds listed here."
)
@click.option("--nodes", type=click.Choice(NODE_CHOICES), default="mixed", show_default=True)
@click.option(
    "--seconds",
    type=float,
    help="Virtual seconds of faults per seed. [default: swarm 50, calm 120, others 20]",
)
@click.option("--load", type=click.Choice(sorted(LOADS)), default="swarm", show_default=True)
@click.option("--least-events", default=0, help="Fail below so many checked events of watches.")
@click.option("--least-faults", default=0, help="Fail below so many faults that struck.")
@click.option("--processes", default=2, show_default=True)
@click.option("--verbose", is_flag=True, help="Print every event (with --seed).")
@click.option("--mutant", default="", help="Run this known-wrong variant of the code.")
@click.option("--mutants", is_flag=True, help="Check that every known-wrong variant is caught.")
@click.option("--keep-going", is_flag=True, help="Run all seeds although some failed.")
@click.option(
    "--shrink",
    "shrink_runs",
    default=DEFAULT_RUNS,
    show_default=True,
    help="Runs to spend on making a failing seed smaller; 0: do not.",
)
@click.option(
    "--totals",
    "totals_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the sums here, and go on where they end.",
)
def main(
    seeds: int,
    start: int,
    seed: int | None,
    without: tuple[str, ...],
    only: str | None,
    seeds_file: Path | None,
    nodes: str,
    seconds: float | None,
    load: str,
    least_events: int,
    least_faults: int,
    processes: int,
    verbose: bool,
    mutant: str,
    mutants: bool,
    keep_going: bool,
    shrink_runs: int,
    totals_file: Path | None,
) -> None:
    """Deterministic simulation of a whole cluster: same seed, same run."""
    if mutants:
        from raftkv.sim.mutants import print_kill_list

        sys.exit(0 if print_kill_list(processes) else 1)
    seconds = SECONDS.get(load, 20.0) if seconds is None else seconds
    drawn = Replay(0, seconds, (), load, nodes_named(nodes), mutant=mutant)
    chosen = [drawn._replace(seed=number) for number in range(start, start + seeds)]
    if seeds_file is not None:
        chosen = read_seeds(seeds_file)
    if seed is not None:
        names = None if only is None else tuple(filter(None, only.split(",")))
        chosen, processes = [drawn._replace(seed=seed, without=without, only=names)], 1
        shrink_runs = shrink_runs if only is None else 0
    what = {"load": load, "nodes": nodes, "seconds": seconds, "mutant": mutant}
    totals = Totals() if totals_file is None else Totals.load(totals_file, what)
    echo = click.echo if verbose and seed is not None else None
    keep = None if totals_file is None else partial(totals.save, totals_file, what)
    began = time.monotonic()
    _series(chosen, totals, processes, shrink_runs, echo=echo, keep=keep, keep_going=keep_going)
    click.echo("\n".join(totals.lines(time.monotonic() - began)))
    if totals.failed:
        click.echo(f"failed seeds: {sorted(totals.failed)}")
    many = seed is None and seeds_file is None
    missing = totals.missing(load, seconds, least_events, least_faults) if many else []
    for line in missing:
        click.echo(f"too little: {line}")
    sys.exit(1 if totals.failed or missing else 0)


def _series(
    chosen: list[Replay],
    totals: Totals,
    processes: int,
    shrink_runs: int,
    *,
    echo: Callable[[str], None] | None,
    keep: Callable[[], Any] | None,
    keep_going: bool,
) -> None:
    """Run what is not in `totals` yet, tell each, and add it."""
    replays = {one.seed: one for one in chosen if one.seed not in totals.seeds}
    job = partial(Replay.run, echo=echo)
    for summary in _run_all(list(replays.values()), job, processes):
        totals.add(summary)
        if keep is not None:
            keep()
        click.echo(_one_line(summary))
        if len(replays) == 1:
            click.echo(f"trace hash {summary.trace_hash}")
        if summary.failure:
            runs = shrink_runs if len(totals.failed) <= _MOST_FAILURES else 0
            _report_failure(summary, replays[summary.seed], runs)
            if not keep_going and len(totals.failed) >= _MOST_FAILURES:
                break


if __name__ == "__main__":
    main()
