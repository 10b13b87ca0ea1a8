"""A log full of repetitions against a log that has each write once and knows no sessions."""

from random import Random
from typing import Any

import pytest

from raftkv.errors import (
    LEASE_EXISTS,
    SEQUENCE_TOO_HIGH,
    SESSION_NOT_FOUND,
    SESSION_PASSED,
    ApiError,
)
from raftkv.kv import commands, leases
from raftkv.kv.machine import Result, StateMachine
from raftkv.limits import MAX_KEPT_ANSWERS
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NORMAL, Entry
from tests.kv.adapter import TERM, Driver
from tests.kv.leasing import ok

KEYS = (b"a", b"b", b"c")
SESSIONS = (1, 2, 3)
LEASES = (8, 9)
EVERY_INDEX = 1 << 60

Request = tuple[int, bytes]  # command, request
Asked = tuple[int, int, int]


def _put(random: Random) -> pb.PutRequest:
    """Also one that the state may refuse, and one with much to answer."""
    put = pb.PutRequest(key=random.choice(KEYS), value=b"%d" % random.randrange(99))
    put.lease = random.choice((0, 0, 0, *LEASES))
    put.prev_kv = random.random() < 0.3
    if random.random() < 0.1:
        put.value, put.ignore_value = b"", True
    elif random.random() < 0.03:
        put.value = bytes(70_000)
    return put


def _txn(random: Random) -> pb.TxnRequest:
    compare = pb.Compare(key=random.choice(KEYS), target=pb.Compare.VERSION)
    compare.version = random.randrange(3)
    request = pb.TxnRequest(compare=[compare])
    put = _put(random)
    request.success.add().request_put.CopyFrom(put)
    if random.random() < 0.5:
        other = pb.DeleteRangeRequest(key=put.key + b"x", prev_kv=True)
        request.success.add().request_delete_range.CopyFrom(other)
    read = pb.RangeRequest(key=random.choice(KEYS), revision=random.choice((0, 0, 3)))
    request.failure.add().request_range.CopyFrom(read)
    return request


def _write(random: Random) -> Request:
    """What may be in a session."""
    drawn = random.random()
    if drawn < 0.3:
        return commands.PUT, _put(random).SerializeToString()
    if drawn < 0.55:
        return commands.TXN, _txn(random).SerializeToString()
    if drawn < 0.65:
        delete = pb.DeleteRangeRequest(key=b"a", range_end=b"c", prev_kv=True)
        return commands.DELETE_RANGE, delete.SerializeToString()
    if drawn < 0.75:
        return commands.LEASE_GRANT, leases.grant_request(random.choice(LEASES), 5000)
    if drawn < 0.8:
        return commands.LEASE_GRANT_DRAWN, leases.grant_request(random.choice(LEASES), 5000)
    if drawn < 0.9:
        lease = random.choice((*LEASES, *LEASES, 20, 21, random.choice(SESSIONS)))
        return commands.LEASE_REVOKE, leases.revoke_request(lease)
    put = pb.PutRequest(key=random.choice(KEYS), value=b"t").SerializeToString()
    lease = random.choice((20, 21))
    return commands.PUT_WITH_TTL, leases.put_with_ttl_request(lease, 700, put)


def _other(random: Random, subject: StateMachine) -> Request:
    """What is in no session."""
    drawn = random.random()
    if drawn < 0.35:
        lease = random.choice(SESSIONS)
        return commands.SESSION_OPEN, leases.grant_request(lease, 60_000)
    if drawn < 0.5:
        ended = random.sample((*SESSIONS, *LEASES, 20, 21), 2)
        return commands.LEASE_EXPIRE, leases.expire_request(TERM, EVERY_INDEX, ended)
    if drawn < 0.6:
        revision = max(subject.revision - random.randrange(5), 1)
        return commands.COMPACT, pb.CompactionRequest(revision=revision).SerializeToString()
    if drawn < 0.7:
        return commands.LEASE_REVOKE, leases.revoke_request(random.choice(LEASES))
    return commands.PUT, pb.PutRequest(key=random.choice(KEYS), value=b"p").SerializeToString()


