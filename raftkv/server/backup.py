"""This member's state as the bytes of a snapshot file, while it goes on serving.

`StateCopies.take`, in the housekeeping thread (the only other one that uses the state's LevelDB):
everything applied so far is written to tables, and these are linked into a directory of their own.
That takes as long as a checkpoint, which it is. The copy stands for one applied index, the one that
its own rows name; reading it needs neither the state nor the event loop.
"""

import os
import shutil
import threading
from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

import raftkv
from raftkv.errors import DiskFailure, StorageError
from raftkv.kv.restoring import Applied, read_applied
from raftkv.storage.backend import StateBackend
from raftkv.storage.backup import SnapshotSource
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import COPIES, Identity
from raftkv.storage.tables import link_tables, prune

BLOB_BYTES: Final = 256 * 1024


class StateCopy:
    """A state that nobody changes any more, as a snapshot.

    applied: what it stands for. total_bytes: of the snapshot. `read` and `close` may be called
    from any thread.
    """

    def __init__(self, path: str, applied: Applied, source: SnapshotSource) -> None:
        self.applied = applied
        self.total_bytes = source.total_bytes
        self._path = path
        self._source = source
        self._guard = threading.Lock()

    def read(self) -> bytes:
        """The next bytes, about `BLOB_BYTES`; empty at the end. Raises StorageError."""
        parts: list[bytes] = []
        size = 0
        with self._guard:
            while size < BLOB_BYTES:
                part = self._source.read(BLOB_BYTES)
                if not part:
                    break
                parts.append(part)
                size += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Gives the tables back."""
        with self._guard:
            self._source.close()
            shutil.rmtree(self._path, ignore_errors=True)


class StateCopies:
    """Makes copies of one member's state, in a directory of its data directory."""

    def __init__(self, data_directory: str, identity: Identity) -> None:
        self._path = f"{data_directory}/{COPIES}"
        self._identity = identity
        self._numbers = count(1)

    def take(self, state: StateBackend, wall_clock_ns: int) -> StateCopy | StorageError:
        """A copy of all that was written to `state`, or why there is none.

        wall_clock_ns: noted in the snapshot. Raises StorageError if the state itself failed.
        """
        state.sync()
        path = f"{self._path}/{next(self._numbers)}"
        try:
            with suppress(FileExistsError):
                os.mkdir(self._path, 0o700)
            link_tables(state.directory, path)
            applied = _look_into(path)
            source = SnapshotSource(path, self._describe(applied, wall_clock_ns))
        except (StorageError, OSError) as error:
            shutil.rmtree(path, ignore_errors=True)
            return error if isinstance(error, StorageError) else DiskFailure(str(error))
        return StateCopy(path, applied, source)

    def _describe(self, applied: Applied, wall_clock_ns: int) -> dict[str, Any]:
        return describe(self._identity, applied, wall_clock_ns)


def describe(identity: Identity, applied: Applied, wall_clock_ns: int) -> dict[str, Any]:
    """What a snapshot says of itself."""
    created = datetime.fromtimestamp(wall_clock_ns // 1_000_000_000, UTC)
    return {
        "cluster": f"{identity.cluster:016x}",
        "member": f"{identity.member:016x}",
        "index": applied.applied_index,
        "term": applied.applied_term,
        "revision": applied.revision,
        "compacted_revision": max(applied.compacted, 0),
        "created": created.isoformat().replace("+00:00", "Z"),
        "version": raftkv.__version__,
    }


def _look_into(path: str) -> Applied:
    """Opens a copy once: that shows that it can be opened, and where it stands, and rids it of
    tables that were linked without need.
    """
    state = LEVELDB.open_copy(path)
    try:
        applied = read_applied(state)
    finally:
        state.close()
    prune(path)
    return applied
