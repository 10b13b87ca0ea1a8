"""The rows of client libraries: raftkv's beside other people's and beside grpcio alone.

One raftkv node serves them all. Each library lives in a process of its own
(`bench.client_worker`) and they take turns, in slices of SLICE_SECONDS and in an order that
changes, so that a machine that is slow for a while is slow for all. A round's figures are those
of each library's best slice: what else the machine does can only make a slice worse.

    stub, aio-stub      grpcio with raftkv's messages and its client's channel options
    etcd3, aetcd        python-etcd3 and aetcd, in environments of their own (`bench.foreign`)
    client, client.aio  raftkv's two faces

`added_us` is what a library's call takes longer than the stub's, by the medians of their best
slices. `generator_us` is the library's CPU time per operation, `added_cpu_us` how much more that
is than the stub's. An asynchronous library has 16 calls under way, so its times say little. The
row `client-import` measures `import` in fresh processes, beside that of grpcio alone.
"""

import atexit
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

from bench import foreign
from bench.children import die_with_parent
from bench.clusters import ROOT, Cluster, ClusterFailed
from bench.generator import LoadFailed
from bench.rows import Row, Sample, Samples, Settings, fill, say, summary

SLICE_SECONDS: Final = 0.1
KEYS: Final = 1000
HISTORY_EVENTS: Final = 5000
HISTORY_PREFIX: Final = "bench/"
LIBRARIES: Final = ("stub", "etcd3", "client", "aio-stub", "aetcd", "client.aio")
STUBS: Final = {"etcd3": "stub", "client": "stub", "aetcd": "aio-stub", "client.aio": "aio-stub"}
PAIRS: Final = (
    ("client", "etcd3"),
    ("client", "stub"),
    ("client.aio", "aetcd"),
    ("client.aio", "aio-stub"),
)
WORKER: Final = Path(__file__).with_name("client_worker.py")
END_SECONDS: Final = 10.0
IMPORTS: Final = {"client": "raftkv.client", "client.aio": "raftkv.client.aio", "stub": "grpc"}
IMPORT_CODE: Final = (
    "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
)


class Worker:
    """A library's process. Errors of every method: LoadFailed."""

    def __init__(self, library: str, python: Path, endpoint: str) -> None:
        self.name = library
        environment = {} if library in foreign.REQUIREMENTS else {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            [python, "-P", WORKER, library, endpoint],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/bin", **environment},
            preexec_fn=die_with_parent,  # noqa: PLW1509  (no threads here)
        )
        self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise LoadFailed(f"the process of {self.name} ended; its last words are above")
        return json.loads(line)

    def run(self, order: Mapping[str, object]) -> dict[str, float]:
        """Has one slice done; see `bench.client_worker` for orders and answers."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise LoadFailed(f"the process of {self.name} has ended") from error
        done: dict[str, float] = self._answer()
        return done

    def close(self) -> None:
        """Ends the process."""
        with suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@cache
def _interpreters(directory: Path | None) -> dict[str, Path]:
    """Library -> interpreter; without those that cannot be installed, which is said."""
    if directory is None:
        place = Path(tempfile.mkdtemp(prefix="bench-clients-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
    else:
        place = directory / "clients"
    found: dict[str, Path] = {}
    for library in LIBRARIES:
        if library in foreign.REQUIREMENTS:
            try:
                found[library] = foreign.environment(library, place)
            except foreign.ForeignClientMissing as error:
                say(f"{library} is not measured: {error}")
        else:
            found[library] = Path(sys.executable)
    return found


@contextmanager
def _workers(endpoint: str, directory: Path | None) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        workers = []
        for library, python in _interpreters(directory).items():
            workers.append(Worker(library, python, endpoint))
            stack.callback(workers[-1].close)
        yield workers


def _best(slices: list[dict[str, float]]) -> dict[str, float]:
    """The metrics of a round, each from the slice that is best in it."""
    return {
        "rate": max(one["operations"] / one["seconds"] for one in slices),
        "p50_ms": 1e3 * min(one["p50_seconds"] for one in slices),
        "generator_us": 1e6 * min(one["cpu_seconds"] / one["operations"] for one in slices),
    }


def round_of(
    workers: list[Worker], order: Mapping[str, object], slices: int, seed: int
) -> dict[str, Sample]:
    """One round: all workers in turn, `slices` times. Errors: LoadFailed."""
    done: dict[str, list[dict[str, float]]] = {worker.name: [] for worker in workers}
    dice = random.Random(seed)
    for _ in range(slices):
        for worker in dice.sample(workers, len(workers)):
            done[worker.name].append(worker.run(order))
    best = {library: _best(taken) for library, taken in done.items()}
    for library, metrics in best.items():
        stub = STUBS.get(library)
        if stub in best and order["kind"] != "watch":
            metrics["added_us"] = 1e3 * (metrics["p50_ms"] - best[stub]["p50_ms"])
            metrics["added_cpu_us"] = metrics["generator_us"] - best[stub]["generator_us"]
    return {library: Sample(metrics) for library, metrics in best.items()}


def _order(row: Row, settings: Settings) -> dict[str, object]:
    if row.kind == "watch":
        return {
            "kind": "watch",
            "prefix": HISTORY_PREFIX,
            "revision": 2,
            "events": HISTORY_EVENTS,
        }
    return {
        "kind": row.kind,
        "seconds": SLICE_SECONDS,
        "keys": KEYS,
        "value_bytes": settings.value_bytes,
    }


def libraries(row: Row, settings: Settings) -> Samples:
    """The procedure of the rows of calls and of watches."""
    samples: Samples = {}
    order = _order(row, settings)
    with Cluster("raftkv", settings.directory, nodes=1) as cluster:
        endpoint = cluster.nodes[0].endpoint
        fill(cluster, HISTORY_EVENTS, settings.value_bytes)
        with _workers(endpoint, settings.directory) as workers:
            round_of(workers, order, 2, 0)  # so that all are connected and warm
            for number in range(settings.rounds):
                slices = max(round(settings.seconds / SLICE_SECONDS), 2)
                taken = round_of(workers, order, slices, number)
                for library, one in taken.items():
                    samples.setdefault(library, []).append(one)
                    say(f"{row.name} {library}: {summary(one)}")
        cluster.check()
    return samples


def imports(row: Row, settings: Settings) -> Samples:
    """Importing the client, in milliseconds: the shortest of ten, in turns."""
    samples: Samples = {library: [] for library in IMPORTS}
    for _ in range(settings.rounds):
        taken: dict[str, list[float]] = {library: [] for library in IMPORTS}
        for _ in range(10):
            for library, module in IMPORTS.items():
                done = subprocess.run(
                    [sys.executable, "-c", IMPORT_CODE.format(module)],
                    capture_output=True,
                    text=True,
                    cwd=ROOT,
                    check=False,
                )
                if done.returncode:
                    raise ClusterFailed(f"import {module}: {done.stderr.strip()}")
                taken[library].append(float(done.stdout))
        for library, seconds in taken.items():
            one = Sample({"import_ms": 1e3 * min(seconds)})
            samples[library].append(one)
            say(f"{row.name} {library}: {summary(one)}")
    return samples


CLIENT_ROWS: Final = (
    Row("client-put", libraries, "put", pairs=PAIRS),
    Row("client-get", libraries, "get", pairs=PAIRS),
    Row("client-txn", libraries, "txn", pairs=PAIRS),
    Row("client-watch", libraries, "watch", pairs=PAIRS),
    Row("client-import", imports, pairs=(("client", "stub"), ("client.aio", "stub"))),
)