class Reference:
    """A machine that is given every write once. It never forgets an answer.

    counts: what became of the attempts.
    """

    def __init__(self) -> None:
        self.driver = Driver()
        self.requests: dict[tuple[int, int], Request] = {}
        self.counts = {"carried out": 0, "repeated": 0, "refused": 0, "errors": 0}
        self._answers: dict[tuple[int, int], Result | ApiError] = {}
        self._lowest: dict[int, int] = {}  # of the sessions that are open

    def plainly(self, request: Request) -> Result | ApiError:
        """What is in no session."""
        return self._follow(self.driver.command(*request))

    def once(self, asked: Asked, request: Request) -> Result | ApiError:
        """What an attempt must be answered."""
        session, sequence, lowest = asked
        at = session, sequence
        refusal = None
        if sequence - lowest >= MAX_KEPT_ANSWERS:
            refusal = SEQUENCE_TOO_HIGH
        elif session not in self._lowest:
            refusal = SESSION_NOT_FOUND
        elif sequence < self._lowest[session]:
            refusal = SESSION_PASSED
        if refusal is not SEQUENCE_TOO_HIGH and session in self._lowest:
            self._lowest[session] = max(self._lowest[session], lowest)
        if refusal is not None:
            self.counts["refused"] += 1
            return refusal
        if at in self._answers:
            self.counts["repeated"] += 1
            return self._answers[at]
        self.counts["carried out"] += 1
        outcome = self._follow(self.driver.command(*request))
        self.counts["errors"] += isinstance(outcome, ApiError)
        if session in self._lowest and not (
            outcome is LEASE_EXISTS and request[0] != commands.LEASE_GRANT
        ):
            self._answers[at] = outcome
        return outcome

    def lowest(self, session: int) -> int:
        """Of an open session; 1 of others."""
        return self._lowest.get(session, 1)

    def _follow(self, outcome: Result | ApiError) -> Result | ApiError:
        """Sessions begin and end as leases do."""
        open_now = {one.id for one in self.driver.machine.leases if one.session}
        for session in [one for one in self._lowest if one not in open_now]:
            del self._lowest[session]
            for at in [at for at in self._answers if at[0] == session]:
                del self._answers[at]
            for at in [at for at in self.requests if at[0] == session]:
                del self.requests[at]
        for session in sorted(open_now):
            self._lowest.setdefault(session, 1)
        return outcome


class Twin:
    """Applies whole turns, and loses what it has not flushed when it crashes."""

    def __init__(self, random: Random) -> None:
        self.machine = Driver().machine
        self._flushed = False
        self._log: list[Entry] = []
        self._random = random
        self._answers: list[Any] = []

    def turn(self, entries: list[Entry]) -> list[Any]:
        """The answers to these entries; a replay must have the same."""
        self._log += entries
        if self._random.random() < 0.2:
            backend, cluster = self.machine.backend, self.machine.cluster
            if self._flushed:
                self.machine = StateMachine(backend, cluster, self.machine.settings, None)
        first = self.machine.applied_index
        behind = self._log[first:]
        results: list[Any] = []
        while len(results) < len(behind):
            results += self.machine.apply_some(behind, len(results))
        said = [_said(one) for one in results]
        assert said[: len(self._answers) - first] == self._answers[first:]
        self._answers[first:] = said
        if self._random.random() < 0.3:
            self.machine.flush()
            self._flushed = True
        return said[len(said) - len(entries) :]


def _said(answer: Any) -> Any:
    """What a client hears: errors are no values."""
    if isinstance(answer, ApiError):
        return answer.code, answer.text, answer.outcome
    return answer


def _same(given: Any, wanted: Result | ApiError) -> bool:
    if isinstance(wanted, Result) and isinstance(given, ApiError):
        return given.text.startswith(f"raftkv: already applied at revision {wanted.revision};")
    return bool(_said(given) == _said(wanted))


def _everything(subject: StateMachine) -> Any:
    found = ok(subject.range(pb.RangeRequest(key=b"\0", range_end=b"\0")))
    return found, list(subject.leases.by_id)


@pytest.mark.parametrize("seed", range(8))
def test_repetitions_leave_the_same_as_each_write_once(seed: int) -> None:
    """C01: every kind of write and of answer, sessions that end in between, restarts."""
    random = Random(seed)
    model, driver, twin = Reference(), Driver(), Twin(random)
    chunk: list[Entry] = []
    wanted: list[Any] = []
    for index in range(1, 700):
        if random.random() < 0.2:
            request = _other(random, driver.machine)
            content = commands.encode(*request)
            expected = model.plainly(request)
        else:
            session = random.choice(SESSIONS)
            low = max(1, model.lowest(session) + random.choice((-2, 0, 0, 0, 0, 0, 0, 1)))
            sequence = low + random.choice((0, 0, 1, 2, 3, 63, 64))
            request = model.requests.setdefault((session, sequence), _write(random))
            content = commands.encode(*request, None, (session, sequence, low))
            expected = model.once((session, sequence, low), request)
        outcome = driver.entry(content)
        assert _same(outcome, expected), (index, request, outcome, expected)
        assert driver.machine.revision == model.driver.machine.revision
        chunk.append(Entry(index, TERM, NORMAL, content))
        wanted.append(_said(outcome))
        if random.random() < 0.05:
            driver.reopen()
        if random.random() < 0.2:
            assert twin.turn(chunk) == wanted
            assert twin.machine.state_hash == driver.machine.state_hash
            chunk, wanted = [], []
    assert _everything(driver.machine) == _everything(model.driver.machine)
    assert min(model.counts.values()) > 20, model.counts
