"""The commands about leases, one by one: what they answer and what they change."""

import inspect
from typing import Any

import pytest

from raftkv.errors import (
    EMPTY_KEY,
    KEY_NOT_FOUND,
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    LEASE_PROVIDED,
)
from raftkv.kv import commands, leases
from raftkv.kv.leases import CHECKPOINTED, GRANTED, REVOKED, Lease
from raftkv.kv.machine import Result, StateMachine
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import TERM, Driver
from tests.kv.leasing import (
    LARGEST,
    SMALLEST,
    Put,
    checkpoint,
    expire,
    keys,
    lease_rows,
    ok,
    put,
    put_with_ttl,
    revoke,
)

Delete = pb.DeleteRangeRequest


# --- grant ---------------------------------------------------------------------
@pytest.mark.parametrize("lease", [1, 7, -1, SMALLEST, LARGEST])
def test_a_grant_answers_with_id_and_ttl_and_moves_no_revision(lease: int) -> None:
    driver = Driver()
    answer = ok(driver.grant(lease, 9_000_000_000_000))
    response = pb.LeaseGrantResponse.FromString(answer.body)
    assert (response.ID, response.TTL, response.error) == (lease, 9_000_000_000, "")
    assert answer.body == response.SerializeToString(deterministic=True)
    assert answer.revision == driver.machine.revision == 1
    assert driver.machine.leases.get(lease) == Lease(lease, 9_000_000_000_000, 0, False, 1, 1)
    assert lease in driver.machine.leases
    assert len(driver.machine.leases) == 1


def test_a_second_grant_of_an_id_is_refused_and_changes_nothing() -> None:
    driver = Driver()
    ok(driver.grant(7, 5000))
    rows = lease_rows(driver.machine)
    assert driver.grant(7, 9000) is LEASE_EXISTS
    assert lease_rows(driver.machine) == rows
    assert driver.machine.lease_events == [(GRANTED, 7)]
    ok(revoke(driver, 7))
    ok(driver.grant(7, 9000))
    granted = driver.machine.leases.get(7)
    assert granted is not None
    assert granted.ttl_ms == 9000


# --- revoke --------------------------------------------------------------------
def test_a_revoke_deletes_all_keys_in_one_revision_in_key_order() -> None:
    """W17: one event per key and revision."""
    driver = Driver()
    driver.grant(7)
    for key in (b"c", b"a", b"x/2", b"b", b"a\0", b"x/1", b"a"):
        put(driver, key, 7)
    put(driver, b"bb")  # between the lease's keys, and stays
    driver.machine.collect_changes(True)
    before = driver.machine.revision
    answer = ok(revoke(driver, 7))
    assert answer == Result(before + 1, b"")
    changes = driver.machine.take_changes()
    assert [change.key for change in changes] == [b"a", b"a\0", b"b", b"c", b"x/1", b"x/2"]
    assert all(change.deleted for change in changes)
    assert [change.row_id for change in changes] == [(before + 1) << 32 | n for n in range(6)]
    assert keys(driver.machine) == {b"bb": 0}
    assert driver.machine.lease_keys(7) == []
    assert 7 not in driver.machine.leases
    assert lease_rows(driver.machine) == []


def test_a_revoke_of_a_lease_without_keys_moves_no_revision() -> None:
    driver = Driver()
    driver.grant(7)
    put(driver, b"a", 7)
    put(driver, b"a")
    assert ok(revoke(driver, 7)) == Result(3, b"")
    assert keys(driver.machine) == {b"a": 0}


@pytest.mark.parametrize("lease", [0, 5, -7])
def test_a_revoke_of_an_unknown_lease_is_not_found(lease: int) -> None:
    driver = Driver()
    driver.grant(7)
    assert revoke(driver, lease) is LEASE_NOT_FOUND
    assert driver.machine.lease_events == [(GRANTED, 7)]


def test_a_key_created_again_after_its_lease_went_begins_at_version_one() -> None:
    """W17."""
    driver = Driver()
    driver.grant(7)
    put(driver, b"a", 7)
    put(driver, b"a", 7)
    ok(revoke(driver, 7))
    revision = put(driver, b"a").revision
    answer = ok(driver.machine.range(pb.RangeRequest(key=b"a")))
    (kv,) = pb.RangeResponse.FromString(answer.body).kvs
    assert (kv.version, kv.create_revision, kv.mod_revision) == (1, revision, revision)


