"""A member's log as the core sees it: recent entries in memory, older ones on disk.

    anchor          first cached                stable          last
      |------ disk ------|--------- cache ---------|-------------|
                                                    not durable yet

* The cache holds a contiguous tail. An entry leaves it only when it is durable AND
  applied, so everything below the cache can be read from the disk.
* Runs of equal terms give the term of any index behind the anchor without the disk.
* What is not yet handed to the disk is described by `_reset`, `_truncate_from` and
  `_batched`; `take_batch` turns it into one `LogBatch`.
* `stable_index` says how far the PRESENT log is durable. Each batch on its way carries a
  claim: the index up to which it makes the log durable. Truncation lowers the claims of
  all batches on their way, because a later batch will remove what they write. So the
  answer for an old batch never vouches for entries that replaced its own, not even for
  the same entry written again (R14).
"""

from bisect import bisect_right
from collections import deque
from itertools import accumulate, pairwise
from typing import Final, Protocol

from raftkv.errors import CorruptionError, ProtocolError
from raftkv.raft.types import Entry, HardState, LogBatch, RecoveredLog, SnapshotMeta

ENTRY_OVERHEAD_BYTES: Final = 160  # memory of a cached entry beside its payload, for the cap
MAX_SLICE_ENTRIES: Final = 8192  # entries of one message, so that empty ones are bounded too


class LogReader(Protocol):
    """Reads entries that are durable."""

    def entries(self, first: int, last: int, max_bytes: int) -> list[Entry]:
        """Entries first..last, contiguous, cut at `max_bytes` of payload but at least one."""
        ...


