"""One simulated member: drives a Replica exactly as a server would.

The effects of a turn are executed in the documented order (`raftkv.replica.effects`):
messages at once, the batch to the disk, `after` when the batch is durable, replies and
reads from the state as it is now, then longer work (checkpoints, truncation, state
transfers), each of which takes virtual time.

A process may crash (losing what its disk had not made durable), pause (nothing happens
inside, messages queue up outside) and run on a clock of a wrong rate. Whatever was
scheduled for a process that is no more is dropped: every process has a number.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from raftkv.errors import ApiError, CorruptionError, DiskFailure
from raftkv.kv.backend import Backend
from raftkv.raft.messages import InstallSnapshot, Message
from raftkv.raft.types import Configuration, Entry
from raftkv.replica.effects import Effects
from raftkv.replica.replica import Replica
from raftkv.sim.clock import NodeClock
from raftkv.sim.disk import VirtualDisk
from raftkv.sim.etcd import COMMANDS
from raftkv.sim.failover import LeaderLink
from raftkv.sim.hub import Hub
from raftkv.sim.invariants import Terms
from raftkv.sim.leasing import LeaseCall
from raftkv.sim.operations import Get, KeyValue, Operation
from raftkv.sim.process import CLUSTER_ID, Home, build_replica, hand_over, key_hash, live_keys
from raftkv.sim.transfer import MESSAGES, Transfers
from raftkv.sim.world import MILLISECOND, World
from raftkv.storage.backend import StateBackend
from raftkv.wire.peer import decode_messages, encode_messages

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster

TURN_US: Final = 60  # from the first fact to the turn that works on it
CHECKPOINT_MS: Final = (5, 20, 300)  # one is drawn: what forcing tables out may take
TRUNCATE_US: Final = 2 * MILLISECOND
COMPACT_ROWS: Final = 50  # rows of one slice of compaction: small, so that much comes between
_HEAD: Final = bytes((MESSAGES,))


class Node:
    """See the module's docstring.

    initial: voters of the cluster's first configuration; empty for one that joins.
    """

    def __init__(self, cluster: "Cluster", member: int, initial: tuple[int, ...]) -> None:
        self.cluster = cluster
        self.world: World = cluster.world
        self.member = member
        self.up = False
        self.paused = False
        self.retired = False
        self.condemned = False  # it found that it lost what it had acknowledged (R15)
        self._random = self.world.stream(f"node/{member}")
        self.home = Home(member, initial, self.world.stream(f"home/{member}"))
        self.disk = VirtualDisk(self.world, str(member), self._persisted, self._disk_failed)
        self._process = 0
        self._replica: Replica | None = None
        self._transfers = Transfers(self, self._random)
        self._held: deque[tuple[int, list[Message]]] = deque()
        self._deferred: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._asked: dict[int, Operation] = {}  # with this process, by identity
        self._woken = False
        self._compacting = False
        self.clock = NodeClock(self.world)
        self.hub = Hub(self, self.world.stream(f"hub/{member}"))
        self.leader_link = LeaderLink(self, self._random)
        self._led_term = self._led_commit = 0  # as of the last turn; term 0: did not lead

    # --- what it is -----------------------------------------------------------------

    @property
    def replica(self) -> Replica:
        """The running replica; only while `up`."""
        assert self._replica is not None, f"member {self.member} is down"
        return self._replica

    @property
    def leads(self) -> bool:
        """True if it runs and thinks that it leads."""
        return self._replica is not None and self._replica.is_leader

    @property
    def term(self) -> int:
        """Its current term, 0 while down."""
        return self._replica.core.term if self._replica is not None else 0

    @property
    def configuration(self) -> Configuration:
        """The newest configuration in its log; only while `up`."""
        return self.replica.core.configuration

    @property
    def applied_index(self) -> int:
        """How far it has applied the log; -1 while down."""
        return self._replica.machine.applied_index if self._replica is not None else -1

    @property
    def cluster_id(self) -> int:
        """The cluster's id."""
        return CLUSTER_ID

    def count(self, what: str) -> None:
        """One more of something, for the summary."""
        self.cluster.counts[what] += 1

    # --- life -------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a process, if there is none."""
        if self.up or self.retired or self.condemned:
            return
        self._process += 1
        self.disk.broken = False
        directory = self.home.open()
        self._replica = build_replica(self, self.cluster.timing, self._random)
        self.disk.start(directory.log)
        self.up = True
        self.paused = False
        machine = self._replica.machine
        self.cluster.invariants.stands_at(self.member, machine.applied_index, machine.state_hash)
        self.cluster.invariants.term_of(self.member, self.term)
        self.world.record("start", self.member, self.term, machine.applied_index)
        if self._process > 1:
            self.count("restarts")
        tick_us = self.cluster.timing.tick_us
        self.later(self._random.randrange(tick_us), self._tick)
        self.cluster.process_began(self.member)
        self.wake()

    def crash(self) -> None:
        """The process and the machine under it lose power."""
        if not self.up:
            return
        self._end_process()
        self.home.crash(self.disk.crash())
        self.world.record("crash", self.member)

    def _end_process(self) -> None:
        self.up = False
        self.paused = False
        self._process += 1
        self._replica = None
        self._woken = self._compacting = False
        self._transfers.close()
        self._held.clear()
        self._deferred.clear()
        asked, self._asked = self._asked, {}
        clients = self.cluster.clients
        if clients is not None:
            for operation in asked.values():
                clients.disconnected(operation)
        self.cluster.process_ended(self.member)

    def _disk_failed(self, error: DiskFailure) -> None:
        """D10: a failed fsync is final."""
        self.count("disk failures")
        self.crash()

    def pause(self) -> None:
        """SIGSTOP."""
        self.paused = True
        self.world.record("pause", self.member)

    def resume(self) -> None:
        """SIGCONT. Timers and messages that piled up come in some order."""
        if not self.paused:
            return
        self.paused = False
        self.world.record("resume", self.member)
        deferred, self._deferred = self._deferred, []
        if self._random.random() < 0.5:
            deferred.insert(0, (self._tick_once, ()))
        for callback, arguments in deferred:
            self.later(0, callback, *arguments)

    def heal(self) -> None:
        """Everything about this member is well again."""
        self.disk.slow_us = 0
        self.disk.broken = False
        self.disk.release()
        if self.clock.rate != 1.0:
            self.clock.rate = 1.0
        self.resume()
        self.start()

    def retire(self) -> None:
        """The process ends for good."""
        self.crash()
        self.retired = True

    def later(self, delay_us: int, callback: Callable[..., None], *arguments: Any) -> None:
        """Call back in this process, unless it has ended; deferred while it is paused."""
        self.world.after(delay_us, self._call, self._process, callback, arguments)

    def _call(
        self, process: int, callback: Callable[..., None], arguments: tuple[Any, ...]
    ) -> None:
        if process != self._process or not self.up:
            return
        if self.paused:
            self._deferred.append((callback, arguments))
        else:
            self._guarded(callback, arguments)

    def _guarded(self, callback: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        """A member that lost its directory may find out (R15) and stop; no other may."""
        try:
            callback(*arguments)
        except CorruptionError as error:
            if not self.home.wiped:
                raise
            self.world.record("condemned", self.member, str(error))
            self.count("wiped members that stopped")
            self.condemned = True
            self.crash()

    # --- facts in ---------------------------------------------------------------------

    def receive(self, sender: int, frame: bytes) -> None:
        """A frame of another member arrives at the machine."""
        incarnation = self.cluster.nodes[sender].home.incarnation
        if self.up and self.home.meets(sender, incarnation):
            if self.paused:
                self._deferred.append((self._frame, (sender, frame)))
            else:
                self._guarded(self._frame, (sender, frame))

    def _frame(self, sender: int, frame: bytes) -> None:
        self.world.record("frame", sender, self.member, frame)
        if frame[0] != MESSAGES:
            self._transfers.frame(sender, frame)
            return
        if sender in self.replica.machine.removed:
            return  # a server refuses the connection of a removed member
        for message in decode_messages(frame[1:]):
            if message.sender == sender and message.to == self.member:
                self.replica.on_message(message)
        self.wake()

    def request(self, operation: Operation, data: bytes) -> None:
        """A client's request arrives."""
        clients = self.cluster.clients
        assert clients is not None
        if not self.up:
            clients.unreachable(operation)
            return
        self._asked[operation.identity] = operation
        if self.paused:
            self._deferred.append((self._request, (operation, data)))
        else:
            self._request(operation, data)

    def _request(self, operation: Operation, data: bytes) -> None:
        request = operation.request
        self.world.record("ask", operation.identity, self.member, data)
        refusal: ApiError | None
        if isinstance(request, Get):
            if request.serializable:
                self._serve(operation, data)
                return
            refusal = self.replica.read((operation, data))
        else:
            refusal = self.replica.propose(COMMANDS[type(request)], data, (operation, data))
        if refusal is not None:
            self._answer(operation, refusal)
        self.wake()

    def change(self, command: int, request: bytes) -> None:
        """A membership change is asked for; nobody waits for the answer."""
        self.world.record("change", self.member, command, request)
        self.replica.change(command, request, None)
        self.wake()

    def transfer(self, to: int) -> bool:
        """Leadership is to be handed to `to`; a refusal changes nothing and is False."""
        taken = hand_over(self.replica.core, to)
        if taken:
            self.count("transfers")
        self.wake()
        return taken

    def _tick(self) -> None:
        tick_us = int(self.cluster.timing.tick_us / self.clock.rate)
        self.later(tick_us, self._tick)
        self._tick_once()

    def _tick_once(self) -> None:
        self.replica.tick()
        self.wake()

    def _persisted(self, number: int) -> None:
        if self.paused:
            self._deferred.append((self._persisted, (number,)))
            return
        self.replica.on_persisted(number)
        held = self._held
        while held and held[0][0] <= number:
            self._send(held.popleft()[1])
        self.wake()

    # --- the turn ---------------------------------------------------------------------

    def wake(self) -> None:
        """A turn is due soon; many calls before it make one turn."""
        if not self._woken:
            self._woken = True
            self.later(TURN_US, self._turn)

    def _turn(self) -> None:
        self._woken = False
        replica = self.replica
        effects = replica.turn(self.clock.now())
        self._observe(effects)
        self._execute(effects)
        if effects.more:
            self.wake()

    def _execute(self, effects: Effects) -> None:
        if effects.messages:
            self._send(effects.messages)
        if effects.installed is not None:
            self.count("snapshots installed")
            self.world.record("installed", self.member, effects.installed.index)
            self.home.switch_state(self.replica.machine.backend, effects.installed)
        if effects.batch is not None:
            self.disk.submit(effects.batch)
        if effects.after:
            if effects.after_number <= self.disk.durable_number:
                self._send(effects.after)
            else:
                self._held.append((effects.after_number, effects.after))
        for ticket, result in effects.replies:
            if ticket is not None:
                self._answer(ticket[0], result)  # type: ignore[index]
        for ticket in effects.reads:
            self._serve(*ticket)  # type: ignore[misc]
        self.hub.turned(effects)
        if effects.role_changed:
            self.leader_link.leader_changed()
        for machine in effects.discarded:
            self.home.discard(machine)
        for message in effects.snapshots:
            view, meta = self.replica.machine.snapshot_view()
            self._transfers.send(message, view, meta)
        self._housekeep(effects)

    def _observe(self, effects: Effects) -> None:
        """What the invariants must see of a turn."""
        invariants, core = self.cluster.invariants, self.replica.core
        invariants.term_of(self.member, core.term)
        if core.is_leader and invariants.leads(self.member, core.term):
            self.world.record("leads", self.member, core.term)
            invariants.completes(self.member, core.log.anchor_index, core.last_index, core)
            self.cluster.elected(self.member)
        if core.is_leader and self._led_term == core.term:
            invariants.leader_commits(self.member, self._led_commit, core.commit, core, core.term)
        if core.is_leader:
            self.cluster.leader_turned(self)
        self._led_term, self._led_commit = core.term if core.is_leader else 0, core.commit
        if effects.installed is not None:
            invariants.stands_at(self.member, effects.installed.index, self.state_hash)

    def applied(self, entry: Entry, state_hash: int) -> None:
        """The state machine has applied `entry`."""
        self.world.record("applied", self.member, entry.index, entry.term, state_hash)
        if self.cluster.invariants.applies(self.member, entry, state_hash):
            self.cluster.committed(self, entry)

    def _send(self, messages: list[Message]) -> None:
        """One frame per receiver."""
        by_member: dict[int, list[Message]] = {}
        for message in messages:
            by_member.setdefault(message.to, []).append(message)
        for member, group in by_member.items():
            self.cluster.invariants.sends(group, self.home.promised)
            self.send_frame(member, _HEAD + encode_messages(group))

    def send_frame(self, to: int, frame: bytes, *, stream: bool = False) -> None:
        """Put a frame on the network."""
        self.cluster.network.send(self.member, to, frame, stream=stream)

    # --- answers ----------------------------------------------------------------------

    def _serve(self, operation: Operation, data: bytes) -> None:
        """Answer a read from the state as it is now."""
        self._answer(operation, self.replica.machine.range(data))

    def _answer(self, operation: Operation | LeaseCall, result: Any) -> None:
        if isinstance(operation, LeaseCall):
            operation.replied(result)
            return
        clients = self.cluster.clients
        if self._asked.pop(operation.identity, None) is None or clients is None:
            return
        if isinstance(result, ApiError):
            clients.refused(operation, result)
        else:
            clients.answered(operation, result[0], result[1])

    # --- long work --------------------------------------------------------------------

    def _housekeep(self, effects: Effects) -> None:
        if effects.checkpoint:
            backend = self.replica.machine.backend
            lasts_us = self._random.choice(CHECKPOINT_MS) * MILLISECOND
            self.later(lasts_us, self._checkpoint, effects.checkpoint, backend)
        if effects.truncate is not None:
            self.later(TRUNCATE_US, self._truncate, *effects.truncate)
        if self.home.directory.log.untended:
            self.later(MILLISECOND, self.home.directory.log.tend)
        machine = self.replica.machine
        if not self._compacting and machine.physically_compacted < machine.compacted_revision:
            self._compacting = True
            self.later(MILLISECOND, self._compact)

    def _checkpoint(self, index: int, backend: Backend) -> None:
        backend.sync()
        self.count("checkpoints")
        self.later(MILLISECOND, self._checkpointed, index)

    def _checkpointed(self, index: int) -> None:
        self.replica.on_checkpoint(index)
        self.wake()

    def _truncate(self, index: int, term: int) -> None:
        self.home.directory.log.truncate_front(index, term)
        self.count("truncations")
        self.later(MILLISECOND, self._truncated, index)

    def _truncated(self, index: int) -> None:
        if not self._transfers.sending:
            self.home.directory.drop_old_states()
        self.replica.on_truncated(index)
        self.wake()

    def _compact(self) -> None:
        if self.replica.machine.compact_slice(COMPACT_ROWS):
            self.later(MILLISECOND, self._compact)
        else:
            self._compacting = False

    # --- state transfers ----------------------------------------------------------------

    def new_state(self) -> StateBackend:
        """An empty state for a transfer to write into."""
        return self.home.new_state()

    def state_sent(self, to: int, ok: bool, index: int) -> None:
        """A transfer that this member sent has ended."""
        self.world.record("state sent", self.member, to, ok, index)
        if self.up:
            self.replica.on_snapshot_sent(to, ok, index)
            self.wake()

    def state_received(self, message: InstallSnapshot, backend: Backend) -> None:
        """A whole state has arrived."""
        self.world.record("state in", self.member, message.sender, message.snapshot.index)
        machine = self.home.machine_over(backend, self.applied)
        self.replica.on_state_received(message, machine)
        self.wake()

    def peer_closed(self, member: int) -> None:
        """The connection with `member` closed: its process has ended."""
        if self.up:
            self._transfers.peer_closed(member)
            self.leader_link.closed(member)

    def check_leader_connection(self) -> None:
        """The leader may be reachable again."""
        if self.up:
            self.leader_link.check()

    # --- the end ----------------------------------------------------------------------

    @property
    def state_hash(self) -> int:
        """The rolling hash of what was applied."""
        return self.replica.machine.state_hash

    def key_hash(self) -> tuple[int, int]:
        """HashKV at the newest revision."""
        return key_hash(self.replica.machine)

    def log_side(self) -> tuple[int, int, int, Terms]:
        """Its log for the comparison with others: member, first and last index, terms."""
        core = self.replica.core
        return self.member, core.log.anchor_index, core.last_index, core

    def live_keys(self) -> list[KeyValue]:
        """Every key that exists, in order."""
        return live_keys(self.replica.machine)
