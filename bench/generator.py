"""A run of load in a process of its own: `python -m bench.generator`, driven by pipes.

The parent writes one JSON object (`Run`) to stdin. The child answers on stdout with the line
`measuring` when the warm-up is over, and with one JSON object (`Measured`) at the end. The
servers' counters are read by the child at both ends of the measured window, so that they
cover exactly the operations that are counted.
"""

import asyncio
import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Final, Self

import uvloop

from bench import counters, http_load, requests, streaming
from bench.children import die_with_parent
from bench.http_load import HttpLoad
from bench.load import Load, Tally

MEASURING: Final = "measuring"
PERCENTILES: Final = (*range(100), 99.5, 99.9, 100)
MARGIN_SECONDS: Final = 60.0
FILL_SECONDS: Final = 600.0


class LoadFailed(Exception):
    """A run of load did not come to its end, or a fill had errors."""


@dataclass(frozen=True, slots=True)
class Run:
    """What to do.

    endpoints: host:port, one per connection. pids: the servers whose usage is measured.
    kind: one of `requests.KINDS`, or of `streaming.KINDS`. keys, value_bytes: what the
    operations work on.
    outstanding: calls per connection, closed loop. rate_per_second: open loop instead, if
    not 0. seconds: the measured window, after warmup_seconds. fill: ignore kind and seconds,
    put every key once, or with the kind "lease" grant that many leases. with_times: report
    when each success came. watchers: of the kinds of `bench.streaming`.
    """

    endpoints: Sequence[str]
    pids: Sequence[int] = ()
    kind: str = "put"
    keys: int = 10_000
    value_bytes: int = 256
    outstanding: int = 1
    rate_per_second: float = 0.0
    seconds: float = 3.0
    warmup_seconds: float = 0.5
    seed: int = 1
    fill: bool = False
    with_times: bool = False
    watchers: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What came out, over the measured window of `seconds`.

    latency_seconds: per percentile of PERCENTILES. errors: text -> count.
    generator_cpu_seconds: of the generator itself. server_cpu_seconds, write_bytes: of all
    pids together. rss_bytes, anon_bytes: per pid, at the end. unanswered: calls at the end
    of the window. success_times: seconds on the monotonic clock. delivered: events of a run
    whose latencies are those of puts.
    """

    seconds: float
    successes: int
    errors: dict[str, int]
    latency_seconds: dict[str, float]
    generator_cpu_seconds: float
    server_cpu_seconds: float
    write_bytes: int
    rss_bytes: list[int]
    anon_bytes: list[int]
    unanswered: int
    success_times: list[float] = field(default_factory=list)
    delivered: int = 0

    @property
    def rate(self) -> float:
        """Successes per second."""
        return self.successes / self.seconds

    @property
    def failures(self) -> int:
        """Errors of every kind."""
        return sum(self.errors.values())


def percentiles(latencies: Sequence[float]) -> dict[str, float]:
    """The values at PERCENTILES (nearest rank), by name; empty without latencies."""
    if not latencies:
        return {}
    ranked = sorted(latencies)
    last = len(ranked) - 1
    return {str(p): ranked[min(last, int(len(ranked) * p / 100))] for p in PERCENTILES}


# --- the child ------------------------------------------------------------------


class _Window:
    """Counters at the start of the window, and their growth at its end."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._before = [counters.usage(pid) for pid in pids]
        self._cpu = time.process_time()
        self._start = time.perf_counter()

    def close(self, tally: Tally, unanswered: int) -> Measured:
        """The result of the window."""
        seconds = time.perf_counter() - self._start
        cpu = time.process_time() - self._cpu
        after = [counters.usage(pid) for pid in self._pids]
        pairs = list(zip(self._before, after, strict=True))
        return Measured(
            seconds=seconds,
            successes=len(tally.latencies),
            errors=dict(tally.errors.most_common(8)),
            latency_seconds=percentiles(tally.latencies),
            generator_cpu_seconds=cpu,
            server_cpu_seconds=sum(b.cpu_seconds - a.cpu_seconds for a, b in pairs),
            write_bytes=sum(b.write_bytes - a.write_bytes for a, b in pairs),
            rss_bytes=[one.rss_bytes for one in after],
            anon_bytes=[one.anon_bytes for one in after],
            unanswered=unanswered,
            success_times=tally.success_times or [],
            delivered=tally.delivered,
        )


