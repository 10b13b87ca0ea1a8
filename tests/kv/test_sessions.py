"""Writes in sessions: each is carried out once, however often it is in the log (C01)."""

from typing import Any

import pytest

from raftkv.errors import (
    ALREADY_APPLIED,
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    SEQUENCE_TOO_HIGH,
    SESSION_NOT_FOUND,
    SESSION_PASSED,
    TOO_MANY_SESSIONS,
    ApiError,
    Code,
    Outcome,
    ProtocolError,
)
from raftkv.kv import commands, leases, sessions
from raftkv.kv.leases import GRANTED, Lease
from raftkv.kv.machine import Result
from raftkv.limits import MAX_KEPT_ANSWER_BYTES, MAX_KEPT_ANSWERS
from raftkv.pb import rpc_pb2 as pb
from raftkv.pb import v1_pb2
from raftkv.raft.types import NORMAL, Entry
from tests.kv.adapter import TERM, Driver
from tests.kv.leasing import LARGEST, SMALLEST, expire, keys, ok, revoke
from tests.kv.leasing import put as plain_put
from tests.kv.sessions import (
    SESSION,
    begin,
    kept,
    once,
    opened,
    payload,
    put,
    session_rows,
    version,
)


# --- opening ---------------------------------------------------------------------
@pytest.mark.parametrize("session", [1, 7, -1, SMALLEST, LARGEST])
def test_a_session_is_an_ordinary_lease_that_is_marked(session: int) -> None:
    driver = Driver()
    answer = ok(begin(driver, session, 30_000))
    response = v1_pb2.OpenSessionResponse.FromString(answer.body)
    assert (response.session, response.ttl) == (session, 30)
    lease = driver.machine.leases.get(session)
    assert lease is not None
    assert (lease.ttl_ms, lease.session, lease.hidden) == (30_000, True, False)
    assert driver.machine.lease_events == [(GRANTED, session)]
    plain_put(driver, b"a", session)
    ok(put(driver, 1, session=session))
    ok(revoke(driver, session))
    assert keys(driver.machine) == {b"k": 0}
    assert len(driver.machine.sessions) == 0


def test_a_lease_that_was_granted_as_one_is_no_session() -> None:
    driver = Driver()
    ok(driver.grant(SESSION))
    assert put(driver, 1) is SESSION_NOT_FOUND
    assert version(driver.machine) == 0


def test_there_are_only_so_many_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "MAX_SESSIONS", 3)
    driver = Driver()
    for session in (1, 2, 3):
        ok(begin(driver, session))
    before = driver.machine.state_hash
    assert begin(driver, 4) is TOO_MANY_SESSIONS
    assert driver.machine.state_hash != before
    ok(driver.grant(4))  # a lease that is none
    ok(revoke(driver, 2))
    ok(begin(driver, 5))


# --- once --------------------------------------------------------------------------
def test_a_repeated_put_is_answered_as_the_first_and_not_carried_out() -> None:
    """C01: same revision and body, though the store has gone on."""
    driver = opened()
    plain_put(driver, b"k")
    first = ok(put(driver, 1, prev_kv=True))
    plain_put(driver, b"other")
    assert put(driver, 1, prev_kv=True) == first
    assert put(driver, 1, prev_kv=True) == first
    assert first.revision == 3
    assert pb.PutResponse.FromString(first.body).prev_kv.version == 1
    assert version(driver.machine) == 2
    assert driver.machine.revision == 4
    assert driver.machine.sessions.repeated == 2


def _compared() -> bytes:
    """Put "k" if it does not exist: a second time it would answer otherwise."""
    compare = pb.Compare(key=b"k", target=pb.Compare.VERSION, result=pb.Compare.EQUAL)
    compare.version = 0
    request = pb.TxnRequest(compare=[compare])
    request.success.add().request_put.CopyFrom(pb.PutRequest(key=b"k", value=b"mine"))
    request.failure.add().request_range.CopyFrom(pb.RangeRequest(key=b"k"))
    return request.SerializeToString()


_LONG_TXN = pb.TxnRequest(
    success=[
        pb.RequestOp(request_put=pb.PutRequest(key=b"k", value=b"1")),
        pb.RequestOp(request_range=pb.RangeRequest(key=b"k")),
    ]
).SerializeToString()


