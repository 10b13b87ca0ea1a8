"""Virtual clients that repeat writes in sessions, and what becomes of every entry of a session.

A client opens a session, keeps its lease alive, and has a few writes under way at once. What is not
answered in time it asks again, of any member, until it is answered, it gives up, or the session is
over; sometimes it asks once more when all is over (what a late duplicate on the network does). Its
writes are puts, deletes and transactions that would show a second execution: in the key's version,
in the revision of everything behind it, or in their own answer.

`SessionLog` says for every entry of the committed log whether it must be carried out, from the
rules alone (`raftkv.v1`), and forgets nothing. What it lets through goes to the model with
everything else, so a member that carries out more or less differs from the model in its revisions
and keys. Besides: whatever a write is answered, however often, is one and the same answer, and
nobody is told that a write is closed which its client still asks for (C01).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from raftkv.errors import SESSION_NOT_FOUND, SESSION_PASSED, ApiError
from raftkv.kv import commands
from raftkv.kv.leases import grant_request
from raftkv.kv.machine import Result
from raftkv.raft.types import NORMAL
from raftkv.sim.etcd import COMMANDS, decode_response, encode_message
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.leasing import Held, LeaseCall, Leasing
from raftkv.sim.operations import (
    Compare,
    Delete,
    Expire,
    Get,
    LeaseCommand,
    Operation,
    Outcome,
    Put,
    Request,
    Revoke,
    Txn,
)
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.clients import Clients
    from raftkv.sim.node import Node

ASKER: Final = 4_000_000  # client numbers of those with sessions
KEYS: Final = 3
TTLS_MS: Final = (1000, 2000, 3000)
WINDOW: Final = 3  # writes of one client under way
THINK_US: Final = 180 * MILLISECOND
PATIENCE_MS: Final = (20, 100, 300, 800)  # one is drawn: until a write is asked again


@dataclass(slots=True)
class Write:
    """One write and what is known of it. asked: session, sequence, lowest unanswered sequence of
    the newest attempt. over: its client does not ask any more, unless as a late duplicate.
    """

    operation: Operation
    data: bytes
    asked: commands.Triple
    over: bool = False
    answer: Result | None = None


@dataclass(slots=True)
class Session:
    """A session of a client. writes: under way, by sequence. lost: it is known to be over."""

    held: Held
    next_sequence: int = 1
    writes: dict[int, Write] = field(default_factory=dict)
    lost: bool = False


class SessionLog:
    """Which entries of sessions must be carried out, in log order. counts: what became of them."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._open: dict[int, int] = {}  # session -> lowest unanswered sequence
        self._granted: dict[int, int] = {}  # session -> index
        self._done: set[tuple[int, int]] = set()

    def opened(self, session: int, index: int) -> None:
        """A session begins."""
        self._open[session], self._granted[session] = 1, index

    def lease(self, command: LeaseCommand) -> None:
        """Leases end, and sessions with them."""
        if isinstance(command, Revoke):
            self._open.pop(command.lease, None)
        elif isinstance(command, Expire) and command.term == command.entry_term:
            for lease in command.leases:
                if self._granted.get(lease, 0) <= command.known_index:
                    self._open.pop(lease, None)

    def carries_out(self, asked: commands.Triple) -> bool:
        """Must this entry be carried out?"""
        session, sequence, lowest = asked
        if session not in self._open:
            self.counts["too late"] += 1
            return False
        closed = sequence < self._open[session]
        self._open[session] = max(self._open[session], lowest)
        if closed or (session, sequence) in self._done:
            self.counts["closed" if closed else "repeated"] += 1
            return False
        self._done.add((session, sequence))
        self.counts["carried out"] += 1
        return True


