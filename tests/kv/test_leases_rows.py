"""Leases on disk, after restarts, in other versions, and very many of them."""

from collections.abc import Callable
from random import Random

import pytest

from raftkv.errors import CorruptionError, ProtocolError
from raftkv.kv import commands, leases
from raftkv.kv.backend import Row
from raftkv.kv.encoding import LEASE_ROWS
from raftkv.kv.leases import GRANTED, Lease
from raftkv.kv.machine import StateMachine
from raftkv.kv.store import Store
from raftkv.raft.types import NORMAL, Entry
from tests.kv.adapter import CLUSTER, TERM, Driver, finish, machine
from tests.kv.leasing import (
    LARGEST,
    SMALLEST,
    checkpoint,
    expire,
    keys,
    lease_rows,
    ok,
    put,
    put_with_ttl,
    revoke,
)
from tests.kv.memory import MemoryBackend


def test_a_machine_opened_from_the_rows_equals_the_one_that_wrote_them() -> None:
    """Also from a picture of the rows, as another member gets it."""
    driver = Driver(machine(cache_bytes=500))
    random = Random(4)
    ids = [SMALLEST, LARGEST, *random.sample(range(-1000, 1000), 60)]
    for lease in ids:
        if lease:
            ok(driver.grant(lease, random.randrange(2000, 90_000)))
            put(driver, b"k%d" % random.randrange(80), lease)
    ok(put_with_ttl(driver, 5000, 700, key=b"own"))
    checkpoint(driver, *((lease, random.randrange(2000)) for lease in ids[::3]))
    expire(driver, *ids[5:20])
    original = driver.machine
    view, _ = original.snapshot_view()
    copied = MemoryBackend()
    copied.write(list(view.scan(b"", b"\xff")))
    driver.reopen()
    others = driver.machine, StateMachine(copied, CLUSTER)
    for other in others:
        _same(original, other)
        assert other.lease_events == []
        assert finish(other.hash_kv()) == finish(original.hash_kv())
    # And they go on alike. The first two share their rows, so the original goes last.
    for lease in ids[20:30]:
        answers = [revoke(Driver(subject), lease) for subject in (*others, original)]
        assert answers == [answers[0]] * 3
    for other in others:
        _same(original, other)


def _same(one: StateMachine, other: StateMachine) -> None:
    assert list(one.leases) == list(other.leases)  # in the same order, too
    assert list(one.leases.by_id) == list(other.leases.by_id)
    for lease in one.leases:
        assert one.lease_keys(lease.id) == other.lease_keys(lease.id)
    assert sorted(one.store.attached) == sorted(other.store.attached)
    assert one.state_hash == other.state_hash
    assert keys(one) == keys(other)


