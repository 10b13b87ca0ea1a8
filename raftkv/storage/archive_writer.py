"""Writing an archive (`archive` has the format): one process at a time, and nothing twice.

Records are appended and become durable with `sync`; until then nobody may be told of them. What was
synced is never written again. A writer that begins where another one ended cuts the torn record
away that this may have left, and refuses to write behind damage: that would hide it.

After an error of the disk a writer is of no use any more; the next one looks at what there is.
"""

import os
import re
from contextlib import suppress
from typing import BinaryIO, Final

from raftkv.errors import CorruptionError, StorageError
from raftkv.storage.archive import (
    LEASE,
    LOCK,
    REVISION,
    Head,
    SegmentReader,
    base_path,
    chain_of,
    contents,
    encode_head,
    encode_record,
    segment_path,
)
from raftkv.storage.files import REAL, final_errors

SEGMENT_BYTES: Final = 64 * 1024 * 1024
_PARTIAL: Final = ".part"
_UNFINISHED: Final = re.compile(r"base(-listing)?\.part|segment-\d{20}\.log\.part")
_IN_ANY: Final = (LOCK, "lost+found")


class ArchiveWriter:
    """See the module's docstring.

    cluster: whose archive it is; 0: nobody's yet. end: the newest archived revision; 0: none, a
    base is needed. last: the payload of that revision, None right behind a base. cut_bytes: of a
    torn record that was cut away. synced_end: the newest revision that is durable.
    """

    def __init__(self, directory: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Makes the directory if it is not there. Raises StorageError."""
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._file: BinaryIO | None = None
        self._size = self._chain = self._last_kind = 0
        self.cluster = self.end = self.synced_end = self.cut_bytes = 0
        self.last: bytes | None = None
        self.time_ms = 0
        with final_errors(f"opening {directory}"):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _refuse_strange(directory)
            REAL.tighten(directory)
            self._lock = REAL.lock(f"{directory}/{LOCK}")
        try:
            self._resume()
        except BaseException:
            self.close()
            raise

    def _resume(self) -> None:
        with final_errors(f"opening {self._directory}"):
            for name in os.listdir(self._directory):
                if _UNFINISHED.fullmatch(name):
                    REAL.remove_tree(f"{self._directory}/{name}")
        segments = contents(self._directory).segments
        if not segments:
            return
        reader = SegmentReader(segments[max(segments)], newest=True)
        try:
            for record in reader:
                self.time_ms = record.time_ms
                if record.kind == REVISION:
                    self.last = record.payload
        except CorruptionError as error:
            raise CorruptionError(
                f"{error}; what lies before can be restored. To go on, move this file away: then "
                "the archive goes on behind the file before, or with a new base"
            ) from None
        self.cluster, self.end, self.synced_end = reader.head.cluster, reader.last, reader.last
        self._open(reader.path)
        self._chain = reader.chain
        self._size = reader.end
        self.cut_bytes = reader.torn
        assert self._file is not None
        with final_errors(f"cutting {reader.path}"):
            if reader.torn:
                self._file.truncate(reader.end)
            os.fsync(self._file.fileno())  # who wrote it may have been killed before that

    def part(self) -> str:
        """A name in the directory for a base that is being made."""
        return f"{self._directory}/base{_PARTIAL}"

    def listing(self) -> str:
        """A name in the directory for the tables that such a base is made of."""
        return f"{self._directory}/base-listing{_PARTIAL}"

    def begin(self, cluster: int, revision: int) -> None:
        """The base in `part`, a whole snapshot of this revision, is where the archive goes on."""
        assert revision > self.end, "an archive goes forward"
        self.sync()
        path = base_path(self._directory, revision)
        with final_errors(f"writing {path}"):
            with open(self.part(), "rb") as file:
                os.fsync(file.fileno())
            os.replace(self.part(), path)
            REAL.sync_directory(self._directory)
        self.cluster = cluster
        self.end = self.synced_end = revision
        self.last = None
        self._new_segment(begins=True, chain=0)

    def append(self, kind: int, time_ms: int, number: int, payload: bytes = b"") -> None:
        """Adds a record; the time of the one before if that is later. Raises DiskFailure.

        A revision's leases lie in its own segment: a restore may begin with that.
        """
        begins_revision = kind in (LEASE, REVISION) and self._last_kind != LEASE
        if self._size >= self._segment_bytes and begins_revision:
            self.sync()
            self._new_segment(begins=False, chain=self._chain)
        assert self._file is not None, "an archive begins with a base"
        assert kind != REVISION or number == self.end + 1, "no revision is left out"
        self.time_ms = max(self.time_ms, time_ms)
        record = encode_record(kind, self.time_ms, number, payload, self._chain)
        with final_errors(f"writing {self._file.name}"):
            self._file.write(record)
        self._chain = chain_of(record)
        self._size += len(record)
        self._last_kind = kind
        if kind == REVISION:
            self.end, self.last = number, payload

    def sync(self) -> None:
        """All that was appended is durable when it returns. Raises DiskFailure."""
        if self._file is not None:
            with final_errors(f"syncing {self._file.name}"):
                self._file.flush()
                os.fsync(self._file.fileno())
        self.synced_end = self.end

    def close(self) -> None:
        """Ends the writing. What was not synced may be lost."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None
        self._lock.release()

    def _new_segment(self, *, begins: bool, chain: int) -> None:
        """A segment gets its name when its head is durable, so that every one has a head."""
        path = segment_path(self._directory, self.end + 1)
        head = encode_head(Head(path, begins, self.cluster, self.end + 1, chain))
        if self._file is not None:
            self._file.close()
        with final_errors(f"beginning {path}"):
            with open(path + _PARTIAL, "wb", opener=_private) as file:
                file.write(head)
                file.flush()
                os.fsync(file.fileno())
            os.replace(path + _PARTIAL, path)
            REAL.sync_directory(self._directory)
        self._open(path)
        self._size, self._chain = len(head), chain

    def _open(self, path: str) -> None:
        with final_errors(f"opening {path}"):
            self._file = open(path, "ab")  # noqa: SIM115 closed with the writer


def _refuse_strange(directory: str) -> None:
    """A directory with other things in it is not made an archive by a slip of the hand."""
    if any(contents(directory)):
        return
    for name in sorted(os.listdir(directory)):
        if name not in _IN_ANY and not _UNFINISHED.fullmatch(name):
            raise StorageError(f"{directory} holds {name} and no archive: use another directory")


def _private(path: str, flags: int) -> int:
    """Opens a file that nobody else may read: everything is in it."""
    return os.open(path, flags, 0o600)
