"""Sessions on disk: in one write with what they answer for, after restarts, copied, damaged."""

from random import Random
from typing import Any

import pytest

from raftkv.errors import (
    SEQUENCE_TOO_HIGH,
    SESSION_NOT_FOUND,
    SESSION_PASSED,
    ApiError,
    CorruptionError,
    Outcome,
)
from raftkv.kv import commands, leases, sessions
from raftkv.kv.backend import Row
from raftkv.kv.encoding import SESSION_ROWS
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.store import Store
from raftkv.limits import MAX_KEPT_ANSWERS
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NORMAL, Entry
from tests.kv.adapter import CLUSTER, TERM, Driver, machine
from tests.kv.leasing import LARGEST, SMALLEST, ok, revoke
from tests.kv.memory import MemoryBackend
from tests.kv.sessions import SESSION, begin, kept, opened, payload, put, session_rows, version


def test_an_answer_goes_to_the_backend_in_one_write_with_what_it_answers_for() -> None:
    """Neither can be there without the other after a crash."""
    driver = opened()
    driver.machine.flush()
    backend = driver.machine.backend
    assert isinstance(backend, MemoryBackend)
    before, writes = dict(backend.rows), backend.writes
    answer = ok(put(driver, 1))
    assert backend.rows == before
    assert {name[:1] for name, _ in driver.machine.store.pending} == {b"k", b"r", b"s"}
    driver.machine.flush()
    assert backend.writes == writes + 1
    crashed = StateMachine(backend, CLUSTER)
    assert put(Driver(crashed), 1) == answer
    assert version(crashed) == 1


def test_a_session_goes_in_one_write_with_its_lease() -> None:
    driver = opened()
    ok(put(driver, 3, lowest=2))
    driver.machine.flush()
    ok(revoke(driver, SESSION))
    gone = {name[:1] for name, value in driver.machine.store.pending if value is None}
    assert gone == {b"l", b"s"}
    assert session_rows(driver.machine) == []


def test_a_copy_of_the_state_answers_repeated_writes() -> None:
    """C01: a member that got its state from another one applies the repetition."""
    driver = opened()
    answers = [ok(put(driver, sequence, lowest=3)) for sequence in (4, 3, 7)]
    view, _ = driver.machine.snapshot_view()
    copied = MemoryBackend()
    copied.write(list(view.scan(b"", b"\xff")))
    copy = Driver(StateMachine(copied, CLUSTER))
    assert [put(copy, sequence) for sequence in (4, 3, 7)] == answers
    assert put(copy, 2) is SESSION_PASSED
    for sequence in (4, 3, 7, 2):
        put(driver, sequence)
    assert copy.machine.state_hash == driver.machine.state_hash
    assert kept(copy.machine) == kept(driver.machine)
    assert copy.machine.sessions.kept_bytes == driver.machine.sessions.kept_bytes


def test_what_a_member_knows_of_a_session_moves_the_state_hash() -> None:
    """Two members that differ in it differ in their hashes."""

    def end(*writes: tuple[int, int]) -> int:
        driver = opened()
        for sequence, lowest in writes:
            put(driver, sequence, lowest)
        # The index is a part of the hash: as many entries in every case.
        while driver.machine.applied_index < 5:
            driver.command(commands.LEASE_REVOKE, leases.revoke_request(404))
        return driver.machine.state_hash

    hashes = [
        end((1, 1)),
        end((2, 1)),
        end((2, 2)),
        end((2, 1), (2, 1)),
        end((2, 1), (2, 2)),
        end((2, 1), (3, 1)),
        end((2, 1), (3, 3)),
        end((1 + MAX_KEPT_ANSWERS, 1)),
    ]
    assert len(dict.fromkeys(hashes)) == len(hashes)


