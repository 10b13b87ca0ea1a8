"""`jepsen-lite teeth`: every known-wrong variant of the server must be found.

A checker that has never found anything may be blind. So each variant of `mutants.TEETH` is run
until something notices it: in the simulator, seed after seed, with the faults that bring it out;
or, where the simulator has nothing of it, in a scenario with a real member. Some are found by whole
runs with real members too (`mutants.REAL`). One that survives its budget of seconds is a failure of
the checkers, and of this command.

Every hunt is a process of its own, so that a patch ends with it and a late one can be stopped.
"""

import itertools
import multiprocessing
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final, NoReturn

import click

from jepsen_lite import mutants
from jepsen_lite.mutants import (
    BUDGET_SECONDS,
    IN_SIMULATED_RUNS,
    PROCESS,
    REAL,
    RUN,
    SIMULATED,
    TEETH,
    Tooth,
    tooth_of,
)
from jepsen_lite.registry import UnknownName
from jepsen_lite.target.process import environment
from raftkv.sim.hunting import hunt

RUN_SECONDS: Final = 25
SNAPSHOT_COUNT: Final = 200  # checkpoints and received states in a run so short
GRACE_SECONDS: Final = 10.0
EXIT_INVALID: Final = 1
EXIT_TERMINATED: Final = 143
BROKEN: Final = "a rule of consensus was broken:"
WORDS: Final = 90  # of what noticed it, in the table


@dataclass(frozen=True, slots=True)
class Bite:
    """What came of one hunt. noticed: what found it; empty: it survived. runs: seeds, or starts."""

    tooth: Tooth
    noticed: str
    runs: int
    seconds: float


def bite(tooth: Tooth, budget_seconds: float) -> tuple[str, int]:
    """Hunts one variant in this process. Returns what noticed it (empty: nothing) and the runs."""
    if tooth.found_by in (RUN, SIMULATED):
        return whole_runs(tooth, budget_seconds)
    if tooth.found_by == PROCESS:
        from jepsen_lite.scenarios import SCENARIOS

        return SCENARIOS[tooth.mutant.name](tooth.name), 1
    taken, summary = hunt(tooth.mutant)
    return (summary.failure.splitlines()[0] if taken else ""), taken or tooth.mutant.seeds


def whole_runs(tooth: Tooth, budget_seconds: float) -> tuple[str, int]:
    """Runs a cluster, a seed after the other, until a checker finds something."""
    until = time.monotonic() + budget_seconds
    for seed in itertools.count(1):
        try:
            done = _whole_run(tooth, seed, until - time.monotonic())
        except subprocess.TimeoutExpired:  # it was killed, and its members with it
            return "", seed
        if done.returncode == EXIT_INVALID:
            return first_finding(done.stdout), seed
        if done.returncode:
            sys.stderr.write(done.stdout + done.stderr)
            return "", seed
    raise AssertionError("seeds do not end")


def _whole_run(tooth: Tooth, seed: int, seconds: float) -> "subprocess.CompletedProcess[str]":
    flag = f"--member-flag=snapshot-count={SNAPSHOT_COUNT}"
    where = ["--sim", "--rate=30"] if tooth.found_by == SIMULATED else [flag]
    with tempfile.TemporaryDirectory(prefix="jepsen-teeth-") as directory:
        return subprocess.run(
            [
                *(sys.executable, "-m", "jepsen_lite", "run", f"--mutant={tooth.name}"),
                *(f"--workload={tooth.workload}", f"--nemesis={tooth.nemeses}"),
                *where,
                *(f"--time={RUN_SECONDS}", f"--seed={seed}", f"--store={directory}"),
            ],
            env=dict(environment()),
            capture_output=True,
            text=True,
            timeout=max(seconds, 0.1),
            check=False,
        )


def first_finding(output: str) -> str:
    """The first checker that a run's output calls wrong, and what it says first.

    Where the simulated world broke it is that: no checker has seen much of such a run.
    """
    lines = output.splitlines()
    if broken := [line.partition(BROKEN)[2] for line in lines if BROKEN in line]:
        return f"InvariantBroken:{broken[0]}"
    for place, line in enumerate(lines):
        if "NOT VALID" in line:
            checker = line.split()[0]
            detail = lines[place + 1].strip() if place + 1 < len(lines) else ""
            return f"{checker}: {detail}" if detail.find(":") > 0 else checker
    return lines[-1] if lines else "no output"


def bites(teeth: Iterable[Tooth], processes: int, budget_seconds: float) -> Iterator[Bite]:
    """Hunts all of them, some at a time; in the order in which they end.

    budget_seconds: of each; one that takes longer has survived.
    """
    waiting = list(teeth)[::-1]
    hunting: dict[Connection, tuple[Tooth, SpawnProcess, float]] = {}
    try:
        while waiting or hunting:
            while waiting and len(hunting) < processes:
                tooth = waiting.pop()
                reader, process = _begin(tooth, budget_seconds)
                hunting[reader] = (tooth, process, time.monotonic())
            done = wait(list(hunting), timeout=0.2)
            for reader in [one for one in hunting if one in done]:
                tooth, process, began = hunting.pop(reader)
                yield _ended(tooth, reader, began)
                process.join()
            for reader, (tooth, process, began) in list(hunting.items()):
                grace = GRACE_SECONDS if tooth.workload else 0.0  # it ends by itself
                if time.monotonic() - began > budget_seconds + grace:
                    del hunting[reader]
                    _end(process)
                    yield Bite(tooth, "", 0, time.monotonic() - began)
    finally:
        for _, process, _ in hunting.values():
            _end(process)


