"""A member's data directory: made once, locked while used, trusted only after it was checked.

    LOCK              flock of the process that uses the directory
    creating          there while the directory is being made; then nothing in it counts
    identity          cluster, member and the random incarnation of this directory
    mark.a, mark.b    term, vote, the current state's number, how far the log was durable
    failed            a write failed: the tail of the log must not be trusted as it reads
    distrusted        another member has shown that this directory lacks what it should have
    restoring         there while a restore fills the directory (`founding`): no member starts here
    copies/           states that are being sent to somebody; the next opening removes them
    log/              LevelDB: the Raft log
    state-N/          LevelDB: the state machine

Opening checks, in this order: rights and owner, the lock, the identity, the mark, the log
(`logopening`), then the state. Each refusal says what was found and how the member comes back.

Installing a snapshot:  `new_state` makes `state-N/`, the received rows go there, `switch_state`
makes them durable and notes N in the mark as the coming state; the write that resets the log to
the snapshot's anchor makes it the current one. A crash before that write keeps the old state
and log, a crash after it the new ones: opening finishes the switch if the log's anchor is the
snapshot's. Only then does `drop_old_states` remove the old directory.
"""

import os
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import Final

from raftkv.errors import CorruptionError, StorageError, WrongDirectory
from raftkv.raft.types import RecoveredLog, SnapshotMeta
from raftkv.storage.backend import Engine, StateBackend
from raftkv.storage.files import (
    REAL,
    FileSystem,
    Lock,
    final_errors,
    parent_of,
    read_file,
    replace_file,
)
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.logopening import LOG, TAIL, Place, create_log, open_log
from raftkv.storage.mark import NAMES, Mark, MarkValue
from raftkv.storage.raftlog import RaftLog, recovered
from raftkv.storage.records import identity_seed
from raftkv.storage.rejoin import refusal

