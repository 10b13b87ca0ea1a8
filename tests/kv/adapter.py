"""A state machine dressed as a server of one node, for tests that compare it with a real one.

It does what the layers above the machine do: checks a request's form, wraps it into an entry,
applies it, puts the header in front. `restless` makes it flush, restart and compact at random
places, all of which must be invisible.
"""

from random import Random
from typing import Any

from google.protobuf.message import Message

from raftkv.errors import LEASE_TTL_TOO_LARGE, ApiError, Code
from raftkv.kv import commands, encoding, leases, txn
from raftkv.kv.machine import Bootstrap, MachineSettings, Result, StateMachine
from raftkv.kv.members import Member
from raftkv.kv.writes import is_read_only
from raftkv.limits import MAX_LEASE_TTL_SECONDS
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NORMAL, Configuration, Entry
from tests.conformance.target import Answer
from tests.kv.memory import MemoryBackend

CLUSTER = 0xC1
MEMBER = 0x11
TERM = 3
CODES = {number: name for name, number in vars(Code).items() if name.isupper()}
ANSWERS: dict[type[Message], type[Message]] = {
    pb.PutRequest: pb.PutResponse,
    pb.RangeRequest: pb.RangeResponse,
    pb.DeleteRangeRequest: pb.DeleteRangeResponse,
    pb.TxnRequest: pb.TxnResponse,
    pb.CompactionRequest: pb.CompactionResponse,
    pb.LeaseGrantRequest: pb.LeaseGrantResponse,
    pb.LeaseRevokeRequest: pb.LeaseRevokeResponse,
}
COMMANDS: dict[type[Message], int] = {
    pb.PutRequest: commands.PUT,
    pb.DeleteRangeRequest: commands.DELETE_RANGE,
    pb.TxnRequest: commands.TXN,
    pb.CompactionRequest: commands.COMPACT,
    pb.LeaseGrantRequest: commands.LEASE_GRANT,
    pb.LeaseRevokeRequest: commands.LEASE_REVOKE,
}
MIN_TTL_SECONDS = 2  # etcd's, with its default timings


def request_bytes(request: Message) -> bytes:
    """What a server puts into the entry."""
    if isinstance(request, pb.LeaseGrantRequest):
        return leases.grant_request(request.ID, max(request.TTL, MIN_TTL_SECONDS) * 1000)
    if isinstance(request, pb.LeaseRevokeRequest):
        return leases.revoke_request(request.ID)
    return request.SerializeToString()


