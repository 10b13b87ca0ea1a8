"""Long reads in slices, and transactions that may not read as much as they ask (R44, O02)."""

from collections.abc import Callable, Generator
from itertools import product
from random import Random
from typing import Any

import pytest

from raftkv import limits
from raftkv.errors import COMPACTED, FUTURE_REVISION, TXN_ANSWER_TOO_LARGE, TXN_READS_TOO_MUCH
from raftkv.kv import longranges, longtxn
from raftkv.kv.machine import Result, StateMachine
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import Driver, finish, machine
from tests.kv.memory import MemoryBackend

Put, Range, Delete, Txn = pb.PutRequest, pb.RangeRequest, pb.DeleteRangeRequest, pb.TxnRequest
ALL: dict[str, Any] = {"key": b"\0", "range_end": b"\0"}


def get(**options: Any) -> pb.RequestOp:
    """A range as an operation, over all keys unless told."""
    return pb.RequestOp(request_range=Range(**{**ALL, **options}))


def put(key: bytes, value: bytes = b"v") -> pb.RequestOp:
    return pb.RequestOp(request_put=Put(key=key, value=value))


def filled(count: int, subject: StateMachine | None = None) -> Driver:
    """Keys with values in another order than theirs, some written several times."""
    driver = Driver(subject)
    for number in range(count):
        for _ in range(1 + number % 3):
            value = b"%05d" % (number * 7919 % count // 2)
            driver.submit(Put(key=b"k%05d" % number, value=value))
    return driver


def finish_between(steps: Generator[Any, None, Any], pause: Callable[[int], None]) -> Any:
    """The return value; `pause` is called with the number of each pause."""
    pauses = 0
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            assert pauses > 2, "that was not long"
            return stop.value
        pauses += 1
        pause(pauses)


# --- slices ---------------------------------------------------------------------


def test_every_order_is_the_same_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """R44: sorted run by run, merged, cut and stripped of values in slices."""
    monkeypatch.setattr(longranges, "SLICE_UNITS", 60)
    driver = filled(100)
    subject = driver.machine
    targets, orders = range(5), (0, 1, 2, 7)
    filters: list[dict[str, int]] = [{}, {"min_mod_revision": 30, "max_create_revision": 150}]
    for target, order, limit, keys_only, some in product(
        targets, orders, (0, 1, 37, 100, 101), (False, True), filters
    ):
        for revision in (0, 120):
            options = {**ALL, **some, "limit": limit, "revision": revision}
            options |= {"sort_target": target, "sort_order": order, "keys_only": keys_only}
            request = Range(**options)
            assert finish(subject.range_steps(request)) == subject.range(request), request


def test_a_long_transaction_shows_the_revision_it_began_at() -> None:
    """R44, D20: entries and compactions between its slices do not show."""
    driver = filled(600)
    subject = driver.machine
    newest = subject.revision
    compares = [
        pb.Compare(key=b"k", range_end=b"l", target=pb.Compare.LEASE, result=pb.Compare.EQUAL),
        pb.Compare(key=b"k00001", target=pb.Compare.VALUE, result=pb.Compare.GREATER, value=b""),
        pb.Compare(key=b"l", range_end=b"m", target=pb.Compare.VERSION, result=pb.Compare.EQUAL),
    ]
    nested = Txn(compare=compares[:1], success=[get(limit=5), get(key=b"k00007", range_end=b"")])
    request = Txn(
        compare=compares,
        success=[
            get(),
            get(sort_target=pb.RangeRequest.VALUE, sort_order=pb.RangeRequest.DESCEND, limit=3),
            pb.RequestOp(request_txn=nested),
            get(count_only=True),
            get(limit=2),
            get(revision=newest - 300),
            get(key=b"k00003", range_end=b""),
        ],
        failure=[get(limit=1)],
    )
    assert subject.is_long_txn(request)
    expected = subject.read_txn(request)
    assert isinstance(expected, Result)
    assert pb.TxnResponse.FromString(expected.body).succeeded

    def pause(number: int) -> None:
        driver.submit(Put(key=b"k%05d" % (number * 37 % 600), value=b"new", lease=0))
        driver.submit(Delete(key=b"k%05d" % (599 - number)))
        driver.submit(Put(key=b"l%05d" % number, value=b"new"))
        driver.submit(pb.CompactionRequest(revision=subject.revision))
        while subject.compact_slice(500):
            pass

    assert finish_between(subject.read_txn_steps(request), pause) == expected
    backend = subject.backend
    assert isinstance(backend, MemoryBackend)
    assert all(view.closed for view in backend.views)


def test_a_long_transaction_checks_the_revisions_it_began_with() -> None:
    driver = filled(600)
    subject = driver.machine
    coming = Txn(success=[get(), get(revision=subject.revision + 1)])
    branch = Txn(compare=[pb.Compare(**ALL, target=pb.Compare.LEASE)], success=coming.success)

    def write(number: int) -> None:
        driver.submit(Put(key=b"x", value=b"%d" % number))

    assert finish_between(subject.read_txn_steps(branch), write) is FUTURE_REVISION
    driver.submit(pb.CompactionRequest(revision=100))
    past = Txn(success=[get(), get(revision=99)])
    assert finish(subject.read_txn_steps(past)) is COMPACTED is subject.read_txn(past)


def test_short_transactions_are_not_cut_into_slices() -> None:
    driver = filled(600)
    short = Txn(success=[get(limit=100), get(count_only=True), get(key=b"k", range_end=b"")])
    assert not driver.machine.is_long_txn(short)
    assert driver.machine.is_long_txn(Txn(failure=[get(limit=100)] * 5))


def test_an_answer_that_would_be_cut_off_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_CONNECTION_OUTPUT_BYTES", 10_000)
    subject = filled(100).machine
    assert isinstance(finish(subject.read_txn_steps(Txn(success=[get()]))), Result)
    many = Txn(success=[get()] * 5)
    assert finish(subject.read_txn_steps(many)) is TXN_ANSWER_TOO_LARGE


# --- what a transaction that writes may read --------------------------------------


def state(driver: Driver) -> tuple[int, bytes]:
    """Revision and all that can be read."""
    found = driver.machine.range(Range(**ALL))
    assert isinstance(found, Result)
    return driver.machine.revision, found.body


def test_a_transaction_that_writes_and_reads_too_many_keys_does_nothing() -> None:
    """R44, O02: refused as a whole; a smaller one is carried out, a larger one is read outside."""
    driver = filled(100)
    before = state(driver)
    heavy = Txn(success=[put(b"a"), *[get(limit=1, sort_target=4, sort_order=2)] * 101, put(b"b")])
    assert driver.perform(heavy) is TXN_READS_TOO_MUCH
    assert state(driver) == before
    lighter = Txn(success=[*heavy.success[:90], put(b"b")])
    assert isinstance(driver.perform(lighter), Result)
    assert driver.machine.revision == before[0] + 1
    outside = Txn(success=heavy.success[1:102])
    assert isinstance(driver.perform(outside), Result)


def test_compares_over_too_many_keys_are_refused_too() -> None:
    driver = filled(100)
    before = state(driver)
    compare = pb.Compare(**ALL, target=pb.Compare.VERSION, result=pb.Compare.GREATER)
    heavy = Txn(compare=[compare] * 101, success=[put(b"a")])
    assert driver.perform(heavy) is TXN_READS_TOO_MUCH
    assert state(driver) == before
    assert isinstance(driver.perform(Txn(compare=[compare] * 99, success=[put(b"a")])), Result)


def test_a_transaction_that_writes_and_reads_too_many_bytes_does_nothing() -> None:
    driver = Driver()
    for number in range(20):
        driver.submit(Put(key=b"k%d" % number, value=bytes(limits.MAX_REQUEST_BYTES - 100)))
    before = state(driver)
    heavy = Txn(success=[put(b"a"), get(), get(limit=2)])
    assert driver.perform(heavy) is TXN_READS_TOO_MUCH
    assert state(driver) == before
    assert isinstance(driver.perform(Txn(success=[put(b"a"), get(), put(b"b")])), Result)


def test_only_the_branch_taken_counts() -> None:
    driver = filled(100)
    heavy = [get()] * 120
    taken = pb.Compare(key=b"k00001", target=pb.Compare.VERSION, result=pb.Compare.GREATER)
    assert isinstance(
        driver.perform(Txn(compare=[taken], success=[put(b"a")], failure=heavy)), Result
    )
    nested = pb.RequestOp(request_txn=Txn(success=heavy[:60]))
    assert driver.perform(Txn(success=[put(b"a"), nested, nested])) is TXN_READS_TOO_MUCH


def test_what_a_transaction_wrote_itself_is_seen_by_its_ranges() -> None:
    """Ranges are read ahead; those behind a write must not answer from before it."""
    driver = filled(3)
    deletion = pb.RequestOp(request_delete_range=Delete(key=b"k00000"))
    answer = driver.perform(Txn(success=[get(), put(b"a"), get(), deletion, get(), get()]))
    assert isinstance(answer, Result)
    counts = [one.response_range.count for one in pb.TxnResponse.FromString(answer.body).responses]
    assert counts == [3, 0, 4, 0, 3, 3]


class Requests:
    """Seeded transactions whose ranges name every kind of revision, few keys, many versions."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def key(self) -> bytes:
        return b"%c%c" % (self.random.choice(b"abc"), self.random.choice(b"abc"))

    def operation(self, newest: int) -> pb.RequestOp:
        random = self.random
        draw = random.randrange(8)
        if draw == 0:
            return put(self.key() + b"%d" % random.randrange(50), random.randbytes(9))
        if draw == 1:
            first = self.key()
            gone = Delete(key=first, range_end=first + random.choice((b"", b"\x80")))
            return pb.RequestOp(request_delete_range=gone)
        revision = random.choice((0, 0, newest - random.randrange(60), newest))
        options: dict[str, Any] = random.choice((ALL, {"key": self.key(), "range_end": b"c"}))
        return get(
            **options,
            revision=max(revision, 0),
            limit=random.choice((0, 0, 3)),
            sort_order=random.choice((0, 1)),
            count_only=random.randrange(5) == 0,
        )

    def next(self, newest: int) -> pb.TxnRequest:
        random = self.random
        operations = [self.operation(newest) for _ in range(random.randrange(1, 6))]
        request = Txn(success=[put(b"a%d" % random.randrange(99)), *operations])
        if random.randrange(3) == 0:
            request.compare.add(key=b"a", range_end=self.key(), target=random.randrange(4))
            request.failure.extend(operations)
        return request


def restless(driver: Driver, random: Random) -> None:
    """What one member does and another does not."""
    draw = random.randrange(6)
    if draw == 0:
        driver.machine.flush()
    elif draw == 1:
        driver.reopen()
    elif draw < 4:
        driver.machine.compact_slice(rows=random.randrange(1, 30))


@pytest.mark.parametrize("seed", range(6))
def test_every_member_refuses_the_same_transactions(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """R44: whatever it has cached, flushed or compacted away, and whether it has restarted."""
    monkeypatch.setattr(limits, "MAX_TXN_READ_KEYS", 120)
    monkeypatch.setattr(limits, "MAX_TXN_READ_BYTES", 4_000)
    requests, random = Requests(seed), Random(seed)
    calm, other = Driver(), Driver(machine(cache_bytes=500))
    refused = done = 0
    for number in range(400):
        request = requests.next(calm.machine.revision)
        outcome = calm.submit(request)
        assert other.submit(request) == outcome
        refused += outcome is TXN_READS_TOO_MUCH
        done += isinstance(outcome, Result)
        if number % 20 == 19:
            compaction = pb.CompactionRequest(revision=calm.machine.revision - 15)
            assert calm.submit(compaction) == other.submit(compaction)
        restless(other, random)
        assert calm.machine.state_hash == other.machine.state_hash
    assert refused > 20
    assert done > 100


def test_the_longest_read_of_a_transaction_is_counted_once_per_key() -> None:
    """The bound is about work: a limit without a sort order reads no more than it answers."""
    assert longtxn.work_units(filled(100).machine.store, Txn(success=[get(limit=1)])) < 100
    driver = filled(200)
    assert isinstance(driver.perform(Txn(success=[put(b"a"), *[get(limit=1)] * 127])), Result)
