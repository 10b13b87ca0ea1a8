"""New clusters out of a state that is there: a snapshot file, or a member's own directory.

Both lead to a directory of a member that never took part in anything: its state is the old one with
the new members in it (`kv.restoring`), its log is empty, its incarnation is new. The member that
starts there goes the way of a new cluster's first members.

The new cluster's id follows from what the flags say, as a bootstrapped one's does, and from the
snapshot and what was done to its revision. So members that were restored from different snapshots
refuse each other, and members of the old cluster that still run somewhere are strangers (M18), even
with the same URLs and the same token.
"""

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import raftkv
from raftkv.config import ServerConfig, check_bootstrap, member_id
from raftkv.errors import ConfigError
from raftkv.kv.machine import StateMachine
from raftkv.kv.members import Member
from raftkv.kv.restoring import REVISION_BUMP, Applied, read_applied, restored_rows
from raftkv.server.archive import Plan, Target, make_plan, replay
from raftkv.storage.backup import Snapshot, check_snapshot, unpack
from raftkv.storage.files import REAL, final_errors, parent_of
from raftkv.storage.founding import found
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import LOCK, RESTORING, STATE_BUFFER_BYTES, Identity

BY_RESTORE: Final = "restore"
_UNIMPORTANT: Final = (LOCK, "lost+found")


@dataclass(frozen=True, slots=True)
class Rewriting:
    """What becomes of the revision. bump: added to it. mark_compacted: all history up to it."""

    bump: int = REVISION_BUMP
    mark_compacted: bool = True

    def __post_init__(self) -> None:
        if self.bump < 0:
            raise ConfigError(f"--bump-revision: {self.bump} must not be negative")


@dataclass(frozen=True, slots=True)
class Archived:
    """What to add to a snapshot. directory: of an archive."""

    directory: str
    target: Target


@dataclass(frozen=True, slots=True)
class Restored:
    """A directory that was made. before, after: where the state stood, and stands.

    unknown_leases: leases out of an archive that got a time to live for want of their own. note:
    what the operator should know of the archive, or empty.
    """

    identity: Identity
    before: Applied
    after: Applied
    unknown_leases: int = 0
    note: str = ""


def restored_cluster_id(cluster: int, digest: bytes, rewriting: Rewriting) -> int:
    """The id of a cluster that begins with a state.

    cluster: as the flags give it. digest: of the snapshot.
    """
    text = b"%016x %s %d %d" % (
        cluster,
        digest.hex().encode(),
        rewriting.bump,
        rewriting.mark_compacted,
    )
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") or 1


def restore(
    snapshot_path: str,
    config: ServerConfig,
    rewriting: Rewriting,
    *,
    skip_hash: bool = False,
    archived: Archived | None = None,
) -> Restored:
    """Makes `config.data_dir` the directory of a first member of a new cluster.

    snapshot_path: empty: one of the archive. config: its name, data directory, peer URLs and
    initial cluster. Raises ConfigError (the directory is not empty, a flag is wrong, the archive
    does not go there), CorruptionError (what is read cannot be trusted) or DiskFailure; then the
    directory is as it was.
    """
    check_bootstrap(config)
    path = str(config.data_dir)
    existed = _check_target(path)
    plan = _plan(snapshot_path, skip_hash, archived)
    snapshot = plan.base
    cluster = restored_cluster_id(config.cluster_id, plan.digest, rewriting)
    identity = Identity(cluster, config.member_id, new_incarnation())
    state = NewState(identity, first_members(config), rewriting)
    story = {
        "by": BY_RESTORE,
        "from": snapshot.description,
        "sha256": snapshot.digest.hex(),
        "version": raftkv.__version__,
    }
    unknown_leases = 0

    def fill(directory: str) -> None:
        nonlocal unknown_leases
        unpack(snapshot, directory)
        if archived is not None:
            unknown_leases = replay(plan, directory)
        state.rewrite(directory)

    with final_errors(f"making {path}"):
        Path(path).mkdir(mode=0o700, parents=True, exist_ok=True)
        REAL.tighten(path)
        lock = REAL.lock(f"{path}/{LOCK}")
    try:
        found(path, identity, fill, story)
        with final_errors(f"making {path}"):
            REAL.sync_directory(parent_of(path))
    except BaseException:
        _clear(path, existed)
        raise
    finally:
        lock.release()
    return Restored(identity, state.before, state.after, unknown_leases, plan.note)


