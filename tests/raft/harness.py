"""A cluster of cores in memory, its disks, its network, and what must hold after every step.

`Node` executes `Ready` exactly as `raft/ready.py` says, against a `Disk` whose batches
become durable one by one, later. A crash keeps any prefix of the batches on their way and
loses everything else. `World` draws every decision from one seed and checks after each step:

* election safety: one leader per term;
* log matching: an entry's (index, term) determines its content and its predecessor's term;
* leader completeness: a new leader holds every committed entry;
* durability: what a leader commits is durable on a quorum of its configuration;
* state machine safety: all members apply the same entry at an index, in order;
* linearizable reads: a read's index covers every entry applied anywhere when it began.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from raftkv.raft.core import Core, CoreSettings
from raftkv.raft.membership import decode_change
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.ready import Ready
from raftkv.raft.roles import LEADER, Refusal
from raftkv.raft.types import (
    CONFIG,
    Configuration,
    Entry,
    HardState,
    LogBatch,
    RecoveredLog,
    SnapshotMeta,
)


class Violation(AssertionError):
    """A promise of Raft was broken."""


def require(condition: bool, text: str) -> None:
    """Raise Violation unless `condition`."""
    if not condition:
        raise Violation(text)


@dataclass
class State:
    """A state machine: what it applied, as a digest."""

    meta: SnapshotMeta
    digest: int = 0

    def apply(self, entry: Entry) -> "State":
        """The state after `entry`."""
        require(entry.index == self.meta.index + 1, f"applied {entry} after {self.meta.index}")
        configuration = self.meta.configuration
        if entry.kind == CONFIG:
            configuration = decode_change(entry.payload)[0]
        digest = hash((self.digest, entry.index, entry.term, entry.payload))
        return State(SnapshotMeta(entry.index, entry.term, configuration), digest)


class Disk:
    """What survives a crash."""

    def __init__(self, configuration: Configuration) -> None:
        self.hard_state = HardState()
        self.anchor = (0, 0)
        self.log: list[Entry] = []
        self.state = State(SnapshotMeta(0, 0, configuration))

    @property
    def last_index(self) -> int:
        return self.anchor[0] + len(self.log)

    def write(self, batch: LogBatch, installed: State | None) -> None:
        """One batch becomes durable."""
        if batch.hard_state is not None:
            require(batch.hard_state.term >= self.hard_state.term, "the durable term went back")
            self.hard_state = batch.hard_state
        if batch.reset is not None:
            self.anchor = (batch.reset.index, batch.reset.term)
            self.log = []
            assert installed is not None
            self.state = installed
        if batch.truncate_from:
            del self.log[batch.truncate_from - self.anchor[0] - 1 :]
        if batch.entries:
            require(batch.entries[0].index == self.last_index + 1, "a hole in the durable log")
            self.log.extend(batch.entries)

    def compact(self, index: int) -> int:
        """Drop entries up to `index`. Returns its term."""
        term = self.log[index - self.anchor[0] - 1].term
        del self.log[: index - self.anchor[0]]
        self.anchor = (index, term)
        return term

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """The LogReader seam."""
        found = self.log[first - self.anchor[0] - 1 : last - self.anchor[0]]
        size, count = 0, 0
        for entry in found:
            size += len(entry.payload)
            if count and size > max_bytes:
                break
            count += 1
        return found[:count]

    def holds(self, index: int, term: int) -> bool:
        """True if the entry (index, term), or state that covers it, is durable."""
        if index <= self.anchor[0]:
            return True
        at = index - self.anchor[0] - 1
        return at < len(self.log) and self.log[at].term == term

    def recover(self) -> RecoveredLog:
        """What storage finds at open."""
        runs: list[tuple[int, int]] = []
        for entry in self.log:
            if not runs or runs[-1][1] != entry.term:
                runs.append((entry.index, entry.term))
        last = self.log[-1].term if self.log else self.anchor[1]
        changes = [(e.index, e.payload) for e in self.log if e.kind == CONFIG]
        return RecoveredLog(self.hard_state, *self.anchor, self.last_index, last, runs, changes)


class Node:
    """One member: a core, its disk, and the duties of a driver."""

    def __init__(
        self,
        settings: CoreSettings,
        configuration: Configuration,
        source: Random,
        make: Callable[..., Core] = Core,
    ) -> None:
        self.member = settings.member
        self.settings = settings
        self.disk = Disk(configuration)
        self.source = source
        self.make = make
        self.up = False
        self.received: dict[int, State] = {}  # states of snapshots, by index
        self.start()

    def start(self) -> None:
        """Open the disk and begin as a follower."""
        self.state = self.disk.state
        self.writing: deque[tuple[LogBatch, State | None]] = deque()
        self.waiting: deque[tuple[int, list[Message]]] = deque()
        self.done = 0
        self.core = self.make(
            self.settings,
            self.disk.recover(),
            self.disk,
            self.state.meta,
            Random(self.source.getrandbits(64)),
        )
        self.up = True

    def crash(self, survive: int) -> None:
        """Lose everything but the disk and the first `survive` batches on their way."""
        for batch, installed in list(self.writing)[:survive]:
            self.disk.write(batch, installed)
        self.up = False

    def turn(self, send: Callable[[Message], None]) -> Ready:
        """Execute one Ready; messages that may go are given to `send`."""
        ready = self.core.ready()
        if ready.installed is not None:
            self.state = self.received[ready.installed.index]
        if ready.batch is not None:
            self.writing.append((ready.batch, self.state if ready.batch.reset else None))
        for message in ready.messages:
            send(message)
        if ready.after:
            self.waiting.append((ready.after_number, ready.after))
            self._release(send)
        for entry in ready.committed:
            self.state = self.state.apply(entry)
        self.core.applied_to(self.state.meta.index)
        return ready

    def sync(self, send: Callable[[Message], None]) -> None:
        """The oldest batch on its way becomes durable."""
        if self.writing:
            batch, installed = self.writing.popleft()
            self.disk.write(batch, installed)
            self.done = batch.number
            self.core.persisted(batch.number)
            self._release(send)

    def _release(self, send: Callable[[Message], None]) -> None:
        while self.waiting and self.waiting[0][0] <= self.done:
            for message in self.waiting.popleft()[1]:
                send(message)

    def checkpoint(self) -> None:
        """The state becomes durable, and can be sent, as it is now (the log covers it)."""
        if not any(batch.reset for batch, _ in self.writing):
            self.disk.state = self.state
            self.core.snapshot_point(self.state.meta)

    def compact(self, keep: int) -> None:
        """Drop the log behind the checkpoint, but for `keep` entries."""
        index = self.disk.state.meta.index - keep
        busy = any(batch.reset for batch, _ in self.writing)
        if index > self.disk.anchor[0] and not busy:
            self.core.compacted(index, self.disk.compact(index))


@dataclass
class Weights:
    """How often things happen, relative to each other."""

    deliver: int = 60
    tick: int = 14
    sync: int = 30
    turn: int = 40
    propose: int = 8
    read: int = 6
    crash: int = 1
    drop: int = 3
    duplicate: int = 3
    cut: int = 1
    heal: int = 1
    checkpoint: int = 2
    compact: int = 2
    change: int = 0
    transfer: int = 1
    lost: int = 1


@dataclass
class World:
    """A cluster under one seed. See the module's docstring."""

    seed: int
    voters: int = 3
    spare: int = 0  # further members, in no configuration at first
    weights: Weights = field(default_factory=Weights)
    make: Callable[..., Core] = Core
    timeout_ticks: int = 6
    in_order: float = 0.6  # share of deliveries that take the oldest message

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.net: list[Message] = []
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
        self.cuts: dict[tuple[int, int], bool] = {}
        self.leaders: dict[int, int] = {}  # by term
        self.content: dict[tuple[int, int], tuple[int, bytes, int]] = {}
        self.committed: dict[int, tuple[int, bytes]] = {}
        self.commit = 0
        self.applied = 0
        self.digests: dict[int, int] = {0: 0}
        self.commits = dict.fromkeys(self.nodes, 0)
        self.led = dict.fromkeys(self.nodes, False)  # at its last check
        self.reads: dict[tuple[int, int], int] = {}  # (member, number) -> least index
        self.answered = 0
        self.changes = 0
        self.elections = 0
        self.installs = 0
        self.written = 0
        names = list(vars(self.weights))
        self._actions = [getattr(self, "do_" + name) for name in names]
        totals, total = [], 0
        for name in names:
            total += getattr(self.weights, name)
            totals.append(total)
        self._totals = totals

    # --- one step ---------------------------------------------------------------

    def run(self, steps: int) -> None:
        """Take `steps` random steps."""
        for _ in range(steps):
            self.step()

    def step(self) -> None:
        """One random action on one random member, then the checks."""
        (action,) = self.random.choices(self._actions, cum_weights=self._totals)
        action(self.random.choice(list(self.nodes.values())))

    def send(self, message: Message) -> None:
        """Put a message on the network."""
        if isinstance(message, InstallSnapshot):
            sender = self.nodes[message.sender]
            if sender.disk.state.meta == message.snapshot:
                self.states[message.sender, message.snapshot.index] = sender.disk.state
            elif (message.sender, message.snapshot.index) not in self.states:
                sender.core.snapshot_sent(message.to, False, message.snapshot.index)
                return
        self.net.append(message)

    def do_deliver(self, _: Node) -> None:
        if not self.net:
            return
        at = 0
        if self.random.random() >= self.in_order:
            at = self.random.randrange(len(self.net))
        self.hand(self.net.pop(at))

    def hand(self, message: Message) -> None:
        """Give a message to its receiver if the network connects them."""
        node = self.nodes[message.to]
        lost = not node.up or self.cuts.get((message.sender, message.to), False)
        if isinstance(message, InstallSnapshot):
            sender = self.nodes[message.sender]
            if not lost:
                state = self.states[message.sender, message.snapshot.index]
                node.received[message.snapshot.index] = state
            if sender.up:
                sender.core.snapshot_sent(message.to, not lost, message.snapshot.index)
        if not lost:
            node.core.step(message)
            self.check(node)

    def do_drop(self, _: Node) -> None:
        if self.net:
            message = self.net.pop(self.random.randrange(len(self.net)))
            sender = self.nodes[message.sender]
            if isinstance(message, InstallSnapshot) and sender.up:
                sender.core.snapshot_sent(message.to, False, message.snapshot.index)

    def do_duplicate(self, _: Node) -> None:
        if self.net:
            self.net.append(self.random.choice(self.net))

    def do_tick(self, node: Node) -> None:
        if node.up:
            node.core.tick()
            self.check(node)

    def do_sync(self, node: Node) -> None:
        if node.up:
            node.sync(self.send)
            self.check(node)

    def do_turn(self, node: Node) -> None:
        if not node.up and self.random.random() < 0.1:
            self.restart(node)
        if not node.up or not node.core.has_ready():
            return
        ready = node.turn(self.send)
        if ready.batch is not None:
            self.check_batch(node, ready.batch)
        if ready.installed is not None:
            self.installs += 1
        meta = node.state.meta
        if ready.committed or ready.installed:
            known = self.digests.setdefault(meta.index, node.state.digest)
            require(known == node.state.digest, f"{node.member} applied other entries")
            self.applied = max(self.applied, meta.index)
        for number in ready.lost_reads:
            require((node.member, number) in self.reads, f"read {number} lost twice")
            del self.reads[node.member, number]
        for state in ready.reads:
            for number in range(1, state.number + 1):
                least = self.reads.pop((node.member, number), None)
                if least is not None:
                    self.answered += 1
                    require(
                        state.index >= least,
                        f"read {number} of {node.member} saw {state.index}, not {least}",
                    )
        self.check(node)

    def do_propose(self, node: Node) -> None:
        if node.up:
            payloads = []
            for _ in range(self.random.choice((1, 1, 2, 5))):
                self.written += 1
                payloads.append(b"%d" % self.written + b"x" * self.random.choice((0, 10, 50)))
            try:
                node.core.propose(payloads)
            except Refusal:
                return
            self.check(node)

    def do_read(self, node: Node) -> None:
        if node.up:
            try:
                number = node.core.read()
            except Refusal:
                return
            self.reads[node.member, number] = self.applied

    def do_crash(self, node: Node) -> None:
        if node.up:
            node.crash(self.random.randint(0, len(node.writing)))
            self.reads = {key: at for key, at in self.reads.items() if key[0] != node.member}
        else:
            self.restart(node)

    def restart(self, node: Node) -> None:
        """Open the disk of a crashed member again."""
        node.start()
        self.commits[node.member] = node.core.commit
        self.led[node.member] = False

    def do_cut(self, node: Node) -> None:
        other = self.random.choice(list(self.nodes))
        self.cuts[node.member, other] = True
        if self.random.random() < 0.7:
            self.cuts[other, node.member] = True
            if node.up and node.core.leader == other:
                node.core.leader_connection(False)

    def do_heal(self, _: Node) -> None:
        self.cuts.clear()

    def do_checkpoint(self, node: Node) -> None:
        if node.up:
            node.checkpoint()

    def do_compact(self, node: Node) -> None:
        if node.up:
            node.compact(self.random.choice((0, 0, 3, 10)))

    def do_transfer(self, node: Node) -> None:
        if node.up:
            try:
                node.core.transfer(self.random.choice(list(self.nodes)))
            except Refusal:
                return
            self.check(node)

    def do_lost(self, node: Node) -> None:
        if node.up:
            node.core.leader_lost()
            self.check(node)

    def do_change(self, node: Node) -> None:
        if not node.up or not node.core.is_leader:
            return
        members = list(self.nodes)
        self.random.shuffle(members)
        voters = self.random.randint(1, len(members))
        learners = self.random.randint(voters, len(members))
        wanted = Configuration(
            tuple(sorted(members[:voters])), (), tuple(sorted(members[voters:learners]))
        )
        try:
            node.core.change(wanted, b"%d" % self.random.getrandbits(16))
        except Refusal:
            return
        self.changes += 1
        self.check(node)

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
                self.elections += 1
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

    def _check_committed(self, node: Node, before: int) -> None:
        core = node.core
        if core.commit > self.commit:
            # A leader that is no voter any more steps down in the step that commits so (R30).
            led = core.role is LEADER or self.led[node.member]
            require(led, f"{node.member} committed {core.commit} by itself")
            self._check_durable(core)
        first = max(before, core.log.anchor_index) + 1
        while first <= core.commit:
            entries, _ = core.log.slice(first, core.commit, 1 << 30)
            for entry in entries:
                mine = (entry.term, entry.payload)
                known = self.committed.setdefault(entry.index, mine)
                require(known == mine, f"entry {entry.index} was {known}, is {mine}")
            first += len(entries)
        self.commit = max(self.commit, core.commit)

    def _check_durable(self, core: Core) -> None:
        """A quorum of the leader's configuration must survive with the entry."""
        # A change that commits may be followed by the next configuration at once.
        configuration = core.configuration
        if core.configuration_index > core.commit:
            return
        term = core.log.term_at(core.commit)
        for group in (configuration.voters, configuration.outgoing):
            holders = [m for m in group if self.nodes[m].disk.holds(core.commit, term)]
            require(
                len(holders) * 2 > len(group) or not group,
                f"entry {core.commit} is committed, but durable only at {holders}",
            )

    # --- after the storm ----------------------------------------------------------

    def settle(self, ticks: int = 80) -> None:
        """No more faults: a leader must emerge, and everybody must hold the same."""
        self.cuts.clear()
        for node in self.nodes.values():
            if not node.up:
                self.restart(node)
        proposed = 0
        for _ in range(ticks):
            for node in self.nodes.values():
                node.core.tick()
                self.check(node)
            self.flow()
            if not proposed:
                for node in self.nodes.values():
                    if node.core.is_leader:
                        try:
                            proposed = node.core.propose([b"settled"])
                        except Refusal:
                            continue
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

    def flow(self) -> None:
        """Deliver, write and take turns until nothing moves."""
        for _ in range(10_000):
            moved = False
            while self.net:
                self.hand(self.net.pop(0))
                moved = True
            for node in self.nodes.values():
                while node.core.has_ready():
                    self.do_turn(node)
                    moved = True
                while node.writing:
                    node.sync(self.send)
                    self.check(node)
                    moved = True
            if not moved:
                return
        raise Violation("the cluster never comes to rest")

    def lines(self) -> list[str]:
        """One line per member."""
        from raftkv.raft.describe import line

        return [line(node.core) + ("" if node.up else " DOWN") for node in self.nodes.values()]


def storm(seed: int, steps: int, make: Callable[..., Core] = Core, **options: object) -> World:
    """Run one seed through faults and recovery; the world afterwards."""
    world = World(seed, make=make, **options)  # type: ignore[arg-type]
    world.run(steps)
    world.settle()
    return world
