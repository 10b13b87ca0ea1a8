"""A state carried forward by archived events is the state that the source had at that revision."""

from collections.abc import Callable
from random import Random

import pytest

from raftkv.errors import ApiError, CorruptionError
from raftkv.kv.backend import Row
from raftkv.kv.encoding import KeyValue, decode_kv, encode_kv
from raftkv.kv.machine import MachineSettings, StateMachine
from raftkv.kv.members import Member
from raftkv.kv.replaying import Listing, Replay
from raftkv.kv.restoring import restored_rows
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import CLUSTER, Driver, machine
from tests.kv.memory import MemoryBackend
from tests.kv.watching import delete, put, txn

EVERYTHING = pb.RangeRequest(key=b"\0", range_end=b"\0")
NEW = [Member(71, "a", ("http://a:1",))]
KEYS = [b"a", b"a\0", b"aa", b"b\xff", b"\0", b"\xff", b"c" * 200, b"d", b"e"]
LEASES = [0, 0, 0, 7, -7, 9]
Events = list[tuple[bool, bytes]]


class Source:
    """A store with a random history, of which everything is remembered.

    events: by revision. states: what a range of all keys answered at each revision. bases: the rows
    at some revisions, with all that a member does to them in between.
    """

    def __init__(self, seed: int, writes: int = 120) -> None:
        self.random = Random(seed)
        self.driver = Driver(machine(cache_bytes=2000))
        self.driver.machine.collect_changes(True)
        self.events: dict[int, Events] = {}
        self.states: dict[int, bytes] = {1: b""}
        self.bases: dict[int, list[tuple[bytes, bytes]]] = {}
        for lease in (7, -7):
            self.driver.grant(lease, 5_000)
        for number in range(writes):
            self._step()
            if number % 17 == 0:
                self._keep_base()

    def _step(self) -> None:
        random, subject = self.random, self.driver.machine
        draw = random.randrange(20)
        if draw == 0 and subject.revision > 2:
            self.driver.perform(pb.CompactionRequest(revision=random.randrange(subject.revision)))
        elif draw == 1:
            subject.compact_slice(rows=random.randrange(1, 9))
        elif draw == 2:
            self.driver.submit(pb.LeaseRevokeRequest(ID=random.choice([7, -7, 9])))
            self.driver.grant(random.choice([7, -7, 9]), 8_000)
        elif draw == 3:
            self.driver.reopen()
            self.driver.machine.collect_changes(True)
        elif draw < 8:
            self.driver.perform(txn(*(self._write() for _ in range(random.randrange(1, 5)))))
        else:
            self.driver.perform(self._write())
        self._remember()

    def _write(self) -> pb.PutRequest | pb.DeleteRangeRequest:
        random = self.random
        key = random.choice(KEYS)
        if random.randrange(4) == 0:
            return delete(key, random.choice([b"", b"\0", b"b", b"\xff"]))
        lease = random.choice(LEASES)
        if lease not in self.driver.machine.leases:
            lease = 0
        return put(key, random.randbytes(random.choice([0, 3, 40])), lease)

    def _remember(self) -> None:
        subject = self.driver.machine
        for change in subject.take_changes():
            self.events.setdefault(change.row_id >> 32, []).append((change.deleted, change.framed))
        self.states[subject.revision] = everything(subject)

    def _keep_base(self) -> None:
        subject = self.driver.machine
        subject.flush()
        self.bases[subject.revision] = list(subject.backend.scan(b"", b"\xff\xff"))


