"""What a simulated process is made of: its data directory in memory, and its Replica.

`Home` is the machine that a member lives on: a `MemoryDisk` that outlives processes and
loses in a power cut what the real one would. A directory on it is opened by the very code
that opens one on a real disk.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from raftkv.errors import ApiError, StorageError
from raftkv.kv.backend import Backend
from raftkv.kv.machine import Bootstrap, HashResult, MachineSettings, Result, StateMachine
from raftkv.kv.members import Member
from raftkv.raft.core import Core, CoreSettings
from raftkv.raft.roles import Refusal
from raftkv.raft.types import NOOP, Configuration, Entry, HardState, LogBatch, SnapshotMeta
from raftkv.replica.replica import Replica, ReplicaSettings
from raftkv.sim.etcd import decode_response, encode_message
from raftkv.sim.invariants import Promised
from raftkv.sim.operations import Found, Get, KeyValue
from raftkv.storage.backend import StateBackend
from raftkv.storage.memory import MemoryBackend, MemoryDataDirectory, MemoryDisk
from raftkv.storage.recovery import DataDirectory

if TYPE_CHECKING:
    from raftkv.sim.cluster import Timing
    from raftkv.sim.node import Node

CLUSTER_ID: Final = 0x5151
FIRST_INDEX: Final = 1  # what the state of a new cluster counts as
FIRST_TERM: Final = 1
_CHANGES_OF_A_WRITE: Final = 8  # mark copies (write, sync, write, sync), log, mark again
_CACHE_BYTES: Final = 20_000  # small, so that reads miss it

_NO_PUT: Final = Entry(0, 0, NOOP, b"")  # ends a run


class PowerCut(BaseException):
    """Raised out of a disk operation at which the power went."""


class ObservedMachine(StateMachine):
    """A state machine that tells about every entry it applied."""

    observer: Callable[[Entry, int], None]

    def apply(self, entry: Entry) -> Result | ApiError | None:
        """See StateMachine.apply."""
        result = super().apply(entry)
        self.observer(entry, self.state_hash)
        return result

    def apply_run(self, entries: list[Entry], first: int) -> list[Result | ApiError | None]:
        """See StateMachine.apply_run. Runs of one entry, so that the state after each is seen."""
        results = super().apply_run([entries[first], _NO_PUT], 0)
        if results:
            self.observer(entries[first], self.state_hash)
        return results


def member_of(number: int) -> Member:
    """The member table's row of a simulated member."""
    return Member(number, f"m{number}", (f"http://m{number}:2380",))