def _begin(tooth: Tooth, budget_seconds: float) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(
        target=_hunt, args=(tooth.name, _table(tooth), budget_seconds, writer), daemon=False
    )
    process.start()
    writer.close()
    return reader, process


def _end(process: SpawnProcess) -> None:
    """Ends a hunt, and what it has started."""
    process.terminate()
    process.join(GRACE_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


def _leave(*_: object) -> NoReturn:
    sys.exit(EXIT_TERMINATED)


def _table(tooth: Tooth) -> str:
    """Where another process finds the same tooth: it cannot be sent there, it has functions."""
    tables = {"TEETH": TEETH, "REAL": REAL, "IN_SIMULATED_RUNS": IN_SIMULATED_RUNS}
    return next((name for name, table in tables.items() if tooth in table), "TEETH")


def _hunt(name: str, table: str, budget_seconds: float, writer: Connection) -> None:
    signal.signal(signal.SIGTERM, _leave)
    (tooth,) = [one for one in getattr(mutants, table) if one.name == name]
    writer.send(bite(tooth, budget_seconds))
    writer.close()


def _ended(tooth: Tooth, reader: Connection, began: float) -> Bite:
    try:
        noticed, runs = reader.recv()
    except EOFError:
        noticed, runs = "", 0  # the hunt itself broke down; its traceback is on standard error
    return Bite(tooth, noticed, runs, time.monotonic() - began)


def row(found: Bite) -> str:
    """The line of one hunt, as a row of a Markdown table."""
    tooth = found.tooth
    noticed = found.noticed or "**SURVIVED**"
    noticed = noticed.replace("|", "/")
    if len(noticed) > WORDS:
        noticed = noticed[: WORDS - 3] + "..."
    cells = (
        f"`{tooth.name}`",
        tooth.catalogue or "-",
        tooth.etcd or "-",
        f"{tooth.workload} / {tooth.nemeses}" if tooth.workload else tooth.found_by,
        str(found.runs),
        f"{found.seconds:.1f}",
        noticed,
    )
    return "| " + " | ".join(cells) + " |"


HEAD: Final = (
    "| variant | breaks | etcd's | found by | runs | seconds | what noticed it |\n"
    "|---|---|---|---|---|---|---|"
)


def run_teeth(
    teeth: Iterable[Tooth],
    *,
    processes: int,
    budget_seconds: float,
    echo: Callable[[str], None],
) -> int:
    """Hunts, and prints the table; returns how many survived."""
    echo(HEAD)
    all_of_them = survivors = 0
    for found in bites(teeth, processes, budget_seconds):
        all_of_them += 1
        survivors += not found.noticed
        echo(row(found))
    echo(f"\n{all_of_them - survivors} of {all_of_them} variants found")
    return survivors


@click.command("teeth")
@click.argument("names", nargs=-1)
@click.option("--list", "only_list", is_flag=True, help="Name all variants and what they break.")
@click.option("--etcd", "only_etcd", is_flag=True, help="Only those that rebuild a bug of etcd's.")
@click.option("--real", is_flag=True, help="Those that whole runs with real members find.")
@click.option("--simulated", is_flag=True, help="Those that simulated runs of clients find.")
@click.option("--sample", type=int, help="Only so many of them, drawn at random.")
@click.option("--seed", default=0, show_default=True, help="Of the drawing.")
@click.option(
    "--budget", default=BUDGET_SECONDS, show_default=True, help="Seconds for each variant."
)
@click.option("--processes", default=2, show_default=True, help="Hunts at a time.")
def teeth_command(
    names: tuple[str, ...],
    only_list: bool,
    only_etcd: bool,
    real: bool,
    simulated: bool,
    sample: int | None,
    seed: int,
    budget: float,
    processes: int,
) -> None:
    """Run known-wrong variants of the server until each is found.

    NAMES: of variants, all of them if none is given.
    """
    try:
        chosen = [tooth_of(name) for name in names] or list(TEETH)
    except UnknownName as error:
        raise click.UsageError(str(error)) from None
    if real or simulated:
        found_by, table = (RUN, REAL) if real else (SIMULATED, IN_SIMULATED_RUNS)
        asked = {tooth.name for tooth in chosen}
        own = [tooth for tooth in chosen if tooth.found_by == found_by]
        chosen = [*own, *(tooth for tooth in table if tooth.name in asked)]
    if only_etcd:
        chosen = [tooth for tooth in chosen if tooth.etcd]
    if sample is not None:
        chosen = random.Random(seed).sample(chosen, min(sample, len(chosen)))
    if only_list:
        for tooth in chosen:
            click.echo(f"{tooth.name:62} {tooth.catalogue:10} {tooth.etcd:13} {tooth.found_by}")
        return
    signal.signal(signal.SIGTERM, _leave)  # hunts end with this process
    survivors = run_teeth(
        chosen, processes=max(processes, 1), budget_seconds=budget, echo=click.echo
    )
    sys.exit(1 if survivors else 0)
