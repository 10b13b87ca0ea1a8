"""One member's life cut at every single operation of its disk.

A short scripted run from a fixed seed: clients put, read and compact; the member is killed and
starts again; with several members it is cut off until the others have dropped the entries that it
lacks, so that it is sent a snapshot. `MemoryDisk.before` names every operation that changes its
disk: creating, writing, syncing, renaming and removing files and directories, committing to the
log, writing and syncing state rows. The run is deterministic, so the operations before the cut are
the same in every run, and each of them can be cut in several ways (`MODES`):

    before   the power goes before the operation
    after    it goes after the operation, before anything else happens
    torn     it goes in the middle: half of a file's bytes are down, a log batch is damaged, some
             of the state rows that nobody had synced are down
    killed   the process dies before the operation; the machine goes on and keeps all files as they
             were written, but no state rows that were in the process's memory only

The member starts again soon after. Then everything that any simulated run must hold is checked:
invariants in every turn, convergence, equal states, the history of all clients.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from raftkv.raft.types import SnapshotMeta
from raftkv.sim.clients import PASSER_BY, Load
from raftkv.sim.cluster import ADMINISTRATION_US, Timing
from raftkv.sim.hunting import Mutant
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.node import Node
from raftkv.sim.operations import Compact
from raftkv.sim.process import PowerCut
from raftkv.sim.profiles import Profile
from raftkv.sim.run import Run, Summary
from raftkv.sim.world import MILLISECOND, SECOND, World
from raftkv.storage.memory import MemoryBackend, MemoryDisk, MemorySegment, MemoryShelf
from raftkv.storage.memory_disk import MemoryHandle
from raftkv.storage.recovery import DataDirectory

BEFORE: Final = "before"
AFTER: Final = "after"
TORN: Final = "torn"
KILLED: Final = "killed"
MODES: Final = (BEFORE, AFTER, TORN, KILLED)
SEED: Final = 7
DOWN_US: Final = 150 * MILLISECOND  # from a cut to the next start
_PHASE_US: Final = 400 * MILLISECOND
_APART_US: Final = SECOND
_TIMING: Final = Timing(
    tick_us=20 * MILLISECOND, snapshot_count=20, catch_up_entries=5, request_timeout_seconds=1.0
)
_LOAD: Final = Load(clients=4, think_us=40 * MILLISECOND, timeout_us=SECOND, compact=0)

#: Everything that changes a disk in memory.
_CHANGES: Final[tuple[tuple[Any, str], ...]] = (
    *((MemoryDisk, name) for name in ("create", "rename", "remove", "copy_tree")),
    *((MemoryDisk, name) for name in ("make_directory", "sync_directory")),
    *((MemoryHandle, name) for name in ("write", "sync")),
    (MemorySegment, "commit"),
    *((MemoryShelf, name) for name in ("create", "remove")),
    *((MemoryBackend, name) for name in ("write", "sync", "compact")),
)


@dataclass(slots=True)
class Cut:
    """Where a member's life is cut. at: number of the disk operation, from 0; -1: nowhere.

    mode: of `MODES`. calls: every operation so far. fired: the cut has happened.
    """

    at: int = -1
    mode: str = BEFORE
    calls: list[str] = field(default_factory=list)
    fired: bool = False
    _armed: bool = False
    _dead: bool = False

    def before(self, what: str) -> None:
        """For `MemoryDisk.before`."""
        if self._dead:  # handlers of exceptions, which no dead process has
            raise PowerCut
        self.calls.append(what)
        if len(self.calls) - 1 != self.at:
            return
        if self.mode == AFTER or (self.mode == TORN and what.startswith("write ")):
            self._armed = True
        else:
            self._dead = True
            raise PowerCut

    def after(self) -> None:
        """An operation of any disk is over."""
        if self._armed:
            self._armed, self._dead = False, True
            raise PowerCut

    @property
    def point(self) -> str:
        """The operation of the cut."""
        return self.calls[self.at] if 0 <= self.at < len(self.calls) else ""

    def strike(self, disk: MemoryDisk) -> None:
        """What the cut takes from the disk."""
        self.fired = True
        what, _, path = self.point.partition(" ")
        if self.mode == KILLED:
            disk.kill()
        elif self.mode == TORN:
            if what in ("write", "sync") and path != "state":
                disk.tear(path)
            disk.crash(Random(self.at), torn=self.point == "commit log")
        else:
            disk.crash()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block, `after` is called behind every change of a disk in memory."""
        originals = [(owner, name, vars(owner)[name]) for owner, name in _CHANGES]
        for owner, name, original in originals:
            setattr(owner, name, self._followed(original))
        try:
            yield
        finally:
            for owner, name, original in originals:
                setattr(owner, name, original)

    def _followed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def change(*arguments: Any, **named: Any) -> Any:
            result = original(*arguments, **named)
            self.after()
            return result

        return change


class CutWorld(World):
    """A world in which the power of a member may go in the middle of an event."""

    on_cut: Callable[[], None]

    def step(self) -> bool:
        """See World.step."""
        try:
            return super().step()
        except PowerCut:
            self.on_cut()
            return True


