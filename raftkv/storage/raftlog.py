"""The Raft log on disk: appended in batches, read by the leader, shortened at both ends.

Who calls what, from which thread:

    event loop    enqueue, entries, term, and everything that only looks
    disk thread   flush (or write), write_mark_behind
    housekeeping  truncate_front, tend

`enqueue` encodes a `LogBatch` into the write that is being collected; `flush` takes what has
been collected and makes it durable with ONE synced LevelDB write, after the hard state: both
copies of the mark, each synced. So rows are built where Python runs anyway, and the disk thread
makes only single long C calls, for which it needs no interpreter lock. A second flush cannot
start before the first is synced, hence disk batch n+1 is never written before n is durable.

Any failed write or sync is final. The error is kept, every later call raises it, and a marker
file tells the next start that the tail must not be trusted as the page cache shows it.

Rows lie in segments (`segments`): the front is dropped by removing whole ones, and a write that
replaces more than the newest segment holds (a conflicting suffix, an installed snapshot) begins
a new one. Such a write, like the first of every segment, repeats the anchor, so that the newest
segments alone say where the log begins.
"""

import threading
import time
from array import array
from collections.abc import Callable
from typing import Final
from zlib import crc32

from raftkv.errors import CorruptionError, DiskFailure, StorageError
from raftkv.raft.types import Entry, HardState, LogBatch, RecoveredLog, SnapshotMeta
from raftkv.storage.backend import LogRows, RowBatch
from raftkv.storage.mark import Mark
from raftkv.storage.records import (
    ANCHOR_KEY,
    CRC,
    END_KEY,
    HEAD,
    KEY,
    MAX_U64,
    RECORD,
    Anchor,
    End,
    LogScan,
    decode,
    encode_anchor,
    encode_end,
    first_anchor,
    generation_seed,
    term_at,
)

MARK_BEHIND_SECONDS: Final = 1.0  # longest lag of the mark under load
MARK_BEHIND_BYTES: Final = 1024 * 1024  # payload bytes after which the mark is due sooner
ROW_BYTES: Final = 64  # of a record, besides its payload


class _Write:
    """What one flush makes durable: the collected batches of the event loop."""

    __slots__ = (
        "batch",
        "floor",
        "hard_state",
        "last",
        "number",
        "payload_bytes",
        "records",
        "reset",
        "rows",
        "start",
    )

    def __init__(self, batch: RowBatch) -> None:
        self.batch = batch
        self.start: bytes | None = None  # first key of the segment that this write begins
        self.hard_state: HardState | None = None
        self.reset: tuple[int, int] | None = None  # (term, index) of an installed snapshot
        self.floor = MAX_U64  # rows above this index will be other rows after this write
        self.number = 0  # of the newest LogBatch in here
        self.last = (0, 0)
        self.rows = False
        self.records = 0
        self.payload_bytes = 0


