"""The machine on the real LevelDB: same answers and same rows as on the backend in memory."""

from pathlib import Path
from random import Random

from raftkv.kv.backend import Backend
from raftkv.kv.machine import StateMachine
from raftkv.pb import rpc_pb2 as pb
from raftkv.storage.leveldb import LevelBackend
from tests.conformance.generate import Requests
from tests.kv.adapter import Driver, RestlessDriver, machine

REQUESTS = 1500


def _all_rows(backend: Backend) -> list[tuple[bytes, bytes]]:
    return list(backend.scan(b"", b"\xff" * 4))


def test_leveldb_and_memory_cannot_be_told_apart(tmp_path: Path) -> None:
    """Random requests, flushes, restarts and compactions with a tiny cache."""
    level = LevelBackend(str(tmp_path / "state"), create=True, buffer_bytes=64 << 10)
    try:
        subjects = [
            RestlessDriver(Random(1), machine(level, cache_bytes=3000)),
            RestlessDriver(Random(1), machine(cache_bytes=3000)),
        ]
        requests = Requests(Random(2), leases=True)
        for _ in range(REQUESTS):
            request = requests.next()
            if isinstance(request, pb.LeaseTimeToLiveRequest):
                continue  # no command
            one, other = (subject.perform(request) for subject in subjects)
            assert one == other, request
            requests.revision = subjects[0].machine.revision
            requests.compacted = subjects[0].machine.compacted_revision
        for subject in subjects:
            subject.machine.flush()
        assert _all_rows(level) == _all_rows(subjects[1].machine.backend)
    finally:
        level.close()


def test_a_machine_opens_where_leveldb_was_last_synced(tmp_path: Path) -> None:
    """D16: what was applied after that is replayed from the log, once."""
    path = str(tmp_path / "state")
    level = LevelBackend(path, create=True, buffer_bytes=64 << 10)
    driver = Driver(machine(level))
    for number in range(200):
        driver.submit(pb.PutRequest(key=b"%d" % (number % 50), value=b"%d" % number))
    driver.machine.flush()
    level.sync()
    expected = driver.machine.applied_index, driver.machine.state_hash, driver.machine.revision
    live = {key: driver.machine.store.known(key)[1] for key in driver.machine.store.live}
    for number in range(20):
        driver.submit(pb.PutRequest(key=b"%d" % number, value=b"lost"))
    level.close()
    level = LevelBackend(path, create=False, buffer_bytes=64 << 10)
    try:
        again = StateMachine(level, driver.machine.cluster)
        assert (again.applied_index, again.state_hash, again.revision) == expected
        assert again.store.live == live
    finally:
        level.close()


def test_a_store_is_never_smaller_than_what_it_uses(tmp_path: Path) -> None:
    """Rows are in memory until a table has them: the files alone know nothing of them."""
    level = LevelBackend(str(tmp_path / "state"), create=True, buffer_bytes=1 << 20)
    try:
        driver = Driver(machine(level))
        for number in range(200):
            driver.submit(pb.PutRequest(key=b"%d" % number, value=b"v" * 500))
        driver.machine.flush()
        status = driver.machine.status()
        assert level.size() < 100_000 < status.db_size_in_use <= status.db_size
    finally:
        level.close()
