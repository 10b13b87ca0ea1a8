"""The queues of locks, read-write locks, semaphores and elections, against a model store.

Contenders take their steps in any order; each request may be carried out, or not, or much later,
and its answer may be lost; leases end at any time. The one thing assumed of clocks is what
`raftkv.client.lifetime` provides: a holder's own clock says "over" before the servers end its
lease.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from raftkv.client import queueing
from raftkv.client.errors import LeaseLost, LeaseNotFound
from raftkv.client.queueing import (
    AlreadyQueued,
    Ask,
    Await,
    LimitDisagrees,
    Place,
    Queue,
    Step,
    contend,
    lock_queue,
    read_queue,
    semaphore_queue,
    write_queue,
)
from raftkv.client.results import TxnResult
from raftkv.client.txn import Put, Txn
from tests.client.recipes.store import Store

FATES: Final = ("done", "done", "done", "done", "answer lost", "late", "never")


@dataclass(eq=False)
class Contender:
    """One acquisition. knows_end: its own clock says that the lease is over."""

    queue: Queue
    lease: int
    way: queueing.Way
    step: Step | None
    place: Place | None = None
    knows_end: bool = False
    asked: int = 0

    @property
    def holds(self) -> bool:
        """Whether it believes that it holds."""
        return self.place is not None and not self.knows_end

    @property
    def waits(self) -> bool:
        """Whether it is on its way."""
        return self.step is not None


class Queues(RuleBasedStateMachine):
    """All contenders of one name."""

    kinds: tuple[Callable[[], Queue], ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.store = Store()
        self.contenders: list[Contender] = []
        self.late: list[Txn] = []
        self.leases = 0
        self.last_token = 0

    # --- what happens ------------------------------------------------------------------------
    @precondition(lambda self: sum(c.waits or c.holds for c in self.contenders) < 6)
    @rule(number=st.integers(0, 1))
    def arrive(self, number: int) -> None:
        """Somebody gets a lease and begins."""
        self.leases += 1
        self.store.leases.add(self.leases)
        queue = self.kinds[number % len(self.kinds)]()
        way = contend(queue, self.leases, b"v")
        self.contenders.append(Contender(queue, self.leases, way, next(way)))

    @precondition(lambda self: any(c.waits for c in self.contenders))
    @rule(data=st.data(), fates=st.lists(st.sampled_from(FATES), min_size=1, max_size=4))
    def go_on(self, data: st.DataObject, fates: list[str]) -> None:
        """A contender's requests have their fates, or its wait is looked at."""
        one = data.draw(st.sampled_from([c for c in self.contenders if c.waits]))
        for fate in fates:
            if one.waits:
                self._go_on(one, fate)

    def _go_on(self, one: Contender, fate: str) -> None:
        if isinstance(one.step, Await):
            if self._is_over(one.step) or fate != "done":  # a watch may end for no reason
                self._send(one, None)
            return
        assert isinstance(one.step, Ask)
        one.asked += 1
        if not one.step.is_write or fate == "done":
            self._answer(one, one.step.txn)
        else:
            if fate == "answer lost":
                self._apply(one.step.txn)
            elif fate == "late":
                self.late.append(one.step.txn)
            self._send(one, None)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def arrive_late(self, data: st.DataObject) -> None:
        """A request that nobody hopes for any more is carried out."""
        self._apply(self.late.pop(data.draw(st.integers(0, len(self.late) - 1))))

    @precondition(lambda self: any(c.waits or c.holds for c in self.contenders))
    @rule(data=st.data())
    def clock_runs_out(self, data: st.DataObject) -> None:
        """A contender's own clock says that its lease is over; it takes no further step."""
        one = data.draw(st.sampled_from([c for c in self.contenders if c.waits or c.holds]))
        one.knows_end = True
        one.step = None

    @precondition(lambda self: self._forsaken())
    @rule(data=st.data())
    def lease_ends(self, data: st.DataObject) -> None:
        """The servers end a lease that its user knows to be over."""
        one = data.draw(st.sampled_from(self._forsaken()))
        self.store.revoke(one.lease)

    @precondition(lambda self: any(c.waits for c in self.contenders))
    @rule(data=st.data())
    def lease_is_revoked_by_others(self, data: st.DataObject) -> None:
        """An operator ends the lease of somebody who waits and does not know (C04)."""
        one = data.draw(st.sampled_from([c for c in self.contenders if c.waits]))
        self.store.revoke(one.lease)

    @precondition(lambda self: any(c.holds for c in self.contenders))
    @rule(data=st.data(), by_key=st.booleans())
    def release(self, data: st.DataObject, by_key: bool) -> None:
        """A holder is done, and takes its key or its lease away."""
        one = data.draw(st.sampled_from([c for c in self.contenders if c.holds]))
        assert one.place is not None
        one.knows_end = True
        if by_key:
            self.store.apply(queueing.leaving(one.place))
        else:
            self.store.revoke(one.lease)

    # --- what must hold ----------------------------------------------------------------------
    @invariant()
    def never_more_hold_than_may(self) -> None:
        """C03: by their own clocks."""
        holding = [c.queue for c in self.contenders if c.holds]
        writers = [queue for queue in holding if queue.own == b"n/write/"]
        readers = [queue for queue in holding if queue.own == b"n/read/"]
        assert len(writers) + bool(readers) <= 1
        if holding and not readers:
            assert len(holding) <= min(queue.limit for queue in holding)

    @invariant()
    def holders_pass_their_guard_while_their_lease_lives(self) -> None:
        """A guard is true exactly as long as the key is there."""
        for one in self.contenders:
            if one.place is not None:
                guarded = one.place.guard(Txn())
                kv = self.store.kvs.get(one.place.key)
                mine = kv is not None and kv.create_revision == one.place.create_revision
                assert self.store.apply(guarded).succeeded == mine
                if one.holds:
                    assert mine

    def teardown(self) -> None:
        """When everything works again, everybody who has a lease comes to hold, in order."""
        for txn in self.late:
            self._apply(txn)
        for _ in range(40 * len(self.contenders)):
            for one in self.contenders:
                if one.waits:
                    self._go_on(one, "done")
                elif one.place is not None or one.knows_end:
                    one.knows_end = True
                    self.store.revoke(one.lease)
        assert not [c for c in self.contenders if c.waits]

    # --- the machinery -----------------------------------------------------------------------
    def _forsaken(self) -> list[Contender]:
        return [c for c in self.contenders if c.knows_end and c.lease in self.store.leases]

    def _is_over(self, step: Await) -> bool:
        """What the watch would say, if no key of the older ones came back."""
        return sum(name in self.store.kvs for name in step.older) <= step.spare

    def _apply(self, txn: Txn) -> TxnResult | None:
        try:
            return self.store.apply(txn)
        except LeaseNotFound:
            return None

    def _answer(self, one: Contender, txn: Txn) -> None:
        answer = self._apply(txn)
        if answer is None:
            one.step = None  # the lease is gone: the recipe raises LeaseLost
            one.knows_end = True
        else:
            self._send(one, answer)

    def _send(self, one: Contender, answer: TxnResult | None) -> None:
        try:
            one.step = one.way.send(answer)
        except StopIteration as end:
            self._took(one, end.value)
        except LeaseLost:
            assert one.lease not in self.store.leases, "lost though the lease lives"
            one.step, one.knows_end = None, True
        except LimitDisagrees as error:
            self._was_refused(one, error)

    def _was_refused(self, one: Contender, error: LimitDisagrees) -> None:
        assert error.limit not in (0, one.queue.limit)
        assert len(self.store.find(b"n/holders/", b"n/holders0")) > 0
        one.step, one.knows_end = None, True

    def _took(self, one: Contender, place: Place) -> None:
        one.step, one.place = None, place
        kv = self.store.kvs.get(place.key)
        assert kv is not None, "C04: holds without a key"
        assert kv.create_revision == place.create_revision
        assert kv.lease == one.lease
        if one.queue.own == b"n/":
            assert place.create_revision > self.last_token, "a lock's tokens grow"
            self.last_token = place.create_revision