@pytest.mark.parametrize(
    ("command", "request_bytes"),
    [
        (commands.PUT, pb.PutRequest(key=b"k", value=b"v").SerializeToString()),
        (commands.DELETE_RANGE, pb.DeleteRangeRequest(key=b"gone").SerializeToString()),
        (commands.TXN, _compared()),
        (commands.TXN, _LONG_TXN),
        (commands.LEASE_GRANT, leases.grant_request(5, 5000)),
        (commands.LEASE_GRANT_DRAWN, leases.grant_request(5, 5000)),
        (commands.LEASE_REVOKE, leases.revoke_request(6)),
        (
            commands.PUT_WITH_TTL,
            leases.put_with_ttl_request(9, 700, pb.PutRequest(key=b"k").SerializeToString()),
        ),
    ],
)
def test_every_kind_of_write_is_carried_out_once(command: int, request_bytes: bytes) -> None:
    """C01: also in one turn, where neighbouring entries are applied in one go."""
    results = []
    for together in (False, True):
        driver = opened()
        plain_put(driver, b"gone")
        ok(driver.grant(6))
        content = payload(command, request_bytes, (SESSION, 1, 1))
        if together:
            results.append([ok(one) for one in _in_one_turn(driver, [content] * 4)])
        else:
            results.append([ok(driver.entry(content)) for _ in range(4)])
        assert driver.machine.sessions.repeated == 3
        assert version(driver.machine) <= 1
    assert results[0] == results[1] == [results[0][0]] * 4


def _in_one_turn(driver: Driver, contents: list[bytes]) -> list[Any]:
    """As a replica applies what one turn commits."""
    subject = driver.machine
    first = subject.applied_index + 1
    entries = [
        Entry(first + place, TERM, NORMAL, content) for place, content in enumerate(contents)
    ]
    results: list[Any] = []
    while len(results) < len(entries):
        results += subject.apply_some(entries, len(results))
    return results


def test_the_id_of_a_repeated_put_with_ttl_is_that_of_the_first_attempt() -> None:
    """Each member that takes it draws an id of its own."""
    driver = opened()
    put_request = pb.PutRequest(key=b"k", value=b"v").SerializeToString()
    answers = []
    for lease in (9, 10):
        request = leases.put_with_ttl_request(lease, 700, put_request)
        answers.append(ok(once(driver, commands.PUT_WITH_TTL, request, 1)))
    assert answers[0] == answers[1]
    assert v1_pb2.PutWithTTLResponse.FromString(answers[1].body).lease == 9
    assert [lease.id for lease in driver.machine.leases] == [SESSION, 9]


def test_an_error_that_was_decided_is_an_answer_too() -> None:
    """The lease comes into being meanwhile; the write was refused for good."""
    driver = opened()
    assert put(driver, 1, lease=8) is LEASE_NOT_FOUND
    ok(driver.grant(8))
    again = put(driver, 1, lease=8)
    assert isinstance(again, ApiError)
    assert (again.code, again.text, again.outcome) == (
        LEASE_NOT_FOUND.code,
        LEASE_NOT_FOUND.text,
        Outcome.DEFINITE,
    )
    driver.reopen()
    assert kept(driver.machine)[1] == (again.code, again.text, again.outcome)
    assert version(driver.machine) == 0
    ok(put(driver, 2, lease=8))


def test_an_id_that_a_member_drew_and_that_is_taken_is_no_answer() -> None:
    """The member proposes the same sequence with another one."""
    driver = opened()
    ok(driver.grant(8))
    drawn = commands.LEASE_GRANT_DRAWN
    assert once(driver, drawn, leases.grant_request(8, 5000), 1) is LEASE_EXISTS
    answer = ok(once(driver, drawn, leases.grant_request(9, 5000), 1))
    assert pb.LeaseGrantResponse.FromString(answer.body).ID == 9
    assert once(driver, drawn, leases.grant_request(10, 5000), 1) == answer
    request = leases.put_with_ttl_request(8, 700, pb.PutRequest(key=b"k").SerializeToString())
    assert once(driver, commands.PUT_WITH_TTL, request, 2) is LEASE_EXISTS
    assert 2 not in kept(driver.machine)


def test_that_an_id_named_by_the_client_is_taken_is_its_answer_for_good() -> None:
    """C01: two attempts are under way, the first is answered that the lease exists, the lease is
    revoked by somebody else, and only then comes the second: its client has long gone on.
    """
    driver = opened()
    ok(driver.grant(8))
    grant = leases.grant_request(8, 5000)
    first = once(driver, commands.LEASE_GRANT, grant, 1)
    assert first is LEASE_EXISTS
    ok(revoke(driver, 8))
    driver.reopen()
    second = once(driver, commands.LEASE_GRANT, grant, 1)
    assert isinstance(second, ApiError)
    assert (second.code, second.text) == (first.code, first.text)
    assert 8 not in driver.machine.leases