def finish(steps: Any) -> Any:
    """The return value of a generator, its pauses ignored."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def bootstrap() -> Bootstrap:
    """A cluster of one."""
    return Bootstrap(Configuration((MEMBER,)), [Member(MEMBER, "one", ("http://one:2380",))])


def machine(backend: Any = None, **settings: int) -> StateMachine:
    """A machine on `backend`, or on a fresh one in memory."""
    chosen = MemoryBackend() if backend is None else backend
    return StateMachine(chosen, CLUSTER, MachineSettings(**settings), bootstrap())


class Driver:
    """Feeds requests to a machine as entries with growing indexes."""

    def __init__(self, subject: StateMachine | None = None) -> None:
        self.machine = subject or machine()

    def submit(self, request: Message) -> Result | ApiError:
        """A write, applied without a check of its form."""
        return self.command(COMMANDS[type(request)], request_bytes(request))

    def command(self, command: int, request: bytes, term: int = TERM) -> Result | ApiError:
        """A command with its bytes, applied as an entry of this term."""
        payload = commands.encode(command, request)
        subject = self.machine
        outcome = subject.apply(Entry(subject.applied_index + 1, term, NORMAL, payload))
        assert outcome is not None
        return outcome

    def grant(self, lease: int, ttl_ms: int = 60_000) -> Result | ApiError:
        """A lease."""
        return self.command(commands.LEASE_GRANT, leases.grant_request(lease, ttl_ms))

    def entry(self, payload: bytes, kind: int = NORMAL) -> Result | ApiError | None:
        """The next entry of the log, applied."""
        return self.machine.apply(Entry(self.machine.applied_index + 1, TERM, kind, payload))

    def perform(self, request: Message) -> Result | ApiError:
        """What a server does with a request."""
        subject = self.machine
        if isinstance(request, pb.RangeRequest):
            return txn.validate_range(request) or subject.range(request)
        error: ApiError | None = None
        if isinstance(request, pb.PutRequest):
            error = txn.validate_put(request)
        elif isinstance(request, pb.DeleteRangeRequest):
            error = txn.validate_delete(request)
        elif isinstance(request, pb.TxnRequest):
            error = txn.validate_txn(request, subject.settings.max_txn_ops)
            if error is None and is_read_only(request):
                return subject.read_txn(request)
        elif isinstance(request, pb.LeaseGrantRequest) and request.TTL > MAX_LEASE_TTL_SECONDS:
            error = LEASE_TTL_TOO_LARGE
        return error or self.submit(request)

    def call(self, request: Message) -> Answer:
        """The server's whole answer."""
        if isinstance(request, pb.LeaseTimeToLiveRequest):
            return Answer("OK", message=self._time_to_live(request))
        outcome = self.perform(request)
        if isinstance(outcome, ApiError):
            return Answer(CODES[outcome.code], outcome.text)
        header = encoding.header(CLUSTER, MEMBER, outcome.revision, TERM)
        return Answer("OK", message=ANSWERS[type(request)].FromString(header + outcome.body))

    def _time_to_live(self, request: pb.LeaseTimeToLiveRequest) -> pb.LeaseTimeToLiveResponse:
        """What the machine knows of it. What remains is the clock's: here all of it."""
        subject = self.machine
        header = pb.ResponseHeader(
            cluster_id=CLUSTER, member_id=MEMBER, revision=subject.revision, raft_term=TERM
        )
        answer = pb.LeaseTimeToLiveResponse(header=header, ID=request.ID, TTL=-1)
        lease = subject.leases.get(request.ID)
        if lease is not None:
            answer.TTL = answer.grantedTTL = lease.ttl_ms // 1000
            if request.keys:
                answer.keys.extend(subject.lease_keys(request.ID))
        return answer

    def reopen(self) -> None:
        """Flush and start again from the rows."""
        self.machine.flush()
        old = self.machine
        self.machine = StateMachine(old.backend, old.cluster, old.settings, None)
        assert self.machine.state_hash == old.state_hash


class RestlessDriver(Driver):
    """Flushes, restarts, compacts and takes the long way round, at random."""

    def __init__(self, random: Random, subject: StateMachine | None = None) -> None:
        super().__init__(subject)
        self.random = random

    def perform(self, request: Message) -> Result | ApiError:
        draw = self.random.randrange(60)
        if draw < 8:
            self.machine.flush()
        elif draw == 8:
            self.reopen()
        elif draw < 14:
            self.machine.compact_slice(rows=self.random.randrange(1, 9))
        if isinstance(request, pb.RangeRequest):
            self._check_the_other_ways(request)
        elif isinstance(request, pb.TxnRequest):
            self._check_slices(request)
        return super().perform(request)

    def _check_slices(self, request: pb.TxnRequest) -> None:
        """A transaction that only reads says the same in slices."""
        subject = self.machine
        if is_read_only(request) and not txn.validate_txn(request, subject.settings.max_txn_ops):
            assert finish(subject.read_txn_steps(request)) == subject.read_txn(request)

    def _check_the_other_ways(self, request: pb.RangeRequest) -> None:
        """The sliced range, the streamed one and the one from bytes say the same."""
        subject = self.machine
        if txn.validate_range(request) is not None:
            return
        expected = subject.range(request)
        assert subject.range(request.SerializeToString()) == expected
        if self.random.randrange(3):
            return
        assert finish(subject.range_steps(request)) == expected
        chunks = []
        stream = subject.range_stream(request)
        while True:
            try:
                chunk = next(stream)
            except StopIteration as stop:
                last = stop.value
                break
            chunks.append(chunk or b"")
        if isinstance(last, ApiError):
            assert last == expected or last.code == Code.UNIMPLEMENTED
        else:
            assert isinstance(expected, Result)
            assert b"".join(chunks) + last.body == expected.body
