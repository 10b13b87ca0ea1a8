"""Where the time of a raftkv node goes under the load of a row.

Two views of every node. From /proc: per thread its CPU time, how long it waited for a CPU,
and what it wrote (LevelDB's own thread is one of them). From py-spy: per function the share
of samples in which it ran with the interpreter lock held; the raw stacks (the input of flame
graph tools) are kept as `profile-<row>-<leader|follower>.txt`. Without the lock, in
LevelDB or fsync, nothing is sampled; the threads' table has that part.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench import counters
from bench.clusters import Cluster
from bench.generator import Generator, Measured, Run
from bench.report import grid
from bench.rows import Row, Settings, fill, sample, say, summary

HERTZ: Final = 250
LISTED: Final = 45


def _py_spy() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.exists() else shutil.which("py-spy")


def weigh(lines: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """(self, with callees, total) in samples, per function, of py-spy's raw stacks.

    A line is `frame;frame;frame count`, outermost first.
    """
    own: Counter[str] = Counter()
    below: Counter[str] = Counter()
    total = 0
    for line in lines:
        stack, _, count = line.rpartition(" ")
        if not stack or not count.strip().isdigit():
            continue
        number = int(count)
        frames = stack.split(";")
        own[frames[-1]] += number
        for frame in set(frames):
            below[frame] += number
        total += number
    return own, below, total


def listing(lines: Iterable[str]) -> str:
    """The functions of most self time, with their shares."""
    own, below, total = weigh(lines)
    rows = [f"{'self':>6} {'total':>6}  function   ({total} samples)"]
    rows += [
        f"{100 * count / total:5.1f}% {100 * below[name] / total:5.1f}%  {name}"
        for name, count in own.most_common(LISTED)
    ]
    return "\n".join(rows)


def threads_table(
    before: dict[int, counters.ThreadUsage], after: dict[int, counters.ThreadUsage], ran: Measured
) -> str:
    """What each thread of a process did per operation, between two looks at it."""
    lines = [["thread", "", "CPU us/op", "kernel", "queued us/op", "wakes/s", "cut/s", "B/op"]]
    for tid, now in sorted(after.items()):
        then = before.get(tid, counters.ThreadUsage(now.name))
        cpu = now.cpu_seconds - then.cpu_seconds
        if not cpu:
            continue
        ticks = now.all_ticks - then.all_ticks
        kernel = (now.kernel_ticks - then.kernel_ticks) / ticks if ticks else 0.0
        lines.append(
            [
                str(tid),
                now.name,
                f"{1e6 * cpu / ran.successes:.1f}",
                f"{100 * kernel:.0f}%",
                f"{1e6 * (now.queued_seconds - then.queued_seconds) / ran.successes:.1f}",
                f"{(now.waits - then.waits) / ran.seconds:.0f}",
                f"{(now.preemptions - then.preemptions) / ran.seconds:.0f}",
                f"{(now.write_bytes - then.write_bytes) / ran.successes:.0f}",
            ]
        )
    return grid(lines)


def profile(row: Row, settings: Settings, directory: Path, *, native: bool = False) -> str:
    """Profiles all three nodes under the load of a closed-loop row; returns the listing.

    native: C functions too (slower). Errors: ImportError without py-spy.
    """
    program = _py_spy()
    if program is None:
        raise ImportError("--profile needs py-spy: pip install py-spy")
    directory.mkdir(parents=True, exist_ok=True)
    with Cluster("raftkv", settings.directory) as cluster:
        fill(cluster, settings.keys, settings.value_bytes)
        leader = cluster.leader()
        run = Run(
            cluster.endpoints(row.connections, settings.entry),
            cluster.pids,
            kind=row.kind,
            keys=settings.keys,
            value_bytes=settings.value_bytes,
            outstanding=row.outstanding,
            seconds=settings.seconds + 1.0,
            warmup_seconds=settings.warmup_seconds,
        )
        paths = {}
        with Generator(run) as generator:
            generator.wait_measuring()
            before = [counters.threads(pid) for pid in cluster.pids]
            watchers = []
            for number, node in enumerate(cluster.nodes):
                role = "leader" if node is leader else f"follower{number + 1}"
                paths[role] = directory / f"profile-{row.name}-{role}.txt"
                command = [program, "record", "--pid", str(node.pid), "--format", "raw"]
                command += ["--rate", str(HERTZ), "--duration", str(round(settings.seconds))]
                command += ["--function", "--threads", "--output", str(paths[role])]
                command += ["--native"] if native else ["--gil", "--nonblocking"]
                watchers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
            for watcher in watchers:
                watcher.wait()
            ran = generator.result()
            after = [counters.threads(pid) for pid in cluster.pids]
            say(f"{row.name} under py-spy: {summary(sample(ran))}")
    tables = {
        role: threads_table(*pair, ran)
        for role, pair in zip(paths, zip(before, after, strict=True), strict=True)
    }
    parts = []
    for role, path in sorted(paths.items(), reverse=True):
        functions = listing(path.read_text().splitlines())
        parts.append(f"{row.name}, {role} ({path})\n{tables[role]}\n{functions}")
    return "\n\n".join(parts)
