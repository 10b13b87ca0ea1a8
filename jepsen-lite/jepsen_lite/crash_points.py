"""`crash-points`: one simulated member's life cut at every operation of its disk (`sim.cuts`)."""

import multiprocessing
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Final

import click

from raftkv.sim.cuts import MODES, MUTANTS, SEED, CutResult, run_cut
from raftkv.sim.hunting import applied

MEMBERS: Final = {1: 1, 3: 2}  # who is cut: of three, one that is sent a snapshot with `SEED`
_SHOWN: Final = 10


@dataclass(slots=True)
class Campaign:
    """What was cut. points: disk operations there are. kinds: of those cut, by their first word.

    runs: one for each cut and mode. failures: (operation, mode, what it is, what broke).
    """

    nodes: int
    points: int
    installed: int = 0
    runs: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str, str, str]] = field(default_factory=list)

    def add(self, result: CutResult) -> None:
        """One more run."""
        self.runs += 1
        self.kinds[kind_of(result.point)] += 1
        if result.failure:
            self.failures.append((result.at, result.mode, result.point, result.failure))


def kind_of(point: str) -> str:
    """What an operation does, and to what: "sync mark.a"."""
    what, _, path = point.partition(" ")
    for part in path.split("/")[1:]:
        if part.startswith(("state-", "log")):
            return f"{what} {part.partition('-')[0]}"
    name = path.rpartition("/")[2]
    return f"{what} {'mark' if name.startswith('mark.') else name}"


def points_of(nodes: int, *, member: int = 0, seed: int = SEED) -> CutResult:
    """The undisturbed run, which must hold all promises. member: 0 for the usual one."""
    return run_cut(nodes, -1, MODES[0], member=member or MEMBERS[nodes], seed=seed)


def run_points(
    nodes: int,
    points: Sequence[int],
    modes: Sequence[str] = MODES,
    *,
    member: int = 0,
    seed: int = SEED,
    mutant: str = "",
    processes: int = 1,
) -> Iterator[CutResult]:
    """Cuts each of `points` in each of `modes`. mutant: of `sim.cuts.MUTANTS`, empty for none."""
    member = member or MEMBERS[nodes]
    jobs = [(nodes, at, mode, member, seed, mutant) for at in points for mode in modes]
    if processes == 1:
        yield from map(_run, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(_run, jobs, 8)


def _run(job: tuple[int, int, str, int, int, str]) -> CutResult:
    nodes, at, mode, member, seed, mutant = job
    with ExitStack() as stack:
        if mutant:
            stack.enter_context(applied(MUTANTS[mutant]))
        return run_cut(nodes, at, mode, member=member, seed=seed)


@click.command("crash-points")
@click.option("--nodes", type=click.Choice(["1", "3"]), help="Members. Default: 1, then 3.")
@click.option("--step", default=1, show_default=True, help="Only every so many-th operation.")
@click.option("--member", default=0, help="Who is cut. Default: one that is sent a snapshot.")
@click.option("--seed", default=SEED, show_default=True, help="Of the run that is cut.")
@click.option("--mutant", type=click.Choice(sorted(MUTANTS)), help="Leave a sync out.")
@click.option("--processes", default=2, show_default=True, help="Runs at a time.")
def crash_points(
    nodes: str | None, step: int, member: int, seed: int, mutant: str | None, processes: int
) -> None:
    """Cut a simulated member at every operation of its disk, in four ways."""
    failed = False
    for count in [int(nodes)] if nodes else sorted(MEMBERS):
        began = time.monotonic()
        base = points_of(count, member=member, seed=seed)
        if base.failure:
            raise click.ClickException(f"the undisturbed run failed: {base.failure}")
        campaign = Campaign(count, len(base.calls), base.installed)
        for result in run_points(
            count,
            range(0, len(base.calls), step),
            member=member,
            seed=seed,
            mutant=mutant or "",
            processes=processes,
        ):
            campaign.add(result)
        _print(campaign, time.monotonic() - began)
        failed |= bool(campaign.failures)
    if failed:
        raise click.exceptions.Exit(1)


def _print(campaign: Campaign, seconds: float) -> None:
    click.echo(
        f"nodes {campaign.nodes}: {campaign.points} disk operations of one member, "
        f"{campaign.installed} snapshots installed; {campaign.runs} runs "
        f"({', '.join(MODES)}) in {seconds:.0f} s: {len(campaign.failures)} failed"
    )
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(campaign.kinds.items()))
    click.echo(f"  runs by operation: {kinds}")
    for at, mode, point, failure in campaign.failures[:_SHOWN]:
        click.echo(f"  FAILED {mode} operation {at} ({point}): {failure.splitlines()[0][:200]}")
