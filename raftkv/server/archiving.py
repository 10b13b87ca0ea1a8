"""What an archiver writes, and what an archive is found to hold.

An archiver asks servers for snapshots and events and hands them on (`cli.archiving`); here they
become what lies in the archive. From raftkv comes a snapshot as it is. Another server's, etcd's, is
of a format of its own; so all its keys at one revision are listed, and a snapshot of raftkv made of
that (`Listing`).
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from raftkv.errors import CorruptionError
from raftkv.kv.encoding import U64, KeyValue, encode_kv
from raftkv.kv.replaying import Listing
from raftkv.pb import kv_pb2
from raftkv.server.archive import (
    UNKNOWN_TTL_MS,
    created_of,
    identity_of,
    missing_between,
    text_of,
    torn_text,
)
from raftkv.server.backup import describe
from raftkv.storage.archive import (
    CHECK,
    COUNT,
    LEASE,
    REVISION,
    Event,
    SegmentReader,
    contents,
    decode_events,
    decode_number,
    encode_events,
    encode_number,
)
from raftkv.storage.archive_writer import ArchiveWriter
from raftkv.storage.backup import SnapshotSource, check_snapshot
from raftkv.storage.files import REAL, final_errors
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import STATE_BUFFER_BYTES, Identity
from raftkv.storage.tables import prune

KNOWN_LEASES: Final = 100_000


class Archive:
    """An archive that is being written. Everything raises StorageError.

    end: the newest archived revision, 0: a base is needed. durable: the newest one that stays,
    whatever happens. cluster: whose archive it is, 0: nobody's yet.
    """

    def __init__(self, directory: str, **options: Any) -> None:
        """Makes it if it is not there; goes on where it ended."""
        self._writer = ArchiveWriter(directory, **options)
        self._known: dict[int, None] = {}

    @property
    def end(self) -> int:
        """See the class's docstring."""
        return self._writer.end

    @property
    def durable(self) -> int:
        """See the class's docstring."""
        return self._writer.synced_end

    @property
    def cluster(self) -> int:
        """See the class's docstring."""
        return self._writer.cluster

    @property
    def cut_bytes(self) -> int:
        """Of a torn record that was found at the end, and cut away."""
        return self._writer.cut_bytes

    # --- bases -------------------------------------------------------------------

    @property
    def part(self) -> str:
        """Where to put a snapshot before `begin_with_snapshot`."""
        return self._writer.part()

    def begin_with_snapshot(self, cluster: int) -> int:
        """The snapshot in `part` is a base if it is of this cluster; its revision."""
        snapshot = check_snapshot(self.part)
        of, revision = identity_of(snapshot)
        if of != cluster:
            raise CorruptionError(f"the snapshot is of the cluster {of:016x}, not {cluster:016x}")
        return self._begin(cluster, revision)

    def begin_with_listing(
        self,
        cluster: int,
        revision: int,
        pairs: Iterable[kv_pb2.KeyValue],
        ttl_ms_of: Callable[[int], int],
        wall_clock_ns: int,
    ) -> int:
        """All keys at a revision become a base; its revision.

        pairs: in the order of their keys. ttl_ms_of: of a lease, 0: it has gone.
        """
        directory = self._writer.listing()
        with final_errors(f"writing {directory}"):
            REAL.make_directory(directory)
        try:
            state = LEVELDB.open_state(directory, buffer_bytes=STATE_BUFFER_BYTES, create=True)
            try:
                listing = Listing(state, revision)
                leases = {listing.add(_framed(pair)): None for pair in pairs}
                leases.pop(0, None)
                ttls_ms = {lease: ttl_ms_of(lease) for lease in leases}
                applied = listing.finish(ttls_ms, UNKNOWN_TTL_MS)
                state.sync()
            finally:
                state.close()
            prune(directory)
            description = describe(Identity(cluster, 0, 0), applied, wall_clock_ns)
            self._store(SnapshotSource(directory, description))
        finally:
            REAL.remove_tree(directory)
        return self._begin(cluster, revision)

    def _store(self, source: SnapshotSource) -> None:
        try:
            with (
                final_errors(f"writing {self.part}"),
                open(self.part, "wb", opener=_private) as file,
            ):
                while chunk := source.read():
                    file.write(chunk)
        finally:
            source.close()

    def _begin(self, cluster: int, revision: int) -> int:
        if revision > self.end:
            self._writer.begin(cluster, revision)
            self._known.clear()
        return revision

    # --- revisions ---------------------------------------------------------------

    def unknown_leases(self, events: list[kv_pb2.Event]) -> list[int]:
        """Those that keys are attached to, and that `add_lease` was not told of."""
        named = dict.fromkeys(event.kv.lease for event in events if event.kv.lease)
        return [lease for lease in named if lease not in self._known]

    def add_lease(self, lease: int, ttl_ms: int, time_ms: int) -> None:
        """A lease's time to live; 0: it has gone. Comes before the revision that names it."""
        if len(self._known) >= KNOWN_LEASES:
            self._known.clear()  # they are asked for once more
        self._known[lease] = None
        self._writer.append(LEASE, time_ms, lease & U64, encode_number(ttl_ms))

    def add(self, events: list[kv_pb2.Event], time_ms: int) -> None:
        """The events of the next revision."""
        self._writer.append(
            REVISION,
            time_ms,
            events[0].kv.mod_revision,
            encode_events([_event(event) for event in events]),
        )

    def agrees(self, events: list[kv_pb2.Event]) -> bool:
        """May these be events of the newest archived revision? Some may have been compacted."""
        if self._writer.last is None:
            return True
        last = decode_events(self._writer.last)
        return all(_event(event) in last for event in events)

    def add_check(self, complete_ms: int, time_ms: int) -> None:
        """All that was committed before `complete_ms` is archived."""
        self._writer.append(CHECK, time_ms, self.end, encode_number(complete_ms))

    def add_count(self, keys: int, time_ms: int) -> None:
        """So many keys exist at the newest archived revision."""
        self._writer.append(COUNT, time_ms, self.end, encode_number(keys))

    def sync(self) -> None:
        """All that was added is durable when it returns."""
        self._writer.sync()

    def close(self) -> None:
        """Ends the writing."""
        self._writer.close()


