"""Virtual clients: what they ask, whom, how long they wait, and the history they leave.

A client does one thing at a time: it picks a member and an operation, waits for the
answer or its timeout, thinks, and goes on. It never repeats an operation. Values are
unique (the operation's identity), so a value names its writer.

Keys: a few "k" keys, checked by the revision witness and, key by key, by the search of
`sim.wgl`; they are exchanged for fresh ones after a while so that a search stays short.
A few "m" keys for commands on several keys and compares on mod revisions, checked by
the witness only.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from raftkv.errors import ApiError
from raftkv.errors import Outcome as ErrorOutcome
from raftkv.sim.etcd import decode_response, encode_message, encode_request
from raftkv.sim.operations import (
    Compact,
    Compare,
    Delete,
    Found,
    Get,
    KeyValue,
    Operation,
    Outcome,
    Put,
    Request,
    TxnDone,
)
from raftkv.sim.operations import Txn as Transaction
from raftkv.sim.world import MILLISECOND, SECOND, Timer, World

LIVE_KEYS: Final = 4  # of each kind
PASSER_BY: Final = 2_000_000  # client number of those that ask once only
ROTATION: Final = 250  # operations on "k" keys before they are exchanged


class Server(Protocol):
    """A member as a client sees it."""

    def request(self, operation: Operation, data: bytes) -> None:
        """Takes a request; the answer comes to `Clients.answered`, `refused` or never."""


@dataclass(frozen=True, slots=True)
class Load:
    """clients: how many. think_us: mean pause between operations of one client.

    Weights of the kinds of operations; need not add up to anything.
    """

    clients: int = 8
    think_us: int = 70 * MILLISECOND
    timeout_us: int = 3 * SECOND
    value_bytes: int = 0
    put: int = 30
    get: int = 25
    serializable: int = 8
    span: int = 5
    delete: int = 8
    swap: int = 15
    multi: int = 8
    compact: int = 1


class Clients:
    """All clients of a run and their history.

    members(): whom they may ask now; server(member): how to reach it.
    waiting: operations without an answer that have not timed out, by identity.
    """

    def __init__(
        self,
        world: World,
        load: Load,
        members: Callable[[], Sequence[int]],
        server: Callable[[int], Server],
    ) -> None:
        self.history: list[Operation] = []
        self.sent: dict[int, bytes] = {}  # identity -> request bytes, for commands
        self.counts: Counter[str] = Counter()
        self.load = load
        self.running = False
        self.newest_revision = 1  # of any answer
        self.acknowledged_at_us: list[int] = []
        self._world = world
        self._random: Random = world.stream("clients")
        self._members = members
        self._server = server
        self.waiting: dict[int, tuple[Operation, Timer]] = {}
        self._known: dict[bytes, KeyValue | None] = {}  # newest answer per key
        self._generation = 0
        self._on_generation = 0
        self._kinds = ["put", "get", "serializable", "span", "delete", "swap", "multi", "compact"]
        self._weights = [getattr(load, kind) for kind in self._kinds]

    def start(self) -> None:
        """Let every client begin after a random pause."""
        self.running = True
        for client in range(self.load.clients):
            self._world.after(self._random.randrange(self.load.think_us), self._act, client)

    def stop(self) -> None:
        """No new operations; what waits goes on waiting."""
        self.running = False

    # --- asking -----------------------------------------------------------------

    def _act(self, client: int) -> None:
        if not self.running:
            return
        self.ask(client, self._random.choice(self._members()), self._draw_request())

    def ask(self, client: int, member: int, request: Request) -> Operation:
        """Send `request` of `client` to `member` now."""
        world = self._world
        identity = len(self.history) + 1
        operation = Operation(identity, client, member, request, world.now_us)
        self.history.append(operation)
        if isinstance(request, Get):
            data = encode_message(request)
        else:
            data = self.sent[identity] = encode_request(request, identity)
        timer = world.after(self.load.timeout_us, self._timed_out, operation)
        self.waiting[identity] = (operation, timer)
        world.after(self._travel_us(), self._server(member).request, operation, data)
        return operation

    def rush(self, member: int, count: int) -> None:
        """`count` clients that come once ask `member` for a change each, all at the same time."""
        for _ in range(count):
            key = b"m%d" % self._random.randrange(LIVE_KEYS)
            self.ask(PASSER_BY, member, Put(key, b"%d" % (len(self.history) + 1)))

    def _travel_us(self) -> int:
        return 100 + int(self._random.expovariate(1.0) * 200)

    def _draw_request(self) -> Request:
        random = self._random
        kind = random.choices(self._kinds, self._weights)[0]
        self.counts["asked"] += 1
        key = self._draw_key()
        value = b"%d" % (len(self.history) + 1)
        if self.load.value_bytes:
            value = value.ljust(random.randrange(self.load.value_bytes), b".")
        if kind == "put":
            return Put(key, value)
        if kind == "get":
            return Get(key)
        if kind == "serializable":
            return Get(key, serializable=True)
        if kind == "span":
            return Get(b"m", b"n")
        if kind == "delete":
            return Delete(key)
        if kind == "compact":
            return Compact(max(1, self.newest_revision - random.randrange(100)))
        if kind == "swap":
            return self._swap(key, value)
        return self._multi(value)

    def _draw_key(self) -> bytes:
        self._on_generation += 1
        if self._on_generation > ROTATION * LIVE_KEYS:
            self._generation += 1
            self._on_generation = 0
            self._known = {key: known for key, known in self._known.items() if key[:1] == b"m"}
        return b"k%d/%d" % (self._generation, self._random.randrange(LIVE_KEYS))

    def _swap(self, key: bytes, value: bytes) -> Transaction:
        known = self._known.get(key)
        compare = Compare(key) if known is None else Compare(key, value=known.value)
        return Transaction((compare,), (Put(key, value),), (Get(key),))

    def _multi(self, value: bytes) -> Transaction:
        random = self._random
        keys = [b"m%d" % number for number in range(LIVE_KEYS)]
        first, second = random.sample(keys, 2)
        known = self._known.get(first)
        compare = Compare(first, mod_revision=known.mod_revision if known else 0)
        changes: tuple[Put | Get | Delete, ...] = (Put(first, value), Put(second, value))
        if random.random() < 0.2:
            changes = (Delete(second), Put(first, value), Get(b"m", b"n"))
        return Transaction((compare,), changes, (Get(b"m", b"n"),))

    # --- answers ----------------------------------------------------------------

    def answered(self, operation: Operation, revision: int, body: bytes) -> None:
        """A member answers: arrives after the way back."""
        self._world.after(self._travel_us(), self._arrive, operation, revision, body)

    def refused(self, operation: Operation, error: ApiError) -> None:
        """A member answers with an error."""
        self._world.after(self._travel_us(), self._fail, operation, error.outcome, error.text)

    def unreachable(self, operation: Operation) -> None:
        """Nobody listens there: nothing was sent."""
        self._fail(operation, ErrorOutcome.DEFINITE, "connection refused")

    def disconnected(self, operation: Operation) -> None:
        """The member died while the operation was with it."""
        self._fail(operation, ErrorOutcome.UNKNOWN, "connection lost")

    def _arrive(self, operation: Operation, revision: int, body: bytes) -> None:
        if not self._finish(operation):
            return
        operation.outcome = Outcome.OK
        operation.revision = revision
        operation.response = decode_response(operation.request, body)
        self.newest_revision = max(self.newest_revision, revision)
        self.counts["acknowledged"] += 1
        self.acknowledged_at_us.append(self._world.now_us)
        self._world.record("ok", operation.identity, operation.member, revision)
        self._learn(operation)
        self._think(operation.client)

    def _fail(self, operation: Operation, outcome: ErrorOutcome, text: str) -> None:
        if not self._finish(operation):
            return
        definite = outcome is ErrorOutcome.DEFINITE
        operation.outcome = Outcome.DEFINITE if definite else Outcome.UNKNOWN
        operation.error = text
        if not definite:
            operation.returned_us = None
        self.counts["refused" if definite else "unknown"] += 1
        self._world.record("failed", operation.identity, operation.member, text)
        self._think(operation.client)

    def _timed_out(self, operation: Operation) -> None:
        self.counts["timed out"] += 1
        self._fail(operation, ErrorOutcome.UNKNOWN, "timed out")

    def _finish(self, operation: Operation) -> bool:
        """False if the client no longer waits for this answer."""
        waiting = self.waiting.pop(operation.identity, None)
        if waiting is None:
            return False
        waiting[1].cancel()
        operation.returned_us = self._world.now_us
        return True

    def _think(self, client: int) -> None:
        if self.running and client < self.load.clients:
            pause_us = int(self._random.expovariate(1.0) * self.load.think_us)
            self._world.after(pause_us, self._act, client)

    def _learn(self, operation: Operation) -> None:
        """Remember what was read, for later compares."""
        request, response = operation.request, operation.response
        if isinstance(request, Put):
            at = operation.revision
            self._known[request.key] = KeyValue(request.key, request.value, 0, at, 0)
        elif isinstance(request, Delete):
            self._known[request.key] = None
        elif isinstance(response, Found):
            self._see(response, request)
        elif isinstance(response, TxnDone) and isinstance(request, Transaction):
            parts = request.success if response.succeeded else request.failure
            for part, answer in zip(parts, response.responses, strict=True):
                if isinstance(answer, Found):
                    self._see(answer, part)

    def _see(self, found: Found, request: object) -> None:
        if isinstance(request, Get) and not request.end:
            self._known[request.key] = None
        for one in found.keys:
            self._known[one.key] = one
