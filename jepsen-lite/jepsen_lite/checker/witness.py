"""Strict serializability with the revision as the witness: one pass, O(n log n).

Every answer carries the revision that it was made at, and the store's log says what happened at
each revision. So no search is needed:

1. Every acknowledged write is in the log at its revision, and no two calls share one.
2. Every read saw exactly what the log has at the revision of its answer; a transaction's compares
   were judged by the revision before it.
3. Real time: a write has a larger revision than everything that was answered before it was called,
   a read not a smaller one. A history is in the order of real time, so this needs one number.
4. A write of unknown outcome that is in the log counts as done, from its call on. One that failed
   for certain must not be in the log. What nobody wrote must not be there either, nor anything
   twice (values are unique).
5. Reads without an answer say nothing. Serializable reads: only 2.

Complete for strict serializability as long as revisions are what 1 says; `linear` does not trust
them.
"""

from bisect import bisect_right
from typing import Any, Final, NamedTuple

from jepsen_lite.checker.base import Anomaly, Evidence, LogEvent, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.replay import Replay, difference
from jepsen_lite.checker.transactions import Transaction, Unsaid, same_items
from jepsen_lite.checker.values import show, shown_op
from jepsen_lite.history import History, Op

# What an operation says about real time.
_CHANGE, _READ, _NOTHING = 1, 0, -1

# Operations of higher workloads that write nothing, however they end.
_READERS: Final = frozenset({"get", "read", "range", "watch", "cache", "observe"})
# Members of a value that says what was to be written.
_WRITERS: Final = frozenset({"key", "success", "failure"})

# Operations of higher workloads whose revision is that of a linearizable call.
TIMED: Final = frozenset({"txn", "add", "read", "enqueue", "dequeue", "transfer", "generate"})


class _Open(NamedTuple):
    """A call under way: the newest revision that was answered before it, and by what operation."""

    invoke: Op
    newest: int
    newest_by: int


class Witness:
    """See the module's docstring."""

    def check(self, run: Evidence) -> Verdict:
        """Undecided without the store's log."""
        if run.log is None:
            missing = Anomaly(
                "no-log", "The store's own log could not be read: nothing was checked."
            )
            return Verdict(False, True, {}, [missing])
        return _Pass(run.history, Replay(run.log)).verdict()


