"""Applying, flushing, restarting: what the machine promises beyond etcd's answers."""

import os
import subprocess
import sys
from random import Random
from typing import Any

import pytest

from raftkv.errors import (
    COMPACTED,
    EMPTY_KEY,
    FUTURE_REVISION,
    KEY_NOT_FOUND,
    LEASE_NOT_FOUND,
    MEMBER_NOT_FOUND,
    TOO_MANY_OPS,
    CorruptionError,
    ProtocolError,
)
from raftkv.kv import commands, encoding
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.members import Member, encode_member
from raftkv.kv.store import RECORD_OVERHEAD_BYTES
from raftkv.kv.writes import Writer
from raftkv.limits import MAX_TXN_DEPTH
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.membership import encode_change
from raftkv.raft.types import CONFIG, NOOP, NORMAL, Configuration, Entry
from tests.conformance.generate import Requests
from tests.kv.adapter import COMMANDS, MEMBER, Driver, finish, machine, request_bytes
from tests.kv.memory import MemoryBackend

Put, Range, Delete, Txn = pb.PutRequest, pb.RangeRequest, pb.DeleteRangeRequest, pb.TxnRequest
EVERYTHING = Range(key=b"\0", range_end=b"\0")


def ok(outcome: Any) -> Result:
    """The outcome, which must be a success."""
    assert isinstance(outcome, Result), outcome
    return outcome


def read(subject: StateMachine, **options: Any) -> dict[bytes, bytes]:
    """key -> value of everything that a range sees."""
    request = Range(key=b"\0", range_end=b"\0", **options)
    answer = pb.RangeResponse.FromString(ok(subject.range(request)).body)
    assert answer.count >= len(answer.kvs)
    return {kv.key: kv.value for kv in answer.kvs}


def log_of(seed: int, count: int) -> list[bytes]:
    """Payloads of random commands, refused ones among them."""
    requests = Requests(Random(seed), leases=True)
    driver = Driver()
    payloads: list[bytes] = []
    while len(payloads) < count:
        request = requests.next()
        if isinstance(request, pb.LeaseTimeToLiveRequest):
            continue  # no command
        requests.revision = driver.machine.revision
        requests.compacted = driver.machine.compacted_revision
        if isinstance(request, Range) or isinstance(driver.perform(request), type(EMPTY_KEY)):
            if not isinstance(request, Range) and driver.machine.applied_index > len(payloads):
                payloads.append(_payload(request))
            continue
        if driver.machine.applied_index > len(payloads):
            payloads.append(_payload(request))
    return payloads


def _payload(request: Any) -> bytes:
    return commands.encode(COMMANDS[type(request)], request_bytes(request))


# --- applying -------------------------------------------------------------------
def test_a_fresh_machine_is_at_revision_1() -> None:
    subject = machine()
    assert (subject.revision, subject.compacted_revision, subject.applied_index) == (1, 0, 0)
    assert subject.members[MEMBER].name == "one"


def test_every_kind_of_entry_moves_the_applied_index_and_the_hash() -> None:
    driver = Driver()
    config = encode_change(Configuration((MEMBER, 2 * MEMBER)), b"")
    refused = commands.encode(commands.PUT, Put(key=b"a", lease=4).SerializeToString())
    hashes = [driver.machine.state_hash]
    for index, (payload, kind) in enumerate(
        [(b"", NOOP), (refused, NORMAL), (config, CONFIG), (refused, NORMAL)], 1
    ):
        outcome = driver.entry(payload, kind)
        assert outcome is (LEASE_NOT_FOUND if kind == NORMAL else None)
        assert driver.machine.applied_index == index
        hashes.append(driver.machine.state_hash)
    assert len(set(hashes)) == len(hashes)
    assert driver.machine.revision == 1