def test_every_command_about_leases_moves_the_state_hash() -> None:
    """Two members that differ in a lease differ in their hashes."""

    def end(*requests: tuple[int, bytes]) -> int:
        driver = Driver()
        driver.grant(7, 5000)
        for command, request in requests:
            driver.command(command, request)
        return driver.machine.state_hash

    grant, clear = commands.LEASE_GRANT, commands.LEASE_CHECKPOINT
    hashes = [
        end((grant, leases.grant_request(8, 5000))),
        end((grant, leases.grant_request(8, 5001))),
        end((grant, leases.grant_request(9, 5000))),
        end((clear, leases.checkpoint_request(1, [(7, 1)]))),
        end((clear, leases.checkpoint_request(1, [(7, 2)]))),
        end((clear, leases.checkpoint_request(1, [(7, 0)]))),
        end((commands.LEASE_REVOKE, leases.revoke_request(7))),
    ]
    assert len(dict.fromkeys(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("command", "request_bytes"),
    [
        (commands.LEASE_GRANT, leases.grant_request(8, 5000) + b"\0"),
        (commands.LEASE_GRANT, leases.grant_request(8, 5000)[:-1]),
        (commands.LEASE_GRANT, leases.grant_request(0, 5000)),
        (commands.LEASE_GRANT, leases.grant_request(8, 0)),
        (commands.LEASE_GRANT, leases.grant_request(8, -1)),
        (commands.LEASE_GRANT_DRAWN, leases.grant_request(8, 5000) + b"\0"),
        (commands.LEASE_GRANT_DRAWN, leases.grant_request(0, 5000)),
        (commands.LEASE_REVOKE, b""),
        (commands.LEASE_REVOKE, leases.revoke_request(7) * 2),
        (commands.LEASE_CHECKPOINT, leases.checkpoint_request(1, [(7, 1)])[:-1]),
        (commands.LEASE_CHECKPOINT, leases.checkpoint_request(1, [(7, -1)])),
        (commands.LEASE_CHECKPOINT, b""),
        (commands.LEASE_EXPIRE, leases.expire_request(TERM, 1, [7])[:-1]),
        (commands.LEASE_EXPIRE, leases.expire_request(TERM, 1, [])[:-8]),
        (commands.PUT_WITH_TTL, leases.grant_request(8, 5000)[:-1]),
        (commands.PUT_WITH_TTL, leases.put_with_ttl_request(0, 5000, b"\x0a\x01a")),
        (commands.SESSION_OPEN, leases.revoke_request(7)),
        (22, leases.revoke_request(7)),
    ],
)
def test_a_command_of_another_form_stops_the_member(command: int, request_bytes: bytes) -> None:
    """M05: no guess at what a later version meant, and nothing of it on disk."""
    driver = Driver()
    driver.grant(7)
    driver.machine.flush()
    with pytest.raises(ProtocolError):
        driver.command(command, request_bytes)
    assert driver.machine.applied_index == 1
    assert driver.machine.unflushed_rows == 0
    assert [lease.id for lease in driver.machine.leases] == [7]


@pytest.mark.parametrize("damage", ["version", "short", "name"])
def test_a_row_that_holds_no_lease_is_corruption(damage: str) -> None:
    driver = Driver()
    driver.grant(7)
    ((name, value),) = lease_rows(driver.machine)
    rows: list[Row] = [(name, None)]
    rows.append(
        {
            "version": (name, b"\x02" + value[1:]),
            "short": (name, value[:-1]),
            "name": (name[:-1], value),
        }[damage]
    )
    driver.machine.backend.write(rows)
    with pytest.raises(CorruptionError, match="no lease"):
        StateMachine(driver.machine.backend, CLUSTER)


def test_a_key_of_a_lease_without_a_row_is_corruption() -> None:
    """M11: nothing would ever delete it on this member, and the others do."""
    driver = Driver()
    driver.grant(7)
    driver.grant(30)
    put(driver, b"a", 30)
    ((seven, _), (thirty, _)) = lease_rows(driver.machine)
    driver.machine.backend.write([(seven, None)])
    StateMachine(driver.machine.backend, CLUSTER)
    driver.machine.backend.write([(thirty, None)])
    with pytest.raises(CorruptionError, match="lease 1e, which does not exist"):
        StateMachine(driver.machine.backend, CLUSTER)


@pytest.mark.parametrize("lease", [SMALLEST, -1, 1, 7, LARGEST])
def test_a_row_says_everything_about_a_lease(lease: int) -> None:
    for one in (Lease(lease, 1), Lease(lease, LARGEST, LARGEST, True, 3, (1 << 64) - 1)):
        assert leases.parse_lease_row(*leases.lease_row(one)) == one
    assert LEASE_ROWS[0] <= leases.row_name(lease) < LEASE_ROWS[1]


def test_the_rows_of_leases_lie_in_the_order_of_their_ids() -> None:
    ids = [SMALLEST, -70_000, -1, 1, 255, 256, LARGEST]
    names = [leases.row_name(lease) for lease in ids]
    assert names == sorted(names)


@pytest.mark.parametrize(
    "command",
    [
        lambda driver: put_with_ttl(driver, 8, 1000, key=b"a"),  # has a lease: its row is read
        lambda driver: put_with_ttl(driver, 8, 1000, key=b"c", prev_kv=True),
    ],
)
def test_a_failure_amid_a_command_leaves_nothing_of_it_to_flush(
    monkeypatch: pytest.MonkeyPatch, command: Callable[[Driver], object]
) -> None:
    """M24: a row that cannot be read is met before the lease's own row is written."""
    driver = Driver(machine(cache_bytes=0))
    driver.grant(7)
    put(driver, b"a", 7)
    put(driver, b"c")
    driver.machine.flush()
    put(driver, b"b", 7)  # applied, not flushed

    def fail(*_: object) -> None:
        raise CorruptionError("the row is missing")

    monkeypatch.setattr(Store, "_load", fail)
    with pytest.raises(CorruptionError):
        command(driver)
    monkeypatch.undo()
    assert not any(name[:1] == b"l" for name, _ in driver.machine.store.pending)
    assert driver.machine.lease_events == [(GRANTED, 7)]
    again = StateMachine(driver.machine.backend, CLUSTER)
    assert [lease.id for lease in again.leases] == [7]
    assert keys(again) == {b"a": 7, b"c": 0}


@pytest.mark.parametrize("end", [revoke, expire])
def test_the_end_of_a_lease_reads_no_row(
    monkeypatch: pytest.MonkeyPatch, end: Callable[[Driver, int], object]
) -> None:
    """What is deleted is known without it, however many keys are in no cache."""
    driver = Driver(machine(cache_bytes=0))
    driver.grant(7)
    for number in range(50):
        put(driver, b"%02d" % number, 7 if number % 3 else 0)
    driver.machine.flush()
    driver.reopen()
    monkeypatch.setattr(Store, "_load", None)
    end(driver, 7)
    monkeypatch.undo()
    assert list(keys(driver.machine)) == [b"%02d" % number for number in range(0, 50, 3)]
    driver.reopen()
    assert driver.machine.store.attached == {}


# --- many at once ----------------------------------------------------------------------
def test_ten_thousand_keys_of_one_lease_go_in_one_revision() -> None:
    driver = Driver()
    driver.grant(7)
    driver.grant(8)
    names = [b"%05d" % number for number in range(10_000)]
    Random(1).shuffle(names)
    for name in names:
        put(driver, name, 7)
    before = driver.machine.revision
    driver.machine.collect_changes(True)
    assert ok(revoke(driver, 7)).revision == before + 1
    changes = driver.machine.take_changes()
    assert [change.key for change in changes] == sorted(names)
    assert keys(driver.machine) == {}
    assert driver.machine.status().keys == 0
    driver.reopen()
    assert keys(driver.machine) == {}


def test_thousands_of_leases_expire_in_batches() -> None:
    """O03: as the leader proposes them, with foreign keys between theirs."""
    driver = Driver()
    for lease in range(1, 2001):
        driver.grant(lease)
        put(driver, b"%04d/x" % lease, lease)
        if lease % 10 == 0:
            put(driver, b"%04d/y" % lease)
    before = driver.machine.revision
    for first in range(1, 2001, 64):
        expire(driver, *range(first, first + 64))
    assert driver.machine.revision == before + 32
    assert len(driver.machine.leases) == 0
    assert driver.machine.store.attached == {}
    assert keys(driver.machine) == {b"%04d/y" % lease: 0 for lease in range(10, 2001, 10)}
    assert lease_rows(driver.machine) == []


def test_opening_pauses_while_it_reads_and_orders_many_leases() -> None:
    driver = Driver()
    ids = list(range(-2500, 0)) + list(range(1, 2501))
    Random(3).shuffle(ids)
    for lease in ids:
        driver.grant(lease)
    driver.machine.flush()
    loaded = leases.Leases()
    pauses = list(leases.load_leases(driver.machine.store, loaded, 1000))
    assert len(pauses) == 10
    assert list(loaded) == list(driver.machine.leases)
    assert [lease.id for lease in loaded] == ids


def test_who_asked_changes_nothing() -> None:
    """An origin lies in front of the request."""
    driver = Driver()
    request = leases.grant_request(7, 5000)
    payload = commands.encode(commands.LEASE_GRANT, request, (1, 2, 3))
    ok(driver.machine.apply(Entry(1, TERM, NORMAL, payload)))
    assert 7 in driver.machine.leases
