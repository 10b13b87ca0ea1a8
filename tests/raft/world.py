"""A cluster of nodes under one seed, its network, and what must hold after every step.

`World` draws every decision from its seed and checks after each step:

* election safety: one leader per term;
* log matching: an entry's (index, term) determines its content and its predecessor's term;
* leader completeness: a new leader holds every committed entry;
* durability: what a leader commits is durable on a quorum of its configuration;
* state machine safety: all members apply the same entry at an index, in order;
* linearizable reads: a read's index covers every entry applied anywhere when it began.

Afterwards (`settle`) faults end, and the cluster must elect, commit and converge.
"""

import heapq
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from raftkv.raft.core import Core, CoreSettings
from raftkv.raft.describe import line
from raftkv.raft.messages import InstallSnapshot, Message, VoteReply
from raftkv.raft.ready import Ready
from raftkv.raft.roles import LEADER, Refusal
from raftkv.raft.types import Configuration, LogBatch
from tests.raft.harness import Node, State, Violation, require

T = TypeVar("T")


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and how often. Times are in ticks; rates are events per tick.

    Every seed scales each of these by a factor of its own, so that rare orders of events
    meet each other ("swarm testing").
    """

    proposals: float = 1.5
    reads: float = 1.0
    crashes: float = 0.05
    cuts: float = 0.05
    transfers: float = 0.04
    losses: float = 0.04  # a follower is told that its leader is gone
    checkpoints: float = 0.1
    changes: float = 0.0
    voter_crashes: float = 0.05  # share of votes after which the voter crashes at once
    drop: float = 0.03  # share of messages
    duplicate: float = 0.03
    late: float = 0.05  # share of messages that take up to `late_ticks`
    late_ticks: float = 25.0
    message_ticks: float = 0.3
    disk_ticks: float = 0.3
    turn_ticks: float = 0.1


NO_FAULTS = Faults(0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.1, 0.1, 0.02)


@dataclass
class World:
    """A cluster under one seed. See the module's docstring."""

    seed: int
    voters: int = 3
    spare: int = 0  # further members, in no configuration at first
    faults: Faults = field(default_factory=Faults)
    make: Callable[..., Core] = Core
    timeout_ticks: int = 4

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        self.states: dict[tuple[int, int], State] = {}  # of snapshots: (sender, index)
        first = Configuration(tuple(range(1, self.voters + 1)))
        self.nodes: dict[int, Node] = {}
        for member in range(1, self.voters + self.spare + 1):
            settings = CoreSettings(
                member,
                election_timeout_ticks=self.timeout_ticks,
                max_append_bytes=64,
                max_inflight_bytes=256,
                max_inflight_messages=4,
                max_uncommitted_bytes=2048,
                max_log_cache_bytes=2000,
            )
            configuration = first if member in first.voters else Configuration()
            self.nodes[member] = Node(settings, configuration, self.random, self.make)
        self.epochs = dict.fromkeys(self.nodes, 0)  # counts lives
        self.turning = dict.fromkeys(self.nodes, False)
        self.synced = dict.fromkeys(self.nodes, 0.0)  # when its disk is free
        self.cuts: dict[tuple[int, int], float] = {}  # until when
        self.leaders: dict[int, int] = {}  # by term
        self.content: dict[tuple[int, int], tuple[int, bytes, int]] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.commit = 0
        self.applied = 0
        self.digests: dict[int, int] = {0: 0}
        self.commits = dict.fromkeys(self.nodes, 0)
        self.led = dict.fromkeys(self.nodes, False)  # at its last check
        self.configurations = dict.fromkeys(self.nodes, (0, Configuration()))  # the same
        self.reads: dict[tuple[int, int], int] = {}  # (member, number) -> least index
        self.count = Counter[str]()
        scaled = {
            name: value * self.random.choice((0.25, 1.0, 1.0, 3.0))
            for name, value in vars(self.faults).items()
        }
        self.faults = Faults(**scaled)
        for node in self.nodes.values():
            self.at(self.random.random(), self.do_tick, node)
        for name in ("proposals", "reads", "crashes", "cuts", "transfers", "losses"):
            self._schedule(name)
        self._schedule("checkpoints")
        self._schedule("changes")

    # --- time ---------------------------------------------------------------------

    def at(self, delay: float, action: Callable[..., None], *args: Any) -> None:
        """Call `action` after `delay` ticks."""
        self._sequence += 1
        heapq.heappush(self._events, (self.now + delay, self._sequence, action, args))

    def run(self, ticks: float) -> None:
        """Let time pass."""
        end = self.now + ticks
        events = self._events
        while events[0][0] <= end:
            self.now, _, action, args = heapq.heappop(events)
            action(*args)
        self.now = end

    def _schedule(self, name: str) -> None:
        rate = getattr(self.faults, name)
        if rate > 0:
            self.at(self.random.expovariate(rate), self._happen, name)

    def _happen(self, name: str) -> None:
        self._schedule(name)
        if getattr(self.faults, name) > 0:
            node = self.random.choice(list(self.nodes.values()))
            getattr(self, "do_" + name)(node)

    def wake(self, node: Node) -> None:
        """A fact reached `node`: it takes a turn soon."""
        self.check(node)
        if node.core.has_ready() and not self.turning[node.member]:
            self.turning[node.member] = True
            delay = self.random.random() * self.faults.turn_ticks
            self.at(delay, self.do_turn, node, self.epochs[node.member])

    def do_tick(self, node: Node) -> None:
        self.at(self.random.uniform(0.8, 1.2), self.do_tick, node)
        if node.up:
            node.core.tick()
            self.wake(node)

    # --- network --------------------------------------------------------------------

    def send(self, message: Message) -> None:
        """Put a message on the network."""
        faults, random = self.faults, self.random
        if isinstance(message, InstallSnapshot):
            sender = self.nodes[message.sender]
            if sender.disk.state.meta == message.snapshot:
                self.states[message.sender, message.snapshot.index] = sender.disk.state
            elif (message.sender, message.snapshot.index) not in self.states:
                sender.core.snapshot_sent(message.to, False, message.snapshot.index)
                return
        voted = isinstance(message, VoteReply) and message.granted and not message.pre
        if voted and random.random() < faults.voter_crashes:
            self.at(random.random() * 0.5, self.do_crashes, self.nodes[message.sender])
        copies = 1
        if random.random() < faults.drop:
            copies = 0
            if isinstance(message, InstallSnapshot):
                self.at(1.0, self._snapshot_ended, message, self.epochs[message.sender], False)
        elif random.random() < faults.duplicate:
            copies = 2
        for _ in range(copies):
            delay = random.random() * faults.message_ticks
            if random.random() < faults.late:
                delay += random.random() * faults.late_ticks
            self.at(delay, self.hand, message, self.epochs[message.sender])

    def hand(self, message: Message, sender_epoch: int) -> None:
        """Give a message to its receiver if the network connects them."""
        node = self.nodes[message.to]
        lost = not node.up or self.cuts.get((message.sender, message.to), 0.0) > self.now
        if isinstance(message, InstallSnapshot):
            if not lost:
                state = self.states[message.sender, message.snapshot.index]
                node.received[message.snapshot.index] = state
            self._snapshot_ended(message, sender_epoch, not lost)
        if not lost:
            node.core.step(message)
            self.wake(node)

    def _snapshot_ended(self, message: InstallSnapshot, epoch: int, ok: bool) -> None:
        sender = self.nodes[message.sender]
        if sender.up and self.epochs[message.sender] == epoch:
            sender.core.snapshot_sent(message.to, ok, message.snapshot.index)
            self.wake(sender)

    # --- members ----------------------------------------------------------------------

    def do_turn(self, node: Node, epoch: int) -> None:
        if self.epochs[node.member] != epoch:
            return
        self.turning[node.member] = False
        ready = node.turn(self.send)
        if ready.batch is not None:
            self.check_batch(node, ready.batch)
            delay = self.random.random() * self.faults.disk_ticks
            done = max(self.synced[node.member], self.now + delay)
            self.synced[node.member] = done
            self.at(done - self.now, self.do_sync, node, epoch)
        if ready.installed is not None:
            self.count["installs"] += 1
        meta = node.state.meta
        if ready.committed or ready.installed:
            known = self.digests.setdefault(meta.index, node.state.digest)
            require(known == node.state.digest, f"{node.member} applied other entries")
            self.applied = max(self.applied, meta.index)
        self._check_reads(node, ready)
        self.wake(node)

    def do_sync(self, node: Node, epoch: int) -> None:
        if self.epochs[node.member] == epoch:
            node.sync(self.send)
            self.wake(node)

    def do_crashes(self, node: Node) -> None:
        if node.up:
            self.count["crashes"] += 1
            node.crash(self.random.randint(0, len(node.writing)))
            self.epochs[node.member] += 1
            self.turning[node.member] = False
            self.reads = {key: at for key, at in self.reads.items() if key[0] != node.member}
            pause = self.random.choice((0.1, 1.0, 6.0))
            self.at(self.random.expovariate(1 / pause), self.restart, node)

    def restart(self, node: Node) -> None:
        """Open the disk of a crashed member again."""
        if not node.up:
            node.start()
            self.synced[node.member] = self.now
            self.commits[node.member] = node.core.commit
            self.led[node.member] = False

    def do_cuts(self, node: Node) -> None:
        self.count["cuts"] += 1
        until = self.now + self.random.expovariate(1 / 10)
        both = self.random.random() < 0.7
        others = [other for other in self.nodes.values() if other is not node]
        if self.random.random() < 0.5:
            others = [self.random.choice(others)]
        for other in others:
            self.cuts[node.member, other.member] = until
            if both:
                self.cuts[other.member, node.member] = until
            if other.up and other.core.leader == node.member and self.random.random() < 0.5:
                other.core.leader_connection(False)
                delay = self.random.random()
                self.at(delay, self._try, other, lambda core: core.leader_lost())

    # --- clients and operators --------------------------------------------------------

    def some_leader(self, node: Node) -> Node:
        """A leader, maybe a deposed one that does not know it yet, else `node`."""
        leaders = [other for other in self.nodes.values() if other.up and other.core.is_leader]
        return self.random.choice(leaders) if leaders else node

    def do_proposals(self, node: Node) -> None:
        node = self.some_leader(node)
        payloads = []
        for _ in range(self.random.choice((1, 1, 2, 5))):
            self.count["proposed"] += 1
            payloads.append(b"%d" % self.count["proposed"] + b"x" * self.random.choice((0, 9, 50)))
        self._try(node, lambda core: core.propose(payloads))

    def do_reads(self, node: Node) -> None:
        number = self._try(node, lambda core: core.read())
        if number is not None:
            self.reads[node.member, number] = self.applied

    def do_transfers(self, node: Node) -> None:
        target = self.random.choice(list(self.nodes))
        self._try(self.some_leader(node), lambda core: core.transfer(target))

    def do_losses(self, node: Node) -> None:
        for other in self.random.sample(list(self.nodes.values()), len(self.nodes) // 2 + 1):
            self._try(other, lambda core: core.leader_lost())

    def do_checkpoints(self, node: Node) -> None:
        if node.up:
            node.checkpoint()
            if self.random.random() < 0.6:
                node.compact(self.random.choice((0, 0, 3, 10)))
            self.wake(node)

    def do_changes(self, node: Node) -> None:
        members = list(self.nodes)
        self.random.shuffle(members)
        voters = self.random.randint(1, len(members))
        learners = self.random.randint(voters, len(members))
        wanted = Configuration(
            tuple(sorted(members[:voters])), (), tuple(sorted(members[voters:learners]))
        )
        done = self._try(self.some_leader(node), lambda core: core.change(wanted, b"who"))
        self.count["changes"] += done is not None

    def _try(self, node: Node, request: Callable[[Core], T]) -> T | None:
        if not node.up:
            return None
        try:
            result = request(node.core)
        except Refusal:
            return None
        self.wake(node)
        return result

    # --- checks -----------------------------------------------------------------

    def check_batch(self, node: Node, batch: LogBatch) -> None:
        """Log matching, entry by entry as they are written."""
        if not batch.entries:
            return
        log = node.core.log
        first = batch.entries[0].index
        previous = log.term_at(first - 1) if first > log.anchor_index else -1
        for entry in batch.entries:
            mine = (entry.kind, entry.payload, previous)
            known = self.content.setdefault((entry.index, entry.term), mine)
            require(known == mine, f"two entries ({entry.index}, {entry.term}): {known}, {mine}")
            previous = entry.term

    def check(self, node: Node) -> None:
        """What must hold after any step of `node`."""
        core = node.core
        if core.role is LEADER:
            known = self.leaders.get(core.term)
            if known is None:
                self.leaders[core.term] = node.member
                self.count["elections"] += 1
                if self.commit:
                    require(
                        core.log.last_index >= self.commit
                        and (
                            self.commit < core.log.anchor_index
                            or core.log.matches(self.commit, self.committed[self.commit][0])
                        ),
                        f"leader {node.member} of term {core.term} lacks entry {self.commit}",
                    )
            else:
                require(known == node.member, f"two leaders in term {core.term}")
        before = self.commits[node.member]
        if core.commit != before:
            require(core.commit > before, f"commit of {node.member} went back")
            self.commits[node.member] = core.commit
            self._check_committed(node, before)
        self.led[node.member] = core.role is LEADER
        self.configurations[node.member] = (core.configuration_index, core.configuration)

    def _check_committed(self, node: Node, before: int) -> None:
        core = node.core
        if core.commit > self.commit:
            # A leader that is no voter any more steps down in the step that commits so (R30).
            led = core.role is LEADER or self.led[node.member]
            require(led, f"{node.member} committed {core.commit} by itself")
            self._check_durable(node, before)
        first = max(before, core.log.anchor_index) + 1
        while first <= core.commit:
            entries, _ = core.log.slice(first, core.commit, 1 << 30)
            for entry in entries:
                mine = (entry.term, entry.payload)
                known = self.committed.setdefault(entry.index, mine)
                require(known == mine, f"entry {entry.index} was {known}, is {mine}")
            first += len(entries)
        self.commit = max(self.commit, core.commit)

    def _check_durable(self, node: Node, commit_before: int) -> None:
        """A quorum of the leader's configuration must survive with the entry."""
        core = node.core
        index, configuration = core.commit, core.configuration
        before_index, before = self.configurations[node.member]
        if before.joint and core.configuration_index != before_index:
            # In this step the joint configuration committed at least this, and was left.
            index, configuration = max(before_index, commit_before + 1), before
        term = core.log.term_at(index)
        for group in (configuration.voters, configuration.outgoing):
            holders = [m for m in group if self.nodes[m].disk.holds(index, term)]
            require(
                len(holders) * 2 > len(group) or not group,
                f"entry {index} is committed, but durable only at {holders}",
            )

    def _check_reads(self, node: Node, ready: Ready) -> None:
        """A read must cover whatever was applied anywhere when it began."""
        for number in ready.lost_reads:
            require((node.member, number) in self.reads, f"read {number} lost twice")
            del self.reads[node.member, number]
        for state in ready.reads:
            for member, number in list(self.reads):
                if member != node.member or number > state.number:
                    continue
                least = self.reads.pop((member, number))
                self.count["answered"] += 1
                require(
                    state.index >= least,
                    f"read {number} of {member} saw {state.index}, not {least}",
                )

    # --- after the storm ----------------------------------------------------------

    def settle(self, ticks: int = 150) -> None:
        """No more faults: a leader must emerge, commit, and bring everybody to the same."""
        self.faults = NO_FAULTS
        self.cuts.clear()
        for node in self.nodes.values():
            self.restart(node)
        proposed = 0
        for _ in range(ticks):
            self.run(1.0)
            if not proposed:
                for node in self.nodes.values():
                    if node.core.is_leader:
                        proposed = self._try(node, lambda core: core.propose([b"settled"])) or 0
            elif self.settled(proposed):
                return
        raise Violation("the cluster did not settle: " + "; ".join(self.lines()))

    def settled(self, proposed: int) -> bool:
        """True if all members of the configuration applied everything."""
        leaders = [node for node in self.nodes.values() if node.core.is_leader]
        if len(leaders) != 1:
            return False
        core = leaders[0].core
        return (
            core.commit == core.last_index
            and core.commit >= proposed
            and not core.configuration.joint
            and all(
                self.nodes[member].state.meta.index == core.commit
                for member in core.configuration.members()
            )
        )

    def lines(self) -> list[str]:
        """One line per member."""
        return [line(node.core) + ("" if node.up else " DOWN") for node in self.nodes.values()]


def storm(seed: int, ticks: float, **options: Any) -> World:
    """Run one seed through faults and recovery; the world afterwards."""
    world = World(seed, **options)
    world.run(ticks)
    world.settle()
    return world
