"""raftctl snapshot archive beside real servers: killed, gone on with, restored and compared."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from raftkv.errors import ApiError
from raftkv.kv.machine import StateMachine
from raftkv.kv.restoring import REVISION_BUMP
from raftkv.pb import rpc_pb2 as pb
from raftkv.storage.archive import contents
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import STATE, STATE_BUFFER_BYTES
from tests.cli.running import Outcome, raftctl
from tests.kv.watching import delete, put, txn
from tests.processes import RAFTKV, Cluster, Server, etcd, free_ports, raftkv

PATIENCE_SECONDS = 120.0
LEASES = (1001, 1002)
KEYS = [b"key-%02d" % number for number in range(40)]


@pytest.fixture(scope="module", params=["raftkv", "etcd"])
def source(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cluster]:
    """One member."""
    directory = tmp_path_factory.mktemp(request.param)
    make: Callable[[], Cluster] = (
        (lambda: raftkv(directory))
        if request.param == "raftkv"
        else (lambda: etcd(directory, "--unsafe-no-fsync"))
    )
    with make() as cluster:
        yield cluster


class Load:
    """Random writes of every kind, in a thread of its own, until the end."""

    def __init__(self, endpoint: str) -> None:
        self._channel = grpc.insecure_channel(endpoint)
        self._random = Random(1)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def begin(self) -> None:
        """Grants leases, and writes a little."""
        for lease in LEASES:
            self.call("Lease/LeaseGrant", pb.LeaseGrantRequest(ID=lease, TTL=lease * 10))
        for _ in range(50):
            self._write()

    def call(self, method: str, request: Any) -> Any:
        """A call of etcd's API."""
        name = type(request).__name__.replace("Request", "Response")
        stub = self._channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=getattr(pb, name).FromString,
        )
        return stub(request, timeout=60)

    def everything(self, revision: int = 0) -> Any:
        """All keys at a revision."""
        return self.call("KV/Range", pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Writes within."""
        self._end.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        try:
            yield
        finally:
            self._end.set()
            self._thread.join()

    def close(self) -> None:
        self._channel.close()

    def _run(self) -> None:
        while not self._end.wait(0.002):
            self._write()

    def _write(self) -> None:
        random = self._random
        draw = random.randrange(10)
        if draw == 0:
            first, last = sorted(random.sample(KEYS, 2))
            self.call("KV/DeleteRange", delete(first, last))
        elif draw < 4:
            keys = random.sample(KEYS, random.randrange(1, 5))
            gone = delete(keys.pop())
            puts = [put(key, b"t", random.choice([0, *LEASES])) for key in keys]
            self.call("KV/Txn", txn(gone, *puts))
        else:
            value = random.randbytes(random.randrange(200))
            self.call("KV/Put", put(random.choice(KEYS), value, random.choice([0, 0, *LEASES])))


@pytest.fixture(scope="module")
def load(source: Cluster) -> Iterator[Load]:
    made = Load(source.endpoints)
    made.begin()
    yield made
    made.close()


def reaching(source: Cluster) -> list[str]:
    """Flags for a busy machine."""
    return ["--endpoints", source.endpoints, "--command-timeout=60s", "--dial-timeout=60s"]


def archive(source: Cluster, path: Path, *flags: str) -> Outcome:
    return raftctl([*reaching(source), "snapshot", "archive", str(path), *flags])


def status(path: Path) -> Any:
    done = raftctl(["snapshot", "status", str(path), "-w", "json"])
    assert done.exit_code == 0, done.err
    return json.loads(done.out)


def archived_bytes(path: Path) -> int:
    segments = contents(str(path)).segments if path.exists() else {}
    return sum(os.path.getsize(one) for one in segments.values())


@contextmanager
def archiver(source: Cluster, path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that archives; it is dead afterwards."""
    words = [*reaching(source), "snapshot", "archive", str(path)]
    code = "import sys; from raftkv.cli.ctl import main; main(sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--check-interval", "50ms"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until(true: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def restore(path: Path, directory: Path, *flags: str) -> Outcome:
    words = ["snapshot", "restore", "--archive", str(path), "--data-dir", str(directory)]
    return raftctl([*words, *flags])


def restored_keys(path: Path, directory: Path, revision: int) -> Any:
    """What a restore to a revision has, with the revisions as they were."""
    flags = ("--to-revision", str(revision), "--bump-revision=0", "--mark-compacted=false")
    done = restore(path, directory, *flags)
    assert done.exit_code == 0, done.err
    state = LEVELDB.open_state(f"{directory}/{STATE}1", buffer_bytes=STATE_BUFFER_BYTES)
    try:
        answer = StateMachine(state, 0).range(pb.RangeRequest(key=b"\0", range_end=b"\0"))
        assert not isinstance(answer, ApiError)
        assert answer.revision == revision
        return pb.RangeResponse.FromString(answer.body).kvs
    finally:
        state.close()


@pytest.mark.slow
def test_an_archiver_that_is_killed_again_and_again_leaves_nothing_out(
    source: Cluster, load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M17: keys, values, revisions, versions and leases at any revision are what the source says
    they were, although it has compacted them since; and a cluster begins with them.
    """
    monkeypatch.setattr("raftkv.server.archive.LATE_MS", 3_600_000)  # the machine may be busy
    path = tmp_path / "a"
    with load.running():
        for _ in range(3):
            with archiver(source, path) as process:
                goal = archived_bytes(path) + 3_000
                wait_until(lambda goal=goal: archived_bytes(path) > goal, process)  # type: ignore[misc]
    assert archive(source, path, "--once").exit_code == 0
    newest = load.everything().header.revision
    (run,) = status(path)["runs"]
    assert run["lastRevision"] == newest
    (base,) = run["bases"]
    random = Random(2)
    chosen = sorted({base, newest, *random.sample(range(base, newest), 3)})
    expected = {revision: load.everything(revision).kvs for revision in chosen}
    load.call("KV/Compact", pb.CompactionRequest(revision=newest))
    with load.running(), archiver(source, path) as process:
        goal = archived_bytes(path) + 1_000
        wait_until(lambda: archived_bytes(path) > goal, process)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0
    told = int(out.splitlines()[-1].removeprefix(b"Archived up to revision "))
    assert told > newest
    expected[told] = load.everything(told).kvs
    for number, (revision, pairs) in enumerate(expected.items()):
        assert list(restored_keys(path, tmp_path / str(number), revision)) == list(pairs)
    (run,) = status(path)["runs"]
    done = restore(path, tmp_path / "timed", "--to-time", run["completeUpTo"])
    found = re.match(rb"Restored revision (\d+) ", done.out)
    assert found is not None, done.err
    assert newest <= int(found[1]) <= told
    with begun_with(path, tmp_path, told) as server:
        begun = Load(server.endpoint)
        again = begun.everything()
        leases = begun.call("Lease/LeaseLeases", pb.LeaseLeasesRequest()).leases
        assert {one.ID for one in leases} == set(LEASES)
        assert list(again.kvs) == list(expected[told])
        assert again.header.revision == told + REVISION_BUMP
        begun.call("KV/Put", put(b"after"))
        begun.close()


@contextmanager
def begun_with(path: Path, tmp_path: Path, revision: int) -> Iterator[Server]:
    """A cluster of one that begins with an archive."""
    client, peer = free_ports(2)
    url, directory = f"http://127.0.0.1:{peer}", tmp_path / "begun"
    cluster = ["--initial-cluster", f"new={url}", "--initial-advertise-peer-urls", url]
    done = restore(path, directory, "--name=new", *cluster, f"--to-revision={revision}")
    assert done.exit_code == 0, done.err
    listen = f"http://127.0.0.1:{client}"
    words = [*RAFTKV, "--name=new", f"--data-dir={directory}", *cluster]
    words += [f"--listen-client-urls={listen}", f"--advertise-client-urls={listen}"]
    server = Server("new", [*words, f"--listen-peer-urls={url}"], tmp_path, client, peer)
    server.start()
    try:
        server.wait_ready()
        yield server
    finally:
        server.kill()


def test_what_was_archived_is_shown_and_what_cannot_be_restored_is_said(
    source: Cluster, load: Load, tmp_path: Path
) -> None:
    path = tmp_path / "a"
    first = archive(source, path, "--once")
    assert (first.exit_code, first.err) == (0, "")
    base = load.everything().header.revision
    assert f"Took a base of revision {base}\n" in first.out.decode()
    load.call("KV/Put", put(b"one"))
    load.call("KV/Put", put(b"two"))
    done = archive(source, path, "--once")
    assert done.out.decode().splitlines()[-1] == f"Archived up to revision {base + 2}"
    for form in ("simple", "table"):
        shown = raftctl(["snapshot", "status", str(path), "-w", form])
        assert (shown.exit_code, shown.err) == (0, "")
        assert str(base + 2) in shown.out.decode()
    after = restore(path, tmp_path / "d", "--to-revision", str(base + 3))
    assert (after.exit_code, after.error_line) == (
        1,
        f"Error: --to-revision: {base + 3}: the archive ends with revision {base + 2}; "
        f"{base + 2} can be restored",
    )
    past = restore(path, tmp_path / "d", "--to-time", "2020-01-01T00:00:00Z")
    assert "the archive has no base that lies before" in past.error_line
    (segment,) = contents(str(path)).segments.values()
    content = bytearray(Path(segment).read_bytes())
    content[-30] ^= 1
    Path(segment).write_bytes(content)
    for done in (raftctl(["snapshot", "status", str(path)]), archive(source, path, "--once")):
        assert (done.exit_code, "is damaged at offset" in done.err) == (1, True)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["archive"], "snapshot archive requires exactly one argument"),
        (["archive", "a", "--check-interval=0"], "--check-interval must be positive"),
        (["restore", "x", "--to-revision=5"], "--to-revision and --to-time need --archive"),
        (
            ["restore", "--archive=.", "--to-revision=5", "--to-time=2026-11-23T17:30:00Z"],
            "--to-revision and --to-time exclude each other",
        ),
        (["restore", "--archive=.", "--to-time=noon"], "--to-time: 'noon' is no time"),
        (["restore", "--archive=."], "--archive: . holds no archive"),
        (["restore", "--archive=none"], "stat none: no such file or directory"),
        (["restore"], "snapshot restore requires exactly one argument"),
        (["status", "."], ". holds no archive"),
    ],
)
def test_mistakes_are_told_before_anything_is_done(
    words: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(b"")
    done = raftctl(["snapshot", *words])
    assert done.exit_code != 0
    assert done.error_line.startswith(f"Error: {text}")
    assert os.listdir(tmp_path) == ["x"]