def everything(subject: StateMachine, revision: int = 0) -> bytes:
    """All keys, as a range answers."""
    answer = subject.range(pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
    assert not isinstance(answer, ApiError)
    return answer.body


def opened(rows: list[Row]) -> MemoryBackend:
    backend = MemoryBackend()
    backend.write(rows)
    return backend


def forward(base: MemoryBackend, events: dict[int, Events], until: int) -> Replay:
    """Applies all revisions behind a base."""
    replay = Replay(base)
    for revision in range(replay.revision + 1, until + 1):
        replay.apply(revision, events[revision])
    return replay


def restored(backend: MemoryBackend) -> StateMachine:
    """The state as a new cluster's, its revisions as they were."""
    backend.write(restored_rows(backend, NEW, 0, mark_compacted=False))
    return StateMachine(backend, CLUSTER + 1, MachineSettings(cache_bytes=1000))


@pytest.mark.parametrize("seed", range(8))
def test_every_base_leads_to_every_later_revision_of_the_source(seed: int) -> None:
    """M17: keys, values, create and mod revisions, versions and leases are the source's."""
    source = Source(seed)
    newest = max(source.states)
    assert len(source.bases) > 4
    for base, rows in source.bases.items():
        for until in (base, newest, *(source.random.randrange(base, newest + 1) for _ in "ab")):
            backend = opened(list(rows))
            forward(backend, source.events, until).finish(60_000)
            subject = restored(backend)
            assert (subject.revision, everything(subject)) == (until, source.states[until])
            for revision in range(max(subject.compacted_revision, 1), until + 1):
                assert everything(subject, revision) == source.states[revision]


@pytest.mark.parametrize("seed", range(4))
def test_a_listing_leads_to_every_later_revision_too(seed: int) -> None:
    source = Source(seed + 100)
    newest = max(source.states)
    for base in source.random.sample(sorted(source.states), 6):
        backend = MemoryBackend()
        listing = Listing(backend, base)
        answer = pb.RangeResponse.FromString(source.states[base])
        for kv in answer.kvs:
            listing.add(encode_kv(KeyValue(*(getattr(kv, name) for name in KeyValue._fields))))
        applied = listing.finish({7: 5_000}, 60_000)
        assert (applied.revision, applied.compacted) == (base, base)
        assert everything(StateMachine(backend, 0)) == source.states[base]
        forward(backend, source.events, newest).finish(60_000)
        subject = restored(backend)
        for revision in range(base, newest + 1):
            assert everything(subject, revision) == source.states[revision]


def test_a_restored_store_can_be_compacted_and_written_as_any() -> None:
    source = Source(3)
    newest = max(source.states)
    rows = source.bases[min(source.bases)]
    backend = opened(list(rows))
    forward(backend, source.events, newest).finish(60_000)
    driver = Driver(restored(backend))
    driver.submit(put(b"new", b"value"))
    driver.submit(pb.CompactionRequest(revision=newest))
    while driver.machine.compact_slice(rows=50):
        pass
    assert everything(driver.machine, newest) == source.states[newest]
    driver.reopen()
    assert driver.machine.revision == newest + 1


# --- leases -----------------------------------------------------------------------


def base_with_lease() -> tuple[MemoryBackend, int]:
    """A state with the lease 7, which no key is attached to; its revision."""
    driver = Driver()
    driver.grant(7, 5_500)
    driver.submit(put(b"a"))
    driver.machine.flush()
    return opened(list(driver.machine.backend.scan(b"", b"\xff"))), driver.machine.revision


def event(key: bytes, revision: int, lease: int = 0, version: int = 1) -> tuple[bool, bytes]:
    create = revision if version == 1 else 2
    return False, encode_kv(KeyValue(key, create, revision, version, b"v", lease))


def ttls(backend: MemoryBackend) -> dict[int, int]:
    return {lease.id: lease.ttl_ms for lease in StateMachine(backend, 0).leases}


def test_leases_of_keys_are_granted_as_archived_and_others_for_a_while() -> None:
    """M18"""
    backend, base = base_with_lease()
    replay = Replay(backend)
    replay.granted(-8, 90_000)
    replay.granted(9, 0)
    replay.granted(10, 70_000)
    replay.apply(
        base + 1, [event(b"k", base + 1, -8), event(b"l", base + 1, 9), event(b"m", base + 1, 10)]
    )
    replay.apply(base + 2, [(True, encode_kv(KeyValue(b"m", 0, base + 2, 0, b"", 0)))])
    assert replay.finish(60_000) == 1
    assert ttls(backend) == {-8: 90_000, 7: 5_500, 9: 60_000}


@pytest.mark.parametrize(("known", "expected"), [(0, 5_500), (5_000, 5_500), (9_000, 9_000)])
def test_a_lease_of_the_base_keeps_its_time_unless_it_was_granted_anew(
    known: int, expected: int
) -> None:
    """M08"""
    backend, base = base_with_lease()
    replay = Replay(backend)
    replay.granted(7, known)
    replay.apply(base + 1, [event(b"k", base + 1, 7)])
    assert replay.finish(60_000) == 0
    assert ttls(backend) == {7: expected}


# --- what does not fit ----------------------------------------------------------------


def _drop(events: Events) -> Events:
    return events[1:]


def _swap_value(events: Events) -> Events:
    kv = decode_kv(events[0][1])
    return [(False, encode_kv(kv._replace(version=kv.version + 1))), *events[1:]]


@pytest.mark.parametrize("change", [_drop, _swap_value])
def test_an_archive_that_does_not_follow_from_the_state_is_noticed(
    change: Callable[[Events], Events],
) -> None:
    backend, base = base_with_lease()
    replay = Replay(backend)
    with pytest.raises(CorruptionError):
        replay.apply(base + 1, change([event(b"k", base + 1)]))


@pytest.mark.parametrize(
    "events",
    [
        [event(b"a", 3)],  # it exists: this would be its second version
        [event(b"k", 4)],
        [(True, encode_kv(KeyValue(b"none", 0, 3, 0, b"", 0)))],
        [(True, encode_kv(KeyValue(b"a", 0, 4, 0, b"", 0)))],
        [(False, b"\x12\x02\x7a\x00")],
        [(False, b"")],
    ],
)
def test_events_of_another_history_are_refused(events: Events) -> None:
    backend, base = base_with_lease()
    assert base == 2
    with pytest.raises(CorruptionError):
        Replay(backend).apply(3, events)


def test_revisions_are_not_left_out_and_counts_are_compared() -> None:
    backend, base = base_with_lease()
    replay = Replay(backend)
    with pytest.raises(CorruptionError, match="follows"):
        replay.apply(base + 2, [event(b"k", base + 2)])
    replay.check_count(1)
    with pytest.raises(CorruptionError, match="lacks"):
        replay.check_count(2)


def test_rows_are_written_in_pieces_and_each_is_a_state() -> None:
    backend, base = base_with_lease()
    replay = Replay(backend)
    newest = base + 8_000
    for revision in range(base + 1, newest + 1):
        replay.apply(revision, [event(b"k%d" % revision, revision)])
    half = StateMachine(opened(list(backend.rows.items())), 0)
    assert base < half.revision < newest
    assert len(half.store.index) == half.revision - 1
    replay.finish(1)
    assert len(StateMachine(backend, 0).store.index) == newest - 1


def test_the_histories_have_all_that_a_stores_changes_can_be() -> None:
    source = Source(5)
    events = [one for group in source.events.values() for one in group]
    assert any(deleted for deleted, _ in events)
    assert any(len(group) > 2 for group in source.events.values())
    assert {decode_kv(framed).lease for _, framed in events} >= {0, 7, -7}
    assert source.driver.machine.compacted_revision > 0