class Locks(Queues):
    """Of a lock or an election."""

    kinds = (lambda: lock_queue(b"n"),)


class ReadWriteLocks(Queues):
    """Readers and writers."""

    kinds = (lambda: read_queue(b"n"), lambda: write_queue(b"n"))


class Semaphores(Queues):
    """Those who mean one limit, and those who mean another."""

    kinds = (lambda: semaphore_queue(b"n", 1), lambda: semaphore_queue(b"n", 2))


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.parametrize(
    ("machine", "examples"), [(Locks, 60), (ReadWriteLocks, 60), (Semaphores, 140)]
)
def test_never_more_hold_than_may_and_everybody_comes_to_hold(
    machine: type[Queues], examples: int
) -> None:
    """C02, C03, C04, C09 over all orders of steps that are tried."""
    run_state_machine_as_test(machine, settings=_settings(examples))


# --- single decisions -----------------------------------------------------------------------
def _run(store: Store, way: queueing.Way) -> Place | Await:
    """Carries out what is asked until the contender holds or waits."""
    step: Step = next(way)
    try:
        while isinstance(step, Ask):
            step = way.send(store.apply(step.txn))
    except StopIteration as end:
        place: Place = end.value
        return place
    return step


def _store(*leases: int) -> Store:
    store = Store()
    store.leases.update(leases)
    return store


def test_a_key_is_laid_out_as_go_does_it() -> None:
    assert lock_queue(b"jobs").key(0x694D7F2BA1C04C0E) == b"jobs/694d7f2ba1c04c0e"
    assert lock_queue(b"jobs").key(-0x10) == b"jobs/-10"
    assert read_queue(b"t").key(0xA) == b"t/read/a"
    assert write_queue(b"t").key(0xA) == b"t/write/a"


def test_a_free_lock_is_had_with_one_request() -> None:
    store = _store(1)
    way = contend(lock_queue(b"n"), 1, b"")
    step = next(way)
    assert isinstance(step, Ask)
    with pytest.raises(StopIteration) as end:
        way.send(store.apply(step.txn))
    assert end.value.value == Place(b"n/1", 2)


