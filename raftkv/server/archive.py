"""What can be restored out of an archive: which base, which revisions, and why not more.

Everything is read and checked once before anything is written (`make_plan`), and compared with
what was read then while it is carried out (`replay`). Nothing is used that does not lie behind the
base without a gap.

To a time means: up to the newest revision that the archiver had received by then. All of these had
been committed by then; what is left out are revisions that were received later, so at most those
since the last note that nothing was missing. If that note is older than `LATE_MS`, because the
archiver or its connection was down, nobody knows what belongs to that time, and it is refused.
"""

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from struct import Struct
from typing import Final

from raftkv.errors import ConfigError, CorruptionError
from raftkv.kv.encoding import signed
from raftkv.kv.replaying import Replay
from raftkv.storage.archive import (
    CHECK,
    COUNT,
    LEASE,
    REVISION,
    Contents,
    Record,
    SegmentReader,
    contents,
    decode_events,
    decode_number,
)
from raftkv.storage.backup import Snapshot, check_snapshot
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.recovery import STATE_BUFFER_BYTES

LATE_MS: Final = 30_000
UNKNOWN_TTL_MS: Final = 60_000  # of a lease that had gone before the archiver could ask
_DIGESTED: Final = Struct(">BQQ")


@dataclass(frozen=True, slots=True)
class Target:
    """How far to go: to a revision, to a time in milliseconds since 1970, or to the end."""

    revision: int | None = None
    time_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found to be restorable.

    segments: paths by first revision. digest: of the base and of what is added to it. note: what
    the operator should know, or empty.
    """

    base: Snapshot
    segments: dict[int, str]
    revision: int
    digest: bytes
    note: str = ""


class Walk:
    """What an archive has behind a revision, in order, as far as nothing is missing.

    cluster, revision: of the snapshot behind which it begins. After the iteration: ending: why
    there is no more; whole: because that is all there is; damaged: because of damage; note: about
    the archive's end.
    """

    def __init__(self, segments: dict[int, str], cluster: int, revision: int) -> None:
        self._segments = segments
        self._cluster = cluster
        self._base = revision
        self.ending = f"the archive has nothing behind revision {revision}"
        self.note = ""
        self.whole = self.damaged = False

    def __iter__(self) -> Iterator[Record]:
        """Raises ConfigError for another cluster's segment, DiskFailure."""
        behind = sorted(first for first in self._segments if first > self._base + 1)
        before = sorted(first for first in self._segments if first <= self._base + 1)
        if not before:
            if behind:
                self.ending = f"the archive begins with revision {behind[0]}"
            return
        try:
            last: SegmentReader | None = None
            for first in (before[-1], *behind):
                newest = first == max(self._segments)
                reader = SegmentReader(self._segments[first], newest=newest)
                missing = "" if last is None else missing_between(last, reader)
                if missing:
                    self.ending = missing
                    return
                yield from self._records(reader)
                last = reader
            self.whole = True
        except CorruptionError as error:
            self.ending, self.damaged = str(error), True

    def _records(self, reader: SegmentReader) -> Generator[Record, None, None]:
        if reader.head.cluster != self._cluster:
            raise ConfigError(
                f"{reader.path} is of the cluster {reader.head.cluster:016x}, "
                f"the snapshot of {self._cluster:016x}"
            )
        for record in reader:
            if reader.last > self._base or (reader.last == self._base and record.kind != REVISION):
                yield record
        if reader.torn:
            self.note = torn_text(reader)
        if reader.last >= self._base:
            self.ending = f"the archive ends with revision {reader.last}"


def missing_between(last: SegmentReader, reader: SegmentReader) -> str:
    """What is missing between a segment that was read and the next one; empty: nothing."""
    first = reader.head.first
    if reader.head.begins:
        return (
            f"between revision {last.last} and {first - 1} nothing was archived: it had been "
            "compacted before"
        )
    if first != last.last + 1:
        return f"revisions {last.last + 1} to {first - 1} are missing in the archive"
    if reader.head.chain != last.chain:
        return f"{reader.path} does not continue {last.path}: another file lies in its place"
    return ""


def torn_text(reader: SegmentReader) -> str:
    """What a torn end means."""
    return (
        f"{reader.path} ends within a record, {reader.torn} bytes behind revision {reader.last}: "
        "somebody is writing it, or the writing was cut off"
    )