def test_sequences_may_come_in_any_order() -> None:
    """Several writes under way at once overtake each other."""
    driver = opened()
    order = [3, 1, 5, 2, 4]
    answers = {sequence: ok(put(driver, sequence)) for sequence in order}
    assert [answers[sequence].revision for sequence in order] == [2, 3, 4, 5, 6]
    assert {sequence: put(driver, sequence) for sequence in sorted(order)} == answers
    assert version(driver.machine) == 5


def test_sessions_do_not_know_of_each_other() -> None:
    driver = opened(5, opened(6))
    assert ok(put(driver, 1, session=5)) != ok(put(driver, 1, session=6))
    assert version(driver.machine) == 2
    ok(revoke(driver, 5))
    assert ok(put(driver, 1, session=6)).revision == 3


# --- what is over ------------------------------------------------------------------
def test_what_is_below_the_lowest_unanswered_sequence_is_never_carried_out() -> None:
    """C01: it was answered, or its client gave it up; a late duplicate must find it closed."""
    driver = opened()
    ok(put(driver, 2))
    ok(put(driver, 3, lowest=3))
    for sequence in (1, 2):
        refused = put(driver, sequence)
        assert refused is SESSION_PASSED
        assert refused.outcome is Outcome.UNKNOWN
    assert version(driver.machine) == 2


def test_a_repetition_also_tells_what_is_answered() -> None:
    """The lowest unanswered sequence counts from whatever entry names it, and survives."""
    driver = opened()
    ok(put(driver, 4))
    ok(put(driver, 4, lowest=3))
    assert put(driver, 2) is SESSION_PASSED
    driver.reopen()
    assert put(driver, 2) is SESSION_PASSED
    assert put(driver, 4, lowest=4) == Result(2, b"")
    assert put(driver, 3) is SESSION_PASSED


def test_an_older_word_about_what_is_unanswered_changes_nothing() -> None:
    driver = opened()
    ok(put(driver, 10, lowest=10))
    before = session_rows(driver.machine)
    assert ok(put(driver, 10, lowest=2)) == Result(2, b"")
    assert session_rows(driver.machine) == before
    ok(put(driver, 11, lowest=3))
    assert sorted(kept(driver.machine)) == [10, 11]


@pytest.mark.parametrize("how", ["never was", "revoked", "expired"])
def test_in_a_session_that_is_over_nothing_is_carried_out(how: str) -> None:
    """C01: whether it was carried out before nobody can tell any more."""
    driver = Driver() if how == "never was" else opened()
    if how != "never was":
        ok(put(driver, 1))
        ok(put(driver, 2))
    if how == "revoked":
        ok(revoke(driver, SESSION))
    elif how == "expired":
        expire(driver, SESSION)
    before = version(driver.machine)
    for sequence in (1, 2, 3):
        refused = put(driver, sequence)
        assert refused is SESSION_NOT_FOUND
        assert refused.outcome is Outcome.UNKNOWN
        assert refused.code != Code.UNAVAILABLE  # which many clients repeat by themselves
    assert version(driver.machine) == before
    assert session_rows(driver.machine) == []
    assert driver.machine.sessions.kept_bytes == 0


def test_a_new_session_of_an_old_id_begins_anew() -> None:
    driver = opened()
    ok(put(driver, 7, lowest=7))
    ok(revoke(driver, SESSION))
    opened(driver=driver)
    ok(put(driver, 1))
    assert version(driver.machine) == 2


def test_a_session_that_revokes_itself_keeps_no_answer() -> None:
    driver = opened()
    ok(put(driver, 1))
    ok(once(driver, commands.LEASE_REVOKE, leases.revoke_request(SESSION), 2))
    assert once(driver, commands.LEASE_REVOKE, leases.revoke_request(SESSION), 2) is (
        SESSION_NOT_FOUND
    )
    assert session_rows(driver.machine) == []


# --- bounds ------------------------------------------------------------------------
def test_a_sequence_too_far_ahead_is_refused_and_may_come_later() -> None:
    driver = opened()
    refused = put(driver, 1 + MAX_KEPT_ANSWERS)
    assert refused is SEQUENCE_TOO_HIGH
    assert refused.outcome is Outcome.DEFINITE
    assert version(driver.machine) == 0
    assert session_rows(driver.machine) == []
    assert put(driver, 5 + MAX_KEPT_ANSWERS, lowest=5) is SEQUENCE_TOO_HIGH
    ok(put(driver, 4))  # what was refused has closed nothing
    ok(put(driver, 1 + MAX_KEPT_ANSWERS, lowest=2))