# --- keys come and go ------------------------------------------------------------
def test_the_order_of_put_and_revoke_in_the_log_decides() -> None:
    """M11: no key outlives its lease, none is attached to a lease that is gone."""
    first = Driver()
    first.grant(7)
    put(first, b"a", 7)
    ok(revoke(first, 7))
    second = Driver()
    second.grant(7)
    ok(revoke(second, 7))
    assert second.submit(Put(key=b"a", value=b"v", lease=7)) is LEASE_NOT_FOUND
    txn = pb.TxnRequest()
    txn.success.add().request_put.CopyFrom(Put(key=b"b"))
    txn.success.add().request_put.CopyFrom(Put(key=b"a", lease=7))
    assert second.submit(txn) is LEASE_NOT_FOUND
    for driver in (first, second):
        assert keys(driver.machine) == {}
        assert driver.machine.store.attached == {}


def test_a_key_that_moved_to_another_lease_stays_when_the_first_expires() -> None:
    """M12."""
    driver = Driver()
    driver.grant(7)
    driver.grant(8)
    put(driver, b"moved", 7)
    put(driver, b"stayed", 7)
    put(driver, b"moved", 8)
    expire(driver, 7)
    assert keys(driver.machine) == {b"moved": 8}
    assert driver.machine.lease_keys(8) == [b"moved"]
    expire(driver, 8)
    assert keys(driver.machine) == {}


def test_what_detaches_a_key_and_what_keeps_it_attached() -> None:
    driver = Driver()
    driver.grant(7)
    for key in (b"a", b"b", b"c", b"d", b"e"):
        put(driver, key, 7)
    put(driver, b"a")
    ok(driver.submit(Put(key=b"b", value=b"2", ignore_lease=True)))
    ok(driver.submit(Put(key=b"c", lease=7, ignore_value=True)))
    ok(driver.submit(Delete(key=b"d")))
    txn = pb.TxnRequest()
    txn.success.add().request_put.CopyFrom(Put(key=b"e", value=b"3"))
    txn.success.add().request_put.CopyFrom(Put(key=b"f", value=b"3", lease=7))
    ok(driver.submit(txn))
    assert driver.machine.lease_keys(7) == [b"b", b"c", b"f"]
    ok(revoke(driver, 7))
    assert keys(driver.machine) == {b"a": 0, b"e": 0}


def test_a_deleted_key_created_again_without_lease_is_not_taken_along() -> None:
    driver = Driver()
    driver.grant(7)
    put(driver, b"a", 7)
    ok(driver.submit(Delete(key=b"\0", range_end=b"\0")))
    put(driver, b"a")
    ok(revoke(driver, 7))
    assert keys(driver.machine) == {b"a": 0}


# --- checkpoints -----------------------------------------------------------------
def test_a_checkpoint_says_what_is_left_and_zero_clears_it() -> None:
    driver = Driver()
    driver.grant(7, 10_000)
    driver.grant(-8, 20_000)
    driver.machine.lease_events.clear()
    checkpoint(driver, (7, 4000), (404, 1), (-8, 9000))
    checkpoint(driver, (-8, 0))
    left = {lease.id: lease.remaining_ms for lease in driver.machine.leases}
    assert left == {7: 4000, -8: 0}
    assert driver.machine.lease_events == [
        (CHECKPOINTED, 7),
        (CHECKPOINTED, -8),
        (CHECKPOINTED, -8),
    ]
    assert driver.machine.revision == 1


def test_a_checkpoint_may_leave_more_than_was_granted() -> None:
    """M07: a leader that takes over adds to the TTL; who counts from its checkpoint does not."""
    driver = Driver()
    driver.grant(7, 10_000)
    checkpoint(driver, (7, 11_500))
    assert [lease.remaining_ms for lease in driver.machine.leases] == [11_500]


