"""Watches against the store's log, by the validators of `raftkv.sim.validators`.

Each watch operation is a watch as its client saw it; operations of one name are one watch that was
resumed, and are judged together as well. Where the beginning of the log was compacted away before
it could be read, watches from before that are not judged.
"""

from collections import defaultdict
from typing import Any

from jepsen_lite.checker.base import Anomaly, Evidence, StoreLog, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, of_kind, place
from jepsen_lite.history import Call
from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event
from raftkv.sim.validators import validate
from raftkv.sim.watch_records import (
    Asked,
    Cancelled,
    Created,
    History,
    Progress,
    Received,
    Response,
    WatchRecord,
    joined,
)


class Watch:
    """See the module's docstring. f: "watch"; compactions are told by "compact"."""

    def check(self, run: Evidence) -> Verdict:
        """Undecided without the store's log."""
        if run.log is None:
            missing = Anomaly("no-log", "The store's own log could not be read.")
            return Verdict(False, True, {}, [missing])
        return _Watches(run, run.log).verdict()


def history_of(log: StoreLog, compactions: list[int]) -> History:
    """The store's log as the validators know it."""
    events = []
    for one in log.events:
        key = one.key.encode()
        if one.value is None:
            events.append(Event(True, KeyValue(key, 0, one.revision, 0, b"", 0), None))
            continue
        value = one.value.encode()
        kv = KeyValue(key, one.create_revision, one.revision, one.version, value, one.lease)
        events.append(Event(False, kv, None))
    return History(events, compactions)


def _kv(item: dict[str, Any]) -> KeyValue:
    return KeyValue(
        item["key"].encode(),
        item.get("create_revision", 0),
        item["mod_revision"],
        item.get("version", 0),
        (item.get("value") or "").encode(),
        item.get("lease", 0),
    )


def _received(entry: list[Any]) -> Received:
    kind, *rest = entry
    if kind == "created":
        return Created(rest[0])
    if kind == "progress":
        return Progress(rest[0])
    if kind == "cancelled":
        return Cancelled(*rest)
    events = tuple(
        Event(one["value"] is None, _kv(one), _kv(one["prev"]) if one.get("prev") else None)
        for one in rest[0]
    )
    fragment = bool(rest[1]) if len(rest) > 1 else False
    return Response(events, fragment, rest[2] if len(rest) > 2 else None)


def record_of(name: str, value: dict[str, Any]) -> WatchRecord:
    """A watch of the history as the validators know it."""
    wanted = value["asked"]
    kind = Asked(
        wanted["key"].encode(),
        (wanted.get("end") or "").encode(),
        wanted.get("start_revision", 0),
        *(bool(wanted.get(one)) for one in ("prev_kv", "no_put", "no_delete", "fragment")),
    )
    received = [_received(entry) for entry in value["received"]]
    return WatchRecord(name, kind, received, bool(value.get("cancel_asked")))


class _Watches:
    def __init__(self, run: Evidence, log: StoreLog) -> None:
        calls = run.history.calls()
        compactions = {asked(call)["at"] for call in of_kind(calls, "compact") if not call.failed}
        if log.compacted_revision:
            compactions.add(log.compacted_revision)
        self._history = history_of(log, sorted(compactions))
        self._floor = log.compacted_revision if log.compacted_revision > log.first_revision else 0
        self._parts: dict[str, list[tuple[Call, WatchRecord]]] = defaultdict(list)
        self._left_out = 0
        for call in of_kind(calls, "watch"):
            value = answer(call)
            if value is None:
                continue
            self._add(call, record_of(f"#{place(call)}", value), value.get("name"))
            for number, other in enumerate(value.get("beside", ()), 1):
                self._add(call, record_of(f"#{place(call)}.{number}", other), None)

    def _add(self, call: Call, record: WatchRecord, name: str | None) -> None:
        if self._floor and record.start <= self._floor:
            self._left_out += 1
        else:
            self._parts[name or record.name].append((call, record))

    def verdict(self) -> Verdict:
        findings = Findings()
        ops: dict[str, tuple[int, ...]] = {}
        records = []
        for name, parts in self._parts.items():
            for call, record in parts:
                ops[record.name] = (call.invoke.index, place(call))
                records.append(record)
            if len(parts) > 1:
                whole = joined([record for _, record in parts])
                whole.name = f"{name} with its resumptions"
                ops[whole.name] = tuple(place(call) for call, _ in parts)
                records.append(whole)
        verdict = validate(records, self._history)
        for finding in verdict.findings:
            if self._floor and finding.validator == "prev_kv":
                continue  # what was before is not known
            text = f"Watch {finding.watch}: {finding.text}."
            findings.add(f"watch-{finding.validator}", text, ops[finding.watch])
        return findings.verdict(
            watches=sum(map(len, self._parts.values())),
            resumed=sum(len(parts) > 1 for parts in self._parts.values()),
            events_checked=verdict.events,
            responses=verdict.responses,
            bookmarks=verdict.bookmarks,
            cancels=verdict.cancels,
            not_checkable_after_compaction=self._left_out,
        )
