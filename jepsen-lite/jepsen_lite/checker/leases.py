"""How long leases live, by the keys that hang on them.

When a key went is not known, but bounded: before the end of every call that was answered at a
revision at which it was gone, and after the beginning of every call that was answered at an earlier
one. Of each lease with a key in the store's log (catalogue 3.6):

* too short: the key must be there until the last answered renewal was called, plus the TTL; unless
  somebody revoked the lease or deleted the key;
* too long: while all is well the key must be gone 1.5 TTLs and some seconds for two elections after
  the last try to renew it was over. Time with a fault does not count: the bound begins anew when
  the last fault ended;
* a renewal that is called after the key was seen to be gone cannot succeed (M08);
* a revoked lease's key is gone at the revision of the answer.

While a clock was wrong, nothing is said.
"""

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

from jepsen_lite.checker.base import Anomaly, Evidence, LogEvent, StoreLog, Verdict, Window
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, place, seconds
from jepsen_lite.history import Call

SECOND_NS: Final = 1_000_000_000
SLACK_S: Final = 5.0  # of two elections, and the entry that ends the lease
TTLS: Final = 1.5
CLOCK: Final = "clock"  # in the names of faults that change clocks


@dataclass(slots=True)
class _Lease:
    id: int
    renewals: list[tuple[Call, int]] = field(default_factory=list)  # answered; TTL in seconds
    tries: list[Call] = field(default_factory=list)  # that may have renewed it
    revokes: list[Call] = field(default_factory=list)
    puts: list[Call] = field(default_factory=list)
    ttl: int = 0


class Lease:
    """See the module's docstring. slack_s: seconds of healthy time, beside 1.5 TTLs."""

    def __init__(self, slack_s: float = SLACK_S) -> None:
        self._slack_ns = int(slack_s * SECOND_NS)

    def check(self, run: Evidence) -> Verdict:
        """Undecided without the store's log."""
        if run.log is None:
            missing = Anomaly("no-log", "The store's own log could not be read.")
            return Verdict(False, True, {}, [missing])
        return _Leases(run, run.log, self._slack_ns).verdict()


class _Moments:
    """When a revision was reached: between the calls that were answered around it."""

    def __init__(self, calls: list[Call]) -> None:
        found = [
            (value["revision"], call)
            for call in calls
            if call.invoke.f in ("get", "put", "read", "write", "range", "txn", "delete")
            and (value := answer(call)) is not None
            and type(value.get("revision")) is int
            and not value.get("serializable")
        ]
        found.sort(key=lambda one: one[0])
        self._revisions = [revision for revision, _ in found]
        self._earliest: list[Call] = []  # of the calls from there on, the first to end
        self._latest: list[Call] = []  # of the calls up to there, the last to begin
        for _, call in found:
            last = self._latest[-1] if self._latest else call
            self._latest.append(max(last, call, key=lambda one: one.invoke.time_ns))
        for _, call in reversed(found):
            first = self._earliest[-1] if self._earliest else call
            self._earliest.append(min(first, call, key=_end_ns))
        self._earliest.reverse()

    def reached_by(self, revision: int) -> Call | None:
        """The call whose end shows first that the revision had been reached."""
        at = bisect_left(self._revisions, revision)
        return self._earliest[at] if at < len(self._earliest) else None

    def not_reached_by(self, revision: int) -> Call | None:
        """The call whose beginning shows last that it had not."""
        at = bisect_left(self._revisions, revision)
        return self._latest[at - 1] if at else None


def _end_ns(call: Call) -> int:
    assert call.end is not None
    return call.end.time_ns


