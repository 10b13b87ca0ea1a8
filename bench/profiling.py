"""Where the time of a raftkv node goes under the load of a row.

Two views of every node. From /proc: per thread its CPU time, how long it waited for a CPU,
and what it wrote (LevelDB's own thread is one of them). From a sampler: per function its
share of the samples, without and with what it calls. The raw stacks (the input of flame
graph tools) are kept as `profile-<row>-<leader|follower>.txt`.

Samplers: `cpu` counts CPU time inside the process (bench.sampler). `py-spy` counts moments
at which the interpreter lock is held, from outside; on a busy machine it shows where a
process is preempted. `native` is py-spy with the C functions.
"""

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from bench import counters
from bench.clusters import Cluster, Node
from bench.generator import Generator, Measured, Run
from bench.report import grid
from bench.rows import Row, Settings, fill, sample, say, summary

SAMPLERS: Final = ("cpu", "py-spy", "native")
HERTZ: Final = 250
LISTED: Final = 45
WRITE_SECONDS: Final = 5.0


def _py_spy() -> str:
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise ImportError("this sampler needs py-spy: pip install py-spy")
    return found


def weigh(lines: Iterable[str]) -> tuple[Counter[str], Counter[str], int]:
    """(self, with callees, total) in samples, per function, of raw stacks.

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


def _spy(nodes: Mapping[str, Node], paths: Mapping[str, Path], seconds: float, kind: str) -> None:
    watchers = []
    for role, node in nodes.items():
        command = [_py_spy(), "record", "--pid", str(node.pid), "--format", "raw", "--function"]
        command += ["--rate", str(HERTZ), "--duration", str(round(seconds)), "--threads"]
        command += ["--native"] if kind == "native" else ["--gil", "--nonblocking"]
        command += ["--output", str(paths[role])]
        watchers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    for watcher in watchers:
        watcher.wait()


def _count(nodes: Mapping[str, Node], paths: Mapping[str, Path], seconds: float) -> None:
    for node in nodes.values():
        node.signal(signal.SIGUSR1)
    time.sleep(seconds)
    for node in nodes.values():
        node.signal(signal.SIGUSR1)
    deadline = time.perf_counter() + WRITE_SECONDS
    for role, node in nodes.items():
        written = node.log.with_suffix(".samples")
        while not written.exists() and time.perf_counter() < deadline:
            time.sleep(0.05)
        shutil.copy(written, paths[role])


def profile(row: Row, settings: Settings, directory: Path, sampler: str) -> str:
    """Profiles all three nodes under the load of a closed-loop row; returns the listings.

    sampler: one of SAMPLERS. Errors: ImportError without the py-spy that it needs.
    """
    if sampler != "cpu":
        _py_spy()
    directory.mkdir(parents=True, exist_ok=True)
    system = "raftkv-sampled" if sampler == "cpu" else "raftkv"
    with Cluster(system, settings.directory) as cluster:
        fill(cluster, settings.keys, settings.value_bytes)
        leader = cluster.leader()
        rest = [node for node in cluster.nodes if node is not leader]
        nodes = {"leader": leader, **{f"follower{i + 1}": one for i, one in enumerate(rest)}}
        paths = {role: directory / f"profile-{row.name}-{role}.txt" for role in nodes}
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
        with Generator(run) as generator:
            generator.wait_measuring()
            before = {role: counters.threads(node.pid) for role, node in nodes.items()}
            if sampler == "cpu":
                _count(nodes, paths, settings.seconds)
            else:
                _spy(nodes, paths, settings.seconds, sampler)
            ran = generator.result()
            after = {role: counters.threads(node.pid) for role, node in nodes.items()}
            say(f"{row.name} under {sampler}: {summary(sample(ran))}")
    return "\n\n".join(
        f"{row.name}, {role} ({path})\n{threads_table(before[role], after[role], ran)}\n"
        + listing(path.read_text().splitlines())
        for role, path in paths.items()
    )