class Home:
    """One member's machine. initial: voters of the first configuration, empty for a joiner."""

    def __init__(self, member: int, initial: tuple[int, ...], random: Random) -> None:
        self.member = member
        self.disk = MemoryDisk()
        self.wiped = False  # the first directory was lost, with all that it had promised
        self.known: dict[int, int] = {}  # member -> incarnation of the directory met under its id
        self._initial = initial
        self._random = random
        self.incarnation = random.getrandbits(63) | 1
        self._directory: DataDirectory | None = None

    @property
    def directory(self) -> DataDirectory:
        """The open directory; only while a process runs."""
        assert self._directory is not None
        return self._directory

    def open(self) -> DataDirectory:
        """Opens the directory for a new process. StorageError if it cannot be trusted."""
        self._directory = self._open()
        if self._initial and self._directory.recovered.last_index < FIRST_INDEX:
            self._bootstrap(self._directory)
            self._directory.close()
            self._directory = self._open()
        return self._directory

    def _open(self) -> DataDirectory:
        return MemoryDataDirectory.open(
            self.disk, CLUSTER_ID, self.member, incarnation=self.incarnation
        )

    def _bootstrap(self, directory: DataDirectory) -> None:
        """The state of a new cluster counts as entry 1 of term 1, on every first member."""
        machine = self.machine_over(directory.state, lambda entry, state_hash: None)
        machine.flush()
        directory.state.sync()
        meta = SnapshotMeta(FIRST_INDEX, FIRST_TERM, machine.configuration)
        directory.log.bootstrap(HardState(FIRST_TERM), meta)

    def meets(self, member: int, incarnation: int) -> bool:
        """A connection of `member`: False if another directory was met under its id (R33)."""
        return self.known.setdefault(member, incarnation) == incarnation

    def promised(self) -> Promised:
        """What the disk holds for certain."""
        value = self.directory._mark.value  # the file's own content, not a copy of the core's
        return Promised(value.term, value.vote, self.directory.log.durable[1])

    def may_have(self, entry: Entry) -> bool:
        """True if `entry` is durable here, or if nobody can tell: the machine is off."""
        if self._directory is None or self.wiped:
            return True
        log = self._directory.log
        if log.anchor.index >= entry.index:
            return True
        return log.durable[1] >= entry.index and log.term(entry.index) == entry.term

    def crash(self, writing: Sequence[LogBatch]) -> None:
        """The power goes while `writing` is being written: it may be there in any part."""
        if self._directory is not None and writing:
            self._write_partly(list(writing))
        torn = bool(writing) and self._random.random() < 0.3
        self.disk.crash(self._random if self._random.random() < 0.7 else None, torn=torn)
        self._directory = None

    def _write_partly(self, writing: list[LogBatch]) -> None:
        left = self._random.randint(0, _CHANGES_OF_A_WRITE)

        def before(_: str) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerCut

        self.disk.before = before
        try:
            self.directory.log.write(writing)
        except (PowerCut, StorageError):
            pass
        finally:
            self.disk.before = None

    def wipe(self) -> None:
        """The directory is lost; what is made next is another incarnation."""
        self.wiped = True
        self.known = {}
        self.disk = MemoryDisk()
        self.incarnation = self._random.getrandbits(63) | 1
        self._initial = ()

    def machine_over(
        self, backend: Backend, observer: Callable[[Entry, int], None]
    ) -> StateMachine:
        """The state machine over a backend: the stored state, or the cluster's first one."""
        bootstrap = None
        if self._initial:
            members = [member_of(number) for number in self._initial]
            configuration = Configuration(voters=self._initial)
            bootstrap = Bootstrap(configuration, members, FIRST_INDEX, FIRST_TERM)
        settings = MachineSettings(cache_bytes=_CACHE_BYTES)
        machine = ObservedMachine(backend, CLUSTER_ID, settings, bootstrap)
        machine.observer = observer
        return machine

    def switch_state(self, backend: Backend, snapshot: SnapshotMeta) -> None:
        """A received state becomes the current one."""
        assert isinstance(backend, MemoryBackend)
        self.directory.switch_state(backend, snapshot)

    def discard(self, machine: StateMachine) -> None:
        """A received state came too late to be of use."""
        assert isinstance(machine.backend, MemoryBackend)
        self.directory.discard_state(machine.backend)

    def new_state(self) -> StateBackend:
        """An empty state for a transfer."""
        return self.directory.new_state()


def build_replica(node: "Node", timing: "Timing", random: Random) -> Replica:
    """The replica of a new process over the node's open directory."""
    home = node.home
    directory = home.directory
    machine = home.machine_over(directory.state, node.applied)
    directory.check_applied(machine.applied_index)
    settings = ReplicaSettings(
        CoreSettings(
            node.member,
            election_timeout_ticks=timing.election_ticks,
            max_uncommitted_bytes=timing.max_uncommitted_bytes,
            max_append_bytes=timing.max_append_bytes,
            max_inflight_messages=timing.max_inflight_messages,
            max_log_cache_bytes=timing.max_log_cache_bytes,
        ),
        election_timeout_seconds=timing.tick_us * timing.election_ticks / 1_000_000,
        request_timeout_seconds=timing.request_timeout_seconds,
        snapshot_count=timing.snapshot_count,
        catch_up_entries=timing.catch_up_entries,
    )
    return Replica(
        settings,
        directory.recovered,
        directory.log,
        machine,
        Random(random.getrandbits(64)),
        random.getrandbits(63),
    )


def hand_over(core: Core, to: int) -> bool:
    """Asks a core to transfer leadership; False if it refuses."""
    try:
        core.transfer(to)
    except Refusal:
        return False
    return True


def key_hash(machine: StateMachine) -> tuple[int, int]:
    """HashKV at the newest revision: (revision, hash)."""
    steps = machine.hash_kv()
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result = end.value
            assert isinstance(result, HashResult)
            return result.hash_revision, result.hash


def live_keys(machine: StateMachine) -> list[KeyValue]:
    """Every key that exists, in order, through a range over all keys."""
    request = Get(b"\0", b"\0")
    result = machine.range(encode_message(request))
    assert not isinstance(result, ApiError), result
    found = decode_response(request, result.body)
    assert isinstance(found, Found)
    assert found.total == len(found.keys)
    return list(found.keys)