async def measure(run: Run) -> Measured:
    """Does the run in this process; prints `measuring` when the window starts."""
    if run.fill and run.kind == "lease":
        operations = requests.lease_fill(leases=run.keys, seed=run.seed)
    elif run.fill:
        operations = requests.fill(keys=run.keys, value_bytes=run.value_bytes, seed=run.seed)
    else:
        operations = requests.endless(
            run.kind, keys=run.keys, value_bytes=run.value_bytes, seed=run.seed
        )
    load = Load(
        run.endpoints,
        operations,
        0 if run.rate_per_second else run.outstanding,
        with_times=run.with_times,
    )
    gc.collect()
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and a collection would count as latency
    pacing: asyncio.Task[None] | None = None
    try:
        await load.connect()
        if run.rate_per_second:
            pacing = asyncio.create_task(load.pace(run.rate_per_second))
        else:
            load.start()
        if not run.fill:
            await asyncio.sleep(run.warmup_seconds)
        window = _Window(run.pids)
        load.new_tally()
        print(MEASURING, flush=True)
        if run.fill:
            await load.drained.wait()
        else:
            await asyncio.sleep(run.seconds)
        return window.close(load.new_tally(), load.outstanding)
    finally:
        if pacing is not None:
            pacing.cancel()
        load.close()


async def stream(run: Run) -> Measured:
    """Does a run of streams in this process; prints `measuring` when the window starts."""
    gc.collect()
    gc.freeze()
    gc.disable()
    with ExitStack() as stack:
        streaming_run = streaming.Streaming(run, stack)
        await streaming_run.prepare()
        await asyncio.sleep(run.warmup_seconds)
        window = _Window(run.pids)
        streaming_run.new_tally()
        print(MEASURING, flush=True)
        await streaming_run.wait()
        events = streaming_run.tally.delivered
        return replace(window.close(streaming_run.new_tally(), 0), delivered=events)


async def http(run: Run) -> Measured:
    """Does a run of HTTP requests in this process; prints `measuring` when the window starts."""
    load = HttpLoad(run.endpoints, http_load.puts(run.keys, run.value_bytes, run.seed))
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        await load.connect()
        load.start()
        await asyncio.sleep(run.warmup_seconds)
        window = _Window(run.pids)
        load.new_tally()
        print(MEASURING, flush=True)
        await asyncio.sleep(run.seconds)
        return window.close(load.new_tally(), len(run.endpoints))
    finally:
        load.close()


def main() -> None:
    """The child process."""
    run = Run(**json.loads(sys.stdin.readline()))
    work = stream if run.kind in streaming.KINDS else measure
    if run.kind in http_load.KINDS and not run.fill:
        work = http
    try:
        measured = uvloop.run(work(run))
    except (streaming.StreamFailed, OSError) as error:
        sys.exit(f"load generator: {error}")
    print(json.dumps(asdict(measured)), flush=True)


# --- the parent -----------------------------------------------------------------


class Generator:
    """A running child. A context manager: on leaving, the child is gone.

    A child that hangs raises LoadFailed in the main thread a minute after its time.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        length = FILL_SECONDS if run.fill else run.warmup_seconds + run.seconds
        self._alarm = _Alarm(length + MARGIN_SECONDS)
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.generator"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent,
            preexec_fn=die_with_parent,  # noqa: PLW1509  (no threads here)
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self._run)) + "\n")
        self._process.stdin.flush()
        self._alarm.set()
        return self

    def __exit__(self, *exception: object) -> None:
        self._alarm.clear()
        process = self._process
        assert process is not None
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()

    def _line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(f"the load generator ended with status {self._process.wait()}")
        return line

    def wait_measuring(self) -> None:
        """Returns when the measured window starts. Errors: LoadFailed."""
        line = self._line().strip()
        if line != MEASURING:
            raise LoadFailed(f"the load generator said {line[:200]!r}")

    def result(self) -> Measured:
        """Waits for the end. Errors: LoadFailed."""
        return Measured(**json.loads(self._line()))


def generate(run: Run) -> Measured:
    """Does one run in a process of its own. Errors: LoadFailed, also for a fill with errors."""
    with Generator(run) as generator:
        generator.wait_measuring()
        measured = generator.result()
    if run.fill and (measured.failures or measured.successes != run.keys):
        raise LoadFailed(f"{measured.successes} of {run.keys} keys written: {measured.errors}")
    return measured


class _Alarm:
    """Raises LoadFailed in the main thread `seconds` after `set`, unless cleared."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def set(self) -> None:
        signal.signal(signal.SIGALRM, self._fire)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def clear(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.0)

    def _fire(self, number: int, frame: object) -> None:
        raise LoadFailed(f"the load generator did not come to its end in {self._seconds:g} s")


if __name__ == "__main__":
    main()