def test_the_hash_tells_different_refusals_apart() -> None:
    one, other = Driver(), Driver()
    assert one.submit(Put(value=b"1")) is EMPTY_KEY
    assert other.submit(Put(key=b"a", lease=4)) is LEASE_NOT_FOUND
    assert one.machine.state_hash != other.machine.state_hash


def test_the_cache_keeps_to_its_budget_and_knows_its_size() -> None:
    limit = 40_000
    driver = Driver(machine(cache_bytes=limit))
    random = Random(3)
    for _ in range(1500):
        key = b"%d" % random.randrange(400)
        draw = random.randrange(10)
        if draw < 6:
            driver.submit(Put(key=key, value=b"v" * random.randrange(300)))
        elif draw < 8:
            driver.machine.range(Range(key=key))
        elif draw == 8:
            driver.submit(Delete(key=key))
        else:
            driver.machine.flush()
        store = driver.machine.store
        held = sum(len(record[0]) + RECORD_OVERHEAD_BYTES for record in store.cache.values())
        assert held == store.cached_bytes
        assert held <= limit or store.pending
        assert store.cache.keys() <= store.live.keys()


def test_entries_must_come_without_holes() -> None:
    subject = machine()
    with pytest.raises(AssertionError):
        subject.apply(Entry(2, 1, NOOP, b""))


def test_apply_refuses_what_nobody_checked_with_a_verdict() -> None:
    driver = Driver()
    assert driver.submit(Put(value=b"1")) is EMPTY_KEY
    assert driver.submit(Delete(range_end=b"\0")) is EMPTY_KEY
    assert driver.submit(Txn(success=[pb.RequestOp()])) is KEY_NOT_FOUND


@pytest.mark.parametrize(
    "payload", [b"", b"\0\xfe", commands.encode(commands.PUT, b"\xff\xff\xff")]
)
def test_an_entry_that_cannot_be_carried_out_stops_the_member_and_leaves_no_trace(
    payload: bytes,
) -> None:
    """M24: the exception is the same on every member, and a restart meets the entry again."""
    reasons = []
    for _ in range(2):
        driver = Driver()
        driver.submit(Put(key=b"a", value=b"1"))
        driver.machine.flush()
        with pytest.raises(Exception) as poison:
            driver.entry(payload)
        reasons.append(repr(poison.value))
        assert driver.machine.applied_index == 1
        again = StateMachine(driver.machine.backend, driver.machine.cluster)
        assert again.applied_index == 1
        assert read(again) == {b"a": b"1"}
        with pytest.raises(type(poison.value)):
            again.apply(Entry(2, 1, NORMAL, payload))
    assert reasons[0] == reasons[1]


def test_an_exception_amid_an_entry_can_never_be_flushed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """M24."""
    driver = Driver()

    def broken(*_: object) -> bytes:
        raise MemoryError

    monkeypatch.setattr(Writer, "delete", broken)
    both = [
        pb.RequestOp(request_put=Put(key=b"a", value=b"1")),
        pb.RequestOp(request_delete_range=Delete(key=b"b")),
    ]
    driver.submit(Put(key=b"z", value=b"1"))  # applied, not flushed
    with pytest.raises(MemoryError):
        driver.submit(Txn(success=both))
    with pytest.raises(AssertionError):
        driver.machine.flush()


# --- determinism -------------------------------------------------------------------
REPLAY = """
import sys
from tests.kv.test_machine import log_of, replay
print(replay(log_of(int(sys.argv[1]), 400)))
"""


def replay(payloads: list[bytes]) -> list[int]:
    """The state hash after every entry of a log."""
    driver = Driver()
    hashes = []
    for payload in payloads:
        driver.entry(payload)
        hashes.append(driver.machine.state_hash)
    return hashes