def _plan(snapshot_path: str, skip_hash: bool, archived: Archived | None) -> Plan:
    """What to restore, all of it checked."""
    if archived is not None:
        directory, target = archived.directory, archived.target
        return make_plan(directory, target, snapshot_path, skip_hash=skip_hash)
    snapshot = check_snapshot(snapshot_path, skip_hash=skip_hash)
    return Plan(snapshot, {}, 0, snapshot.digest)


@dataclass(frozen=True, slots=True)
class SnapshotStatus:
    """What is in a snapshot file that can be restored. keys: that exist at its revision."""

    snapshot: Snapshot
    applied: Applied
    keys: int


def snapshot_status(snapshot_path: str) -> SnapshotStatus:
    """Checks a snapshot file as thoroughly as a restore does: its state is unpacked and loaded.

    Takes as much disk space for temporary files as the snapshot has. Raises CorruptionError,
    DiskFailure.
    """
    snapshot = check_snapshot(snapshot_path)
    with tempfile.TemporaryDirectory(prefix="raftkv-snapshot-") as directory:
        unpack(snapshot, directory)
        state = LEVELDB.open_state(directory, buffer_bytes=STATE_BUFFER_BYTES)
        try:
            machine = StateMachine(state, 0)
            return SnapshotStatus(snapshot, read_applied(state), len(machine.store.index))
        finally:
            state.close()


class NewState:
    """Makes an old state the first one of a new cluster.

    before, after: where it stood, and stands; known after `rewrite`.
    """

    def __init__(self, identity: Identity, members: list[Member], rewriting: Rewriting) -> None:
        self._identity = identity
        self._members = members
        self._rewriting = rewriting
        self.before: Applied
        self.after: Applied

    def rewrite(self, directory: str) -> None:
        """Changes the state in `directory`, durably, and loads all of it once, to see that it can.

        Raises CorruptionError, DiskFailure; ConfigError for a bump that is too large.
        """
        state = LEVELDB.open_state(directory, buffer_bytes=STATE_BUFFER_BYTES)
        try:
            self.before = read_applied(state)
            try:
                rows = restored_rows(
                    state,
                    self._members,
                    self._rewriting.bump,
                    mark_compacted=self._rewriting.mark_compacted,
                )
            except ValueError as error:
                raise ConfigError(f"--bump-revision: {error}") from None
            state.write(rows)
            self.after = read_applied(state)
            machine = StateMachine(state, self._identity.cluster)
            assert machine.applied_index == self.after.applied_index, (
                "it was loaded from these rows"
            )
            state.sync()
        finally:
            state.close()


def first_members(config: ServerConfig) -> list[Member]:
    """The members that --initial-cluster names, in the order of their ids."""
    members = [
        Member(member_id(urls, config.initial_cluster_token), name, tuple(urls))
        for name, urls in config.initial_cluster.items()
    ]
    return sorted(members, key=lambda one: one.id)


def new_incarnation() -> int:
    """A random number for a directory; never 0."""
    return int.from_bytes(os.urandom(8)) or 1


def _check_target(path: str) -> bool:
    """Whether the directory exists, which must be empty then. Raises ConfigError."""
    try:
        names = [name for name in os.listdir(path) if name not in _UNIMPORTANT]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise ConfigError(f"--data-dir: cannot use {path}: {error.strerror or error}") from None
    if names:
        raise ConfigError(f"data-dir {path!r} is not empty: it holds {min(names)}")
    return True


def _clear(path: str, existed: bool) -> None:
    """Removes what a failed restore has left. The marker goes last: no member must start here."""
    names = [name for name in os.listdir(path) if name not in (*_UNIMPORTANT, RESTORING)]
    for name in names:
        with suppress(OSError):
            REAL.remove_tree(f"{path}/{name}")
    with suppress(OSError):
        os.unlink(f"{path}/{RESTORING}")
        if not existed:
            os.unlink(f"{path}/{LOCK}")
            os.rmdir(path)