LOCK: Final = "LOCK"
CREATING: Final = "creating"
IDENTITY: Final = "identity"
FAILED: Final = "failed"
DISTRUSTED: Final = "distrusted"
RESTORING: Final = "restoring"
FOUNDED: Final = "founded"
PEERS: Final = "peers"
REPLACEMENT: Final = "replacement"
WHOLE_REPLACEMENT: Final = "replacement.whole"
COPIES: Final = "copies"
STATE: Final = "state-"
STATE_BUFFER_BYTES: Final = 64 * 1024 * 1024
_IDENTITY_MAGIC: Final = b"RKI1"
_FAILED_MAGIC: Final = b"RKF1"
_IDENTITY: Final = Struct(">QQQ")
_FAILED: Final = Struct(">Q")
_DISTRUSTED_MAGIC: Final = b"RKD1"
_IGNORED: Final = (LOCK, "lost+found")


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose directory this is. incarnation: random, made with the directory, never 0."""

    cluster: int
    member: int
    incarnation: int


class DataDirectory:
    """An open data directory. Make one with `open`.

    fresh: True if this opening made the directory: the member must not vote before its peers
    have said that they know no other incarnation of it.
    """

    def __init__(
        self,
        path: str,
        fs: FileSystem,
        engine: Engine,
        lock: Lock,
        state_buffer_bytes: int,
    ) -> None:
        self.path = path
        self.fresh = False
        self.identity: Identity
        self.log: RaftLog
        self.recovered: RecoveredLog
        self.state: StateBackend
        self._fs = fs
        self._engine = engine
        self._lock = lock
        self._state_buffer_bytes = state_buffer_bytes
        self._mark: Mark
        self._old_states: list[StateBackend] = []
        self._coming: list[StateBackend] = []  # of new_state, not switched to

    @staticmethod
    def open(
        path: str,
        cluster: int,
        member: int,
        *,
        state_buffer_bytes: int = STATE_BUFFER_BYTES,
        fs: FileSystem = REAL,
        engine: Engine = LEVELDB,
        incarnation: int | None = None,
    ) -> "DataDirectory":
        """Opens the directory at `path`, or makes it if it is missing or empty.

        cluster, member: ids it must be bound to. incarnation: of a directory that is made now;
        None: random. Raises DirectoryLocked, WrongDirectory, CorruptionError (what is wrong and
        how to rejoin), DiskFailure, StorageError (a directory that is not ours).
        """
        with final_errors(f"opening {path}"):
            if not fs.exists(path):
                fs.make_directory(path)
                fs.sync_directory(parent_of(path))
            elif not fs.exists(f"{path}/{IDENTITY}"):
                # Whoever made it may have died before its name was durable. Best effort: an
                # operator's directory may stand in one that this process must not even read.
                with suppress(OSError):
                    fs.sync_directory(parent_of(path))
            fs.tighten(path)
            lock = fs.lock(f"{path}/{LOCK}")
        directory = DataDirectory(path, fs, engine, lock, state_buffer_bytes)
        try:
            finish_replacement(fs, path)
            if directory._made():
                directory._check_identity(cluster, member)
                directory._check_trusted()
            else:
                if incarnation is None:
                    incarnation = int.from_bytes(os.urandom(8)) or 1
                directory._create(Identity(cluster, member, incarnation))
            directory._open()
        except CorruptionError as error:
            directory._abandon()
            raise refusal(path, member, str(error)) from error
        except BaseException:
            directory._abandon()
            raise
        return directory

    @staticmethod
    def peek(path: str, *, fs: FileSystem = REAL) -> Identity | None:
        """Whose directory `path` is, without locking it; None if nobody's (yet).

        Raises CorruptionError if the identity cannot be read.
        """
        if fs.exists(f"{path}/{WHOLE_REPLACEMENT}/{IDENTITY}"):  # the next opening moves it
            return _read_identity(fs, f"{path}/{WHOLE_REPLACEMENT}")
        if not fs.exists(f"{path}/{IDENTITY}") or fs.exists(f"{path}/{CREATING}"):
            return None
        return _read_identity(fs, path)

    # --- opening --------------------------------------------------------------

    def _of(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _made(self) -> bool:
        """Whether the directory was completely made once. Clears an unfinished attempt."""
        with final_errors(f"reading {self.path}"):
            names = [name for name in self._fs.names(self.path) if name not in _IGNORED]
            if RESTORING in names:
                raise StorageError(
                    f"a restore into {self.path} has not ended: empty the directory and repeat it"
                )
            if CREATING in names:
                for name in names:
                    if name != CREATING:
                        self._fs.remove_tree(self._of(name))
                return False
        if names and IDENTITY not in names:
            if {*names} & {*NAMES, LOG}:
                raise CorruptionError("its identity file is missing")
            raise StorageError(
                f"{self.path} is neither empty nor a data directory: it holds {names[0]}"
            )
        return bool(names)

    def _create(self, identity: Identity) -> None:
        fs = self._fs
        with final_errors(f"creating {self.path}"):
            fs.create(self._of(CREATING)).close()
            fs.sync_directory(self.path)
        seed = identity_seed(identity.cluster, identity.member, identity.incarnation)
        create_log(Place(fs, self._engine, self.path, seed))
        self._create_state(1).close()
        Mark.create(
            fs,
            self.path,
            MarkValue(
                1, 0, 0, 0, 0, 1, 0, 0, 0, identity.cluster, identity.member, identity.incarnation
            ),
        )
        write_identity(fs, self.path, identity)
        with final_errors(f"creating {self.path}"):
            fs.sync_directory(self.path)
            fs.remove(self._of(CREATING))
            fs.sync_directory(self.path)
        self.identity = identity
        self.fresh = True

    def _check_identity(self, cluster: int, member: int) -> None:
        self.identity = found = _read_identity(self._fs, self.path)
        if (found.cluster, found.member) != (cluster, member):
            raise WrongDirectory(
                f"{self.path} belongs to member {found.member:x} of cluster {found.cluster:x},"
                f" not to member {member:x} of cluster {cluster:x}"
            )

    def _open(self) -> None:
        identity = self.identity
        self._mark = Mark.load(self._fs, self.path)
        if self._mark.value[9:] != (identity.cluster, identity.member, identity.incarnation):
            raise CorruptionError("the mark is of another member or another directory")
        seed = identity_seed(identity.cluster, identity.member, identity.incarnation)
        place = Place(self._fs, self._engine, self.path, seed)
        rows, scan = open_log(place, self._mark.value, self._failed_after())
        self.log = RaftLog(rows, self._mark, seed, scan, self._note_failure)
        self._forget_failure()
        self._finish_switch(scan.anchor.term, scan.anchor.index)
        self.log.tend()
        self.recovered = recovered(scan, self._mark)
        self._open_state()

    def _open_state(self) -> None:
        current = f"{STATE}{self._mark.value.state}"
        with final_errors(f"reading {self.path}"):
            for name in self._fs.names(self.path):
                if (name.startswith(STATE) and name != current) or name == COPIES:
                    self._fs.remove_tree(self._of(name))
            if not self._fs.exists(self._of(current)):
                raise CorruptionError(f"the state directory {current} is missing")
            self._fs.sync_directory(self.path)
        self.state = self._engine.open_state(
            self._of(current), buffer_bytes=self._state_buffer_bytes
        )
        with final_errors(f"syncing {current}"):
            self._fs.sync_directory(self._of(current))

    def _finish_switch(self, term: int, index: int) -> None:
        """A snapshot install was under way: did the log's reset to its anchor happen?"""
        value = self._mark.value
        if not value.next_state:
            return
        if (value.next_term, value.next_index) == (term, index):
            self._mark.update(state=value.next_state, coming=(0, 0, 0))
        else:
            self._mark.update(coming=(0, 0, 0))

    def _abandon(self) -> None:
        """Releases what a failed opening had opened."""
        parts = (*self._old_states, *self._coming)
        for part in (*parts, getattr(self, "state", None), getattr(self, "log", None)):
            if part is not None:
                part.close()
        if hasattr(self, "_mark"):
            self._mark.close()
        self._lock.release()

    # --- the marker of a failed write -----------------------------------------

    def _note_failure(self, durable_number: int, error: StorageError) -> None:
        try:
            replace_file(
                self._fs,
                self._of(FAILED),
                _FAILED_MAGIC,
                _FAILED.pack(durable_number) + str(error).encode(),
            )
        except StorageError:
            # The disk does not even take the marker. The process stops all the same, and what
            # it could not write was not acknowledged.
            return

    def _failed_after(self) -> int | None:
        if not self._fs.exists(self._of(FAILED)):
            return None
        payload = read_file(self._fs, self._of(FAILED), _FAILED_MAGIC)
        number: int = _FAILED.unpack_from(payload)[0]
        return number

    def _forget_failure(self) -> None:
        if self._fs.exists(self._of(FAILED)):
            with final_errors(f"removing {self._of(FAILED)}"):
                self._fs.remove(self._of(FAILED))
                self._fs.sync_directory(self.path)

    # --- what others have found out -------------------------------------------

    def distrust(self, problem: str) -> CorruptionError:
        """Notes for every later opening that this directory must not be used, and why (R34).

        Whoever shows it may be gone at the next start, and counting its starts makes an old copy
        look newer each time. Returns the error to stop with.
        """
        with suppress(StorageError):  # it stops all the same
            replace_file(self._fs, self._of(DISTRUSTED), _DISTRUSTED_MAGIC, problem.encode())
        return refusal(self.path, self.identity.member, problem)

    def _check_trusted(self) -> None:
        if self._fs.exists(self._of(DISTRUSTED)):
            payload = read_file(self._fs, self._of(DISTRUSTED), _DISTRUSTED_MAGIC)
            raise CorruptionError(payload.decode("utf-8", "replace"))

    # --- the state ------------------------------------------------------------

    def check_applied(self, applied: int) -> None:
        """Refuses a state that does not fit the log.

        applied: index of the last entry applied to `state`, read from its rows by the state
        machine; 0: none. Raises CorruptionError.
        """
        first, last = self.recovered.anchor_index + 1, self.recovered.last_index
        if not first - 1 <= applied <= last:
            raise refusal(
                self.path,
                self.identity.member,
                f"the state has applied index {applied}, the log holds {first} to {last}",
            )

    def new_state(self) -> StateBackend:
        """An empty state directory to install a snapshot into, not current yet.

        Removes those made before that were closed unfinished, and replaced ones. DiskFailure.
        """
        self.drop_old_states()
        for state in [one for one in self._coming if one.closed]:
            self.discard_state(state)
        coming = self._create_state(self.next_state_number())
        self._coming.append(coming)
        return coming

    def next_state_number(self) -> int:
        """A number that no state of this directory has. Raises DiskFailure."""
        value = self._mark.value
        with final_errors(f"reading {self.path}"):
            names = self._fs.names(self.path)
        there = [int(name.removeprefix(STATE)) for name in names if name.startswith(STATE)]
        return max(value.state, value.next_state, *there) + 1

    def _create_state(self, number: int) -> StateBackend:
        path = self._of(f"{STATE}{number}")
        with final_errors(f"creating {path}"):
            self._fs.make_directory(path)
        state = self._engine.open_state(path, buffer_bytes=self._state_buffer_bytes, create=True)
        try:
            with final_errors(f"creating {path}"):
                self._fs.sync_directory(path)
                self._fs.sync_directory(self.path)
        except BaseException:
            state.close()
            raise
        return state

    def switch_state(self, state: StateBackend, snapshot: SnapshotMeta) -> None:
        """Makes `state` (of `new_state`, complete up to `snapshot`) the coming one, durably.

        Call it before the LogBatch that resets the log to `snapshot` is flushed: that write
        makes it the current one on disk. Returns with `self.state` being `state`; it is fast if
        `state.sync()` was called after its last row. Raises DiskFailure.
        """
        if state is self.state:
            return
        state.sync()
        with final_errors(f"syncing {state.directory}"):
            self._fs.sync_directory(state.directory)
        number = int(state.directory.rpartition(STATE)[2])
        self._mark.update(coming=(number, snapshot.term, snapshot.index))
        self._old_states.append(self.state)
        if state in self._coming:
            self._coming.remove(state)
        self.state = state

    def discard_state(self, state: StateBackend) -> None:
        """Closes and removes a state of `new_state` that was not switched to."""
        assert state is not self.state
        state.close()
        if state in self._coming:
            self._coming.remove(state)
        with final_errors(f"removing {state.directory}"):
            self._fs.remove_tree(state.directory)

    def drop_old_states(self) -> int:
        """Closes and removes the states before the current one; nothing may read them any more.

        Returns how many were removed: 0 while the log's reset, which makes the switch final, is
        not durable yet (call again later; the next opening does it too). Raises DiskFailure.
        """
        if self._mark.value.next_state:
            return 0
        old, self._old_states = self._old_states, []
        for state in old:
            self.discard_state(state)
        return len(old)

    def close(self, *, checkpoint: bool = True) -> None:
        """Ends all use of the directory; join every thread that uses it first.

        checkpoint: make the state and the mark's memory durable before, so that the next
        opening has nothing to replay. Raises DiskFailure, after everything was released.
        """
        try:
            if checkpoint and self.log.failure is None:
                self.state.sync()
                self.log.flush()
                self.log.write_mark_behind(force=True)
        finally:
            for state in (*self._old_states, *self._coming, self.state):
                state.close()
            self._old_states.clear()
            self._coming.clear()
            self.log.close()
            self._mark.close()
            self._lock.release()


