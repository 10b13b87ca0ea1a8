"""A whole simulated cluster: its members, their network, and its administrator.

The administrator works toward a goal, the set of members that should vote: it looks at
the leader's configuration from time to time and takes the next step (remove, add as a
learner, promote). So it survives every fault in between, as an operator with a runbook
would. A member that is out of the goal keeps running for a while after it was removed
(R31), then its process ends for good.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from raftkv.kv import commands
from raftkv.kv.members import encode_member
from raftkv.raft.types import NORMAL, Configuration, Entry
from raftkv.replica.changes import MEMBER_ID
from raftkv.sim.describe import describe_frame, describe_node
from raftkv.sim.disk import FSYNC_US
from raftkv.sim.faults import Undo, cut_pairs
from raftkv.sim.invariants import InvariantBroken, Invariants, check_log_matching
from raftkv.sim.model import Model
from raftkv.sim.network import FAIR, Network
from raftkv.sim.node import Node
from raftkv.sim.operations import KeyValue, Logged
from raftkv.sim.process import member_of
from raftkv.sim.world import MILLISECOND, World

if TYPE_CHECKING:
    from raftkv.sim.clients import Clients

ADMINISTRATION_US: Final = 300 * MILLISECOND


@dataclass(frozen=True, slots=True)
class Timing:
    """Settings of every member. tick_us: one tick of Raft's clock, virtual microseconds.

    slice_units: of one slice of watchers that are behind; one is drawn for each. published: changes
    and deliveries of one slice of a publication; one is drawn for each process. latency_us,
    fsync_us: shortest way of a frame and shortest fsync while all is well.
    """

    tick_us: int = 50 * MILLISECOND
    election_ticks: int = 10
    snapshot_count: int = 100
    catch_up_entries: int = 20
    request_timeout_seconds: float = 7.0
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    max_append_bytes: int = 1024 * 1024
    max_inflight_messages: int = 512
    max_log_cache_bytes: int = 64 * 1024 * 1024
    slice_units: tuple[int, ...] = (35, 60, 200, 2500)
    published: tuple[int, ...] = (2, 5, 1500)
    latency_us: int = FAIR.latency_us
    fsync_us: int = FSYNC_US


class Cluster:
    """Members 1..nodes at first; new members get new ids."""

    def __init__(self, world: World, nodes: int, timing: Timing) -> None:
        self.world = world
        self.timing = timing
        self.election_us = timing.tick_us * timing.election_ticks
        self.invariants = Invariants()
        self.counts: Counter[str] = Counter()
        fair = replace(FAIR, latency_us=timing.latency_us)
        self.network = Network(world, self._deliver, fair)
        world.describers["frame"] = describe_frame
        self.nodes: dict[int, Node] = {}
        self.goal = list(range(1, nodes + 1))
        self.clients: Clients | None = None
        self.election_watchers: list[Callable[[int], None]] = []  # told of every new leader
        self.leader_watchers: list[Callable[[int], None]] = []  # likewise, who does no harm
        self.commit_watchers: list[Callable[[Entry], None]] = []  # told when first applied
        self._led: dict[int, tuple[int, Configuration]] = {}  # leader -> term, its last turn's
        self._certified = 0  # the highest index that a leader committed and that was checked
        self._next_member = nodes + 1
        self._random: Random = world.stream("cluster")
        for member in self.goal:
            self._add(member, initial=tuple(self.goal))

    def attach(self, clients: "Clients") -> None:
        """Answers go to these clients."""
        self.clients = clients

    def start(self) -> None:
        """Every member starts."""
        for member in self.goal:
            self.nodes[member].start()
        self.world.after(ADMINISTRATION_US, self._administer)

    def _add(self, member: int, initial: tuple[int, ...]) -> Node:
        node = Node(self, member, initial)
        node.disk.base_us = self.timing.fsync_us
        self.network.add(member, self.nodes)
        for other in self.nodes.values():
            # A new directory takes part only when a majority of the others has confirmed that it
            # knows no earlier one, and has noted this one (`raftkv.server.identify`); its successor
            # asks another majority and is found out. Here all of them have noted it, and each
            # refuses the successor by itself: one that had not would take it for the first (R33).
            other.home.meets(member, node.home.incarnation)
            node.home.meets(other.member, other.home.incarnation)
        self.nodes[member] = node
        return node

    def _deliver(self, receiver: int, sender: int, frame: bytes) -> None:
        node = self.nodes.get(receiver)
        if node is not None:
            node.receive(sender, frame)

    def committed(self, by: Node, entry: Entry) -> None:
        """`by` is the first to apply `entry`: it must be on the disks of a majority."""
        for watcher in self.commit_watchers:
            watcher(entry)
        configuration = by.replica.machine.configuration
        if configuration.joint or configuration != by.configuration:
            return  # it may have been committed by other voters than these
        if entry.index > self._certified:
            self.invariants.on_disks(entry.index, [configuration.voters], self._have(entry))

    def leader_turned(self, leader: Node) -> None:
        """`leader` has had a turn: what it has committed must be on the disks of a majority.

        It counts by the newest configuration in its log (Raft 6), of which its followers need not
        have heard when they are told of the commit, or by that of its last turn.
        """
        core = leader.replica.core
        term, before = self._led.get(leader.member, (0, core.configuration))
        self._led[leader.member] = core.term, core.configuration
        if core.commit <= self._certified:
            return
        self._certified = core.commit
        configurations = [core.configuration]
        if term == core.term and before != core.configuration:
            configurations.append(before)
        if not any(one.joint for one in configurations):
            entry = Entry(core.commit, core.term_at(core.commit), NORMAL, b"")
            electorates = [one.voters for one in configurations]
            self.invariants.on_disks(core.commit, electorates, self._have(entry))

    def _have(self, entry: Entry) -> list[int]:
        """Members that (may) have `entry` on disk."""
        return [member for member, node in self.nodes.items() if node.home.may_have(entry)]

    def elected(self, member: int) -> None:
        """`member` leads a new term; nothing that it says as leader has left it yet."""
        for watcher in [*self.leader_watchers, *self.election_watchers]:
            watcher(member)

    # --- who is there -----------------------------------------------------------

    @property
    def members(self) -> list[int]:
        """Every member that has a process or will have one again."""
        return [member for member, node in self.nodes.items() if not node.retired]

    def leader(self) -> Node | None:
        """The running leader of the highest term."""
        best: Node | None = None
        for node in self.nodes.values():
            if node.leads and (best is None or node.term > best.term):
                best = node
        return best

    def voters(self) -> list[int]:
        """The voters that the leader knows; the goal without a leader."""
        leader = self.leader()
        return list(self.goal) if leader is None else list(leader.configuration.voters)

    def healthy(self) -> list[int]:
        """Members of the goal that run and reach a majority of it."""
        up = [member for member in self.goal if self.nodes[member].up]
        found = []
        for member in up:
            reached = [
                other
                for other in up
                if other == member
                or (self.network.connected(member, other) and self.network.connected(other, member))
            ]
            if 2 * len(reached) > len(self.goal):
                found.append(member)
        return found

    def behind(self, members: list[int], target: int) -> list[int]:
        """Those of `members` that have not applied index `target`."""
        return [member for member in members if self.nodes[member].applied_index < target]

    def settled(self) -> bool:
        """True if the goal is the leader's configuration, and committed."""
        leader = self.leader()
        if leader is None:
            return False
        configuration = leader.configuration
        return (
            configuration == leader.replica.machine.configuration
            and not configuration.joint
            and not configuration.learners
            and sorted(configuration.voters) == sorted(self.goal)
        )

    def describe(self) -> str:
        """One line about every member."""
        return "; ".join(describe_node(self.nodes[member]) for member in self.members)

    # --- faults -----------------------------------------------------------------

    def heal(self) -> None:
        """No cuts, every process runs, every disk is well, every clock is right."""
        self.network.heal()
        for node in list(self.nodes.values()):
            node.heal()
        self.links_changed([])

    def isolate(self, member: int) -> Undo:
        """Cut `member` off from everyone."""
        others = [other for other in self.nodes if other != member]
        return cut_pairs(
            self, [pair for other in others for pair in ((member, other), (other, member))]
        )

    def links_changed(self, pairs: list[tuple[int, int]]) -> None:
        """Links were cut or mended: members that can connect again do so."""
        for node in self.nodes.values():
            node.check_leader_connection()

    def process_ended(self, member: int) -> None:
        """The connections of `member` close: everyone who is connected notices."""
        self.nodes[member].hub.end()
        for node in self.nodes.values():
            if node.member != member and self.network.connected(member, node.member):
                node.peer_closed(member)

    def process_began(self, member: int) -> None:
        """`member` accepts connections again."""
        self.nodes[member].hub.begin()
        for node in self.nodes.values():
            if node.member != member:
                node.check_leader_connection()

    # --- administration -----------------------------------------------------------

    def transfer_leadership(self, to: int) -> bool:
        """Ask the leader to hand over to `to`; False if there is none or it refuses."""
        leader = self.leader()
        return leader is not None and leader.transfer(to)

    def replace_member(self, out: int) -> bool:
        """Change the goal: `out` leaves, a new member comes. Not while a change runs."""
        if not self.settled() or out not in self.goal:
            return False
        new = self._next_member
        self._next_member += 1
        self.goal = sorted([member for member in self.goal if member != out] + [new])
        self._add(new, initial=()).start()
        self.counts["replacements"] += 1
        self.world.record("goal", tuple(self.goal))
        return True

    def wipe(self, member: int) -> bool:
        """R33: a member loses its directory and comes back empty under its old id.

        Nobody listens to it any more; a new member has to take its place.
        """
        if not self.replace_member(member):
            return False
        node = self.nodes[member]
        node.crash()
        node.home.wipe()
        self.invariants.forget_member(member)
        self.world.record("wiped", member)
        node.start()
        return True

    def _administer(self) -> None:
        self.world.after(ADMINISTRATION_US, self._administer)
        leader = self.leader()
        if leader is None or self.settled():
            self._retire(leader)
            return
        configuration = leader.configuration
        if configuration.joint:
            return
        known = configuration.members()
        surplus = [member for member in known if member not in self.goal]
        missing = [member for member in self.goal if member not in known]
        if surplus and (not missing or len(known) >= len(self.goal)):
            leader.change(commands.MEMBER_REMOVE, MEMBER_ID.pack(surplus[0]))
        elif missing:
            leader.change(commands.LEARNER_ADD, encode_member(member_of(missing[0])))
        elif configuration.learners:
            leader.change(commands.MEMBER_PROMOTE, MEMBER_ID.pack(configuration.learners[0]))

    def _retire(self, leader: Node | None) -> None:
        """End processes of members that were removed, some time after that."""
        if leader is None:
            return
        for member in self.members:
            if member not in self.goal and self._random.random() < 0.1:
                self.nodes[member].retire()
                self.counts["retired"] += 1

    # --- the end ------------------------------------------------------------------

    def check_equal_states(self) -> None:
        """All members of the goal have applied the same and have the same hashes."""
        hashes = {
            (node.applied_index, node.state_hash, node.key_hash())
            for node in (self.nodes[member] for member in self.goal)
        }
        if len(hashes) != 1:
            raise InvariantBroken("equal states at the end", f"{sorted(hashes)}")

    def check_logs_match(self) -> None:
        """Raft's log matching, between every two members."""
        sides = [node.log_side() for node in self.nodes.values() if node.up]
        for place, left in enumerate(sides):
            for right in sides[:place]:
                check_log_matching(left, right)

    def check_against_model(self, log: list[Logged]) -> None:
        """The live keys of a member are those of the model after the same commands."""
        model = Model()
        for logged in log:
            model.apply(logged.request)
        expected: list[KeyValue] = model.live()
        for member in self.goal:
            found = self.nodes[member].live_keys()
            if found != expected:
                difference = [one for one in expected if one not in found] + [
                    one for one in found if one not in expected
                ]
                raise InvariantBroken(
                    "live keys", f"member {member} differs from the model in {difference[:3]}"
                )