class _Leases:
    def __init__(self, run: Evidence, log: StoreLog, slack_ns: int) -> None:
        self._findings = Findings()
        self._windows = run.windows
        self._log = log
        self._slack_ns = slack_ns
        calls = run.history.calls()
        self._moments = _Moments(calls)
        self._leases: dict[int, _Lease] = {}
        self._deletes = {
            asked(call).get("key")
            for call in calls
            if call.invoke.f == "delete" and not call.failed
        }
        for call in calls:
            self._note(call)
        self._last_ns = max((_end_ns(call) for call in calls if call.end), default=0)
        self._checked = {"lower": 0, "upper": 0, "revoked": 0}

    def _note(self, call: Call) -> None:
        f, value = call.invoke.f, answer(call) or asked(call)
        if f not in ("grant", "keepalive", "put", "revoke") or not value.get("lease"):
            return
        lease = self._leases.setdefault(value["lease"], _Lease(value["lease"]))
        if f == "put":
            lease.puts.append(call)
        elif f == "revoke":
            if not call.failed:
                lease.revokes.append(call)
        elif not call.failed or f == "keepalive":
            # A renewal may have taken place whatever its client was told.
            lease.tries.append(call)
            lease.ttl = max(lease.ttl, int(value.get("ttl", 0)))
            if call.ok:
                lease.renewals.append((call, int(value.get("ttl", lease.ttl))))

    def verdict(self) -> Verdict:
        keys: dict[int, list[tuple[LogEvent, int]]] = defaultdict(list)
        for event, gone in _lives(self._log):
            keys[event.lease].append((event, gone))
        for lease in self._leases.values():
            for event, gone in keys.get(lease.id, ()):
                self._one(lease, event, gone)
        return self._findings.verdict(
            leases=len(self._leases),
            renewals=sum(len(lease.renewals) for lease in self._leases.values()),
            lower_bounds_checked=self._checked["lower"],
            upper_bounds_checked=self._checked["upper"],
            revocations_checked=self._checked["revoked"],
        )

    def _one(self, lease: _Lease, event: LogEvent, gone: int) -> None:
        """A key with a lease, and the revision at which it was gone (0: never)."""
        shown = self._moments.reached_by(gone) if gone else None
        if shown is not None and event.key not in self._deletes:
            self._too_short(lease, event, shown)
        self._too_long(lease, event, gone)
        for call in lease.revokes:
            value = answer(call)
            revision = value.get("revision") if value else None
            if revision and event.revision <= revision:
                self._checked["revoked"] += 1
                if not gone or gone > revision:
                    text = (
                        f"Lease {lease.id} was revoked at revision {revision}, but its key "
                        f"{event.key!r} was there until {gone or 'the end'}."
                    )
                    ops = (call.invoke.index, place(call))
                    self._findings.add("outlived-revocation", text, ops)

    def _too_short(self, lease: _Lease, event: LogEvent, shown: Call) -> None:
        self._checked["lower"] += 1
        by_ns = _end_ns(shown)
        for call, ttl in lease.renewals:
            begun_ns = call.invoke.time_ns
            if self._clock_fault(begun_ns, by_ns):
                continue
            if call.invoke.f == "keepalive" and begun_ns > by_ns:
                text = (
                    f"Lease {lease.id} was renewed by a call of {seconds(begun_ns)}, though its "
                    f"key {event.key!r} had been seen to be gone at {seconds(by_ns)}."
                )
                ops = (place(shown), call.invoke.index, place(call))
                self._findings.add("renewed-after-its-end", text, ops)
            elif by_ns < begun_ns + ttl * SECOND_NS and not self._revoked(lease, by_ns):
                text = (
                    f"The key {event.key!r} of lease {lease.id} was gone at {seconds(by_ns)}, but "
                    f"the lease was renewed for {ttl} s by a call of {seconds(begun_ns)}."
                )
                ops = (call.invoke.index, place(call), place(shown))
                self._findings.add("ended-too-early", text, ops)
                return

    def _revoked(self, lease: _Lease, by_ns: int) -> bool:
        return any(call.invoke.time_ns <= by_ns for call in lease.revokes)

    def _too_long(self, lease: _Lease, event: LogEvent, gone: int) -> None:
        """It was there for sure when this call began."""
        shown = self._moments.not_reached_by(gone or self._log.last_revision + 1)
        if shown is None or not lease.ttl:
            return
        there_ns = shown.invoke.time_ns
        calm_ns = 0
        for call in [*lease.tries, *lease.puts]:
            if call.end is None:
                return  # nobody knows until when it was tried
            calm_ns = max(calm_ns, _end_ns(call) + (self._slack_ns if call.unknown else 0))
        for window in self._windows:
            if window.start_ns < there_ns:
                calm_ns = max(calm_ns, window.end_ns)
        if calm_ns >= there_ns:
            return
        self._checked["upper"] += 1
        bound_ns = calm_ns + int(TTLS * lease.ttl * SECOND_NS) + self._slack_ns
        if there_ns > bound_ns:
            text = (
                f"The key {event.key!r} of lease {lease.id} (TTL {lease.ttl} s) was there at "
                f"{seconds(there_ns)}; nobody had renewed it and nothing was wrong since "
                f"{seconds(calm_ns)}, so it must have gone by {seconds(bound_ns)}."
            )
            ops = [place(call) for call in lease.tries[-1:]]
            self._findings.add("lived-too-long", text, [*ops, shown.invoke.index, place(shown)])

    def _clock_fault(self, begin_ns: int, end_ns: int) -> bool:
        return any(_is_clock(one, begin_ns, end_ns) for one in self._windows)


def _is_clock(window: Window, begin_ns: int, end_ns: int) -> bool:
    return CLOCK in window.kind and window.start_ns <= end_ns and window.end_ns >= begin_ns


def _lives(log: StoreLog) -> list[tuple[LogEvent, int]]:
    """Keys that were put with a lease, and the revision at which they were gone or moved on."""
    found: list[tuple[LogEvent, int]] = []
    there: dict[str, LogEvent] = {}
    for event in log.events:
        before = there.pop(event.key, None)
        if before is not None and event.value is None:
            found.append((before, event.revision))
        if event.value is not None and event.lease:
            there[event.key] = event
    return found + [(event, 0) for event in there.values()]
