"""Virtual clients that hold leases, and what must be true of every lease.

A client is granted a lease, attaches some keys to it, renews it through members drawn at random
and then falls silent or revokes it. Some, when it is about to end, revoke it and have it granted
again under its id, without waiting in between, so that what was decided about the one may meet the
other. Some also have an expiry proposed that names a term of before: what is left of a former
leader's decisions (M09). `Leasing` follows the committed log and checks:

* nobody's lease ends by the clock before the sending of an answered keepalive + TTL (M06, M07);
* a keepalive sent after a revocation was acknowledged is not granted (M08), but by a leader that
  was deposed less than an election timeout ago (`replica.lessor`);
* nobody is told that a lease is gone that was granted and has not ended;
* who asks what is left of one is told no more than was granted, and that much it lives (M06);
* at the end, when all were silent for long enough, no lease is left, and no key of one (M11).

Puts with a TTL and their leases are in `sim.ttl_puts`, upper bounds in `sim.lease_bounds`.

Which expiries count and which keys go with them is the model's to say (`sim.model`).

True time decides. Where clocks run fast or slow a TTL may pass in `FASTEST` of its time; the tenth
of an election timeout that pays for clocks in `replica.lessor` covers less than the rates here.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.leases import expire_request, grant_request, revoke_request
from raftkv.raft.types import NORMAL, Entry
from raftkv.replica.effects import LeaseAnswer
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.lease_bounds import LeaseBounds
from raftkv.sim.operations import Expire, Grant, LeaseCommand, Put, Revoke
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster
    from raftkv.sim.node import Node

TTLS_MS: Final = (1000, 1500, 2000, 3000)
TIMEOUT_US: Final = 2 * SECOND
KEYS: Final = 6  # that leases take from each other
HOLDER: Final = 3_000_000  # client numbers of those that hold leases
FASTEST: Final = 1.2  # a clock's rate, and SLOWEST
SLOWEST: Final = 0.8
_EVERYTHING: Final = 1 << 62  # an index behind all
_TRAVEL_US: Final = 300
_FIRST_LEASE: Final = 0x1000


def lease_command(
    entry_term: int, payload: bytes, kind: int = NORMAL, index: int = 0
) -> LeaseCommand | None:
    """What a committed entry does to leases."""
    if kind != NORMAL:
        return None
    found = commands.decode(payload)
    request = found.request
    number = int.from_bytes(request[:8], "big")
    if found.command in (commands.LEASE_GRANT, commands.SESSION_OPEN):
        return Grant(number, int.from_bytes(request[8:], "big"), index)
    if found.command == commands.LEASE_REVOKE:
        return Revoke(number)
    if found.command == commands.LEASE_EXPIRE:
        known, *ids = (
            int.from_bytes(request[at : at + 8], "big") for at in range(8, len(request), 8)
        )
        return Expire(number, entry_term, tuple(ids), known)
    return None


@dataclass(slots=True)
class Held:
    """A lease as everybody knows it. Times in virtual microseconds, 0: never.

    promised_us: until then it must live. granted, ended: in the committed log; the newest time if
    it was granted again. active_us: of the newest try to renew it. revoked_us: when its holder was
    told that it is revoked.
    """

    id: int
    ttl_us: int
    promised_us: int = 0
    granted: bool = False
    granted_index: int = 0
    granted_us: int = 0
    active_us: int = 0
    ended_us: int = 0
    ended_by_clock: bool = False
    revoked_us: int = 0


class LeaseCall:
    """One call about a lease; the ticket of what it asks a replica.

    done: told the answer, or None if there was none in time.
    """

    def __init__(self, leasing: "Leasing", held: Held, done: Callable[["LeaseCall"], None]) -> None:
        self.held = held
        self.called_us = leasing.world.now_us
        self.result: object = None
        self.renews = False
        self._leasing = leasing
        self._done: Callable[[LeaseCall], None] | None = done
        leasing.world.after(TIMEOUT_US, self._end)

    def send(self, node: "Node", act: Callable[[], ApiError | None]) -> None:
        """Go to a member; `act` asks its replica, which is there then."""

        def arrive() -> None:
            refusal = act()
            node.wake()
            if refusal is not None:
                self.replied(refusal)

        node.later(self._leasing.travel_us(), arrive)

    def replied(self, result: object) -> None:
        """The member answers."""
        self._leasing.world.after(self._leasing.travel_us(), self._arrive, result)

    def _arrive(self, result: object) -> None:
        self.result = result
        if isinstance(result, LeaseAnswer):
            if self.renews:
                self._leasing.renewed(self, result.ttl_seconds)
            else:
                self._leasing.told(self, result)
        self._end()

    def _end(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self)


class Leasing:
    """All that hold leases in a run, and the checks.

    clocks: whether clocks may run at wrong rates. counts: what happened. checked: by what was
    checked, how often. held: all that there ever were, by id.
    """

    def __init__(self, cluster: "Cluster", number: int, *, clocks: bool) -> None:
        self.world = cluster.world
        self.cluster = cluster
        self.random = self.world.stream("leases")
        self.running = False
        self.counts: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.held: dict[int, Held] = {}
        self._number = number
        self._alive: set[int] = set()
        self._clocks = clocks
        self._elections_us: list[int] = []
        self._bounds = LeaseBounds(self)
        if number:
            cluster.commit_watchers.append(self.committed)
            cluster.leader_watchers.append(self._elected)

    @property
    def linger_us(self) -> int:
        """How long after the last renewal the longest lease may be there, all being well."""
        if not self._number:
            return 0
        return int(1.5 * max(TTLS_MS) * MILLISECOND) + 4 * self.cluster.election_us

    def start(self) -> None:
        """They begin."""
        self.running = True
        for holder in range(self._number):
            self.world.after(self.random.randrange(SECOND), self._live, holder)
        if self._number:
            self._bounds.start()

    def stop(self) -> None:
        """Everybody falls silent."""
        self.running = False

    # --- what a client does -----------------------------------------------------------
    def _live(self, holder: int) -> None:
        if not self.running:
            return
        held = self.new_lease(self.random.choice(TTLS_MS))
        keepalives = self.random.choice((0, 1, 4, 10))
        self.grant(held, lambda call: self._granted(holder, call, keepalives))

    def new_lease(self, ttl_ms: int) -> Held:
        """A lease that nobody has asked for yet."""
        lease = _FIRST_LEASE + len(self.held)
        held = self.held[lease] = Held(lease, ttl_ms * MILLISECOND)
        return held

    def alive(self) -> list[Held]:
        """Those that the committed log has granted and not ended."""
        return [self.held[lease] for lease in sorted(self._alive)]

    def _granted(self, holder: int, call: LeaseCall, keepalives: int) -> None:
        if not self.running:
            return
        if call.result is None or isinstance(call.result, ApiError):
            self.world.after(100 * MILLISECOND, self._live, holder)
            return
        clients = self.cluster.clients
        assert clients is not None
        for _ in range(self.random.randint(0, 3)):
            key = b"l%d" % self.random.randrange(KEYS)
            put = Put(key, b"%d" % (len(clients.history) + 1), call.held.id)
            clients.ask(HOLDER + holder, self._member(), put)
        self._later_on(holder, call.held, keepalives)

    def _later_on(self, holder: int, held: Held, keepalives: int) -> None:
        pause_us = int(held.ttl_us * self.random.uniform(0.1, 0.8))
        self.world.after(pause_us, self._go_on, holder, held, keepalives)

    def _go_on(self, holder: int, held: Held, keepalives: int) -> None:
        if not self.running:
            return
        if keepalives:
            if self.random.random() < 0.2:
                self.expire_late(held)
            self.renew(held, lambda _: self._later_on(holder, held, keepalives - 1))
            return
        draw = self.random.random()
        if draw < 0.3:
            self.revoke(held, lambda call: self._revoked(holder, call))
            return
        if draw < 0.7:
            late_us = self.random.randrange(-50, 150) * MILLISECOND
            pause_us = max(held.promised_us + late_us - self.world.now_us, 0)
            self.world.after(pause_us, self._replace_soon, holder, held)
            return
        self.world.after(self.random.randrange(SECOND), self._live, holder)

    def _replace_soon(self, holder: int, held: Held) -> None:
        if self.running:
            self.replace(held, lambda call: self._granted(holder, call, 2))

    def _revoked(self, holder: int, call: LeaseCall) -> None:
        """One that was not told, or another process of it, goes on renewing."""
        for _ in range(2):
            pause_us = self.random.randrange(300 * MILLISECOND)
            self.world.after(pause_us, self._renew_again, call.held)
        self.world.after(self.random.randrange(SECOND), self._live, holder)

    def _renew_again(self, held: Held) -> None:
        self.renew(held, lambda _: None)

    def _member(self) -> int:
        return self.random.choice(self.cluster.members)

    def travel_us(self) -> int:
        """One way between a client and a member."""
        return 100 + int(self.random.expovariate(1.0) * _TRAVEL_US)

    # --- calls --------------------------------------------------------------------------
    def grant(
        self, held: Held, done: Callable[[LeaseCall], None], node: "Node | None" = None
    ) -> LeaseCall:
        """LeaseGrant at a member, drawn if none is given. A lease that was granted is promised."""

        node = node or self.cluster.nodes[self._member()]
        call, propose = self._granting(held, done, node)
        call.send(node, propose)
        return call

    def _granting(
        self, held: Held, done: Callable[[LeaseCall], None], node: "Node"
    ) -> tuple[LeaseCall, Callable[[], ApiError | None]]:
        def granted(call: LeaseCall) -> None:
            if call.result is not None and not isinstance(call.result, ApiError):
                self.promise(held, call.called_us, held.ttl_us)
            done(call)

        request = grant_request(held.id, held.ttl_us // MILLISECOND)
        call = LeaseCall(self, held, granted)
        return call, lambda: node.replica.propose(commands.LEASE_GRANT, request, (call, b""))

    def replace(
        self, held: Held, done: Callable[[LeaseCall], None], node: "Node | None" = None
    ) -> LeaseCall:
        """LeaseRevoke and LeaseGrant of the same id, one behind the other without an answer."""
        member = node or self.cluster.nodes[self._member()]
        revoked = LeaseCall(self, held, lambda _: None)
        granted, grant = self._granting(held, done, member)

        def both() -> ApiError | None:
            request = revoke_request(held.id)
            refusal = member.replica.propose(commands.LEASE_REVOKE, request, (revoked, b""))
            if refusal is not None:
                revoked.replied(refusal)
            return grant()

        granted.send(member, both)
        return granted

    def revoke(
        self, held: Held, done: Callable[[LeaseCall], None], node: "Node | None" = None
    ) -> LeaseCall:
        """LeaseRevoke."""

        def revoked(call: LeaseCall) -> None:
            if call.result is not None and not isinstance(call.result, ApiError):
                if held.ended_us:  # it was not granted again meanwhile
                    held.revoked_us = self.world.now_us
                self.counts["revoked"] += 1
            done(call)

        return self._propose(held, commands.LEASE_REVOKE, revoke_request(held.id), revoked, node)

    def expire_late(self, held: Held) -> None:
        """An expiry of a term that is over: nothing may come of it."""
        node = self.cluster.nodes[self._member()]
        request = expire_request(max(node.term - 1, 0), _EVERYTHING, [held.id])
        self._propose(held, commands.LEASE_EXPIRE, request, lambda _: None, node)

    def _propose(
        self,
        held: Held,
        command: int,
        request: bytes,
        done: Callable[[LeaseCall], None],
        node: "Node | None",
    ) -> LeaseCall:
        node = node or self.cluster.nodes[self._member()]
        call = LeaseCall(self, held, done)
        call.send(node, lambda: node.replica.propose(command, request, (call, b"")))
        return call

    def renew(
        self, held: Held, done: Callable[[LeaseCall], None], node: "Node | None" = None
    ) -> LeaseCall:
        """LeaseKeepAlive, once."""
        node = node or self.cluster.nodes[self._member()]
        call = LeaseCall(self, held, done)
        call.renews = True
        held.active_us = call.called_us
        self.counts["keepalives"] += 1
        call.send(node, lambda: node.replica.renew(held.id, (call, b"")))
        return call

    def ask(self, held: Held, node: "Node | None" = None) -> LeaseCall:
        """LeaseTimeToLive."""
        node = node or self.cluster.nodes[self._member()]
        call = LeaseCall(self, held, lambda _: None)
        call.send(node, lambda: node.replica.time_to_live(held.id, (call, b"")))
        return call

    # --- checks ---------------------------------------------------------------------------
    def renewed(self, call: LeaseCall, ttl_seconds: int) -> None:
        """A keepalive's answer has arrived."""
        held = call.held
        self.world.record("renewed", held.id, ttl_seconds)
        if not ttl_seconds:
            self.counts["told gone"] += 1
            self._check_gone(call)
            return
        self.counts["renewed"] += 1
        self._check_alive(call)
        self.promise(held, call.called_us, held.ttl_us)

    def told(self, call: LeaseCall, answer: LeaseAnswer) -> None:
        """The answer to `ask` has arrived."""
        held, left = call.held, answer.ttl_seconds
        self.world.record("left", held.id, left)
        if left < 0:
            self.counts["told unknown"] += 1
            self._check_gone(call)
            return
        self.counts["told what is left"] += 1
        granted = -(-held.ttl_us // SECOND)
        if answer.granted_seconds != granted or left * SECOND > held.ttl_us:
            raise InvariantBroken("lease", f"{held}: {answer}")
        self._check_alive(call)
        self.promise(held, call.called_us, left * SECOND)

    def _check_gone(self, call: LeaseCall) -> None:
        held = call.held
        self.checked["lease gone"] += 1
        if held.granted and not held.ended_us and held.granted_us < call.called_us:
            raise InvariantBroken("lease", f"{held} is said to be gone at {self.world.now_us}")

    def _check_alive(self, call: LeaseCall) -> None:
        """M08: an answer of a lease whose revocation was acknowledged before the question."""
        held = call.held
        self.checked["lease alive"] += 1
        if held.revoked_us and call.called_us > held.revoked_us:
            early_us = int(self.cluster.election_us / (SLOWEST if self._clocks else 1))
            if not any(
                call.called_us - early_us <= at_us <= held.ended_us for at_us in self._elections_us
            ):
                raise InvariantBroken("M08", f"{held} was alive for a call of {call.called_us}")
            self.counts["alive for a deposed leader"] += 1

    def promise(self, held: Held, since_us: int, ttl_us: int) -> None:
        """From `since_us` on it must live for so long."""
        if self._clocks:  # the contact with a quorum is measured by a slow clock, the rest by a
            # fast one: E / SLOWEST - 1.1 E / FASTEST is less than this
            ttl_us = int(ttl_us / FASTEST - 0.35 * self.cluster.election_us)
        held.promised_us = max(held.promised_us, since_us + ttl_us)
        if held.ended_by_clock:
            self._check_end(held)

    def _check_end(self, held: Held) -> None:
        self.checked["lease promise"] += 1
        if held.ended_us < held.promised_us:
            raise InvariantBroken(
                "M07", f"{held} ended {(held.promised_us - held.ended_us) / SECOND} s too early"
            )

    def committed(self, entry: Entry) -> None:
        """An entry was applied for the first time."""
        if entry.kind != NORMAL:
            return
        if entry.payload[1] == commands.LEASE_CHECKPOINT:
            self.counts["checkpoints"] += 1
        command = lease_command(entry.term, entry.payload, index=entry.index)
        if isinstance(command, Grant):
            self.begun(self.held[command.lease], command.log_index)
        elif isinstance(command, Revoke):
            self.ended(command.lease, by_clock=False)
        elif isinstance(command, Expire):
            if command.term != command.entry_term:
                self.counts["late expiries"] += 1
                return
            for lease in command.leases:
                if lease not in self.held:
                    continue  # not one of these clients'
                if self.held[lease].granted_index <= command.known_index:
                    self.ended(lease, by_clock=True)
                else:
                    self.counts["overtaken expiries"] += 1

    def begun(self, held: Held, index: int) -> None:
        """A lease was granted, unless there is one with its id."""
        if held.granted and not held.ended_us:
            return
        self.counts["granted again" if held.granted else "granted"] += 1
        self._alive.add(held.id)
        held.granted, held.granted_index = True, index
        held.granted_us = held.active_us = self.world.now_us
        held.ended_us = held.revoked_us = 0
        held.ended_by_clock = False

    def ended(self, lease: int, *, by_clock: bool) -> None:
        """A lease has ended in the committed log, if it was there."""
        held = self.held.get(lease)
        if held is not None and held.granted and not held.ended_us:
            self._alive.discard(lease)
            held.ended_us = self.world.now_us
            held.ended_by_clock = by_clock
            if by_clock:
                self.counts["expired"] += 1
                self._check_end(held)

    def _elected(self, member: int) -> None:
        self._elections_us.append(self.world.now_us)

    def check_over(self) -> None:
        """All were silent for `linger_us`: no lease is left, and no key of one (M11)."""
        if not self._number:
            return
        for member in self.cluster.goal:
            node = self.cluster.nodes[member]
            left = list(node.replica.machine.leases)
            if left:
                known = [self.held[one.id] for one in left]
                raise InvariantBroken("M11", f"member {member} has {known} at {self.world.now_us}")
            orphans = [one.key for one in node.live_keys() if one.lease]
            if orphans:
                raise InvariantBroken("M11", f"member {member} has {orphans} of leases that ended")