def test_a_contender_waits_for_the_one_before_it_only() -> None:
    store = _store(1, 2, 3)
    for lease in (1, 2):
        _run(store, contend(lock_queue(b"n"), lease, b""))
    step = _run(store, contend(lock_queue(b"n"), 3, b""))
    assert isinstance(step, Await)
    assert (step.key, step.end, step.start_revision) == (b"n/2", b"", 5)


def test_a_lost_answer_is_no_second_key() -> None:
    """C02."""
    store = _store(1)
    way = contend(lock_queue(b"n"), 1, b"")
    step = next(way)
    assert isinstance(step, Ask)
    first = store.apply(step.txn)
    again = way.send(None)
    assert isinstance(again, Ask)
    assert again.txn == step.txn
    look = way.send(store.apply(again.txn))
    assert isinstance(look, Ask)
    assert not look.is_write
    with pytest.raises(StopIteration) as end:
        way.send(store.apply(look.txn))
    assert end.value.value.create_revision == first.revision


def test_a_lease_that_is_in_the_queue_already_is_refused() -> None:
    store = _store(1)
    assert isinstance(_run(store, contend(lock_queue(b"n"), 1, b"")), Place)
    with pytest.raises(AlreadyQueued):
        _run(store, contend(lock_queue(b"n"), 1, b""))


def test_a_contender_whose_key_went_while_it_waited_has_lost() -> None:
    """C04: also if the one before it has gone since."""
    store = _store(1, 2)
    _run(store, contend(lock_queue(b"n"), 1, b""))
    way = contend(lock_queue(b"n"), 2, b"")
    assert isinstance(_run(store, way), Await)
    store.revoke(2)
    store.revoke(1)
    look = way.send(None)
    assert isinstance(look, Ask)
    with pytest.raises(LeaseLost):
        way.send(store.apply(look.txn))


def test_readers_hold_together_and_wait_for_an_earlier_writer_only() -> None:
    store = _store(1, 2, 3, 4)
    assert isinstance(_run(store, contend(read_queue(b"n"), 1, b"")), Place)
    assert isinstance(_run(store, contend(read_queue(b"n"), 2, b"")), Place)
    writer = contend(write_queue(b"n"), 3, b"")
    assert isinstance(_run(store, writer), Await)
    late = _run(store, contend(read_queue(b"n"), 4, b""))
    assert isinstance(late, Await)
    assert late.key == b"n/write/3"
    store.revoke(2)
    store.revoke(1)
    look = writer.send(None)
    assert isinstance(look, Ask)
    with pytest.raises(StopIteration):
        writer.send(store.apply(look.txn))


def test_a_writer_waits_for_a_key_of_the_go_recipe() -> None:
    """Its keys end in a clock reading instead of a lease."""
    store = _store(1, 2)
    store.apply(Txn().then(Put(b"n/read/1700000000000000000", b"", lease=1)))
    step = _run(store, contend(write_queue(b"n"), 2, b""))
    assert isinstance(step, Await)
    assert step.key == b"n/read/1700000000000000000"


def test_a_semaphore_refuses_another_limit_until_its_queue_is_empty() -> None:
    store = _store(1, 2, 3)
    assert isinstance(_run(store, contend(semaphore_queue(b"n", 2), 1, b"")), Place)
    with pytest.raises(LimitDisagrees) as refusal:
        _run(store, contend(semaphore_queue(b"n", 5), 2, b""))
    assert refusal.value.limit == 2
    store.revoke(1)
    assert isinstance(_run(store, contend(semaphore_queue(b"n", 5), 3, b"")), Place)
    assert store.kvs[b"n/limit"].value == b"5"


def test_a_semaphore_that_is_full_waits_for_any_of_its_holders() -> None:
    store = _store(1, 2, 3, 4)
    for lease in (1, 2):
        assert isinstance(_run(store, contend(semaphore_queue(b"n", 2), lease, b"")), Place)
    _run(store, contend(semaphore_queue(b"n", 2), 3, b""))
    step = _run(store, contend(semaphore_queue(b"n", 2), 4, b""))
    assert isinstance(step, Await)
    assert step.older == {b"n/holders/1", b"n/holders/2", b"n/holders/3"}
    assert step.spare == 1


def test_a_place_that_is_not_known_is_withdrawn_by_its_lease() -> None:
    store = _store(1, 2)
    store.apply(Txn().then(Put(b"n/1", b"", lease=2)))
    assert not store.apply(queueing.withdrawing(b"n/1", 1)).succeeded
    assert store.apply(queueing.withdrawing(b"n/1", 2)).succeeded
    assert store.kvs == {}


def test_a_late_proclamation_undoes_no_later_one() -> None:
    store = _store(1)
    place = _run(store, contend(lock_queue(b"n"), 1, b"first"))
    assert isinstance(place, Place)
    late = queueing.proclaiming(place, place.create_revision, b"second", 1)
    assert store.apply(late).succeeded
    known = store.kvs[b"n/1"].mod_revision
    assert store.apply(queueing.proclaiming(place, known, b"third", 1)).succeeded
    assert not store.apply(late).succeeded
    assert store.kvs[b"n/1"].value == b"third"
