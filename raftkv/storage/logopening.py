"""Opening the Raft log: what was recovered, whether it can be trusted, and the one repair.

The rules, in the order they are applied:

 1. The chain of records behind the anchor must reach exactly where the end row says. A write is
    atomic, so anything else means that a durable batch is damaged: refuse.
 2. LevelDB may have dropped records without a word. Its raw write-ahead log, read before it is
    opened, must not show that a batch behind the recovered ones was durable (`torntail`): refuse.
    A lone batch at the end of which a part is missing is an ordinary power cut; one that is all
    there, but wrong, is rot. Opening removes the raw files, so they stay in `log.tail` until the
    log is trusted: the next attempt must not find less.
 3. Less than the mark remembers: refuse. "Less" compares (term, index) of the last entry as
    Raft 5.4.1 does, because a conflicting suffix may legally shorten the log.
 4. If LevelDB itself reports damage at opening (one unwritten page of the last batch does),
    rules 1 to 3 judge a copy opened without `paranoid_checks`. If it passes, only the torn last
    batch is missing: what is left is rewritten into new files.
 5. If the marker of a failed write is there, the page cache may show bytes that the disk does
    not have. Records of later disk batches than the marker names were never acknowledged:
    everything else is rewritten into new files. Less than the marker names: refuse.

A rewrite builds `log.new`, renames it to `log.whole` when it is complete and synced, removes
`log`, renames `log.whole` to `log`. Whatever step a crash interrupts, the next opening finds
`log`, or a complete `log.whole`.

Limit: damage of the newest batch that leaves zeros where a torn write leaves them, within what
the mark lags behind, looks like a torn write that was never acknowledged (`torntail`).
"""

from dataclasses import dataclass
from typing import Final

from raftkv.errors import CorruptionError
from raftkv.storage.backend import Engine, LogRows
from raftkv.storage.files import FileSystem, final_errors
from raftkv.storage.mark import MarkValue
from raftkv.storage.records import (
    ANCHOR_KEY,
    END_KEY,
    KEY,
    RECORD,
    Anchor,
    End,
    LogScan,
    encode_anchor,
    encode_end,
    first_anchor,
    scan_log,
)
from raftkv.storage.torntail import lost_batch

LOG: Final = "log"
TAIL: Final = "log.tail"
COPY: Final = "log.copy"
NEW: Final = "log.new"
WHOLE: Final = "log.whole"
REWRITE_BYTES: Final = 1024 * 1024  # payload bytes per synced batch of a rewrite


@dataclass(frozen=True, slots=True)
class Place:
    """Where a log lives and how to touch it. path: the data directory. seed: its identity's."""

    fs: FileSystem
    engine: Engine
    path: str
    seed: int

    def of(self, name: str) -> str:
        """The path of a name within the data directory."""
        return f"{self.path}/{name}"


def create_log(place: Place) -> None:
    """Makes an empty log, durable. Raises DiskFailure."""
    with final_errors(f"creating {place.of(LOG)}"):
        place.fs.make_directory(place.of(LOG))
    anchor = first_anchor(place.seed, 0, 0, 0)
    _fill(place, LOG, anchor, End(0, 0, 0, 0)).close()


def open_log(place: Place, mark: MarkValue, failed_after: int | None) -> tuple[LogRows, LogScan]:
    """The rows of the log and what is in them, trusted.

    failed_after: the last durable disk batch as the marker of a failed write names it.
    Raises CorruptionError for anything that must not be trusted, DiskFailure.
    """
    engine = place.engine
    with final_errors(f"finishing a rewrite in {place.path}"):
        _finish_rewrite(place)
    try:
        tail = engine.log_tail(place.of(LOG), place.of(TAIL))
    except OSError as error:
        raise CorruptionError(f"{place.of(LOG)} cannot be read: {error}") from error
    try:
        rows = engine.open_log(place.of(LOG))
    except CorruptionError as complaint:
        return _repair(place, mark, tail, failed_after, complaint)
    try:
        scan = judge(rows, place.seed, tail, mark, failed_after)
        if failed_after is not None:
            scan = scan_log(rows, place.seed, limit_number=failed_after)
            check_mark(scan, mark)
            return _rewrite(place, rows, scan)
        rows.drop(KEY.pack(RECORD, scan.anchor.generation, scan.anchor.index + 1))
        with final_errors(f"removing {place.of(TAIL)}"):
            _remove(place, TAIL)
    except BaseException:
        rows.close()
        raise
    return rows, scan


def judge(
    rows: LogRows, seed: int, tail: list[bytes], mark: MarkValue, failed_after: int | None
) -> LogScan:
    """Rules 1 to 3. Raises CorruptionError with the rule's reason."""
    scan = scan_log(rows, seed)
    if scan.problem is not None:
        raise CorruptionError(f"a durable part of the log is damaged: {scan.problem}")
    evidence = lost_batch(tail, seed, scan, failed_after)
    if evidence is not None:
        raise CorruptionError(
            f"a durable part of the log is damaged: it ends with disk batch {scan.end.number},"
            f" but {evidence}"
        )
    check_mark(scan, mark)
    return scan