class RaftLog:
    """See the module's docstring.

    anchor: the entry before the first one kept. last_term, last_index: the newest entry that
    was enqueued. durable: (term, index) of the newest entry that is durable.
    last_sync_seconds: duration of the last synced write. syncs: synced writes so far, and
    written_bytes: about their size.
    failure: the error that ended all writing, None while all is well.
    """

    def __init__(
        self,
        rows: LogRows,
        mark: Mark,
        seed: int,
        scan: LogScan,
        failed: Callable[[int, StorageError], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`seed`: of the directory's identity. `failed`: leaves the marker; called once with
        the last durable disk batch and the error."""
        self.anchor = scan.anchor
        self.last_index = scan.last_index
        self.last_term = scan.last_term
        self.durable = (scan.last_term, scan.last_index)
        self.last_sync_seconds = 0.0
        self.syncs = 0
        self.written_bytes = 0
        self.failure: StorageError | None = None
        self.payload_bytes = scan.payload_bytes
        self._rows = rows
        self._mark = mark
        self._seed = seed
        self._failed = failed
        self._clock = clock
        self._record_seed = generation_seed(seed, scan.anchor.generation)
        self._readable = scan.last_index  # rows up to here are as `_crcs` says
        self._crcs = scan.crcs  # of every entry kept, so that chains and reads can be checked
        self._runs = list(scan.term_runs)
        self._disk_number = scan.end.number + 1  # of the write being collected
        self._pending: _Write | None = None
        self._flushed = 0
        self._start = rows.start  # first key of the newest segment
        self._guard = threading.Lock()  # the fields above; held for microseconds
        self._writing = threading.Lock()  # one write at a time; held across a sync
        self._marked_at = clock()
        self._unmarked_bytes = 0

    # --- the event loop's side ----------------------------------------------

    def enqueue(self, batch: LogBatch) -> None:
        """Encodes `batch` into the next write. Batches must come in the order of their numbers.

        Raises the failure that ended all writing, if there was one.
        """
        with self._guard:
            write = self._collecting()
            assert batch.number > max(write.number, self._flushed), "batches come in order"
            if batch.hard_state is not None:
                write.hard_state = batch.hard_state
            if batch.reset is not None:
                self._reset(write, batch.reset)
            if batch.truncate_from:
                self._truncate(write, batch.truncate_from)
            if batch.entries:
                self._append(write, batch.entries)
            write.number = batch.number
            self._seal(write)

    def _collecting(self) -> _Write:
        if self.failure is not None:
            raise DiskFailure(f"the log is closed for good: {self.failure}") from self.failure
        write = self._pending
        if write is None:
            write = self._pending = _Write(self._rows.batch())
            write.number = self._flushed
            if self._rows.full:
                self._begin(write, self.last_index + 1)
        return write

    def _begin(self, write: _Write, index: int) -> None:
        """Makes `write` the first of a segment that holds what comes at `index` and behind.

        What the write has collected for another segment must be dead or be put again.
        """
        self._start = KEY.pack(RECORD, self.anchor.generation, index)
        if write.start is None:
            write.batch = self._rows.begin()
        write.start = self._start
        write.batch.put(ANCHOR_KEY, encode_anchor(self.anchor, self._seed))
        write.rows = True

    def _seal(self, write: _Write) -> None:
        write.last = (self.last_term, self.last_index)
        if write.rows:
            end = End(self.anchor.generation, self._disk_number, self.last_term, self.last_index)
            write.batch.put(END_KEY, encode_end(end, self._seed))

    def _append(self, write: _Write, entries: list[Entry]) -> None:
        previous = self._crcs[-1] if self._crcs else self.anchor.previous
        index, term = self.last_index, self.last_term
        generation, number, seed = self.anchor.generation, self._disk_number, self._record_seed
        put, remember = write.batch.put, self._crcs.append
        key, head, crc_of = KEY.pack, HEAD.pack, CRC.pack
        payload_bytes = 0
        for entry in entries:
            index += 1
            assert entry.index == index, "entries are contiguous"
            if entry.term != term or not self._runs:
                assert entry.term >= term, "terms never fall along a log (Raft 5.3)"
                term = entry.term
                self._runs.append((index, term))
            payload = entry.payload
            body = head(previous, number, index, term, entry.kind) + payload
            previous = crc32(body, seed)
            put(key(RECORD, generation, index), crc_of(previous) + body)
            remember(previous)
            payload_bytes += len(payload)
        self.last_index, self.last_term = index, term
        self.payload_bytes += payload_bytes
        write.payload_bytes += payload_bytes
        write.records += len(entries)
        write.rows = True

    def _truncate(self, write: _Write, first: int) -> None:
        """Drops a conflicting suffix (Raft 5.3). The anchor's own entry is committed: kept."""
        assert first > self.anchor.index, "committed entries are never truncated"
        if first > self.last_index:
            return
        write.floor = min(write.floor, first - 1)
        self._readable = min(self._readable, first - 1)
        generation = self.anchor.generation
        if KEY.pack(RECORD, generation, first) < self._start:
            self._begin(write, first)
        for index in range(first, self.last_index + 1):
            write.batch.delete(KEY.pack(RECORD, generation, index))
        del self._crcs[first - 1 - self.anchor.index :]
        while self._runs and self._runs[-1][0] >= first:
            self._runs.pop()
        self.last_index = first - 1
        self.last_term = term_at(self.anchor, self._runs, first - 1)
        write.rows = True

    def _reset(self, write: _Write, snapshot: SnapshotMeta) -> None:
        generation = self.anchor.generation + 1
        self.anchor = first_anchor(self._seed, generation, snapshot.index, snapshot.term)
        self._record_seed = generation_seed(self._seed, self.anchor.generation)
        self._crcs = array("I")
        self._runs = []
        self.payload_bytes = 0
        write.floor = self._readable = snapshot.index
        self.last_index, self.last_term = snapshot.index, snapshot.term
        self._begin(write, snapshot.index + 1)
        write.reset = (snapshot.term, snapshot.index)

    # --- the disk thread's side ---------------------------------------------

    def flush(self) -> int:
        """Makes everything enqueued so far durable: the hard state first, then ONE synced write.

        Returns the number of the newest durable LogBatch (0: none yet). Raises DiskFailure:
        final; nothing that was enqueued may be acknowledged.
        """
        with self._writing:
            with self._guard:
                if self.failure is not None:
                    raise DiskFailure(f"the log is closed for good: {self.failure}")
                write, self._pending = self._pending, None
                number = self._disk_number
                if write is not None and write.rows:
                    self._disk_number += 1
            if write is None:
                return self._flushed
            try:
                self._commit(write)
            except StorageError as error:
                self._fail(number - 1, error)
                raise
            with self._guard:
                floor = self._pending.floor if self._pending is not None else MAX_U64
                self._readable = min(write.last[1], floor)
                self.durable = write.last
                self._flushed = max(self._flushed, write.number)
            self._unmarked_bytes += write.payload_bytes
            return self._flushed

    def write(self, batches: list[LogBatch]) -> None:
        """`enqueue` of each batch, then `flush`. Raises DiskFailure: final."""
        for batch in batches:
            self.enqueue(batch)
        self.flush()

    def bootstrap(self, hard_state: HardState, snapshot: SnapshotMeta) -> None:
        """Starts an empty log behind the first members' snapshot, durable when it returns.

        Before the first batch of a fresh directory. Raises DiskFailure.
        """
        assert self.last_index == 0, "only an empty log is bootstrapped"
        with self._guard:
            write = self._collecting()
            write.hard_state = hard_state
            self._reset(write, snapshot)
            self._seal(write)
        self.flush()

    def _commit(self, write: _Write) -> None:
        mark, value = self._mark, self._mark.value
        # A conflicting suffix may end in a later term than what replaces it for now: then the
        # mark goes down first, or a crash in between would look like a loss.
        lowered = write.last if write.last < (value.last_term, value.last_index) else None
        hard_state = write.hard_state
        if hard_state is not None and hard_state == (value.term, value.vote):
            hard_state = None
        if hard_state is not None or lowered is not None:
            mark.update(hard_state=hard_state, last=lowered)
        if write.rows:
            started = self._clock()
            size = write.payload_bytes + ROW_BYTES * write.records
            self._rows.commit(write.batch, size, write.start)
            if write.reset is not None and write.start is not None:
                self._rows.drop(write.start)
            self.last_sync_seconds = self._clock() - started
            self.syncs += 1
            self.written_bytes += size
        coming = mark.value
        if coming.next_state and (coming.next_term, coming.next_index) == write.reset:
            mark.update(state=coming.next_state, coming=(0, 0, 0), last=write.last)

    def _fail(self, durable_number: int, error: StorageError) -> None:
        self.failure = error
        self._failed(durable_number, error)

    def write_mark_behind(self, *, force: bool = False) -> bool:
        """Notes in the mark how far the log is durable, if that is due. Returns whether it was.

        Cheap when not due: call it after every flush, behind the acknowledgement, and with
        `force` when the disk has been idle for a second. Raises DiskFailure: final.
        """
        value = self._mark.value
        if self.failure is not None or self.durable == (value.last_term, value.last_index):
            return False
        now = self._clock()
        late = now - self._marked_at >= MARK_BEHIND_SECONDS
        if not force and not late and self._unmarked_bytes < MARK_BEHIND_BYTES:
            return False
        with self._writing:
            try:
                self._mark.update(last=self.durable)
            except StorageError as error:
                self._fail(self._disk_number - 1, error)
                raise
            self._marked_at = now
            self._unmarked_bytes = 0
        return True

    # --- housekeeping -------------------------------------------------------

    def truncate_front(self, index: int, term: int) -> None:
        """Drops every entry up to and including (index, term), behind a finished checkpoint.

        The new anchor is durable when it returns; segments before it are removed. Tell the core
        first, or it may still ask for these entries. Raises DiskFailure: final.
        """
        with self._guard:
            if index <= self.anchor.index or index > self._readable:
                return
            write = self._collecting()
            known = term_at(self.anchor, self._runs, index)
            assert known == term, f"entry {index} has term {known}, not {term}"
            dropped = index - self.anchor.index
            self.anchor = Anchor(self.anchor.generation, index, term, self._crcs[dropped - 1])
            del self._crcs[:dropped]
            keep = [run for run in self._runs if run[0] > index]
            if self.last_index > index and (not keep or keep[0][0] > index + 1):
                keep.insert(0, (index + 1, term_at(self.anchor, self._runs, index + 1)))
            self._runs = keep
            write.batch.put(ANCHOR_KEY, encode_anchor(self.anchor, self._seed))
            write.rows = True
            self._seal(write)
            before = KEY.pack(RECORD, self.anchor.generation, index + 1)
        self.flush()
        self._rows.drop(before)
        self.tend()

    @property
    def untended(self) -> bool:
        """True if `tend` should be called soon."""
        return self._rows.untended

    def tend(self) -> None:
        """Makes the next segment, removes old ones. Long work. Raises DiskFailure: final."""
        self._rows.tend()

    # --- reading ------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """Index of the first entry kept; one above `last_index` if there is none."""
        return self.anchor.index + 1

    def term(self, index: int) -> int:
        """The term of an entry kept, or of the anchor. IndexError for others."""
        with self._guard:
            if not self.anchor.index <= index <= self.last_index:
                raise IndexError(index)
            return term_at(self.anchor, self._runs, index)

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """Durable entries first..last, fewer once their payloads exceed `max_bytes` (at least
        one). Empty if `first` was already dropped, or is not durable yet.

        Raises CorruptionError for a record that is damaged, missing or out of the chain.
        """
        with self._guard:
            anchor = self.anchor
            before = first - 1 - anchor.index
            last = min(last, self._readable)
            if before < 0 or first > last:
                return []
            previous = self._crcs[before - 1] if before else anchor.previous
            seed = self._record_seed
        found: list[Entry] = []
        generation, index, total = anchor.generation, first, 0
        start, stop = KEY.pack(RECORD, generation, first), KEY.pack(RECORD, generation, last + 1)
        with self._rows.reading:
            for key, value in self._rows.scan(start, stop):
                entry, previous = decode(key, value, index, previous, seed)
                total += len(entry.payload)
                if found and total > max_bytes:
                    return found
                found.append(entry)
                index += 1
        if index != last + 1:
            raise CorruptionError(f"log record {index} is missing")
        return found

    def check_at_least(self, term: int, index: int) -> None:
        """Refuses if a leader has seen this member acknowledge more than it now has.

        term, index: last entry acknowledged to the leader of the current term. Compared as
        Raft 5.4.1 compares logs. Raises CorruptionError.
        """
        with self._guard:
            mine = (self.last_term, self.last_index)
        if mine < (term, index):
            raise CorruptionError(
                f"this member acknowledged (term {term}, index {index}) but its log ends at"
                f" (term {mine[0]}, index {mine[1]}): acknowledged entries are lost"
            )

    def size(self) -> int:
        """Bytes on disk, approximately."""
        return self._rows.size()

    def close(self) -> None:
        """Ends all use; join the disk and housekeeping threads first."""
        self._rows.close()


def recovered(scan: LogScan, mark: Mark) -> RecoveredLog:
    """What the Raft core starts from."""
    return RecoveredLog(
        HardState(mark.value.term, mark.value.vote),
        scan.anchor.index,
        scan.anchor.term,
        scan.last_index,
        scan.last_term,
        list(scan.term_runs),
        list(scan.configurations),
    )
