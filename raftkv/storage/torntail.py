"""Whether the log's raw files show that a durable batch behind the recovered ones was lost.

Disk batch n + 2 is written only after n + 1 was synced. So if n is the newest batch that was
recovered, a whole row of batch n + 2 or later anywhere in the raw write-ahead files (`waltail`),
or a write behind the one of n + 1, proves that n + 1 was durable.

Else n + 1 is the last thing in its file. Either it was being written when the power went or the
process was killed, and nobody was told of it; or it rotted later, and was perhaps acknowledged.
What can be left of an interrupted write is limited. The file was allocated ahead or grew, so
behind n it read as zeros or ended; a disk writes sectors as wholes; a process that dies has
written a prefix. So each part of n + 1 that lies in one sector of the file is as it was written
or all zeros, and the file may end early, at any byte. All fragments of a write but the last fill
their blocks, so their places are known whatever their heads say. Each fragment must be

 * whole: its head is what belongs there, and its checksum verifies; or
 * without a sector: one part of it is all zeros, and no record that verifies has these zeros as
   its own, and no few adjacent bits elsewhere make the whole batch right when turned over; or
 * cut: it goes on behind the last byte that is there, and what is there can be the beginning
   (`cutrows`: a batch may end with zeros, whose absence says nothing).

If a fragment is none of these, all bytes of the batch were written, and some are wrong: the log
must be refused. What a power cut or a kill leaves always is one of these, so it never leads to a
refusal. One thing does without need: a file system that shows old content of other files after a
power cut (ext4 with data=writeback, for a file that was not allocated ahead).

Limit: damage of the newest batch that leaves what a torn write leaves, while the mark lags behind.
It must leave zeros in the place of all of one sector's part of the batch, or of everything from
some byte on. And if an entry holds zeros for a whole sector of the file itself, more than
`BURST_BITS` adjacent bits of that entry must be damaged.

A marker of a failed write (`logopening`) names the newest durable batch. If that was recovered,
what lies behind it was never acknowledged, and may be anything.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from raftkv.storage.cutrows import CutWrite
from raftkv.storage.preallocation import POLYNOMIAL, crc32c, is_whole, stored_crc
from raftkv.storage.records import LogScan
from raftkv.storage.waltail import (
    BLOCK_BYTES,
    FIRST,
    HEAD_BYTES,
    LAST,
    MIDDLE,
    WHOLE,
    Joined,
    end_of_write,
    find_rows,
)

SECTOR_BYTES: Final = 512
BURST_BITS: Final = 16
_ABOVE_BURST: Final = (1 << 32 - BURST_BITS) - 1


def lost_batch(
    files: list[bytes], seed: int, scan: LogScan, failed_after: int | None = None
) -> str | None:
    """Why a durable batch behind the log `scan` must have been lost, None if nothing says so.

    files: the raw write-ahead logs, oldest first, each up to its true end. seed: of the
    directory's identity. failed_after: the newest durable disk batch as the marker of a failed
    write names it; None: there is no marker.
    """
    newest = scan.end.number
    if failed_after is not None and newest < failed_after:
        return f"disk batch {failed_after} was durable when a write failed"
    seen = [_look(raw, seed, scan) for raw in files]
    later = max((one.later for one in seen), default=0)
    if later >= newest + 2:
        return f"a record of disk batch {later}, which was written later, is still there"
    if failed_after is not None:
        return None
    for raw, start in _behind(files, seen):
        reason = _Tail(raw, start, seed, scan).reason()
        if reason is not None:
            return f"disk batch {newest + 1} {reason}"
    return None


class _Seen(NamedTuple):
    """What a raw file holds of batches. later: the latest of this life or a later one of the log.

    newest: offset of the last row of the newest recovered batch; -1: none. old: there are rows of
    that one or of older ones.
    """

    later: int
    newest: int
    old: bool


def _look(raw: bytes, seed: int, scan: LogScan) -> _Seen:
    recovered, life = scan.end.number, scan.anchor.generation
    later, newest, old = 0, -1, False
    # What lies within one fragment is found in the raw bytes even if heads around it are
    # damaged; what spans fragments is found only without the heads.
    joined = Joined(raw)
    for content in (raw, joined.content):
        last = -1
        for start, _, _, generation, number in find_rows(content, seed):
            if number > later and generation >= life:
                later = number
            if number <= recovered:
                old = True
                if number == recovered and start > last:
                    last = start
        if last >= 0:
            newest = max(newest, last if content is raw else joined.raw_offset(last))
    return _Seen(later, newest, old)


def _behind(files: list[bytes], seen: list[_Seen]) -> Iterator[tuple[bytes, int]]:
    """The places where the write behind the newest batch may stand: (file, offset in it).

    That is behind the write of that batch, and in the files that follow. If no file has it, it was
    made a table of, and the next write began another file. Files with nothing but older batches
    are left over from such an opening.
    """
    holders = [place for place, one in enumerate(seen) if one.newest >= 0]
    first = 0
    if holders:
        raw = files[holders[-1]]
        end = end_of_write(raw, seen[holders[-1]].newest)
        if end is not None:
            yield raw, end
        first = holders[-1] + 1
    for place in range(first, len(files)):
        if not seen[place].old:
            yield files[place], 0


class _Fragment(NamedTuple):
    """A fragment of the write in its place.

    content: head and bytes, up to where it ends or the file does. kind: as its head says; 0: that
    is not there. end: where it ends as its head says; 0: unknown. holes: parts that are all zeros.
    """

    start: int
    content: bytes
    kind: int
    end: int
    holes: list[tuple[int, int]]
    whole: bool


class _Impossible(Exception):
    """No write that was cut short leaves this."""


_LATER: Final = "was followed by a later write"
_ROTTEN: Final = "is all there, but damaged"
_UNREAD: Final = "is all there, but was not recovered"


class _Tail:
    """The bytes from `start` to the end of a file: one write, or what is left of it."""

    def __init__(self, raw: bytes, start: int, seed: int, scan: LogScan) -> None:
        self._raw = raw
        self._seed = seed
        self._scan = scan
        left = BLOCK_BYTES - start % BLOCK_BYTES
        self._start = start + left if left < HEAD_BYTES else start

    def reason(self) -> str | None:
        """What shows that this was durable, as the end of a sentence about the batch."""
        if self._start >= len(self._raw):
            return None
        try:
            return self._judge(list(self._fragments()))
        except _Impossible as error:
            return str(error)

    def _fragments(self) -> Iterator[_Fragment]:
        raw, size = self._raw, len(self._raw)
        at = self._start
        while at < size:
            limit = at - at % BLOCK_BYTES + BLOCK_BYTES
            content = raw[at : min(limit, size)]
            holes = _holes(content, at)
            kind = end = 0
            if len(content) >= HEAD_BYTES and not any(low < at + HEAD_BYTES for low, _ in holes):
                kind = content[6]
                end = at + HEAD_BYTES + int.from_bytes(content[4:6], "little")
                self._check_head(at, kind, end, limit)
            padded = content.ljust(end - at, b"\0")
            yield _Fragment(at, content, kind, end, holes, bool(end) and is_whole(padded))
            at = limit

    def _check_head(self, at: int, kind: int, end: int, limit: int) -> None:
        """A head that is there is as it was written."""
        more, last = (FIRST, WHOLE) if at == self._start else (MIDDLE, LAST)
        if kind == last and end < len(self._raw) and end <= limit:
            raise _Impossible(_LATER)
        if (kind == more and end != limit) or kind not in (more, last) or end > limit:
            raise _Impossible(_ROTTEN)

    def _judge(self, fragments: list[_Fragment]) -> str | None:
        size, last, torn = len(self._raw), fragments[-1], False
        for one in fragments:
            if one.whole:
                continue
            if self._lacks_a_sector(one, fragments):
                torn = True
            elif one.end and one.end <= size:
                return _ROTTEN
        if torn:
            return _ROTTEN if self._is_mended(fragments) else None
        final = last.kind in (WHOLE, LAST)
        payload = _payload(fragments)
        rows = CutWrite(payload, self._seed, self._scan)
        if last.whole:
            # It would have been recovered, unless the file ended early, if only by zeros.
            return _UNREAD if final and last.end == size and rows.whole() else None
        if not last.end:  # cut within a head
            return None
        size_told = len(payload) + last.end - size if final else None
        return None if rows.may_be_cut(size_told) else _ROTTEN

    def _lacks_a_sector(self, one: _Fragment, fragments: list[_Fragment]) -> bool:
        """Whether zeros stand in it that no record is known to have."""
        if not one.holes:
            return False
        # From offsets in the file to offsets in the payload.
        before = fragments[: fragments.index(one)]
        shift = sum(len(other.content) - HEAD_BYTES for other in before) - one.start - HEAD_BYTES
        number = self._scan.end.number + 1
        found = find_rows(_payload(fragments), self._seed)
        values = [(value, end) for _, value, end, _, batch in found if batch == number]
        return not all(
            low >= one.start + HEAD_BYTES
            and any(value <= low + shift and high + shift <= end for value, end in values)
            for low, high in one.holes
        )

    def _is_mended(self, fragments: list[_Fragment]) -> bool:
        """Whether the whole batch is right with a few adjacent bits of it turned over.

        Two checksums agree on that, so it does not happen to a batch that lacks a sector.
        """
        fragments = list(fragments)
        broken = [at for at, one in enumerate(fragments) if not one.whole]
        last = fragments[-1]
        if len(broken) > 1 or last.kind not in (WHOLE, LAST) or not fragments[broken[0]].end:
            return False
        one = fragments[broken[0]]
        content = one.content.ljust(one.end - one.start, b"\0")
        for mended in bursts(content):
            without = bytearray(mended)
            for low, high in one.holes:
                without[low - one.start : high - one.start] = bytes(high - low)
            if without == content:
                continue  # a sector with next to nothing but zeros may well be missing
            fragments[broken[0]] = one._replace(content=mended)
            if CutWrite(_payload(fragments), self._seed, self._scan).whole():
                return True
        return False


def _holes(content: bytes, start: int) -> list[tuple[int, int]]:
    """The parts of a fragment that lie in one sector each and are all zeros: [low, high)."""
    found = []
    low, stop = start, start + len(content)
    while low < stop:
        high = min(low - low % SECTOR_BYTES + SECTOR_BYTES, stop)
        if content.count(0, low - start, high - start) == high - low:
            found.append((low, high))
        low = high
    return found


def _payload(fragments: list[_Fragment]) -> bytes:
    """The bytes that are there, without heads."""
    return b"".join(one.content[HEAD_BYTES:] for one in fragments)


def bursts(fragment: bytes) -> Iterator[bytes]:
    """The fragment with up to `BURST_BITS` adjacent bits turned over, in each way that makes its
    checksum right.

    A bit with k bits behind it changes the checksum, a polynomial over two elements, by
    x ** (k + 32). So what all changes come to is divided by x again and again, until only the
    lowest powers are left: the pattern that was turned over.
    """
    left = crc32c(fragment[6:]) ^ stored_crc(fragment)
    bits = 8 * (len(fragment) - 6)
    for behind in range(-32, bits):
        # The checksum is reflected: its highest bit is x ** 0.
        if left & _ABOVE_BURST == 0 and left & 1 << 31 and behind >= 0:
            yield _turned_over(fragment, behind, left)
        left = (left ^ POLYNOMIAL) << 1 | 1 if left & 1 << 31 else left << 1


def _turned_over(fragment: bytes, behind: int, pattern: int) -> bytes:
    changed = bytearray(fragment)
    for bit in range(behind, min(behind + BURST_BITS, 8 * len(fragment))):
        if pattern & 1 << 31 - bit + behind:
            changed[-1 - bit // 8] ^= 0x80 >> bit % 8
    return bytes(changed)
