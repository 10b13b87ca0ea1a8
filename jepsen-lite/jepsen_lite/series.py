"""Runs one after the other: workloads and mixes of faults in turn, for as long as there is time.

The plan is a table of (workload, nemeses); each run of it has a cluster of its own. The first that
is not valid ends the series, unless it is to go on; one that could not be made at all always does,
and so does Ctrl-C or SIGTERM, once the run that is under way has healed and reported.
At the end one line tells of everything.
"""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any, Final

import click

from jepsen_lite.forwarding import run_child
from jepsen_lite.history import HistoryError
from jepsen_lite.nemesis import nemesis_class
from jepsen_lite.store import DEFAULT_ROOT, Store
from jepsen_lite.target.process import environment
from raftkv.errors import RaftkvError

MIXES: Final = (
    ("register", "partition,kill,pause"),
    ("append", "partition,kill,clock"),
    ("watch", "partition,pause,slow"),
    ("lock", "pause,partition,clock"),
    ("bank", "kill,disk,flap"),
    ("lease", "partition,clock,transfer"),
    ("set", "kill-all,partition,loss"),
    ("wr", "flap,pause,transfer"),
    ("queue", "partition,kill,slow"),
    ("compaction", "partition,kill,pause"),
    ("counter", "disk,transfer,partition"),
    ("election", "partition,pause,kill"),
    ("unique", "loss,flap,kill"),
    ("cache", "partition,kill,pause"),
    ("set", "member,kill,partition"),
    ("append", "member,pause,flap"),
    ("register", "files,partition,pause"),
)
OVERHEAD_SECONDS: Final = 25.0  # of a run, besides its main phase
LEAST_SECONDS: Final = 20.0
LONG_SECONDS: Final = 600.0  # of one run in a long series
INVALID: Final = 1
INTERRUPTED: Final = 130


@click.command("series")
@click.option("--minutes", type=float, default=0.0, help="Time for all of it.")
@click.option("--hours", type=float, default=0.0, help="Likewise; both are added.")
@click.option("--system", default="raftkv", show_default=True, help="raftkv or etcd.")
@click.option(
    "--network",
    type=click.Choice(["proxies", "namespaces"]),
    default="proxies",
    show_default=True,
    help="Between members; mixes whose faults are not possible so are left out.",
)
@click.option("--concurrency", default=20, show_default=True, help="Processes at once.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the first run.")
@click.option("--store", "root", type=Path, default=DEFAULT_ROOT, help="Where runs are kept.")
@click.option("--go-on", is_flag=True, help="Go on after a run that was not valid.")
def series_command(
    minutes: float,
    hours: float,
    system: str,
    network: str,
    concurrency: int,
    seed: int,
    root: Path,
    go_on: bool,
) -> None:
    """Runs workloads and mixes of faults in turn, for minutes or hours."""
    seconds = 60 * minutes + 3600 * hours
    if seconds <= 0:
        raise click.UsageError("say --minutes or --hours")
    try:
        mixes = possible_mixes(system, network)
    except RaftkvError as error:
        raise click.UsageError(str(error)) from None
    total: Counter[str] = Counter()
    ends_at = time.monotonic() + seconds
    each = max(LEAST_SECONDS, min(seconds / len(mixes) - OVERHEAD_SECONDS, LONG_SECONDS))
    status = 0
    for number, (workload, nemeses) in zip(count(seed), in_turn(mixes, seed), strict=False):
        left = ends_at - time.monotonic() - OVERHEAD_SECONDS
        if left < min(LEAST_SECONDS, each) / 2 and total["runs"]:
            break
        command = [
            *(sys.executable, "-m", "jepsen_lite", "run", "--workload", workload),
            *("--nemesis", nemeses, "--time", f"{min(each, max(left, 10.0)):.0f}"),
            *("--seed", str(number), "--system", system, "--store", str(root)),
            *("--concurrency", str(concurrency), "--network", network),
        ]
        click.echo(f"--- {workload}, {nemeses}, seed {number}")
        ended, interrupted = run_child(command, environment())
        total["runs"] += 1
        _count(total, root)
        status = max(status, ended)
        if interrupted:
            status = INTERRUPTED
        if interrupted or ended not in (0, INVALID) or (ended and not go_on):
            break
    told = ", ".join(f"{name} {number}" for name, number in total.items())
    click.echo(f"{'valid' if status == 0 else 'NOT valid'}: {told}")
    sys.exit(status)


def possible_mixes(system: str, network: str) -> list[tuple[str, str]]:
    """Those of the table whose faults are possible there. Errors: TargetError."""
    from jepsen_lite.target.namespaces import Namespaced
    from jepsen_lite.target.systems import system_of
    from jepsen_lite.target.wiring import Proxied

    wiring = Namespaced() if network == "namespaces" else Proxied()
    abilities = system_of(system).abilities | wiring.abilities | {"churn"}
    return [
        (workload, nemeses)
        for workload, nemeses in MIXES
        if all(nemesis_class(name).needs <= abilities for name in nemeses.split(","))
    ]


def in_turn(mixes: Sequence[tuple[str, str]], seed: int) -> Iterator[tuple[str, str]]:
    """In their order, then shuffled again and again."""
    yield from mixes
    random = Random(seed)
    for _ in cycle([None]):
        yield from random.sample(mixes, len(mixes))


def _count(total: Counter[str], root: Path) -> None:
    """Adds what the newest run did."""
    try:
        newest = max(path for path in root.iterdir() if (path / "run.json").exists())
        run: dict[str, Any] = Store(newest).read_run()
    except (ValueError, OSError, HistoryError):
        return
    verdicts = run.get("verdicts", {})
    facts = verdicts.get("floors", {}).get("facts", {})
    total["operations"] += int(facts.get("operations", 0))
    total["faults"] += int(facts.get("faults", 0))
    total["events"] += int(facts.get("events of the store", 0))
    total["anomalies"] += sum(len(one["anomalies"]) for one in verdicts.values())
    total["undecided"] += sum(bool(one["undecided"]) for one in verdicts.values())