class _Pass:
    def __init__(self, history: History, replay: Replay) -> None:
        self._history = history
        self._replay = replay
        self._findings = Findings()
        self._claimed: dict[int, int] = {}  # revision -> the operation that made it
        self._maybe: dict[tuple[str, str], list[tuple[_Open, Op | None]]] = {}
        self._opaque = False
        self._unchecked = 0
        self._handlers = {
            "get": self._get,
            "read": self._get,
            "put": self._put,
            "write": self._put,
            "cas": self._cas,
            "delete": self._delete,
            "range": self._range,
            "txn": self._txn,
        }

    def verdict(self) -> Verdict:
        checked = self._sweep()
        for text, revision in self._replay.faults():
            self._findings.add("log-broken", text + ".", (self._claimed.get(revision, -1),))
        for event in self._replay.log.events:
            if event.revision not in self._claimed and event.value is not None:
                self._unclaimed(event, event.value)
        return self._findings.verdict(
            operations_checked=checked,
            writes_acknowledged=len(self._claimed),
            log_events=len(self._replay.log.events),
            not_checkable_after_compaction=self._unchecked,
        )

    # --- real time ----------------------------------------------------------------------------

    def _sweep(self) -> int:
        """Rules 1 to 3 for everything that was answered; notes the rest."""
        newest, newest_by = self._replay.log.first_revision, -1
        checked = 0
        under_way: dict[int, _Open] = {}
        handlers = self._handlers
        for op in self._history:
            process, kind = op.process, op.type
            if process < 0:
                continue
            if kind == "invoke":
                under_way[process] = _Open(op, newest, newest_by)
                continue
            call = under_way.pop(process)
            if kind != "ok":
                self._unanswered(call, op)
                continue
            value = op.value
            if type(value) is not dict:
                self._opaque = True
                continue
            handler = handlers.get(op.f)
            try:
                said = _NOTHING if handler is None else handler(value, op)
            except Unsaid:
                self._unchecked += 1
                said = _READ
            if said == _NOTHING:
                said = self._higher(call, value, op)
                if said == _NOTHING:
                    continue
            checked += 1
            revision = value["revision"]
            if revision <= call.newest and (revision < call.newest or said == _CHANGE):
                self._late(call, op, revision, said == _CHANGE)
            if revision > newest:
                newest, newest_by = revision, op.index
        for call in under_way.values():
            self._unanswered(call, None)
        return checked

    def _late(self, call: _Open, op: Op, revision: int, changed: bool) -> None:
        name = "write-out-of-order" if changed else "stale-read"
        what = "made" if changed else "saw"
        before = "the store's revision was" if call.newest_by < 0 else "an earlier answer had"
        text = (
            f"{shown_op(call.invoke)} {what} revision {revision}, but before it was called "
            f"{before} revision {call.newest}."
        )
        self._findings.add(name, text, (call.newest_by, call.invoke.index, op.index))

    def _higher(self, call: _Open, value: dict[str, Any], op: Op) -> int:
        """An operation of a higher workload: the calls behind it, and its own revision."""
        calls = value.get("calls")
        if calls is None:
            self._opaque = self._opaque or op.f not in _READERS
            timed = op.f in TIMED and not value.get("serializable")
            return _READ if timed and type(value.get("revision")) is int else _NOTHING
        for one in calls:
            if one.get("type", "ok") != "ok":
                self._note(call, None if one["type"] == "info" else op, one["f"], one)
                continue
            handler = self._handlers.get(one["f"])
            said = _NOTHING if handler is None else handler(one, op)
            if said == _NOTHING:
                self._opaque = True
            elif one["revision"] < call.newest + said:
                self._late(call, op, one["revision"], said == _CHANGE)
        return _READ if type(value.get("revision")) is int else _NOTHING

    # --- answers ------------------------------------------------------------------------------

    def _claim(self, revision: int, op: Op) -> None:
        before = self._claimed.setdefault(revision, op.index)
        if before != op.index:
            text = f"Two writes were answered with the same revision {revision}."
            self._findings.add("shared-revision", text, (before, op.index))

    def _wrong(self, op: Op, name: str, text: str) -> None:
        self._findings.add(name, f"{shown_op(op)}: {text}.", (op.index,))

    def _known(self, revision: int, op: Op) -> None:
        if revision > self._replay.last_revision:
            last = self._replay.last_revision
            text = f"was answered at revision {revision}, the store ends at {last}"
            self._wrong(op, "revision-unknown", text)

    def _get(self, value: dict[str, Any], op: Op) -> int:
        key = value.get("key")
        if key is None or "value" not in value:
            return _NOTHING
        revision: int = value["revision"]
        at: int = value.get("at") or revision
        replay = self._replay
        arrays = replay.keys.get(key)
        place = bisect_right(arrays[0], at) if arrays else 0
        event = arrays[1][place - 1] if arrays and place else None
        if event is not None and event.value is None:
            event = None
        elif event is None and replay.floor:
            raise Unsaid
        if revision > replay.last_revision:
            self._known(revision, op)
        wrong = difference(value, event)
        if wrong:
            self._wrong(op, "wrong-read", f"{key!r} at revision {at} was answered with {wrong}")
        return _NOTHING if value.get("serializable") else _READ

    def _put(self, value: dict[str, Any], op: Op) -> int:
        key = value.get("key")
        if key is None or "value" not in value:
            return _NOTHING
        revision: int = value["revision"]
        if value.get("succeeded") is False:
            self._known(revision, op)
            return _READ
        event = self._replay.on(key, revision)
        if event is None or event.value != value["value"]:
            if revision <= self._replay.floor:
                raise Unsaid
            there = "nothing of this key" if event is None else repr(event.value)
            text = (
                f"{value['value']!r} for {key!r} was acknowledged at revision {revision}, where "
                f"the log has {there}"
            )
            self._wrong(op, "lost-write", text)
        elif "lease" in value and value["lease"] != event.lease:
            text = f"was to hang on lease {value['lease']}, hangs on {event.lease}"
            self._wrong(op, "wrong-lease", text)
        self._claim(revision, op)
        return _CHANGE

    def _cas(self, value: dict[str, Any], op: Op) -> int:
        if "key" not in value or "succeeded" not in value:
            return _NOTHING
        key, revision, succeeded = value["key"], value["revision"], value["succeeded"]
        said = self._put(value, op) if succeeded else _READ
        event = self._replay.at(key, revision - 1 if succeeded else revision)
        if event is not None and event.revision < 0:
            raise Unsaid
        there = event.value if event else None
        wanted, real = value.get("expected"), there
        if "guard" in value:
            wanted, real = value["guard"], str(event.revision if event else 0)
            wanted = str(wanted)
        if (wanted == real) != succeeded:
            told = "that it succeeded" if succeeded else "that it failed"
            text = f"expected {wanted!r}, {real!r} was there, but it was told {told}"
            self._wrong(op, "wrong-answer", text)
        elif (
            not succeeded and "seen" in value and value["seen"] != (event.value if event else None)
        ):
            self._wrong(op, "wrong-read", f"it saw {value['seen']!r} instead of {event!r}")
        self._known(revision, op)
        return said

    def _delete(self, value: dict[str, Any], op: Op) -> int:
        if "key" not in value:
            return _NOTHING
        as_txn = {**value, "success": [_deletion(value)]}
        if value.get("deleted") is not None:
            as_txn["responses"] = [value["deleted"]]
        return self._as_txn(as_txn, op)

    def _range(self, value: dict[str, Any], op: Op) -> int:
        items = value.get("kvs")
        if items is None or "key" not in value:
            return _NOTHING
        revision = value["revision"]
        self._known(revision, op)
        events = self._replay.within(
            value["key"], value.get("end") or "", value.get("at") or revision
        )
        if events is None:
            raise Unsaid
        wrong = same_items(items, events, value.get("limit") or 0)
        if not wrong and value.get("count") not in (None, len(events)):
            wrong = f"it says that there are {value['count']} keys, there are {len(events)}"
        if not wrong and value.get("more") not in (None, len(items) < len(events)):
            wrong = f"more is {value['more']} with {len(items)} of {len(events)} keys"
        if wrong:
            self._wrong(op, "wrong-read", wrong)
        return _NOTHING if value.get("serializable") else _READ

    def _txn(self, value: dict[str, Any], op: Op) -> int:
        if "compares" not in value and "success" not in value:
            return _NOTHING
        return self._as_txn(value, op)

    def _as_txn(self, value: dict[str, Any], op: Op) -> int:
        revision = value["revision"]
        self._known(revision, op)
        done = Transaction(self._replay, value)
        if done.wrong:
            lost = "no such write" in done.wrong or "was not deleted" in done.wrong
            name = "lost-write" if lost else "wrong-answer"
            self._wrong(op, name, f"at revision {revision}, {done.wrong}")
        if not done.changed:
            return _READ
        self._claim(revision, op)
        return _CHANGE

    # --- what was not answered, and what nobody asked for -----------------------------------------

    def _unanswered(self, call: _Open, end: Op | None) -> None:
        """What its completion tells of it, if there is one, else what was asked for."""
        f, value = call.invoke.f, call.invoke.value
        if end is not None and end.type == "info" and type(end.value) is dict:
            value = end.value
        failed = end if end is not None and end.type == "fail" else None
        if type(value) is dict and "calls" in value:
            for one in value["calls"]:
                if one.get("type") == "info":
                    self._note(call, None, one["f"], one)
        elif type(value) is dict and f in self._handlers and not _WRITERS.isdisjoint(value):
            self._note(call, failed, f, value)
        elif failed is None and f not in _READERS:
            self._opaque = True

    def _note(self, call: _Open, failed: Op | None, f: str, value: dict[str, Any]) -> None:
        """What a call may have written. failed: the operation that says that it did not."""
        if f == "txn":
            branches = (value.get("success") or []) + (value.get("failure") or [])
            written = [(op[1], op[2]) for op in branches if op[0] == "put"]
        else:
            written = [(value["key"], value["value"])] if value.get("value") is not None else []
        for key, text in written:
            self._maybe.setdefault((key, text), []).append((call, failed))

    def _unclaimed(self, event: LogEvent, value: str) -> None:
        """A put in the log that no acknowledged write made."""
        notes = self._maybe.get((event.key, value))
        if notes is None:
            if not self._opaque:
                self._invented(event, value)
            return
        open_notes = [call for call, failed in notes if failed is None]
        if not open_notes:
            self._not_to_be_there(event, value, notes)
            return
        call = open_notes[0]
        notes.remove((call, None))
        if event.revision <= call.newest:
            text = (
                f"{shown_op(call.invoke)} has no answer; it made revision {event.revision}, but "
                f"{call.newest} had been answered before it was called."
            )
            self._findings.add("write-out-of-order", text, (call.newest_by, call.invoke.index))

    def _not_to_be_there(
        self, event: LogEvent, value: str, notes: list[tuple[_Open, Op | None]]
    ) -> None:
        """All calls of this write failed, or are matched with other events already."""
        if not notes:
            self._invented(event, value)
            return
        call, failed = notes[0]
        text = (
            f"{shown_op(call.invoke)} was told that it failed, but the log has its {show(value)} "
            f"for {event.key!r} at revision {event.revision}."
        )
        ops = (call.invoke.index, failed.index if failed else -1)
        self._findings.add("failed-write-seen", text, ops)

    def _invented(self, event: LogEvent, value: str) -> None:
        same = [one.revision for one in self._replay.keys[event.key][1] if one.value == value]
        if len(same) > 1:
            places = [self._claimed.get(revision, -1) for revision in same]
            text = f"A write was applied twice: {show(value)} for {event.key!r}, again at revision "
            self._findings.add("applied-twice", f"{text}{event.revision}.", places)
        else:
            text = f"Nobody wrote {show(value)} for {event.key!r}, which the log has at revision "
            self._findings.add("invented-write", f"{text}{event.revision}.")


def _deletion(value: dict[str, Any]) -> list[str]:
    end = value.get("end")
    return ["delete", value["key"], end] if end else ["delete", value["key"]]
