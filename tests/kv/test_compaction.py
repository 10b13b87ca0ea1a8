"""Physical compaction: what goes, what stays, and crashes at every step."""

from random import Random

from raftkv.kv.backend import Row
from raftkv.kv.encoding import REVISION_ROWS
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.store import Change, parse_row
from raftkv.pb import rpc_pb2 as pb
from tests.conformance.generate import Requests
from tests.kv.adapter import Driver, finish
from tests.kv.memory import MemoryBackend

Put, Delete, Compact = pb.PutRequest, pb.DeleteRangeRequest, pb.CompactionRequest


def rows(driver: Driver) -> list[Change]:
    """Every version on disk."""
    driver.machine.flush()
    return [parse_row(*row) for row in driver.machine.backend.scan(*REVISION_ROWS)]


def compact(driver: Driver, revision: int) -> None:
    """A COMPACT entry and all of its physical work."""
    driver.submit(Compact(revision=revision))
    while driver.machine.compact_slice(2):
        pass


def test_superseded_versions_and_deletions_go_and_the_newest_stay() -> None:
    driver = Driver()
    for value in (b"1", b"2", b"3"):
        driver.submit(Put(key=b"a", value=value))  # revisions 2, 3, 4
    driver.submit(Put(key=b"b", value=b"1"))  # 5
    driver.submit(Delete(key=b"b"))  # 6
    driver.submit(Put(key=b"c", value=b"1"))  # 7
    compact(driver, 7)
    assert [(row.row_id >> 32, row.key) for row in rows(driver)] == [(4, b"a"), (7, b"c")]
    assert driver.machine.physically_compacted == 7


def test_everything_written_at_the_compacted_revision_stays_for_a_watch_that_starts_there() -> None:
    """M16: a key deleted at that very revision still has its deletion to deliver."""
    driver = Driver()
    driver.submit(Put(key=b"a", value=b"1"))  # 2
    driver.submit(Put(key=b"b", value=b"1"))  # 3
    driver.submit(Delete(key=b"a"))  # 4
    compact(driver, 4)
    assert [(row.row_id >> 32, row.key, row.deleted) for row in rows(driver)] == [
        (3, b"b", False),
        (4, b"a", True),
    ]
    driver.submit(Put(key=b"b", value=b"2"))  # 5
    compact(driver, 5)
    assert [(row.row_id >> 32, row.key) for row in rows(driver)] == [(5, b"b")]


def test_both_writes_of_one_key_at_the_compacted_revision_stay() -> None:
    """M16: two nested transactions may put and then delete a key at one revision."""
    driver = Driver()
    put = pb.TxnRequest(success=[pb.RequestOp(request_put=Put(key=b"a", value=b"1"))])
    delete = pb.TxnRequest(success=[pb.RequestOp(request_delete_range=Delete(key=b"a"))])
    both = pb.TxnRequest(success=[pb.RequestOp(request_txn=put), pb.RequestOp(request_txn=delete)])
    for _ in range(2):
        assert isinstance(driver.perform(both), Result)
    assert driver.machine.revision == 3
    compact(driver, 3)
    assert [(row.row_id, row.deleted) for row in rows(driver)] == [
        (3 << 32, False),
        ((3 << 32) + 1, True),
    ]
    driver.submit(Put(key=b"b"))
    compact(driver, 4)
    assert [row.key for row in rows(driver)] == [b"b"]


def test_the_bytes_in_use_are_those_of_the_rows() -> None:
    driver = Driver()
    requests = Requests(Random(4))
    for _ in range(300):
        requests.revision = driver.machine.revision
        requests.compacted = driver.machine.compacted_revision
        driver.perform(requests.next())
        driver.machine.compact_slice(3)
    while driver.machine.compact_slice(3):
        pass
    driver.reopen()
    backend = driver.machine.backend
    stored = sum(
        len(key) + len(value)
        for prefix in (b"k", b"r")
        for key, value in backend.scan(prefix, bytes([prefix[0] + 1]))
    )
    assert driver.machine.status().db_size_in_use == stored
    keys = pb.RangeResponse.FromString(
        driver.machine.range(pb.RangeRequest(key=b"\0", range_end=b"\0", count_only=True)).body  # type: ignore[union-attr]
    ).count
    assert driver.machine.status().keys == keys


