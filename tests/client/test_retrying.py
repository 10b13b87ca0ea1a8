"""What follows from a failed attempt: the rules of repetition, without any network."""

from itertools import cycle, islice

from hypothesis import given
from hypothesis import strategies as st

from raftkv.client import retrying
from raftkv.client.endpoints import Places
from raftkv.client.errors import (
    BadRequest,
    ClientError,
    NoLeader,
    NotConnected,
    OutcomeUnknown,
    PermissionDenied,
    TimedOut,
    Unavailable,
)
from raftkv.client.retrying import Trial
from raftkv.client.statuses import mapped
from raftkv.errors import Code, Outcome

REFUSED = "failed to connect to all addresses; last error: ipv4:127.0.0.1:1: Connection refused"


def _trial(
    count: int,
    *,
    repeatable: bool,
    timeout: float = 5.0,
    alone: bool = False,
    places: Places | None = None,
) -> Trial:
    return Trial(
        places or Places(count),
        0,
        alone=alone,
        repeatable=repeatable,
        started=0.0,
        timeout=timeout,
        dial_timeout=2.0,
    )


def _ended(trial: Trial, error: ClientError, now: float) -> ClientError | None:
    try:
        trial.failed(error, now)
    except ClientError as final:
        return final
    return None


def test_a_write_whose_outcome_is_unknown_ends_the_call_at_once() -> None:
    """C01: a write that timed out is never repeated by itself."""
    for code, text in (
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.UNAVAILABLE, "etcdserver: request timed out"),
        (Code.CANCELLED, "etcdserver: request canceled"),
    ):
        trial = _trial(3, repeatable=False)
        final = _ended(trial, mapped(code, text, write=True, endpoint="a:1"), 0.1)
        assert isinstance(final, OutcomeUnknown)
        assert final.outcome is Outcome.UNKNOWN


def test_the_next_call_goes_elsewhere_after_a_write_got_no_answer() -> None:
    """C10: the write itself is not repeated, but its endpoint is left."""
    places = Places(2)
    trial = _trial(2, repeatable=False, places=places)
    assert _ended(trial, mapped(Code.UNAVAILABLE, "ping timeout", write=True), 4.0) is not None
    assert places.current == 1


def test_a_write_that_was_never_sent_goes_to_the_next_endpoint() -> None:
    trial = _trial(2, repeatable=False)
    refused = mapped(Code.UNAVAILABLE, REFUSED, write=True, endpoint="a:1")
    assert trial.failed(refused, 0.0) == 0.0
    assert trial.place == 1


def test_a_write_that_met_no_leader_goes_to_the_next_endpoint() -> None:
    """C11: an endpoint in a minority is left."""
    trial = _trial(2, repeatable=False)
    leaderless = mapped(Code.UNAVAILABLE, "etcdserver: no leader", write=True)
    assert isinstance(leaderless, NoLeader)
    assert trial.failed(leaderless, 0.0) == 0.0
    assert trial.place == 1


def test_a_read_is_asked_elsewhere_after_every_kind_of_unavailability() -> None:
    for code, text in (
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.UNAVAILABLE, "etcdserver: request timed out"),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (Code.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner"),
    ):
        trial = _trial(2, repeatable=True)
        assert trial.failed(mapped(code, text, write=False), 0.5) == 0.0
        assert trial.place == 1


def test_a_refusal_ends_every_call_at_once() -> None:
    for error in (BadRequest("x"), PermissionDenied("x")):
        for repeatable in (False, True):
            trial = _trial(3, repeatable=repeatable)
            assert _ended(trial, error, 0.1) is error


def test_only_calls_that_may_be_repeated_leave_a_silent_endpoint_early() -> None:
    assert _trial(2, repeatable=True).share(0.0) == retrying.SHARE_SECONDS
    assert _trial(2, repeatable=False).share(0.0) == 5.0
    assert _trial(1, repeatable=True).share(0.0) == 5.0
    assert _trial(2, repeatable=True, timeout=60.0).share(0.0) == 15.0
    assert _trial(2, repeatable=True, timeout=1.0).share(0.0) == 0.5


def test_no_endpoint_at_all_is_told_after_the_dial_timeout_with_each_reason() -> None:
    trial, now, final = _trial(2, repeatable=True), 0.0, None
    while final is None:
        endpoint = f"host{trial.place}:1"
        now += 0.01
        final = _ended(
            trial, mapped(Code.UNAVAILABLE, REFUSED, write=False, endpoint=endpoint), now
        )
        now += 0.1
    assert isinstance(final, NotConnected)
    assert "host0:1: connection refused" in final.text
    assert "host1:1: connection refused" in final.text
    assert 1.4 < now < 2.2


def test_an_election_is_waited_for_until_the_calls_own_deadline() -> None:
    trial, now, final = _trial(2, repeatable=False), 0.0, None
    leaderless = mapped(Code.UNAVAILABLE, "etcdserver: no leader", write=True)
    while final is None:
        now += 0.1
        final = _ended(trial, leaderless, now)
    assert final is leaderless
    assert 4.4 < now < 5.2


def test_an_endpoint_asked_alone_is_the_only_one() -> None:
    trial = _trial(3, repeatable=True, alone=True)
    pause = trial.failed(NotConnected("x", endpoint="a:1"), 0.0)
    assert pause > 0
    assert trial.place == 0


errors_met = st.sampled_from(
    [
        (Code.UNAVAILABLE, REFUSED),
        (Code.UNAVAILABLE, "Socket closed"),
        (Code.UNAVAILABLE, "etcdserver: no leader"),
        (Code.UNAVAILABLE, "etcdserver: leader changed"),
        (Code.UNAVAILABLE, "etcdserver: request timed out"),
        (Code.DEADLINE_EXCEEDED, "Deadline Exceeded"),
        (Code.INVALID_ARGUMENT, "etcdserver: key is not provided"),
    ]
)


@given(
    st.integers(1, 4),
    st.booleans(),
    st.floats(0.01, 30.0),
    st.lists(st.tuples(errors_met, st.floats(0.0, 1.0)), min_size=1, max_size=30),
)
def test_every_call_ends_near_its_deadline_and_no_unknown_write_is_repeated(
    count: int, write: bool, timeout: float, steps: list[tuple[tuple[int, str], float]]
) -> None:
    """C01, C10: whatever the endpoints do."""
    trial, now = _trial(count, repeatable=not write, timeout=timeout), 0.0
    for (code, text), took in islice(cycle(steps), 5000):
        share = trial.share(now)
        assert share <= max(timeout - now, retrying.LEAST_SECONDS)
        now += took * share
        error = mapped(code, text, write=write, endpoint=f"host{trial.place}:1")
        try:
            pause = trial.failed(error, now)
        except ClientError:
            break
        assert not (write and error.outcome is Outcome.UNKNOWN)
        assert isinstance(error, Unavailable | TimedOut)
        now += pause
        assert now <= timeout + retrying.LEAST_SECONDS * 2
    else:
        raise AssertionError("the call never ended")