def text_of(time_ms: int) -> str:
    """A time as people and `--to-time` write it."""
    return (
        datetime.fromtimestamp(time_ms / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z")
    )


def parse_time(text: str) -> int:
    """Milliseconds since 1970 of an RFC 3339 time. Raises ConfigError."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise ConfigError(
            f"--to-time: {text!r} is no time; write 2026-11-23T17:30:00Z, or +01:00 instead of Z"
        )
    return int(found.timestamp() * 1000)


# --- planning ----------------------------------------------------------------------


def make_plan(
    directory: str, target: Target, base_path: str = "", *, skip_hash: bool = False
) -> Plan:
    """Reads all that is needed to get there.

    base_path: the snapshot to begin with; empty: the newest one in the archive that serves.
    Raises ConfigError if it cannot be got to, CorruptionError for damage on the way, DiskFailure.
    """
    found = contents(directory)
    if not found.segments:
        raise ConfigError(f"--archive: {directory} holds no archive")
    base = check_snapshot(base_path, skip_hash=skip_hash) if base_path else _base(found, target)
    cluster, revision = identity_of(base)
    if target.revision is not None and target.revision < revision:
        raise ConfigError(
            f"--to-revision: {base.path} is of revision {revision}, later than {target.revision}"
        )
    created_ms = created_of(base)
    if target.time_ms is not None and not _is_older(base, target.time_ms):
        raise ConfigError(
            f"--to-time: {base.path} is of {text_of(created_ms)} or up to a second later, not "
            f"older than {text_of(target.time_ms)}"
        )
    walk = Walk(found.segments, cluster, revision)
    way = _Way(base, revision, target, created_ms)
    for record in walk:
        if way.is_done or way.goes_beyond(record):
            break
        way.add(record)
    way.check(walk)
    return Plan(base, found.segments, way.revision, way.digest.digest(), walk.note)


def _base(found: Contents, target: Target) -> Snapshot:
    """The newest base that does not lie behind the target. Raises ConfigError and more."""
    for revision in sorted(found.bases, reverse=True):
        if target.revision is not None and revision > target.revision:
            continue
        base = check_snapshot(found.bases[revision])
        if target.time_ms is None or _is_older(base, target.time_ms):
            return base
    raise ConfigError(
        "the archive has no base that lies before what was asked for; name a snapshot of before"
    )


class _Way:
    """Collects what is added to a base, up to a target."""

    def __init__(self, base: Snapshot, revision: int, target: Target, created_ms: int) -> None:
        self.revision = revision
        self.digest = hashlib.sha256(base.digest)
        self._target = target
        self._leases: list[Record] = []
        self._complete_ms = created_ms  # everything before this time is archived
        self._certain = target.time_ms is None

    @property
    def is_done(self) -> bool:
        """Is this the target?"""
        return self.revision == self._target.revision

    def goes_beyond(self, record: Record) -> bool:
        """Does a record lie behind the target's time? Raises ConfigError if nobody knows."""
        time_ms = self._target.time_ms
        if time_ms is None:
            return False
        if record.kind == CHECK:
            self._complete_ms = max(self._complete_ms, decode_number(record.payload))
            self._certain = self._complete_ms >= time_ms
        elif record.kind == REVISION and record.time_ms > time_ms:
            if time_ms - self._complete_ms > LATE_MS:
                raise ConfigError(
                    f"--to-time: revision {record.number} was received at "
                    f"{text_of(record.time_ms)}, and may be from any time since "
                    f"{text_of(self._complete_ms)}; choose a revision from {self.revision} on "
                    "(--to-revision)"
                )
            self._certain = True
        return self._certain

    def add(self, record: Record) -> None:
        """The next record of the archive."""
        if record.kind == LEASE:
            self._leases.append(record)
        elif record.kind == REVISION:
            for one in (*self._leases, record):
                self.digest.update(_DIGESTED.pack(one.kind, one.number, len(one.payload)))
                self.digest.update(one.payload)
            self._leases = []
            self.revision = record.number

    def check(self, walk: Walk) -> None:
        """Raises ConfigError or CorruptionError unless the target was reached."""
        if self._target.revision is not None:
            reached = self.is_done
        elif self._target.time_ms is not None:
            reached = self._certain
        else:
            reached = walk.whole
        if reached:
            return
        if walk.damaged:
            raise CorruptionError(f"{walk.ending}; up to revision {self.revision} all is whole")
        if self._target.time_ms is None:
            wanted = f"{self._target.revision}: " if self._target.revision is not None else ""
            raise ConfigError(
                f"--to-revision: {wanted}{walk.ending}; {self.revision} can be restored"
            )
        raise ConfigError(
            f"--to-time: {walk.ending}; it is complete up to {text_of(self._complete_ms)}"
        )


def identity_of(base: Snapshot) -> tuple[int, int]:
    """Cluster and revision of a snapshot. Raises CorruptionError."""
    try:
        return int(base.description["cluster"], 16), int(base.description["revision"])
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptionError(f"{base.path} does not say what it is of") from error


def _is_older(base: Snapshot, time_ms: int) -> bool:
    """Was a snapshot surely made by then?"""
    return created_of(base) + 1000 <= time_ms


def created_of(base: Snapshot) -> int:
    """The second in which a snapshot was made, in milliseconds since 1970. CorruptionError."""
    try:
        created = datetime.fromisoformat(base.description["created"])
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptionError(f"{base.path} does not say when it was made") from error
    return int(created.timestamp() * 1000)


# --- carrying out ------------------------------------------------------------------


def replay(plan: Plan, directory: str) -> int:
    """Carries the unpacked base in `directory` forward to the plan's revision, durably.

    How many leases got `UNKNOWN_TTL_MS`. Raises CorruptionError, DiskFailure.
    """
    cluster, revision = identity_of(plan.base)
    state = LEVELDB.open_state(directory, buffer_bytes=STATE_BUFFER_BYTES)
    try:
        replaying = Replay(state)
        if replaying.revision != revision:
            raise CorruptionError(f"{plan.base.path} is not of the revision that it says")
        way = _Way(plan.base, revision, Target(plan.revision), 0)
        for record in Walk(plan.segments, cluster, revision):
            if record.kind == COUNT and record.number == replaying.revision:
                replaying.check_count(decode_number(record.payload))
            if way.is_done:
                break
            if record.kind == LEASE:
                replaying.granted(signed(record.number), decode_number(record.payload))
            elif record.kind == REVISION:
                replaying.apply(record.number, decode_events(record.payload))
            way.add(record)
        if (way.revision, way.digest.digest()) != (plan.revision, plan.digest):
            raise CorruptionError("the archive was changed while it was replayed")
        unknown = replaying.finish(UNKNOWN_TTL_MS)
        state.sync()
        return unknown
    finally:
        state.close()