class Crash(Exception):
    """The power went."""


class CrashingBackend(MemoryBackend):
    """Fails at a chosen write; what was written before stays."""

    def __init__(self) -> None:
        super().__init__()
        self.left = -1

    def write(self, rows: list[Row]) -> None:
        if self.left == 0:
            raise Crash
        self.left -= 1
        super().write(rows)


def _history(driver: Driver) -> None:
    for number in range(12):
        driver.submit(Put(key=b"%d" % (number % 4), value=b"%d" % number))
        if number % 3 == 2:
            driver.submit(Delete(key=b"%d" % (number % 4)))
    driver.submit(Compact(revision=9))


def test_a_crash_at_any_write_of_a_compaction_changes_neither_answers_nor_the_end() -> None:
    """D19: before the schedule, in every batch, at the finish."""
    undisturbed = Driver()
    _history(undisturbed)
    while undisturbed.machine.compact_slice(1):
        pass
    expected = rows(undisturbed)
    expected_hash = finish(undisturbed.machine.hash_kv())
    crashes = 0
    for allowed in range(100):
        backend = CrashingBackend()
        driver = Driver(StateMachine(backend, 1))
        _history(driver)
        driver.machine.flush()
        backend.left = allowed
        try:
            while driver.machine.compact_slice(1):
                pass
        except Crash:
            crashes += 1
        else:
            break
        backend.left = -1
        again = Driver(StateMachine(backend, 1))
        assert again.machine.compacted_revision == 9
        assert again.machine.revision == undisturbed.machine.revision
        assert finish(again.machine.hash_kv()) == expected_hash
        while again.machine.compact_slice(1):
            pass
        assert rows(again) == expected
        assert finish(again.machine.hash_kv()) == expected_hash
        assert again.machine.status().db_size_in_use == undisturbed.machine.status().db_size_in_use
    assert crashes > 5


def test_a_newer_compaction_takes_over_a_running_one() -> None:
    one, other = Driver(), Driver()
    for driver in (one, other):
        _history(driver)
    one.machine.compact_slice(3)
    one.submit(Compact(revision=14))
    other.submit(Compact(revision=14))
    for driver, size in ((one, 2), (other, 100)):
        while driver.machine.compact_slice(size):
            pass
    assert rows(one) == rows(other)


def test_the_history_hash_tells_different_histories_apart() -> None:
    """M19, M20."""
    one, other = Driver(), Driver()
    for driver, value in ((one, b"1"), (other, b"2")):
        driver.submit(Put(key=b"a", value=value))
        driver.submit(Put(key=b"a", value=b"3"))
        driver.submit(Delete(key=b"a"))
    at = [finish(driver.machine.hash_kv()) for driver in (one, other)]
    assert at[0].hash != at[1].hash
    assert (at[0].compacted_revision, at[0].hash_revision) == (0, 4)
    for driver in (one, other):
        driver.submit(Compact(revision=3))
    same = [finish(driver.machine.hash_kv()) for driver in (one, other)]
    assert same[0] == same[1]
    assert same[0].compacted_revision == 3
    assert finish(one.machine.hash_kv(3)).hash != same[0].hash
    assert finish(one.machine.hash_kv(2)).text.endswith("has been compacted")
    assert finish(one.machine.hash_kv(5)).text.endswith("is a future revision")


def test_emptied_areas_are_given_back_once() -> None:
    driver = Driver()
    for number in range(6000):
        driver.submit(Put(key=b"k", value=b"%d" % number))
    driver.submit(Compact(revision=6000))
    while driver.machine.compact_slice(1000):
        pass
    areas = driver.machine.compaction_areas()
    assert [start[:2] for start, _ in areas] == [b"r\0", b"kk"]
    for area in areas:
        driver.machine.backend.compact(*area)
    assert driver.machine.compaction_areas() == []
    assert rows(driver)[0].row_id >> 32 == 6000
