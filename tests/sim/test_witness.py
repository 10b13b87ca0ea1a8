"""The revision witness accepts linearizable histories and names what is wrong with others."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.sim.operations import (
    Compare,
    Delete,
    Deleted,
    Found,
    Get,
    KeyValue,
    Logged,
    Operation,
    Outcome,
    Put,
    PutDone,
    Request,
    Response,
    Txn,
    TxnDone,
)
from raftkv.sim.witness import check_history
from tests.sim.histories import linearizable_history


def done(
    identity: int, request: Request, called: int, returned: int, revision: int, response: Response
) -> Operation:
    """An answered operation."""
    return Operation(
        identity, identity, 1, request, called, returned, Outcome.OK, revision, response
    )


def put(identity: int, value: bytes, called: int, returned: int, revision: int) -> Operation:
    """An acknowledged put of the key k."""
    return done(identity, Put(b"k", value), called, returned, revision, PutDone())


def found(value: bytes, created: int, modified: int, version: int) -> Found:
    """The answer to a read of the key k."""
    return Found((KeyValue(b"k", value, created, modified, version),), 1)


def rules(log: list[Logged], history: list[Operation]) -> set[str]:
    """The rules that are violated."""
    return {violation.rule for violation in check_history(log, history)}


LOG = [Logged(1, 1, Put(b"k", b"x")), Logged(2, 2, Put(b"k", b"y"))]
PUTS = [put(1, b"x", 0, 1, 2), put(2, b"y", 2, 3, 3)]


def test_good_history_is_accepted() -> None:
    read = done(3, Get(b"k"), 4, 5, 3, found(b"y", 2, 3, 2))
    assert check_history(LOG, [*PUTS, read]) == []


def test_stale_read_is_named() -> None:
    read = done(3, Get(b"k"), 4, 5, 2, found(b"x", 2, 2, 1))
    assert rules(LOG, [*PUTS, read]) == {"stale read"}


def test_serializable_read_may_be_old_but_never_wrong() -> None:
    old = done(3, Get(b"k", serializable=True), 4, 5, 2, found(b"x", 2, 2, 1))
    assert check_history(LOG, [*PUTS, old]) == []
    wrong = done(3, Get(b"k", serializable=True), 4, 5, 2, found(b"y", 2, 2, 1))
    assert rules(LOG, [*PUTS, wrong]) == {"the answer is the log's"}


def test_lost_acknowledged_write_is_named() -> None:
    assert "acknowledged is durable" in rules(LOG[:1], PUTS)


def test_aborted_write_in_the_log_is_named() -> None:
    refused = Operation(2, 2, 1, Put(b"k", b"y"), 2, 3, Outcome.DEFINITE, error="refused")
    assert rules(LOG, [PUTS[0], refused]) == {"aborted read"}


def test_write_applied_twice_is_named() -> None:
    assert "exactly once" in rules([*LOG, Logged(3, 1, Put(b"k", b"x"))], PUTS)


def test_write_that_no_client_asked_for_is_named() -> None:
    assert "nothing invented" in rules([*LOG, Logged(3, 9, Put(b"k", b"z"))], PUTS)


def test_writes_against_real_time_are_named() -> None:
    log = [Logged(1, 2, Put(b"k", b"y")), Logged(2, 1, Put(b"k", b"x"))]
    history = [put(1, b"x", 0, 1, 3), put(2, b"y", 2, 3, 2)]
    assert rules(log, history) == {"real-time order of writes"}


def test_unknown_write_seen_before_its_call_is_named() -> None:
    early = done(3, Get(b"k"), 0, 1, 2, found(b"x", 2, 2, 1))
    unknown = Operation(1, 1, 1, Put(b"k", b"x"), 5)
    assert rules(LOG[:1], [early, unknown]) == {"real-time order of writes"}


def test_unknown_write_may_be_in_the_log_or_not() -> None:
    unknown = Operation(2, 2, 1, Put(b"k", b"y"), 2)
    assert check_history(LOG, [PUTS[0], unknown]) == []
    assert check_history(LOG[:1], [PUTS[0], unknown]) == []


def test_lost_update_shows_as_a_wrong_answer() -> None:
    both = (Compare(b"k", value=b"x"),)
    first = Txn(both, (Put(b"k", b"y"),), (Get(b"k"),))
    second = Txn(both, (Put(b"k", b"z"),), (Get(b"k"),))
    log = [LOG[0], Logged(2, 2, first), Logged(3, 3, second)]
    history = [
        PUTS[0],
        done(2, first, 2, 3, 3, TxnDone(True, (PutDone(),))),
        done(3, second, 2, 3, 4, TxnDone(True, (PutDone(),))),
    ]
    assert rules(log, history) == {"the answer is the log's"}


def test_delete_of_nothing_makes_no_revision() -> None:
    log = [Logged(1, 1, Delete(b"k")), Logged(2, 2, Put(b"k", b"y"))]
    history = [done(1, Delete(b"k"), 0, 1, 1, Deleted(0)), put(2, b"y", 2, 3, 2)]
    assert check_history(log, history) == []


def test_read_of_a_revision_that_does_not_exist_is_named() -> None:
    read = done(3, Get(b"k"), 4, 5, 9, found(b"y", 2, 3, 2))
    assert rules(LOG, [*PUTS, read]) == {"revision exists"}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from((0.0, 0.1, 0.4)))
def test_every_linearizable_history_is_accepted(seed: int, unknown: float) -> None:
    log, history = linearizable_history(seed, unknown=unknown)
    assert check_history(log, history) == []


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_any_changed_answer_is_rejected(seed: int) -> None:
    log, history = linearizable_history(seed)
    random = Random(seed)
    answered = [one for one in history if one.outcome is Outcome.OK]
    if not answered:
        return
    victim = random.choice(answered)
    if isinstance(victim.response, Found):
        victim.response = victim.response._replace(total=victim.response.total + 1)
    else:
        victim.revision += 1
    assert check_history(log, history) != []


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_any_lost_acknowledged_change_is_rejected(seed: int) -> None:
    log, history = linearizable_history(seed)
    acknowledged = {one.identity for one in history if one.outcome is Outcome.OK}
    candidates = [place for place, one in enumerate(log) if one.identity in acknowledged]
    if not candidates:
        return
    del log[Random(seed).choice(candidates)]
    assert check_history(log, history) != []