def test_clearing_what_is_clear_says_in_whose_term_the_lease_was_renewed() -> None:
    """M07. And a leader that waits for that entry learns that it was applied."""
    driver = Driver()
    driver.grant(7, 5000)
    driver.machine.lease_events.clear()
    checkpoint(driver, (7, 0))
    assert driver.machine.leases.get(7) == Lease(7, 5000, 0, False, 1, 2)
    assert driver.machine.lease_events == [(CHECKPOINTED, 7)]
    checkpoint(driver, (7, 3000))
    assert driver.machine.leases.get(7) == Lease(7, 5000, 3000, False, 1, 2)
    driver.reopen()
    assert driver.machine.leases.get(7) == Lease(7, 5000, 3000, False, 1, 2)


def test_what_was_decided_for_a_lease_does_nothing_to_a_later_one_of_the_same_id() -> None:
    """M08, M09: it was revoked and granted again while the decision was on its way."""
    driver = Driver()
    driver.grant(7, 5000)
    driver.grant(8, 5000)
    known = driver.machine.applied_index
    ok(revoke(driver, 7))
    ok(driver.grant(7, 9000))
    put(driver, b"a", 7)
    put(driver, b"b", 8)
    driver.machine.lease_events.clear()
    before = driver.machine.leases.get(7)
    checkpoint(driver, (7, 2500), (8, 2500), known=known)
    checkpoint(driver, (7, 0), known=known)
    assert driver.machine.leases.get(7) == before
    assert driver.machine.leases.by_id[8].remaining_ms == 2500
    expire(driver, 7, 8, known=known)
    assert keys(driver.machine) == {b"a": 7}
    assert driver.machine.lease_events == [(CHECKPOINTED, 8), (REVOKED, 8)]
    driver.reopen()
    expire(driver, 7, known=known)  # what a restarted member applies again
    assert keys(driver.machine) == {b"a": 7}
    expire(driver, 7, known=known + 2)
    assert keys(driver.machine) == {}


# --- expiry ----------------------------------------------------------------------
def test_leases_that_expire_together_lose_their_keys_in_one_revision() -> None:
    """W17, with the keys of several leases between each other."""
    driver = Driver()
    for lease in (9, 7, 8):
        driver.grant(lease)
    for number in range(30):
        put(driver, b"%02d" % (29 - number), (7, 8, 9)[number % 3])
    driver.machine.collect_changes(True)
    before = driver.machine.revision
    assert expire(driver, 9, 404, 7, 9, 0) == Result(before + 1, b"")
    changes = driver.machine.take_changes()
    assert len(changes) == 20
    assert [change.key for change in changes] == sorted(change.key for change in changes)
    assert all(change.deleted and change.row_id >> 32 == before + 1 for change in changes)
    assert keys(driver.machine) == dict.fromkeys(driver.machine.lease_keys(8), 8)
    assert driver.machine.lease_events[-2:] == [(REVOKED, 9), (REVOKED, 7)]
    assert [lease.id for lease in driver.machine.leases] == [8]


@pytest.mark.parametrize("term", [TERM - 1, TERM + 1, TERM + 2])
def test_an_expiry_that_another_term_decided_does_nothing_at_all(term: int) -> None:
    """M09: entries of an old leader that reach the log in a later term."""
    driver = Driver()
    driver.grant(7)
    put(driver, b"a", 7)
    before, rows = driver.machine.state_hash, lease_rows(driver.machine)
    driver.machine.lease_events.clear()
    assert expire(driver, 7, decided=term) == Result(2, b"")
    assert driver.machine.state_hash == before ^ driver.machine.applied_index
    assert keys(driver.machine) == {b"a": 7}
    assert lease_rows(driver.machine) == rows
    assert driver.machine.lease_events == []
    expire(driver, 7, decided=term, term=term)
    assert keys(driver.machine) == {}


def test_a_renewal_that_lies_before_the_expiry_of_a_later_term_holds() -> None:
    """M09, M07: cleared by the new leader, then the old leader's expiry arrives in its name."""
    driver = Driver()
    driver.grant(7, 10_000)
    put(driver, b"a", 7)
    checkpoint(driver, (7, 3000))
    driver.command(commands.LEASE_CHECKPOINT, leases.checkpoint_request(3, [(7, 0)]), TERM + 1)
    expire(driver, 7, decided=TERM, term=TERM + 1)
    assert driver.machine.leases.get(7) == Lease(7, 10_000, 0, False, 1, 4)
    assert keys(driver.machine) == {b"a": 7}