def test_the_hash_does_not_depend_on_the_process() -> None:
    """M01, M02: another hash seed, another locale, another time zone."""
    payloads = log_of(5, 400)
    expected = repr(replay(payloads))
    for seed, locale in (("1", "C"), ("77", "tr_TR.UTF-8")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": locale, "TZ": "Asia/Tokyo"}
        other = subprocess.run(
            [sys.executable, "-c", REPLAY, "5"],
            env={**environment, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert other.stdout.strip() == expected


def test_the_hash_tells_logs_apart_that_differ_in_one_value() -> None:
    one, other = Driver(), Driver()
    for number in range(20):
        one.submit(Put(key=b"a", value=b"%d" % number))
        other.submit(Put(key=b"a", value=b"x" if number == 3 else b"%d" % number))
        assert (one.machine.state_hash == other.machine.state_hash) == (number < 3)


def test_a_replay_from_any_flush_ends_in_the_same_state() -> None:
    """D16, D27: killed anywhere, the member goes on at its last flush and applies once."""
    payloads = log_of(9, 150)
    expected = replay(payloads)
    for stop in range(0, len(payloads), 13):
        driver = Driver()
        for payload in payloads[:stop]:
            driver.entry(payload)
        driver.machine.flush()
        for payload in payloads[stop : stop + 7]:
            driver.entry(payload)  # never flushed: lost
        again = Driver(StateMachine(driver.machine.backend, 1))
        kept = again.machine.applied_index
        assert kept >= stop  # a read of history may have flushed more
        for payload in payloads[kept:]:
            again.entry(payload)
        assert again.machine.state_hash == expected[-1]


def test_rows_and_applied_index_are_one_write() -> None:
    driver = Driver()
    backend = driver.machine.backend
    assert isinstance(backend, MemoryBackend)
    driver.machine.flush()
    before = backend.writes
    for number in range(10):
        driver.submit(Put(key=b"k%d" % number, value=b"v"))
    assert backend.writes == before
    driver.machine.flush()
    driver.machine.flush()
    assert backend.writes == before + 1


def test_reads_see_entries_that_are_not_flushed() -> None:
    driver = Driver()
    driver.submit(Put(key=b"a", value=b"1"))
    driver.submit(Put(key=b"b", value=b"2"))
    driver.submit(Delete(key=b"a"))
    assert read(driver.machine) == {b"b": b"2"}
    assert read(driver.machine, revision=2) == {b"a": b"1"}
    assert read(driver.machine, revision=3) == {b"a": b"1", b"b": b"2"}


def test_a_missing_row_is_corruption() -> None:
    driver = Driver()
    driver.submit(Put(key=b"a", value=b"1"))
    driver.machine.flush()
    backend = driver.machine.backend
    backend.write([(encoding.revision_row(2 << 32), None)])
    with pytest.raises(CorruptionError):
        StateMachine(backend, 1).range(Range(key=b"a"))


# --- transactions --------------------------------------------------------------------
def test_a_txn_that_fails_at_its_last_operation_changes_nothing() -> None:
    """M13."""
    driver = Driver()
    driver.submit(Put(key=b"a", value=b"1"))
    puts = [pb.RequestOp(request_put=Put(key=b"k%d" % n, value=b"v")) for n in range(127)]
    wrong = [
        (LEASE_NOT_FOUND, pb.RequestOp(request_put=Put(key=b"z", lease=9))),
        (KEY_NOT_FOUND, pb.RequestOp(request_put=Put(key=b"z", ignore_value=True))),
        (FUTURE_REVISION, pb.RequestOp(request_range=Range(key=b"a", revision=99))),
    ]
    for verdict, op in wrong:
        assert driver.perform(Txn(success=[*puts, op])) is verdict
        assert read(driver.machine) == {b"a": b"1"}
        assert driver.machine.revision == 2
    driver.machine.flush()
    assert read(StateMachine(driver.machine.backend, 1)) == {b"a": b"1"}


def test_a_range_of_history_within_a_txn_does_not_see_its_writes() -> None:
    """M14."""
    driver = Driver()
    driver.submit(Put(key=b"a", value=b"1"))
    driver.submit(Put(key=b"a", value=b"2"))
    ops = [
        pb.RequestOp(request_put=Put(key=b"a", value=b"3")),
        pb.RequestOp(request_range=Range(key=b"a", revision=3)),
        pb.RequestOp(request_range=Range(key=b"\0", range_end=b"\0", revision=2)),
        pb.RequestOp(request_range=Range(key=b"a")),
    ]
    answer = pb.TxnResponse.FromString(ok(driver.perform(Txn(success=ops))).body)
    seen = [one.response_range.kvs[0].value for one in answer.responses[1:]]
    assert seen == [b"2", b"1", b"3"]


def test_a_txn_with_history_keeps_the_hash_of_the_entry_before_on_disk() -> None:
    """D16: the flush that such a txn needs happens in the middle of `apply`."""
    driver, twin = Driver(), Driver()
    for one in (driver, twin):
        one.submit(Put(key=b"a", value=b"1"))
    ops = [
        pb.RequestOp(request_put=Put(key=b"a", value=b"2")),
        pb.RequestOp(request_range=Range(key=b"a", revision=2)),
    ]
    driver.submit(Txn(success=ops))
    again = StateMachine(driver.machine.backend, 1)
    assert again.applied_index == 1
    assert again.state_hash == twin.machine.state_hash
    replayed = Driver(again)
    replayed.submit(Txn(success=ops))
    assert again.state_hash == driver.machine.state_hash


def test_depth_is_bounded() -> None:
    def nested(depth: int) -> pb.TxnRequest:
        request = Txn()
        for _ in range(depth - 1):
            request = Txn(success=[pb.RequestOp(request_txn=request)])
        return request

    driver = Driver()
    ok(driver.perform(nested(MAX_TXN_DEPTH)))
    assert driver.perform(nested(MAX_TXN_DEPTH + 1)) is TOO_MANY_OPS


# --- limits ---------------------------------------------------------------------------
def test_revisions_near_the_end_do_not_wrap() -> None:
    """M21."""
    driver = Driver()
    near = 2**63 - 20
    driver.machine.store.revision = near
    driver.machine.store.next_id = (near + 1) << 32
    driver.submit(Put(key=b"a", value=b"1"))
    driver.submit(Put(key=b"a", value=b"2"))
    driver.reopen()
    answer = pb.RangeResponse.FromString(ok(driver.machine.range(Range(key=b"a"))).body)
    assert (answer.kvs[0].create_revision, answer.kvs[0].mod_revision) == (near + 1, near + 2)
    assert read(driver.machine, revision=near + 1) == {b"a": b"1"}
    driver.machine.store.revision = 2**63 - 1
    driver.machine.store.next_id = 2**63 << 32
    driver.submit(Put(key=b"a", value=b"3"))
    with pytest.raises(AssertionError):
        driver.machine.flush()


def test_a_key_with_very_many_versions_stays_quick_to_read_and_to_load() -> None:
    """M21: rows of stale versions are skipped, not stepped over."""
    driver = Driver()
    for number in range(3000):
        driver.submit(Put(key=b"a", value=b"%d" % number))
    driver.submit(Put(key=b"b", value=b"1"))
    driver.reopen()
    steps = 0
    scan = driver.machine.backend.scan

    def counted(*bounds: bytes, reverse: bool = False) -> Any:
        nonlocal steps
        for row in scan(*bounds, reverse=reverse):
            steps += 1
            yield row

    driver.machine.backend.scan = counted  # type: ignore[assignment,method-assign]
    assert read(driver.machine, revision=2)[b"a"] == b"0"
    assert read(StateMachine(driver.machine.backend, 1)) == {b"a": b"2999", b"b": b"1"}
    assert steps < 100
    answer = pb.RangeResponse.FromString(ok(driver.machine.range(Range(key=b"a"))).body)
    assert answer.kvs[0].version == 3000


@pytest.mark.parametrize("key", [b"\0", b"\xff", b"\xff" * 300, b"\0\xff\0", b"k" * 65536])
@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 1_500_000])
def test_odd_keys_and_sizes_survive(key: bytes, size: int) -> None:
    """M22."""
    driver = Driver()
    value = b"v" * size
    ok(driver.perform(Put(key=key, value=value)))
    ok(driver.perform(Put(key=key, value=value)))
    driver.reopen()
    assert read(driver.machine) == {key: value}
    assert read(driver.machine, revision=2) == {key: value}
    ok(driver.perform(Delete(key=key, range_end=b"\0")))
    driver.reopen()
    assert read(driver.machine) == {}


# --- leases and members -----------------------------------------------------------------
def test_keys_of_a_lease_are_known_after_a_restart() -> None:
    driver = Driver()
    driver.grant(-5)
    driver.grant(6)
    for key, lease in ((b"b", -5), (b"a", -5), (b"c", 6), (b"a", 6), (b"c", 0), (b"d", -5)):
        ok(driver.submit(Put(key=key, value=b"1", lease=lease)))
    ok(driver.submit(Put(key=b"b", value=b"2", ignore_lease=True)))
    ok(driver.submit(Delete(key=b"d")))
    for _ in range(2):
        assert driver.machine.lease_keys(-5) == [b"b"]
        assert driver.machine.lease_keys(6) == [b"a"]
        driver.reopen()


def test_members_come_and_go_with_configurations_and_stay_removed() -> None:
    driver = Driver()
    new = Member(5, "", ("http://five:2380",))
    context = commands.encode(commands.MEMBER_ADD, encode_member(new))
    driver.entry(encode_change(Configuration((MEMBER,), (), (5,)), context), CONFIG)
    assert driver.machine.members[5] == new
    started = Member(5, "five", (), ("http://five:2379",), 99)
    ok(driver.entry(commands.encode(commands.PUBLISH, encode_member(started))))
    moved = Member(5, "", ("http://v:2380",))
    context = commands.encode(commands.MEMBER_UPDATE, encode_member(moved))
    driver.entry(encode_change(Configuration((MEMBER,), (), (5,)), context), CONFIG)
    expected = Member(5, "five", ("http://v:2380",), ("http://five:2379",), 99)
    for _ in range(2):
        assert driver.machine.members[5] == expected
        assert driver.machine.configuration.learners == (5,)
        driver.reopen()
    driver.entry(encode_change(Configuration((MEMBER,)), b""), CONFIG)
    for _ in range(2):
        assert list(driver.machine.members) == [MEMBER]
        assert list(driver.machine.removed) == [5]
        driver.reopen()
    gone = driver.entry(commands.encode(commands.PUBLISH, encode_member(started)))
    assert gone is MEMBER_NOT_FOUND


# --- changes, snapshots, long ranges ---------------------------------------------------------
def test_changes_tell_what_entries_did_in_order() -> None:
    driver = Driver()
    assert driver.machine.take_changes() == []
    driver.machine.collect_changes(True)
    driver.submit(Put(key=b"a", value=b"1"))
    driver.submit(Put(key=b"b", value=b"1"))
    driver.submit(Delete(key=b"a", range_end=b"c"))
    changes = driver.machine.take_changes()
    assert [(c.row_id, c.key, c.deleted, c.previous_id) for c in changes] == [
        (2 << 32, b"a", False, 0),
        (3 << 32, b"b", False, 0),
        (4 << 32, b"a", True, 2 << 32),
        ((4 << 32) + 1, b"b", True, 3 << 32),
    ]
    assert driver.machine.take_changes() == []


def test_a_machine_on_a_copy_of_the_rows_is_the_same_machine() -> None:
    driver = Driver()
    for payload in log_of(3, 60):
        driver.entry(payload)
    view, _ = driver.machine.snapshot_view()
    driver.submit(Put(key=b"later", value=b"1"))
    copy = MemoryBackend()
    copy.write(list(view.scan(b"", b"\xff" * 9)))
    view.close()
    opened = finish(StateMachine.opening(copy, 1, driver.machine.settings))
    assert opened.applied_index == 60
    replayed = Driver(opened)
    replayed.submit(Put(key=b"later", value=b"1"))
    assert opened.state_hash == driver.machine.state_hash
    assert read(opened) == read(driver.machine)


def test_a_long_range_shows_the_revision_it_began_at() -> None:
    """D20: entries and compactions between its slices do not show."""
    driver = Driver()
    for number in range(2000):
        driver.submit(Put(key=b"%05d" % number, value=b"old"))
    assert driver.machine.is_long(EVERYTHING)
    assert not driver.machine.is_long(Range(key=b"\0", range_end=b"\0", limit=10))
    expected = ok(driver.machine.range(EVERYTHING))
    steps = driver.machine.range_steps(EVERYTHING)
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            answered = stop.value
            break
        pauses += 1
        driver.submit(Put(key=b"%05d" % (pauses * 301 % 2000), value=b"new"))
        driver.submit(Delete(key=b"%05d" % (1999 - pauses)))
        driver.submit(pb.CompactionRequest(revision=driver.machine.revision))
        while driver.machine.compact_slice(500):
            pass
    assert pauses >= 3
    assert answered == expected


def test_the_view_of_an_abandoned_range_is_closed() -> None:
    driver = Driver()
    for number in range(2000):
        driver.submit(Put(key=b"%05d" % number, value=b"v"))
    steps = driver.machine.range_steps(EVERYTHING)
    next(steps)
    backend = driver.machine.backend
    assert isinstance(backend, MemoryBackend)
    assert [view.closed for view in backend.views] == [False]
    steps.close()
    assert [view.closed for view in backend.views] == [True]


def test_a_stream_begins_small_and_tells_the_count_last() -> None:
    driver = Driver(machine(stream_chunk_bytes=2000))
    for number in range(200):
        driver.submit(Put(key=b"%05d" % number, value=b"v" * 50))
    stream = driver.machine.range_stream(Range(key=b"\0", range_end=b"\0", limit=150))
    chunks: list[pb.RangeResponse] = []
    while True:
        try:
            body = next(stream)
        except StopIteration as stop:
            chunks.append(pb.RangeResponse.FromString(ok(stop.value).body))
            break
        if body is not None:
            chunks.append(pb.RangeResponse.FromString(body))
    assert len(chunks[0].kvs) == 10
    assert sum(len(chunk.kvs) for chunk in chunks) == 150
    assert [(chunk.count, chunk.more) for chunk in chunks[:-1]] == [(0, False)] * (len(chunks) - 1)
    assert (chunks[-1].count, chunks[-1].more) == (200, True)
    descending = Range(key=b"\0", range_end=b"\0", sort_order=pb.RangeRequest.DESCEND)
    assert finish(driver.machine.range_stream(descending)).code == 12


def test_compaction_edges() -> None:
    """M15."""
    driver = Driver()
    for number in range(5):
        driver.submit(Put(key=b"a", value=b"%d" % number))
    compact = pb.CompactionRequest
    assert driver.submit(compact(revision=7)) is FUTURE_REVISION
    assert driver.submit(compact(revision=-1)) is COMPACTED
    ok(driver.submit(compact(revision=0)))
    assert driver.submit(compact(revision=0)) is COMPACTED
    ok(driver.submit(compact(revision=4)))
    assert driver.submit(compact(revision=4)) is COMPACTED
    assert driver.machine.compacted_revision == 4
    assert read(driver.machine, revision=4) == {b"a": b"2"}
    assert driver.machine.range(Range(key=b"a", revision=3)) is COMPACTED


def test_an_unknown_command_is_not_skipped() -> None:
    with pytest.raises(ProtocolError):
        Driver().entry(commands.encode(200, b""))