def _event(event: kv_pb2.Event) -> Event:
    kv = event.kv
    if event.type == kv_pb2.Event.EventType.DELETE:
        return Event(True, encode_kv(KeyValue(kv.key, 0, kv.mod_revision, 0, b"", 0)))
    return Event(False, _framed(kv))


def _framed(kv: kv_pb2.KeyValue) -> bytes:
    return encode_kv(
        KeyValue(kv.key, kv.create_revision, kv.mod_revision, kv.version, kv.value, kv.lease)
    )


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


# --- status ------------------------------------------------------------------------


@dataclass(slots=True)
class Run:
    """Revisions without a gap.

    bases: of the archive, from which every later revision of the run can be restored. first, last:
    the archived revisions. since_ms: received first; until_ms: complete up to then; 0: unknown.
    """

    first: int
    last: int
    bases: list[int] = field(default_factory=list)
    since_ms: int = 0
    until_ms: int = 0

    def note(self, reader: SegmentReader) -> None:
        """Reads a segment of this run. Raises CorruptionError behind what was whole."""
        for record in reader:
            self.last = reader.last
            if record.kind == REVISION:
                decode_events(record.payload)
                self.since_ms = self.since_ms or record.time_ms
            elif record.kind == CHECK:
                self.until_ms = max(self.until_ms, decode_number(record.payload))


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What an archive holds. notes: what is no fault; faults: damage, and what is missing."""

    cluster: int
    runs: list[Run]
    size_bytes: int
    notes: list[str]
    faults: list[str]


def archive_status(directory: str) -> ArchiveStatus:
    """Reads all of an archive but the contents of its bases' tables. Raises DiskFailure."""
    found = contents(directory)
    clusters: dict[int, None] = {}
    runs: list[Run] = []
    notes: list[str] = []
    faults: list[str] = []
    last: SegmentReader | None = None
    for first, path in found.segments.items():
        try:
            reader = SegmentReader(path, newest=first == max(found.segments))
            clusters[reader.head.cluster] = None
            missing = "" if last is None else missing_between(last, reader)
            if missing:
                (notes if reader.head.begins else faults).append(missing)
            if missing or not runs:
                runs.append(Run(first, first - 1))
            last = reader
            runs[-1].note(reader)
            if reader.torn:
                notes.append(torn_text(reader))
        except CorruptionError as error:
            faults.append(str(error))
    for revision, path in found.bases.items():
        try:
            base = check_snapshot(path)
            clusters[identity_of(base)[0]] = None
            _place(runs, identity_of(base)[1], created_of(base))
        except CorruptionError as error:
            faults.append(f"the base of revision {revision}: {error}")
    if len(clusters) > 1:
        faults.append("its files are of different clusters")
    with final_errors(f"reading {directory}"):
        size = sum(os.path.getsize(path) for files in found for path in files.values())
    return ArchiveStatus(min(clusters, default=0), runs, size, notes, faults)


def _place(runs: list[Run], revision: int, created_ms: int) -> None:
    """Finds the run that goes on from a base; a base may be all that there is."""
    for run in runs:
        if run.first - 1 <= revision <= run.last:
            run.bases.append(revision)
            return
    runs.append(Run(revision + 1, revision, [revision], created_ms, created_ms))
    runs.sort(key=lambda run: run.first)


def time_text(time_ms: int) -> str:
    """A time for people; "-" for an unknown one."""
    return text_of(time_ms) if time_ms else "-"