class Log:
    """See the module's docstring. Indexes and terms as in Raft; `bytes` are payload bytes."""

    def __init__(self, recovered: RecoveredLog, reader: LogReader, max_cache_bytes: int) -> None:
        self._reader = reader
        self._max_cache_bytes = max_cache_bytes
        self.anchor_index = recovered.anchor_index
        self.anchor_term = recovered.anchor_term
        self.last_index = recovered.last_index
        self.last_term = recovered.last_term
        self.stable_index = recovered.last_index
        self._run_firsts = [first for first, _ in recovered.term_runs]
        self._run_terms = [term for _, term in recovered.term_runs]
        self._check_runs()
        self._cache: list[Entry] = []
        self._cache_first = self.last_index + 1
        self._ends: list[int] = []  # bytes from the beginning of counting to each cached entry
        self._base_bytes = 0  # the same for the entry before the cache
        self._batched = self.last_index
        self._truncate_from = 0
        self._reset: SnapshotMeta | None = None
        self._claims: deque[list[int]] = deque()  # [batch number, claimed index]

    def _check_runs(self) -> None:
        firsts, terms = self._run_firsts, self._run_terms
        if self.last_index == self.anchor_index:
            sound = not firsts and self.last_term == self.anchor_term
        else:
            sound = (
                bool(firsts)
                and firsts[0] == self.anchor_index + 1
                and firsts[-1] <= self.last_index
                and terms[-1] == self.last_term
                and terms[0] >= self.anchor_term
                and all(a < b for a, b in pairwise(firsts))
                and all(a < b for a, b in pairwise(terms))
            )
        if not sound:
            raise CorruptionError(
                f"the recovered log contradicts itself: anchor ({self.anchor_index}, "
                f"{self.anchor_term}), last ({self.last_index}, {self.last_term}), "
                f"term runs {list(zip(firsts, terms, strict=True))[:8]}"
            )

    def check(self, term: int, applied: SnapshotMeta) -> None:
        """Compare the recovered log with the durable term and the applied state.

        Raises: CorruptionError if they contradict each other.
        """
        if self.last_term > term:
            raise CorruptionError(
                f"the log ends in term {self.last_term}, but the durable term is {term}: "
                "the member's term and vote were lost"
            )
        if not self.matches(applied.index, applied.term):
            raise CorruptionError(
                f"the state is applied up to ({applied.index}, {applied.term}), but the log "
                f"spans ({self.anchor_index}, {self.anchor_term}) to "
                f"({self.last_index}, {self.last_term}): entries were lost"
            )

    # --- questions ------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first index that the disk still holds (last + 1 if none)."""
        return self.anchor_index + 1

    @property
    def cached(self) -> int:
        """How many entries are in memory."""
        return len(self._cache)

    def term_at(self, index: int) -> int:
        """The term of the entry at `index`, anchor_index <= index <= last_index."""
        firsts = self._run_firsts
        if firsts and index >= firsts[-1]:
            assert index <= self.last_index, "term beyond the log's end"
            return self._run_terms[-1]
        if index == self.anchor_index:
            return self.anchor_term
        assert self.anchor_index < index <= self.last_index, "term of an index outside the log"
        return self._run_terms[bisect_right(firsts, index) - 1]

    def matches(self, index: int, term: int) -> bool:
        """True if the log has an entry (or its anchor) at `index` with `term`."""
        return self.anchor_index <= index <= self.last_index and self.term_at(index) == term

    def newest_not_above(self, index: int, term: int) -> tuple[int, int]:
        """Largest (index', term') with index' <= index and term' <= term.

        Used by both sides to skip a whole conflicting term per round trip (Raft 5.3).
        Below the anchor terms are unknown: then (index, 0) or the anchor comes back.
        """
        index = min(index, self.last_index)
        if index < self.anchor_index:
            return index, 0
        while index > self.anchor_index:
            at = bisect_right(self._run_firsts, index) - 1
            if self._run_terms[at] <= term:
                return index, self._run_terms[at]
            index = self._run_firsts[at] - 1
        return self.anchor_index, self.anchor_term

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """True if a log ending in (last_index, last_term) is at least as new (Raft 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def in_cache(self, index: int) -> bool:
        """True if reading at `index` needs no disk."""
        return index >= self._cache_first

    def bytes_after(self, index: int) -> int:
        """Payload bytes of the cached entries after `index` (entries on disk count 0)."""
        at = index - self._cache_first
        total = self._ends[-1] if self._ends else self._base_bytes
        if at >= len(self._ends):
            return 0
        return total - (self._ends[at] if at >= 0 else self._base_bytes)

    def slice(self, first: int, last: int, max_bytes: int) -> tuple[list[Entry], int]:
        """Entries from `first` on, at most up to `last`, and their payload bytes.

        At least one entry comes back; further ones while they fit into `max_bytes`.
        An answer ends where the cache begins: ask again for the rest.
        Raises: CorruptionError if the disk does not hold what the log says.
        """
        assert self.anchor_index < first <= last <= self.last_index, "slice outside the log"
        if first < self._cache_first:
            return self._read(first, min(last, self._cache_first - 1), max_bytes)
        low = first - self._cache_first
        high = min(last - self._cache_first + 1, low + MAX_SLICE_ENTRIES)
        ends = self._ends
        base = ends[low - 1] if low else self._base_bytes
        if ends[high - 1] - base > max_bytes:
            high = max(low + 1, bisect_right(ends, base + max_bytes, low, high))
        return self._cache[low:high], ends[high - 1] - base

    def _read(self, first: int, last: int, max_bytes: int) -> tuple[list[Entry], int]:
        last = min(last, first + MAX_SLICE_ENTRIES - 1)
        entries = self._reader.entries(first, last, max_bytes)
        if (
            not entries
            or entries[0].index != first
            or entries[-1].index != first + len(entries) - 1
            or entries[-1].index > last
            or entries[0].term != self.term_at(first)
            or entries[-1].term != self.term_at(entries[-1].index)
        ):
            raise CorruptionError(
                f"the log on disk does not hold the entries {first} to {last} that it should"
            )
        return entries, sum([len(entry.payload) for entry in entries])

    # --- changes --------------------------------------------------------------

    def append(self, entries: list[Entry]) -> None:
        """Append contiguous entries behind the last one.

        Raises: ProtocolError if indexes or terms do not continue the log.
        """
        first, last = entries[0], entries[-1]
        if first.index != self.last_index + 1 or last.index != self.last_index + len(entries):
            raise ProtocolError(f"entries {first.index} to {last.index} are not contiguous")
        if first.term != self.last_term or last.term != first.term or not self._run_firsts:
            self._append_runs(entries)
        self._cache.extend(entries)
        ends = self._ends
        sizes = [len(entry.payload) for entry in entries]
        sizes[0] += ends[-1] if ends else self._base_bytes
        ends.extend(accumulate(sizes))
        self.last_index = last.index
        self.last_term = last.term

    def _append_runs(self, entries: list[Entry]) -> None:
        term = self.last_term
        runs: list[tuple[int, int]] = []
        for entry in entries:
            if entry.term < term:
                raise ProtocolError(f"entry {entry.index}: term {entry.term} after {term}")
            if entry.term != term or not (runs or self._run_firsts):
                runs.append((entry.index, entry.term))
                term = entry.term
        for index, term in runs:
            self._run_firsts.append(index)
            self._run_terms.append(term)

    def truncate(self, first: int) -> None:
        """Drop the entries at `first` and above."""
        assert self.anchor_index < first <= self.last_index, "truncation outside the log"
        at = first - self._cache_first
        if at <= 0:
            self._cache.clear()
            self._ends.clear()
            self._cache_first = first
        else:
            del self._cache[at:], self._ends[at:]
        while self._run_firsts and self._run_firsts[-1] >= first:
            self._run_firsts.pop()
            self._run_terms.pop()
        self.last_index = first - 1
        self.last_term = self._run_terms[-1] if self._run_terms else self.anchor_term
        self.stable_index = min(self.stable_index, first - 1)
        for claim in self._claims:
            claim[1] = min(claim[1], first - 1)
        if first <= self._batched:
            self._truncate_from = min(self._truncate_from or first, first)
            self._batched = first - 1

    def reset(self, snapshot: SnapshotMeta) -> None:
        """Replace everything by an anchor behind `snapshot`."""
        self._cache.clear()
        self._ends.clear()
        self._run_firsts.clear()
        self._run_terms.clear()
        self.anchor_index = self.last_index = self._batched = snapshot.index
        self.anchor_term = self.last_term = snapshot.term
        self._cache_first = snapshot.index + 1
        self.stable_index = 0
        self._truncate_from = 0
        self._reset = snapshot
        for claim in self._claims:
            claim[1] = 0

    def compact(self, index: int, term: int) -> None:
        """Entries up to `index` are gone from the disk. Late news are ignored."""
        if index <= self.anchor_index:
            return
        assert index <= self.stable_index, "only durable entries are compacted"
        assert self.term_at(index) == term, "compacted at another term"
        keep = bisect_right(self._run_firsts, index) - 1
        del self._run_firsts[:keep], self._run_terms[:keep]
        if index == self.last_index:
            self._run_firsts.clear()
            self._run_terms.clear()
        else:
            self._run_firsts[0] = index + 1
            if len(self._run_firsts) > 1 and self._run_firsts[1] == index + 1:
                del self._run_firsts[0], self._run_terms[0]
        self.anchor_index = index
        self.anchor_term = term
        self._drop(index - self._cache_first + 1)

    def _drop(self, count: int) -> None:
        """Take the first `count` entries out of the cache."""
        if count > 0:
            self._base_bytes = self._ends[count - 1]
            del self._cache[:count], self._ends[:count]
            self._cache_first += count

    def evict(self, applied: int) -> None:
        """Let durable and applied entries leave memory if there is too much of it."""
        while True:
            count = len(self._cache)
            used = (self._ends[-1] - self._base_bytes if count else 0) + (
                count * ENTRY_OVERHEAD_BYTES
            )
            if used <= self._max_cache_bytes:
                return
            free = min(self.stable_index, applied) - self._cache_first + 1
            # In eighths, so that moving the rest of the list costs little per entry.
            eighth = max(1, count >> 3)
            if free < eighth:
                return
            self._drop(eighth)

    # --- the disk -------------------------------------------------------------

    @property
    def has_batch(self) -> bool:
        """True if the disk has to be told something."""
        return self._batched < self.last_index or self._truncate_from > 0 or self._reset is not None

    def take_batch(self, number: int, hard_state: HardState | None) -> LogBatch:
        """Everything that the disk does not know yet, as batch `number`."""
        entries: list[Entry] = []
        if self._batched < self.last_index:
            entries = self._cache[self._batched + 1 - self._cache_first :]
        batch = LogBatch(number, hard_state, self._reset, self._truncate_from, entries)
        self._reset = None
        self._truncate_from = 0
        self._batched = self.last_index
        self._claims.append([number, self.last_index])
        return batch

    def persisted(self, number: int) -> bool:
        """Batches up to `number` are durable. Returns True if `stable_index` grew."""
        before = self.stable_index
        claims = self._claims
        while claims and claims[0][0] <= number:
            self.stable_index = max(self.stable_index, claims.popleft()[1])
        return self.stable_index > before
