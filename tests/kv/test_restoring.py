"""The rows of a restored state: what stays, what goes, what clients of before hear (M17, M18)."""

from typing import Any

import pytest

from raftkv.errors import COMPACTED, SESSION_NOT_FOUND, ApiError, CorruptionError
from raftkv.kv import commands
from raftkv.kv.encoding import ALARM_ROWS, DOWNGRADE_ROW
from raftkv.kv.machine import MachineSettings, StateMachine
from raftkv.kv.members import Member
from raftkv.kv.restoring import MAX_REVISION, REVISION_BUMP, read_applied, restored_rows
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.membership import encode_change, plain
from raftkv.raft.types import CONFIG
from tests.kv import sessions
from tests.kv.adapter import CLUSTER, MEMBER, Driver
from tests.kv.leasing import checkpoint, expire, keys, ok, put
from tests.kv.memory import MemoryBackend

NEW = [Member(71, "a", ("http://a:1",)), Member(72, "b", ("http://b:1",))]


def restored(driver: Driver, bump: int = REVISION_BUMP, *, mark: bool = True) -> Driver:
    """The state of `driver` as that of a new cluster of two members."""
    driver.machine.flush()
    before = driver.machine.backend
    backend = MemoryBackend()
    backend.write(list(before.scan(b"", b"\xff")))
    backend.write(restored_rows(before, NEW, bump, mark_compacted=mark))
    return Driver(StateMachine(backend, CLUSTER + 1, MachineSettings(), None))


def filled() -> Driver:
    driver = Driver()
    for number in range(10):
        ok(driver.submit(pb.PutRequest(key=b"k%d" % (number % 4), value=b"%d" % number)))
    ok(driver.submit(pb.DeleteRangeRequest(key=b"k1")))
    return driver


def read(driver: Driver, revision: int = 0) -> Any:
    request = pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision)
    return driver.perform(request)


def test_keys_stay_as_they_were_with_their_revisions() -> None:
    driver = filled()
    after = restored(driver)
    assert ok(read(after)).body == ok(read(driver)).body
    assert after.machine.applied_index == driver.machine.applied_index
    assert after.machine.applied_term == driver.machine.applied_term


def test_the_revision_jumps_and_everything_before_counts_as_compacted() -> None:
    """M17: a watch or a cache that goes on at an old revision is told to read everything anew."""
    driver = filled()
    old = driver.machine.revision
    after = restored(driver)
    new = old + REVISION_BUMP
    assert (after.machine.revision, after.machine.compacted_revision) == (new, new)
    for revision in (1, old, old + 1, new - 1):
        assert read(after, revision) is COMPACTED
    assert ok(read(after, new)).body == ok(read(driver)).body
    answer = ok(after.submit(pb.PutRequest(key=b"k0", value=b"x")))
    assert answer.revision == new + 1


def test_old_history_is_removed_after_the_jump_and_nothing_else() -> None:
    driver = filled()
    after = restored(driver)
    before = ok(read(after)).body
    while after.machine.compact_slice(3):
        pass
    assert after.machine.physically_compacted == after.machine.revision
    after.reopen()
    assert ok(read(after)).body == before == ok(read(driver)).body


def test_without_a_bump_history_stays_readable() -> None:
    driver = filled()
    after = restored(driver, 0, mark=False)
    assert after.machine.revision == driver.machine.revision
    assert ok(read(after, 5)).body == ok(read(driver, 5)).body


def test_members_removed_ids_alarms_and_a_downgrade_go_with_the_old_cluster() -> None:
    """M18: nothing of the old membership is left, so an old id may come again."""
    driver = filled()
    driver.entry(encode_change(plain((MEMBER, 71)), b""), CONFIG)
    driver.entry(encode_change(plain((MEMBER,)), b""), CONFIG)
    assert list(driver.machine.removed) == [71]
    driver.machine.flush()
    backend = driver.machine.backend
    backend.write([(b"o" + bytes(9), b"\0"), (DOWNGRADE_ROW, b"3.5.0")])
    rows = dict(restored_rows(backend, NEW, 0, mark_compacted=False))
    assert rows[b"o" + bytes(9)] is None
    assert rows[DOWNGRADE_ROW] is None
    backend.write([(b"o" + bytes(9), None), (DOWNGRADE_ROW, None)])
    after = restored(driver).machine
    assert after.members == {one.id: one for one in NEW}
    assert after.configuration == plain((71, 72))
    assert not after.removed
    assert not list(after.backend.scan(*ALARM_ROWS))


def test_leases_stay_with_their_whole_ttl_and_expire_in_the_new_cluster() -> None:
    driver = Driver()
    driver.grant(5, 60_000)
    put(driver, b"leased", 5)
    checkpoint(driver, (5, 1_000))
    after = restored(driver)
    lease = after.machine.leases.get(5)
    assert lease is not None
    assert (lease.ttl_ms, lease.remaining_ms) == (60_000, 0)
    assert keys(after.machine) == {b"leased": 5}
    expire(after, 5)
    assert keys(after.machine) == {}
    assert after.machine.leases.get(5) is None


def test_a_session_of_the_old_cluster_answers_nothing_and_is_a_plain_lease() -> None:
    driver = sessions.opened()
    ok(sessions.put(driver, 1))
    after = restored(driver)
    lease = after.machine.leases.get(sessions.SESSION)
    assert lease is not None
    assert not lease.session
    assert not sessions.session_rows(after.machine)
    assert sessions.put(after, 1) is SESSION_NOT_FOUND
    assert sessions.version(after.machine) == 1


def test_equal_states_stay_equal_on_all_restored_members() -> None:
    driver = filled()
    one, two = restored(driver), restored(driver)
    for after in (one, two):
        ok(after.submit(pb.PutRequest(key=b"n", value=b"x")))
    assert one.machine.state_hash == two.machine.state_hash
    one.machine.flush()
    two.machine.flush()
    assert list(one.machine.backend.scan(b"", b"\xff")) == list(
        two.machine.backend.scan(b"", b"\xff")
    )


def test_rows_that_are_no_state_and_a_bump_out_of_range_are_refused() -> None:
    with pytest.raises(CorruptionError, match="no applied index"):
        read_applied(MemoryBackend())
    with pytest.raises(CorruptionError, match="no applied index"):
        restored_rows(MemoryBackend(), NEW, 0, mark_compacted=True)
    driver = filled()
    for bump in (MAX_REVISION, -1):
        with pytest.raises(ValueError, match="out of range"):
            restored(driver, bump)


def test_a_compaction_can_go_on_above_the_mark() -> None:
    after = restored(filled())
    revision = ok(after.submit(pb.PutRequest(key=b"k0", value=b"x"))).revision
    outcome = after.command(
        commands.COMPACT, pb.CompactionRequest(revision=revision).SerializeToString()
    )
    assert not isinstance(outcome, ApiError)
    assert after.machine.compacted_revision == revision