def test_nothing_brings_a_revoked_lease_back_but_a_grant() -> None:
    """M08: a clearing entry behind the expiry finds no lease, and tells of none."""
    driver = Driver()
    driver.grant(7)
    checkpoint(driver, (7, 100))
    expire(driver, 7)
    driver.machine.lease_events.clear()
    checkpoint(driver, (7, 0))
    checkpoint(driver, (7, 5000))
    assert 7 not in driver.machine.leases
    assert driver.machine.lease_events == []
    assert revoke(driver, 7) is LEASE_NOT_FOUND
    assert lease_rows(driver.machine) == []


def test_a_lease_never_ends_without_an_entry_that_says_so() -> None:
    """M06: apply sees entries and nothing else, however long a lease has been due."""
    driver = Driver()
    driver.grant(7, 1)
    put(driver, b"a", 7)
    checkpoint(driver, (7, 1))
    for _ in range(500):
        put(driver, b"b")
    driver.reopen()
    assert keys(driver.machine) == {b"a": 7, b"b": 0}
    source = inspect.getsource(leases)
    assert "import time" not in source
    assert "now" not in inspect.signature(StateMachine.apply).parameters


# --- a put with a TTL of its own ---------------------------------------------------
def test_a_put_with_a_ttl_is_a_lease_and_a_put_in_one_entry() -> None:
    driver = Driver()
    put(driver, b"a")
    answer = ok(put_with_ttl(driver, -9, 1500, key=b"a", value=b"w", prev_kv=True))
    response = pb.PutResponse.FromString(answer.body)
    assert (answer.revision, response.prev_kv.value) == (3, b"v")
    assert driver.machine.leases.get(-9) == Lease(-9, 1500, 0, True, 2, 2)
    assert keys(driver.machine) == {b"a": -9}
    assert driver.machine.lease_events == [(GRANTED, -9)]
    driver.reopen()
    assert driver.machine.leases.get(-9) == Lease(-9, 1500, 0, True, 2, 2)
    expire(driver, -9)
    assert keys(driver.machine) == {}


@pytest.mark.parametrize(
    ("wanted", "lease", "fields"),
    [
        (LEASE_EXISTS, 7, {"key": b"a"}),
        (LEASE_PROVIDED, 9, {"key": b"a", "lease": 7}),
        (LEASE_PROVIDED, 9, {"key": b"a", "ignore_lease": True}),
        (KEY_NOT_FOUND, 9, {"key": b"zz", "ignore_value": True}),
        (EMPTY_KEY, 9, {"value": b"1"}),
    ],
)
def test_a_put_with_a_ttl_that_is_refused_leaves_no_lease(
    wanted: Any, lease: int, fields: Any
) -> None:
    driver = Driver()
    driver.grant(7)
    put(driver, b"a")
    rows = lease_rows(driver.machine)
    assert put_with_ttl(driver, lease, 1000, **fields) is wanted
    assert lease_rows(driver.machine) == rows
    assert driver.machine.revision == 2
    assert driver.machine.lease_events == [(GRANTED, 7)]


def test_refreshing_a_key_with_a_ttl_keeps_one_lease() -> None:
    driver = Driver()
    for number in range(1, 101):
        ok(put_with_ttl(driver, number, 60_000, key=b"a", value=b"%d" % number))
    assert [lease.id for lease in driver.machine.leases] == [100]
    assert len(lease_rows(driver.machine)) == 1
    assert keys(driver.machine) == {b"a": 100}


def test_a_hidden_lease_that_has_another_key_stays() -> None:
    driver = Driver()
    ok(put_with_ttl(driver, 1, 1000, key=b"a"))
    put(driver, b"b", 1)
    driver.grant(5)
    put(driver, b"c", 5)
    ok(put_with_ttl(driver, 2, 1000, key=b"a"))
    ok(put_with_ttl(driver, 3, 1000, key=b"c"))  # 5 was granted to somebody who may still use it
    assert [lease.id for lease in driver.machine.leases] == [1, 5, 2, 3]
    assert keys(driver.machine) == {b"a": 2, b"b": 1, b"c": 3}