def check_mark(scan: LogScan, mark: MarkValue) -> None:
    """Rule 3. Raises CorruptionError."""
    if (scan.last_term, scan.last_index) < (mark.last_term, mark.last_index):
        raise CorruptionError(
            f"the log ends at (term {scan.last_term}, index {scan.last_index}), but it was"
            f" durable up to (term {mark.last_term}, index {mark.last_index})"
        )


def _repair(
    place: Place,
    mark: MarkValue,
    tail: list[bytes],
    failed_after: int | None,
    complaint: CorruptionError,
) -> tuple[LogRows, LogScan]:
    """Rule 4: judges a copy, then rewrites what is whole."""
    with final_errors(f"copying {place.of(LOG)}"):
        place.fs.copy_tree(place.of(LOG), place.of(COPY))
    try:
        rows = place.engine.open_log(place.of(COPY), paranoid=False)
    except CorruptionError as error:
        raise CorruptionError(f"{complaint}; and without strict checks: {error}") from error
    try:
        scan = judge(rows, place.seed, tail, mark, failed_after)
    except CorruptionError as error:
        rows.close()
        raise CorruptionError(f"{error} ({complaint})") from error
    return _rewrite(place, rows, scan)


def _rewrite(place: Place, rows: LogRows, scan: LogScan) -> tuple[LogRows, LogScan]:
    """Copies the records of `scan` into new files and puts these in the log's place."""
    fs, anchor = place.fs, scan.anchor
    # Numbers go on behind the last one seen, so that no later batch looks older than a lost one.
    end = End(anchor.generation, scan.end.number + 1, scan.last_term, scan.last_index)
    try:
        with final_errors(f"rewriting {place.of(LOG)}"):
            fs.make_directory(place.of(NEW))
    except BaseException:
        rows.close()
        raise
    new = _fill(place, NEW, anchor, End(anchor.generation, 0, anchor.term, anchor.index))
    try:
        _copy_records(rows, new, scan, encode_end(end, place.seed))
    finally:
        new.close()
        rows.close()
    with final_errors(f"rewriting {place.of(LOG)}"):
        fs.sync_directory(place.of(NEW))
        fs.rename(place.of(NEW), place.of(WHOLE))
        fs.sync_directory(place.path)
        _finish_rewrite(place)
    written = place.engine.open_log(place.of(LOG))
    result = scan_log(written, place.seed)
    assert result.problem is None, result.problem
    return written, result


def _copy_records(rows: LogRows, new: LogRows, scan: LogScan, end: bytes) -> None:
    """The records of `scan` byte for byte, so that the chain stays as it is, then the end row."""
    generation = scan.anchor.generation
    batch, pending_bytes = new.batch(), 0
    start = KEY.pack(RECORD, generation, scan.anchor.index + 1)
    stop = KEY.pack(RECORD, generation, scan.last_index + 1)
    for key, value in rows.scan(start, stop):
        batch.put(key, value)
        pending_bytes += len(value)
        if pending_bytes >= REWRITE_BYTES:
            new.commit(batch, pending_bytes, None)
            batch, pending_bytes = new.batch(), 0
    batch.put(END_KEY, end)
    new.commit(batch, pending_bytes, None)


def _finish_rewrite(place: Place) -> None:
    """Goes on with a rewrite where a crash stopped it, and drops what it left unfinished."""
    fs = place.fs
    _remove(place, NEW)
    _remove(place, COPY)
    if fs.exists(place.of(WHOLE)):
        _remove(place, TAIL)  # evidence about the old files says nothing about the new ones
        fs.sync_directory(place.path)
        _remove(place, LOG)
        fs.rename(place.of(WHOLE), place.of(LOG))
        fs.sync_directory(place.path)


def _remove(place: Place, name: str) -> None:
    if place.fs.exists(place.of(name)):
        place.fs.remove_tree(place.of(name))


def _fill(place: Place, name: str, anchor: Anchor, end: End) -> LogRows:
    """A new log in the empty directory `name` that holds an anchor and an end row, durable."""
    rows = place.engine.open_log(place.of(name))
    try:
        batch = rows.begin()
        batch.put(ANCHOR_KEY, encode_anchor(anchor, place.seed))
        batch.put(END_KEY, encode_end(end, place.seed))
        rows.commit(batch, 0, KEY.pack(RECORD, anchor.generation, anchor.index + 1))
        with final_errors(f"syncing {place.of(name)}"):
            place.fs.sync_directory(place.of(name))
    except BaseException:
        rows.close()
        raise
    return rows