def write_identity(fs: FileSystem, path: str, identity: Identity) -> None:
    """Makes `path` the directory of `identity`, durably. Raises DiskFailure."""
    payload = _IDENTITY.pack(identity.cluster, identity.member, identity.incarnation)
    replace_file(fs, f"{path}/{IDENTITY}", _IDENTITY_MAGIC, payload)


def finish_replacement(fs: FileSystem, path: str) -> None:
    """Puts a complete replacement (`founding.replace`) in the place of what is there.

    Can be interrupted anywhere and repeated. Old states go when the directory is opened.
    Raises DiskFailure.
    """
    whole = f"{path}/{WHOLE_REPLACEMENT}"
    with final_errors(f"replacing what is in {path}"):
        if fs.exists(f"{path}/{REPLACEMENT}"):  # was never complete
            fs.remove_tree(f"{path}/{REPLACEMENT}")
        if not fs.exists(whole):
            return
        for name in (FAILED, DISTRUSTED, PEERS, TAIL):  # of the old directory only
            if fs.exists(f"{path}/{name}"):
                fs.remove_tree(f"{path}/{name}")
        for name in fs.names(whole):
            if fs.exists(f"{path}/{name}"):
                fs.remove_tree(f"{path}/{name}")
            fs.rename(f"{whole}/{name}", f"{path}/{name}")
        fs.sync_directory(path)
        fs.remove_tree(whole)
        fs.sync_directory(path)


def _read_identity(fs: FileSystem, path: str) -> Identity:
    payload = read_file(fs, f"{path}/{IDENTITY}", _IDENTITY_MAGIC)
    if len(payload) != _IDENTITY.size:
        raise CorruptionError(f"{path}/{IDENTITY} is damaged")
    return Identity(*_IDENTITY.unpack(payload))