def test_as_many_answers_are_kept_as_may_be_asked_for_again() -> None:
    driver = opened()
    answers = [ok(put(driver, 1 + n)) for n in range(MAX_KEPT_ANSWERS)]
    assert len(kept(driver.machine)) == MAX_KEPT_ANSWERS
    assert [put(driver, 1 + n) for n in range(MAX_KEPT_ANSWERS)] == answers
    for sequence in range(MAX_KEPT_ANSWERS + 1, 5 * MAX_KEPT_ANSWERS):
        ok(put(driver, sequence, lowest=sequence - MAX_KEPT_ANSWERS + 1))
        assert len(kept(driver.machine)) == MAX_KEPT_ANSWERS
    assert len(session_rows(driver.machine)) == MAX_KEPT_ANSWERS + 1
    ok(put(driver, 1000, lowest=1000))
    assert len(session_rows(driver.machine)) == 2


def _put_with_old_value(driver: Driver, body_bytes: int) -> Result:
    """A put whose answer's body has this many bytes."""
    ok(driver.submit(pb.PutRequest(key=b"big")))
    plain = len(ok(driver.submit(pb.PutRequest(key=b"big", prev_kv=True))).body)
    # 64 KiB take two bytes more for the lengths of value and pair than nothing does, each.
    size = body_bytes - plain - 6
    ok(driver.submit(pb.PutRequest(key=b"big", value=bytes(size))))
    answer = ok(put(driver, 1, key=b"big", prev_kv=True))
    assert len(answer.body) == body_bytes
    return answer


def test_an_answer_of_just_the_limit_is_kept() -> None:
    driver = opened()
    answer = _put_with_old_value(driver, MAX_KEPT_ANSWER_BYTES)
    driver.reopen()
    assert put(driver, 1, key=b"big", prev_kv=True) == answer
    assert driver.machine.sessions.kept_bytes == MAX_KEPT_ANSWER_BYTES


def test_of_a_larger_answer_the_revision_is_kept() -> None:
    driver = opened()
    answer = _put_with_old_value(driver, MAX_KEPT_ANSWER_BYTES + 1)
    for _ in range(2):
        again = put(driver, 1, key=b"big", prev_kv=True)
        assert isinstance(again, ApiError)
        assert again.code == ALREADY_APPLIED.code == Code.ALREADY_EXISTS
        assert again.outcome is Outcome.UNKNOWN
        assert again.text == (
            f"raftkv: already applied at revision {answer.revision}; its answer was too large "
            "to keep"
        )
        driver.reopen()
    assert version(driver.machine, b"big") == 4
    assert driver.machine.sessions.kept_bytes < 200


def test_all_sessions_together_keep_only_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_ALL_KEPT_BYTES", 1000)
    driver = opened(5, opened(6))
    ok(driver.submit(pb.PutRequest(key=b"k", value=bytes(400))))

    def reads(sequence: int, session: int, lowest: int = 1) -> Any:
        request = pb.PutRequest(key=b"k", prev_kv=True, ignore_value=True).SerializeToString()
        return driver.entry(payload(commands.PUT, request, (session, sequence, lowest)))

    first, second = ok(reads(1, 5)), ok(reads(1, 6))
    third = ok(reads(2, 6))
    assert (reads(1, 5), reads(1, 6)) == (first, second)
    assert "already applied" in reads(2, 6).text
    ok(revoke(driver, 5))  # its bytes are free again
    fourth = ok(reads(3, 6))
    assert reads(3, 6) == fourth
    assert third.revision < fourth.revision
    driver.reopen()
    assert reads(3, 6) == fourth
    answers = kept(driver.machine, 6).values()
    whole = [len(answer.body) for answer in answers if isinstance(answer, Result)]
    assert 800 < sum(whole) < driver.machine.sessions.kept_bytes <= 1000


@pytest.mark.parametrize(("sequence", "lowest"), [(0, 0), (1, 0), (0, 1), (3, 4)])
def test_what_no_member_proposes_stops_the_member(sequence: int, lowest: int) -> None:
    driver = opened()
    with pytest.raises(ProtocolError):
        put(driver, sequence, lowest)
    assert driver.machine.applied_index == 1


# --- who looks at leases -------------------------------------------------------------
def test_the_row_of_a_lease_says_that_it_is_a_session() -> None:
    for flags in ((False, False), (True, False), (False, True)):
        lease = Lease(7, 1000, 5, flags[0], 3, session=flags[1])
        assert leases.parse_lease_row(*leases.lease_row(lease)) == lease