class CutRun(Run):
    """The script of the module's docstring; `member` is the one that is cut."""

    def __init__(self, nodes: int, member: int, seed: int, cut: Cut) -> None:
        world = CutWorld(seed)
        world.on_cut = self._cut_happens
        super().__init__(seed, Profile(nodes, _TIMING, _LOAD, (), 0, 0), world=world)
        self.cut = cut
        self.victim: Node = self.cluster.nodes[member]
        self.victim.home.disk.before = cut.before
        self.installed = 0  # snapshots
        self.compacted = 0  # the victim's revision up to which rows are gone

    def _phases(self) -> None:
        for member in self.cluster.goal:
            self.world.after(0, self.cluster.nodes[member].start)
        self.world.after(ADMINISTRATION_US, self.cluster._administer)
        self.run_for(_PHASE_US)
        self.must_converge(self.cluster.goal)
        self.clients.start()
        self.run_for(_PHASE_US)
        self._power_off(MemoryDisk.kill)
        self.run_for(DOWN_US + _PHASE_US)
        self._compact()
        self.run_for(_PHASE_US)
        if self.profile.nodes > 1:
            undo = self.cluster.isolate(self.victim.member)
            self.run_for(_APART_US)
            undo()
        self.run_for(2 * _PHASE_US)
        self._power_off(MemoryDisk.crash)
        self.run_for(DOWN_US + _PHASE_US)
        self.installed = self.cluster.counts["snapshots installed"]
        self.finish()
        self.compacted = self.victim.replica.machine.physically_compacted
        if self.cut.at >= 0 and not self.cut.fired:
            raise InvariantBroken("effort", f"operation {self.cut.at} was never reached")

    def _compact(self) -> None:
        member = self.cluster.goal[-1]
        revision = max(1, self.clients.newest_revision - 10)
        self.clients.ask(PASSER_BY, member, Compact(revision))

    def _cut_happens(self) -> None:
        self.victim.home.disk.before = None
        self.world.record("cut", self.victim.member, self.cut.at, self.cut.point, self.cut.mode)
        self._power_off(self.cut.strike)

    def _power_off(self, take: Callable[[MemoryDisk], None]) -> None:
        """The victim's process ends, `take` does what becomes of its disk; it starts again."""
        node = self.victim
        if node.up:
            node._end_process()
        else:
            node._process += 1  # it was just starting, or is off already
        node.disk.crash()
        take(node.home.disk)
        node.home._directory = None
        self.world.after(DOWN_US, node.start)


# --- missing syncs: this must be found ----------------------------------------------


def _file_not_synced(self: MemoryHandle) -> None:
    self._disk.changing(f"sync {self._path}")


def _directory_not_synced(self: MemoryDisk, path: str) -> None:
    self.changing(f"syncdir {path}")
    if path == ".":  # stands for the mount point
        node = self.directory(path)
        node.durable = dict(node.entries)


def _log_not_synced(self: MemorySegment, batch: Any) -> None:
    self._disk.changing("commit log")
    if not self._rows.shared:  # what is durable stays as it was
        self._rows.shared = True
    self._rows.apply(batch.rows)
    self._rows.shared = True


def _state_not_synced(self: MemoryBackend) -> None:
    self._disk.changing("sync state")


_switch_state = DataDirectory.switch_state


def _received_state_not_synced(
    self: DataDirectory, state: MemoryBackend, snapshot: SnapshotMeta
) -> None:
    """The next checkpoint makes up for it: only a cut before that shows it."""
    sync = state.sync
    state.sync = lambda: None  # type: ignore[method-assign]
    try:
        _switch_state(self, state, snapshot)
    finally:
        state.sync = sync  # type: ignore[method-assign]


MUTANTS: Final = {
    one.name: one
    for one in (
        Mutant("files are not synced", ((MemoryHandle, "sync", _file_not_synced),), ()),
        Mutant(
            "directories are not synced",
            ((MemoryDisk, "sync_directory", _directory_not_synced),),
            (),
        ),
        Mutant("the log is not synced", ((MemorySegment, "commit", _log_not_synced),), ()),
        Mutant(
            "a received state is not synced",
            ((DataDirectory, "switch_state", _received_state_not_synced),),
            (),
        ),
        Mutant("the state is not synced", ((MemoryBackend, "sync", _state_not_synced),), ()),
    )
}


# --- one run, and which there are ---------------------------------------------------


def run_cut(nodes: int, at: int, mode: str, *, member: int = 1, seed: int = SEED) -> "CutResult":
    """One run whose `member` is cut at one operation. at: -1 for an undisturbed run."""
    cut = Cut(at, mode)
    with cut.watching():
        run = CutRun(nodes, member, seed, cut)
        summary = run.execute()
    return CutResult(
        at, mode, cut.point, summary, cut.calls, run.installed, run.compacted, run.cluster.counts
    )


@dataclass(frozen=True, slots=True)
class CutResult:
    """What became of one run. point: the operation of the cut. calls: all operations before it,
    of an undisturbed run all there are. installed: snapshots. compacted: the revision up to which
    the rows are gone. counts: of the cluster.
    """

    at: int
    mode: str
    point: str
    summary: Summary
    calls: list[str]
    installed: int
    compacted: int
    counts: Counter[str]

    @property
    def failure(self) -> str:
        """What promise was broken; empty if none."""
        return self.summary.failure
