"""Real processes killed while they compact: history, answers and left-overs (D19, D20, D21).

Every revision's whole content is remembered here, so each read of a revision can be compared
with what was there. A kill is SIGKILL; what LevelDB had not flushed is lost with it, as in a
power cut, because a member opens its state at the last flush.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import grpc
import plyvel
import pytest

from raftkv.kv.encoding import COMPACTION, COMPACTION_ROW
from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.processes import Cluster, Server, raftkv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

COMPACTED = "etcdserver: mvcc: required revision has been compacted"
KEYS = 1000
OPS = 100  # puts of one transaction
FIRST, AFTER = b"k", b"l"


class Store:
    """One member, and what it must hold at every revision that was acknowledged."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.states: dict[int, dict[bytes, bytes]] = {}
        self.newest = 1
        self.compacted = 0  # the newest compaction that was acknowledged
        self.asked = 0  # the newest compaction that was ever asked for
        self._count = 0
        self._now: dict[bytes, bytes] = {}

    @contextmanager
    def stub(self) -> Iterator[rpc_pb2_grpc.KVStub]:
        """A channel of its own, for processes come and go."""
        with grpc.insecure_channel(self.server.endpoint) as channel:
            yield rpc_pb2_grpc.KVStub(channel)

    def fill(self, transactions: int) -> None:
        """As many transactions of OPS puts; each is a revision."""
        with self.stub() as stub:
            for _ in range(transactions):
                request = rpc_pb2.TxnRequest()
                for _ in range(OPS):
                    self._count += 1
                    key = b"k%04d" % (self._count * 7 % KEYS)
                    value = b"%d" % self._count
                    request.success.add().request_put.CopyFrom(
                        rpc_pb2.PutRequest(key=key, value=value)
                    )
                    self._now[key] = value
                answer = stub.Txn(request, timeout=20, wait_for_ready=True)
                self.newest = answer.header.revision
                self.states[self.newest] = dict(self._now)

    def restart(self) -> None:
        """Starts the killed member and waits until it serves."""
        self.server.start()
        self.server.wait_ready()

    def check(self, stub: rpc_pb2_grpc.KVStub, revision: int, **options: Any) -> bool:
        """Reads everything at a revision: True if it was there and right, False if compacted."""
        request = rpc_pb2.RangeRequest(key=FIRST, range_end=AFTER, revision=revision, **options)
        try:
            answer = stub.Range(request, timeout=20, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.details() != COMPACTED:
                raise
            return False
        found = {pair.key: pair.value for pair in answer.kvs}
        assert found == self.states[revision], f"revision {revision} is not what it was"
        assert answer.count == len(found)
        return True


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A single member that makes its state durable often."""
    with raftkv(tmp_path, 1, "--snapshot-count=20") as cluster:
        yield Store(cluster.servers[0])


def removed_on_disk(tmp_path: Path, server: Server) -> tuple[int, int]:
    """The compaction's progress that a kill left durable: (finished revision, next row)."""
    (state,) = (tmp_path / server.name).glob("state-*")
    copy = tmp_path / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(state, copy, ignore=shutil.ignore_patterns("*.log", "LOCK"))
    with plyvel.DB(str(copy)) as db:
        row = db.get(COMPACTION_ROW)
    if row is None:
        return 0, 0
    finished, at, _ = COMPACTION.unpack(row)
    return finished, int.from_bytes(at, "big")


class Writer(threading.Thread):
    """Puts beside the compaction, so that checkpoints come in the middle of it."""

    def __init__(self, store: Store) -> None:
        super().__init__(daemon=True)
        self.acknowledged = 0
        self._store = store
        self._ended = threading.Event()

    def run(self) -> None:
        with self._store.stub() as stub:
            while not self._ended.is_set():
                try:
                    stub.Put(rpc_pb2.PutRequest(key=b"w", value=b"x"), timeout=5)
                except grpc.RpcError:
                    return
                self.acknowledged += 1

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_a_member_killed_while_it_compacts_goes_on_and_loses_no_revision(
    store: Store, tmp_path: Path
) -> None:
    """D19: before the schedule, among the batches, at and after the finish."""
    random = Random(19)
    unfinished, delays = 0, [0.0, 0.02, 0.1, 0.2, 0.4, 0.8]
    newest_seen = 0
    for delay in delays:
        store.fill(100)
        target = store.newest - random.randrange(1, 5)
        writer = Writer(store)
        writer.start()
        with store.stub() as stub:
            compaction = stub.Compact.future(rpc_pb2.CompactionRequest(revision=target))
            time.sleep(delay * random.uniform(0.5, 1.5))
            store.server.kill()
            writer.end()
            acknowledged = compaction.exception() is None
        unfinished += removed_on_disk(tmp_path, store.server)[0] < target
        store.restart()
        with store.stub() as stub:
            now = stub.Range(rpc_pb2.RangeRequest(key=b"w"), timeout=10).header.revision
            assert now >= max(newest_seen, store.newest + writer.acknowledged)
            newest_seen = now
            for revision in [one for one in store.states if one >= target]:
                assert store.check(stub, revision)
            older = store.check(stub, target - 1)
            assert not (older and acknowledged)
            store.states = {one: state for one, state in store.states.items() if one >= target}
    assert unfinished >= 3, "the kills came too late to interrupt anything"
    check_removed(store)


def check_removed(store: Store) -> None:
    """The removal that was interrupted has been carried on to its end."""
    store.fill(1)
    with grpc.insecure_channel(store.server.endpoint) as channel:
        stub = rpc_pb2_grpc.KVStub(channel)
        request = rpc_pb2.CompactionRequest(revision=store.newest, physical=True)
        stub.Compact(request, timeout=60)
        assert store.check(stub, store.newest)
        status = rpc_pb2_grpc.MaintenanceStub(channel).Status(rpc_pb2.StatusRequest(), timeout=10)
    live = KEYS * 100  # bytes; every put that was ever made would be at least fifty times that
    assert status.dbSizeInUse < 2 * live, status


class Reader(threading.Thread):
    """Reads whole revisions again and again, whether they are being compacted or not."""

    def __init__(self, store: Store, number: int) -> None:
        super().__init__(daemon=True)
        self.full = self.compacted = self.lost = 0
        self.problem: Exception | None = None
        self._store = store
        self._random = Random(number)
        self._ended = threading.Event()

    def run(self) -> None:
        while not self._ended.is_set():
            try:
                with self._store.stub() as stub:
                    while not self._ended.is_set():
                        self._read(stub)
            except grpc.RpcError:
                self.lost += 1
                time.sleep(0.05)
            except Exception as problem:  # noqa: BLE001  told by the test
                self.problem = problem
                return

    def _read(self, stub: rpc_pb2_grpc.KVStub) -> None:
        store = self._store
        revisions = sorted(store.states)
        near = [one for one in revisions if abs(one - store.asked) < 3] or revisions[-5:]
        revision = self._random.choice(near)
        if self._random.random() < 0.3:
            there = self._stream(stub, revision)
        else:
            there = store.check(stub, revision, serializable=self._random.random() < 0.5)
        if there:
            self.full += 1
        else:
            self.compacted += 1
            assert revision < store.asked, f"{revision} was called compacted too early"

    def _stream(self, stub: rpc_pb2_grpc.KVStub, revision: int) -> bool:
        request = rpc_pb2.RangeRequest(key=FIRST, range_end=AFTER, revision=revision)
        found: dict[bytes, bytes] = {}
        try:
            for part in stub.RangeStream(request, timeout=20, wait_for_ready=True):
                found |= {pair.key: pair.value for pair in part.range_response.kvs}
        except grpc.RpcError as error:
            if error.details() != COMPACTED:
                raise
            return False
        assert found == self._store.states[revision], f"revision {revision} is not what it was"
        return True

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_reads_that_race_compactions_and_kills_get_all_or_compacted(store: Store) -> None:
    """D20: never a part of a revision, also of one whose removal a kill interrupted."""
    random = Random(20)
    store.fill(20)
    readers = [Reader(store, number) for number in range(3)]
    for reader in readers:
        reader.start()
    try:
        for attempt in range(24):
            store.fill(4)
            with store.stub() as stub:
                store.asked = store.newest - random.randrange(3)
                request = rpc_pb2.CompactionRequest(revision=store.asked)
                compaction = stub.Compact.future(request)
                if attempt % 6 == 5:
                    time.sleep(random.uniform(0.0, 0.05))
                    store.server.kill()
                    store.restart()
                else:
                    compaction.result(10)
    finally:
        for reader in readers:
            reader.end()
    for reader in readers:
        if reader.problem is not None:
            raise reader.problem
    assert sum(reader.full for reader in readers) > 50
    assert sum(reader.compacted for reader in readers) > 10
    assert sum(reader.lost for reader in readers) > 0


# --- whole states on their way, and what kills leave behind --------------------------------


def states_of(directory: Path, server: Server) -> list[Path]:
    """The states in a member's directory: more than one while another arrives."""
    return sorted((directory / server.name).glob("state-*"))


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Polls often, because what it waits for does not last."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)


def hashes(cluster: Cluster) -> set[tuple[int, int]]:
    """(revision, hash) of every member that serves."""
    found = set()
    for server in cluster.servers:
        with grpc.insecure_channel(server.endpoint) as channel:
            rpc_pb2_grpc.KVStub(channel).Range(rpc_pb2.RangeRequest(key=b"k"), timeout=20)
            stub = rpc_pb2_grpc.MaintenanceStub(channel)
            answer = stub.HashKV(rpc_pb2.HashKVRequest(), timeout=20)
            found.add((answer.hash_revision, answer.hash))
    return found


def test_kills_while_a_state_arrives_leave_nothing_that_is_used_again(tmp_path: Path) -> None:
    """D21: half a state and temporary files are removed at the next start, never gone on with."""
    random = Random(21)
    flags = ("--heartbeat-interval=50", "--election-timeout=500", "--snapshot-count=20")
    with raftkv(tmp_path, 3, *flags) as cluster:
        leading, away = Store(cluster.servers[0]), cluster.servers[2]
        leading.fill(150)
        interrupted = 0
        for _ in range(5):
            away.kill()
            leading.fill(60)
            away.start()
            wait_for(lambda: len(states_of(tmp_path, away)) > 1)
            time.sleep(random.choice((0.0, 0.005, 0.02, 0.1)))
            away.kill()
            interrupted += len(states_of(tmp_path, away)) > 1
            for name in ("mark.tmp", "peers.tmp"):  # as a kill inside a replacement leaves them
                (tmp_path / away.name / name).write_bytes(b"half of a file")
            stray = tmp_path / away.name / "state-77"
            stray.mkdir()
            (stray / "CURRENT").write_bytes(b"MANIFEST-000001\n")
            away.start()
            away.wait_ready()
            assert not stray.exists()
            wait_for(lambda: len(states_of(tmp_path, away)) == 1)  # the old one goes a bit later
        assert interrupted, "no kill met a state on its way"
        assert len(hashes(cluster)) == 1