class Sessioning:
    """All clients with sessions of a run.

    number: how many. counts: what happened to them. identities: of operations, by session and
    sequence.
    """

    def __init__(self, leasing: Leasing, clients: "Clients", number: int) -> None:
        self.counts: Counter[str] = Counter()
        self.identities: dict[tuple[int, int], int] = {}
        self.log = SessionLog()
        self._leasing = leasing
        self._clients = clients
        self._number = number
        self._world = leasing.world
        self._random = self._world.stream("sessions")
        self._running = False
        self._known: dict[bytes, int] = {}  # key -> mod revision

    def start(self) -> None:
        """They begin."""
        self._running = True
        for client in range(self._number):
            self._later(SECOND, self._open, client)

    def stop(self) -> None:
        """Nothing new; what is under way is asked until it is answered."""
        self._running = False

    def _later(self, most_us: int, act: Callable[..., None], *arguments: object) -> None:
        self._world.after(self._random.randrange(most_us), act, *arguments)

    def _node(self) -> "Node":
        cluster = self._leasing.cluster
        return cluster.nodes[self._random.choice(cluster.members)]

    # --- the session --------------------------------------------------------------
    def _open(self, client: int) -> None:
        if not self._running:
            return
        held = self._leasing.new_lease(self._random.choice(TTLS_MS))
        node = self._node()
        call = LeaseCall(self._leasing, held, lambda call: self._opened(client, call))
        request = grant_request(held.id, held.ttl_us // MILLISECOND)
        call.send(node, lambda: node.replica.propose(commands.SESSION_OPEN, request, (call, b"")))

    def _opened(self, client: int, call: LeaseCall) -> None:
        if not isinstance(call.result, Result):
            self._later(300 * MILLISECOND, self._open, client)
            return
        session = Session(call.held)
        self.counts["opened"] += 1
        self._keep(session)
        self._act(client, session)

    def _keep(self, session: Session) -> None:
        if not self._running or session.lost:
            return
        self._leasing.renew(session.held, lambda _: None, self._node())
        silence = 1.5 if self._random.random() < 0.05 else self._random.uniform(0.2, 0.5)
        self._world.after(int(session.held.ttl_us * silence), self._keep, session)

    def _act(self, client: int, session: Session) -> None:
        if not self._running:
            return
        if session.lost:
            self._later(300 * MILLISECOND, self._open, client)
            return
        if len(session.writes) < WINDOW:
            self._write(client, session)
        self._world.after(int(self._random.expovariate(1.0) * THINK_US), self._act, client, session)

    # --- its writes -----------------------------------------------------------------
    def _write(self, client: int, session: Session) -> None:
        history = self._clients.history
        request, identity = self._draw(len(history) + 1), len(history) + 1
        operation = Operation(identity, ASKER + client, 0, request, self._world.now_us)
        history.append(operation)
        data = self._clients.sent[identity] = encode_message(request)
        sequence = session.next_sequence
        session.next_sequence += 1
        self.identities[session.held.id, sequence] = identity
        write = Write(operation, data, (session.held.id, sequence, sequence))
        session.writes[sequence] = write
        self._ask(session, write)

    def _draw(self, identity: int) -> Request:
        random = self._random
        key, value = b"e%d" % random.randrange(KEYS), b"%d" % identity
        drawn = random.random()
        if drawn < 0.5:
            return Put(key, value)
        if drawn < 0.6:
            return Delete(key)
        compare = Compare(key, mod_revision=self._known.get(key, 0))
        if drawn < 0.8:
            return Txn((compare,), (Put(key, value),), (Get(key),))
        return Txn((compare,), (Put(key, value), Get(b"e", b"f")), (Put(key, value),))

    def _ask(self, session: Session, write: Write) -> None:
        """One attempt, and the next if it is not answered in time."""
        if write.over:
            return
        number, sequence, _ = write.asked
        write.asked = (number, sequence, min(session.writes))
        self._send(session, write)
        patience_us = self._random.choice(PATIENCE_MS) * MILLISECOND
        self._world.after(patience_us, self._ask_again, session, write)

    def _ask_again(self, session: Session, write: Write) -> None:
        if write.over:
            return
        if self._running and self._random.random() < 0.03:
            self.counts["given up"] += 1
            self._end(session, write)
            return
        self.counts["asked again"] += 1
        self._ask(session, write)

    def _send(self, session: Session, write: Write) -> None:
        node = self._node()
        call = LeaseCall(self._leasing, session.held, lambda call: self._told(session, write, call))
        command = COMMANDS[type(write.operation.request)] + commands.IN_SESSION
        request = commands.session_bytes(*write.asked) + write.data
        self._world.record("ask once", node.member, write.asked, request)
        call.send(node, lambda: node.replica.propose(command, request, (call, b"")))

    def _ask_late(self, session: Session, write: Write) -> None:
        self.counts["late duplicates"] += 1
        self._send(session, write)

    # --- what they are told -----------------------------------------------------------
    def _told(self, session: Session, write: Write, call: LeaseCall) -> None:
        result = call.result
        if isinstance(result, Result):
            self._answered(session, write, result)
        elif isinstance(result, ApiError):
            self._refused(session, write, result)

    def _answered(self, session: Session, write: Write, result: Result) -> None:
        if write.answer is not None:
            self.counts["answered again"] += 1
            if write.answer != result:
                raise InvariantBroken("C01", f"{write} is answered {result}")
            return
        write.answer = result
        if write.over:
            return
        operation = write.operation
        operation.outcome = Outcome.OK
        operation.returned_us = self._world.now_us
        operation.revision = result.revision
        operation.response = decode_response(operation.request, result.body)
        self._clients.counts["acknowledged"] += 1
        self.counts["answered"] += 1
        if isinstance(operation.request, Put):
            self._known[operation.request.key] = result.revision
        self._end(session, write)

    def _refused(self, session: Session, write: Write, error: ApiError) -> None:
        if error.text == SESSION_NOT_FOUND.text:
            self.counts["sessions lost"] += not session.lost
            session.lost = True
            if not write.over:
                self._end(session, write)
        elif error.text == SESSION_PASSED.text:
            self.counts["passed"] += 1
            if not write.over:
                raise InvariantBroken("C01", f"{write} was closed while it was asked for")

    def _end(self, session: Session, write: Write) -> None:
        write.over = True
        del session.writes[write.asked[1]]
        if self._random.random() < 0.2:
            self._later(SECOND, self._ask_late, session, write)

    # --- the committed log ------------------------------------------------------------
    def identity_of(self, payload: bytes, kind: int, index: int) -> int | None:
        """The operation that an entry carries out, None if it is none of a session's or must not
        be carried out. To be called for every entry, in log order.
        """
        if kind != NORMAL:
            return None
        found = commands.decode(payload)
        if found.command == commands.SESSION_OPEN:
            self.log.opened(int.from_bytes(found.request[:8], "big"), index)
        if found.session is None or not self.log.carries_out(found.session):
            return None
        return self.identities[found.session[:2]]
