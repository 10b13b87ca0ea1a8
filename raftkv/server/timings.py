"""How long this member takes over what clients wait for, and what it says when that is too long.

Noted once per turn, for all that the turn has done, in histograms and counters that the metrics
show. What exceeds a bound is logged with what it waited for:

    leader      nobody could take the write: no leader, or no room in its log
    log-sync    this member's disk
    quorum      the other members, behind the own disk
    cluster     another member, which leads: its disk, the network and the others together
    read-index  the leader's word that it still leads
    apply       the state machine

Everything slow is slow many times over when a disk is sick, so each kind is said at most once in
some seconds, with the number of times since. What is logged of a request are its kind, its sizes
and the first bytes of its keys: never a value.
"""

import logging
from collections.abc import Callable
from time import perf_counter
from typing import Final

from raftkv.histogram import Histogram, exponential
from raftkv.raft.types import Entry
from raftkv.replica.stopwatch import Applied, Run
from raftkv.server.disk import SLOW_SYNC_SECONDS
from raftkv.server.logformats import duration
from raftkv.server.logs import Repeats
from raftkv.server.portrait import portrait

log = logging.getLogger("raftkv.server")

APPLY_SECONDS: Final = exponential(0.0001, 2, 20)  # the buckets of etcd's histogram
DEFRAGMENT_SECONDS: Final = exponential(0.1, 2, 13)  # these two as etcd's as well
SNAPSHOT_SECONDS: Final = exponential(0.01, 2, 17)
PROPOSAL_SECONDS: Final = exponential(0.0001, 2, 18)
SLOW_READ_INDEX_SECONDS: Final = 0.5  # after which etcd asks again
QUIET_SECONDS: Final = 5.0
_SHOWN_ENTRIES: Final = 3