def test_a_failure_amid_a_write_leaves_nothing_of_it_to_flush(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """M24."""
    driver = opened(driver=Driver(machine(cache_bytes=0)))
    ok(put(driver, 1, key=b"a"))
    driver.machine.flush()

    def fail(*_: object) -> None:
        raise CorruptionError("the row is missing")

    monkeypatch.setattr(Store, "_load", fail)
    with pytest.raises(CorruptionError):
        put(driver, 2, lowest=2, key=b"a", prev_kv=True)
    monkeypatch.undo()
    assert driver.machine.store.pending == []
    again = Driver(StateMachine(driver.machine.backend, CLUSTER))
    assert list(kept(again.machine)) == [1]
    ok(put(again, 2, lowest=2, key=b"a"))


def test_a_write_that_flushes_before_it_reads_the_past_flushes_nothing_of_itself() -> None:
    driver = opened()
    for sequence in (1, 2):
        ok(put(driver, sequence))
    request = pb.TxnRequest(
        success=[
            pb.RequestOp(request_put=pb.PutRequest(key=b"k", value=b"3")),
            pb.RequestOp(request_range=pb.RangeRequest(key=b"k", revision=2)),
        ]
    )
    backend = driver.machine.backend
    assert isinstance(backend, MemoryBackend)
    written: list[list[Row]] = []
    write = backend.write

    def watch(rows: list[Row]) -> None:
        written.append(rows)
        write(rows)

    backend.write = watch  # type: ignore[method-assign]
    content = payload(commands.TXN, request.SerializeToString(), (SESSION, 3, 3))
    answer = ok(driver.entry(content))
    assert pb.TxnResponse.FromString(answer.body).responses[1].response_range.kvs[0].version == 1
    ((*rows, _),) = written
    assert sessions.row_name(SESSION, 3) not in [name for name, _ in rows]
    before = Driver(StateMachine(backend, CLUSTER))
    assert list(kept(before.machine)) == [1, 2]
    assert ok(before.entry(content)) == answer
    assert before.machine.state_hash == driver.machine.state_hash


# --- rows ------------------------------------------------------------------------
@pytest.mark.parametrize("session", [SMALLEST, -1, 1, LARGEST])
def test_a_row_says_everything_about_an_answer(session: int) -> None:
    error = ApiError(9, "etcdserver: nö", Outcome.UNKNOWN)
    for sequence in (1, (1 << 63) - 1):
        name = sessions.row_name(session, sequence)
        assert SESSION_ROWS[0] <= name < SESSION_ROWS[1]
        for answer in (Result(1, b""), Result((1 << 63) - 1, b"\0" * 70_000)):
            row = sessions.answer_row(answer)
            assert sessions.parse_row(name, row) == (session, sequence, answer)
        *place, read = sessions.parse_row(name, sessions.answer_row(error))
        assert place == [session, sequence]
        assert isinstance(read, ApiError)
        assert (read.code, read.text, read.outcome) == (error.code, error.text, error.outcome)


@pytest.mark.parametrize(
    "damage",
    ["version", "kind", "short", "shorter", "name", "lowest with a sequence", "outcome", "text"],
)
def test_a_row_that_holds_no_answer_is_corruption(damage: str) -> None:
    driver = opened()
    ok(put(driver, 2, lowest=2))
    (lowest_name, lowest), (name, value) = session_rows(driver.machine)
    replaced: dict[str, list[Row]] = {
        "version": [(name, b"\x09" + value[1:])],
        "kind": [(name, value[:1] + b"\x07" + value[2:])],
        "short": [(name, value[:5])],
        "shorter": [(name, value[:1])],
        "name": [(name, None), (name[:-1], value)],
        "lowest with a sequence": [(name, lowest)],
        "outcome": [(name, b"\x01\x02\x09\x07x")],
        "text": [(name, b"\x01\x02\x09\x01\xff\xfe")],
    }
    driver.machine.backend.write(replaced[damage])
    with pytest.raises(CorruptionError, match="no answer"):
        StateMachine(driver.machine.backend, CLUSTER)
    driver.machine.backend.write([(name, value), (name[:-1], None), (lowest_name, value)])
    with pytest.raises(CorruptionError, match="no answer"):
        StateMachine(driver.machine.backend, CLUSTER)


def test_an_answer_of_a_session_that_does_not_exist_is_corruption() -> None:
    driver = opened()
    ok(put(driver, 1))
    driver.machine.flush()
    driver.machine.backend.write([(leases.row_name(SESSION), None)])
    with pytest.raises(CorruptionError, match="session 77, which does not exist"):
        StateMachine(driver.machine.backend, CLUSTER)


def test_opening_pauses_while_it_reads_many_answers() -> None:
    driver = Driver()
    for session in range(1, 21):
        ok(begin(driver, session))
        for sequence in range(1, MAX_KEPT_ANSWERS + 1):
            ok(put(driver, sequence, session=session))
    driver.machine.flush()
    loaded = sessions.Sessions(driver.machine.store)
    pauses = list(loaded.load(range(1, 21)))
    assert len(pauses) == 20 * MAX_KEPT_ANSWERS // sessions.SLICE_ROWS
    assert loaded.kept_bytes == driver.machine.sessions.kept_bytes


# --- against a small model ---------------------------------------------------------
class Reference:
    """What must become of every write, with nothing but dictionaries that forget nothing."""

    def __init__(self) -> None:
        self.answers: dict[tuple[int, int], Any] = {}
        self.lowest: dict[int, int] = {}  # of the sessions that are open
        self.carried_out = 0

    def expect(self, session: int, sequence: int, lowest: int) -> Any:
        """An error, an answer, or None: it is carried out."""
        if sequence - lowest >= MAX_KEPT_ANSWERS:
            return SEQUENCE_TOO_HIGH
        if session not in self.lowest:
            return SESSION_NOT_FOUND
        closed = sequence < self.lowest[session]
        self.lowest[session] = max(self.lowest[session], lowest)
        return SESSION_PASSED if closed else self.answers.get((session, sequence))


@pytest.mark.parametrize("seed", range(6))
def test_random_logs_are_carried_out_as_the_model_says(seed: int) -> None:
    """On one machine that restarts at random and on one that applies whole turns."""
    random = Random(seed)
    model = Reference()
    driver, twin = Driver(), Driver()
    chunk: list[Entry] = []
    wanted: list[Any] = []
    for index in range(1, 900):
        content, outcome = _next(random, model, driver)
        chunk.append(Entry(index, TERM, NORMAL, content))
        wanted.append(outcome)
        assert version(driver.machine) == model.carried_out
        if random.randrange(20) == 0:
            driver.reopen()
        if random.randrange(5) == 0:
            assert _in_chunk(twin.machine, chunk) == wanted
            assert twin.machine.state_hash == driver.machine.state_hash
            chunk, wanted = [], []
            if random.randrange(5) == 0:
                twin.machine.flush()
    assert model.carried_out > 100
    assert driver.machine.sessions.by_id.keys() == model.lowest.keys()


def _next(random: Random, model: Reference, driver: Driver) -> tuple[bytes, Any]:
    """The next entry, applied on `driver`: its payload and what it was answered."""
    session = random.randrange(1, 5)
    draw = random.randrange(40)
    if draw < 2:
        if session in model.lowest:
            content = commands.encode(commands.LEASE_REVOKE, leases.revoke_request(session))
            del model.lowest[session]
            model.answers = {at: one for at, one in model.answers.items() if at[0] != session}
        else:
            content = commands.encode(commands.SESSION_OPEN, leases.grant_request(session, 60_000))
            model.lowest[session] = 1
        return content, ok(driver.entry(content))
    lowest = max(1, model.lowest.get(session, 1) + random.choice((-3, -1, 0, 0, 0, 0, 1)))
    sequence = lowest + random.choice((0, 1, 2, 3, 4, 5, 63, 64))
    value = b"1" if random.randrange(2) else b""  # the second kind goes the general way
    request = pb.PutRequest(key=b"k", value=value).SerializeToString()
    content = payload(commands.PUT, request, (session, sequence, lowest))
    expected = model.expect(session, sequence, lowest)
    outcome = driver.entry(content)
    if expected is None:
        model.answers[session, sequence] = ok(outcome)
        model.carried_out += 1
    else:
        assert outcome == expected
    return content, outcome


def _in_chunk(subject: StateMachine, chunk: list[Entry]) -> list[Any]:
    results: list[Any] = []
    while len(results) < len(chunk):
        results += subject.apply_some(chunk, len(results))
    return results