class Timings:
    """What one member has taken since its start.

    slow_apply_seconds, slow_request_seconds: above them it is logged; 0: never.
    """

    def __init__(self, slow_apply_seconds: float, slow_request_seconds: float) -> None:
        self.slow_apply_seconds = slow_apply_seconds or float("inf")
        self.slow_request_seconds = slow_request_seconds or float("inf")
        self.apply_seconds = Histogram(APPLY_SECONDS)
        self.proposal_seconds = Histogram(PROPOSAL_SECONDS)
        self.defragment_seconds = Histogram(DEFRAGMENT_SECONDS)
        self.snapshot_seconds = Histogram(SNAPSHOT_SECONDS)
        self.defragmenting = False
        self.slow_applies = self.slow_syncs = self.slow_reads = self.late_beats = 0
        self._failed = (0, 0)  # writes and reads, when it was said last
        self._next_failing = float("-inf")
        self._repeats = Repeats(QUIET_SECONDS)

    # --- what happened ------------------------------------------------------

    def applied(self, timing: Applied, durable_at: Callable[[int], float]) -> None:
        """A turn has applied entries. durable_at: when this member's disk had the log up to an
        index (`Stopwatch.durable_at`).
        """
        took = timing.ended - timing.began
        self.apply_seconds.note(took)
        if timing.slowest[0] > self.slow_apply_seconds:
            self._slow_apply(timing)
        ended, bound = timing.ended, self.slow_request_seconds
        for run in timing.runs:
            seconds = ended - run[3]
            self.proposal_seconds.note(seconds, run[2])
            if seconds > bound:
                self._slow_write(timing, run, durable_at(run[0]))

    def synced(self, seconds: float, now: float) -> None:
        """A sync of the log took longer than SLOW_SYNC_SECONDS."""
        self.slow_syncs += 1
        fields = {"took": duration(seconds), "expected-duration": duration(SLOW_SYNC_SECONDS)}
        self._say("slow fdatasync", fields, now)

    def served(self, waited_seconds: float, count: int, now: float) -> None:
        """`count` reads were served; the oldest one has waited for its read index so long."""
        if waited_seconds > SLOW_READ_INDEX_SECONDS:
            self.slow_reads += 1
        if waited_seconds > self.slow_request_seconds:
            fields = self._request_fields(waited_seconds, count, "read-index")
            self._say("slow request", fields | {"request": "range"}, now, "read")

    def sliced(self, waited_seconds: float, took_seconds: float) -> None:
        """A long read was answered: after waiting for its turn, in slices."""
        whole = waited_seconds + took_seconds
        if whole > self.slow_request_seconds:
            reason = "queue" if waited_seconds > took_seconds else "range"
            fields = self._request_fields(whole, 1, reason)
            fields |= {"queue": duration(waited_seconds), "range": duration(took_seconds)}
            self._say("slow request", fields, perf_counter(), "long read")

    def ticked(self, late_seconds: float, tick_seconds: float, *, leads: bool, now: float) -> None:
        """Raft's clock has ticked, so much later than it should have."""
        if leads and late_seconds > tick_seconds:
            self.late_beats += 1
            fields = {
                "to-be-sent-every": duration(tick_seconds),
                "exceeded-by": duration(late_seconds),
            }
            text = "leader failed to send out heartbeats on time; the process is overloaded"
            self._say(text, fields, now)

    def failing(self, writes: int, reads: int, *, has_leader: bool, now: float) -> None:
        """So many writes and reads have ended without an answer since the start."""
        if (writes, reads) == self._failed or now < self._next_failing:
            return
        self._next_failing = now + QUIET_SECONDS
        fields = {
            "writes": str(writes - self._failed[0]),
            "reads": str(reads - self._failed[1]),
            "waited-for": "quorum" if has_leader else "leader",
        }
        self._failed = writes, reads
        log.warning("requests timed out", extra=fields)

    # --- what is said ---------------------------------------------------------

    def _slow_apply(self, timing: Applied) -> None:
        self.slow_applies += 1
        seconds, first, end = timing.slowest
        entries = timing.entries[first:end]
        fields = {
            "took": duration(seconds),
            "expected-duration": duration(self.slow_apply_seconds),
            "prefix": "",
            "request": _describe(entries),
            "response": "",
            "index": str(entries[0].index),
        }
        self._say("apply request took too long", fields, timing.ended)

    def _slow_write(self, timing: Applied, run: Run, durable: float) -> None:
        stages = _stages(timing, run, durable)
        reason = max(stages, key=lambda name: stages[name])
        fields = self._request_fields(timing.ended - run.since, run.writes, reason)
        fields |= {name: duration(seconds) for name, seconds in stages.items()}
        at = run.last - timing.entries[0].index
        if run.last and 0 <= at < len(timing.entries):
            first = max(at + 1 - run.writes, 0)
            fields["request"] = _describe(timing.entries[first : at + 1])
        self._say("slow request", fields, timing.ended, reason)

    def _request_fields(self, seconds: float, count: int, reason: str) -> dict[str, str]:
        return {
            "took": duration(seconds),
            "expected-duration": duration(self.slow_request_seconds),
            "waited-for": reason,
            "requests": str(count),
        }

    def _say(self, text: str, fields: dict[str, str], now: float, kind: str = "") -> None:
        times = self._repeats.times((text, kind), now)
        if times:
            log.warning(text, extra=fields | ({"times": str(times)} if times > 1 else {}))


def _stages(timing: Applied, run: Run, durable: float) -> dict[str, float]:
    """What a run has waited for, in seconds."""
    stages = {"leader": run.appended - run.since, "apply": timing.ended - timing.began}
    if run.last and durable:
        stages["log-sync"] = durable - run.appended
        stages["quorum"] = timing.began - durable
    else:
        stages["cluster"] = timing.began - run.appended
    return {name: max(seconds, 0.0) for name, seconds in stages.items()}


def _describe(entries: list[Entry]) -> str:
    shown = " ".join(portrait(entry) for entry in entries[:_SHOWN_ENTRIES])
    more = len(entries) - _SHOWN_ENTRIES
    return f"{shown} and {more} more" if more > 0 else shown
