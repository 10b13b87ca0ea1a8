"""What a transaction of the store must have answered, by the log.

Compares are judged by the revision before the transaction's own; its operations run in order, and
each sees what those before it did. Whether it changed anything is taken from the log: a
transaction whose branch has a put did; one that only deletes did if something was there.
"""

from operator import eq, gt, lt, ne
from typing import Any, Final

from jepsen_lite.checker.base import LogEvent
from jepsen_lite.checker.replay import UNKNOWN, Replay, difference

OPERATORS: Final = {"=": eq, "==": eq, "!=": ne, "<": lt, ">": gt}
_TARGETS: Final = {"version": "version", "create_revision": "create_revision", "lease": "lease"}


class Unsaid(Exception):
    """The log does not reach back that far, so nothing can be judged."""


class Transaction:
    """One transaction, with its answer, over a replay.

    changed: it made its revision. wrong: what is wrong with its answer, "" for nothing.
    """

    def __init__(self, replay: Replay, value: dict[str, Any]) -> None:
        self._replay = replay
        self._value = value
        self._revision: int = value["revision"]
        self._own: dict[str, LogEvent | None] = {}
        succeeded = value.get("succeeded", True)
        self._branch: list[list[Any]] = value.get("success" if succeeded else "failure") or []
        self.changed = self._changed()
        self._before = self._revision - 1 if self.changed else self._revision
        self.wrong = self._compares(succeeded) or self._operations()

    def _at(self, key: str) -> LogEvent | None:
        """A key as the transaction sees it now."""
        if key in self._own:
            return self._own[key]
        event = self._replay.at(key, self._before)
        if event is UNKNOWN or (self._replay.floor and self._before <= self._replay.floor):
            raise Unsaid
        return event

    def _changed(self) -> bool:
        if any(op[0] == "put" for op in self._branch):
            return True
        deletes = [op for op in self._branch if op[0] == "delete"]
        responses = self._value.get("responses")
        if deletes and responses is not None:
            pairs = zip(self._branch, responses, strict=False)
            return any(op[0] == "delete" and bool(deleted) for op, deleted in pairs)
        on = self._replay.on
        return any(
            event is not None and event.value is None
            for op in deletes
            for event in (on(name, self._revision) for name in self._names(op))
        )

    def _names(self, op: list[Any]) -> list[str]:
        return self._replay.names(op[1], op[2] if len(op) > 2 else "")

    def _compares(self, succeeded: bool) -> str:
        false = next((one for one in self._value.get("compares", ()) if not self._holds(one)), None)
        if (false is None) == succeeded:
            return ""
        if false is None:
            return "its compares were true, but it was told that they failed"
        return f"its compare {false} was false, but it was told that it succeeded"

    def _holds(self, compare: list[Any]) -> bool:
        key, target, operator, operand = compare
        event = self._at(key)
        if target == "value":
            # etcd: a compare of the value of a key that is not there is false.
            there = event.value if event else None
            return there is not None and bool(OPERATORS[operator](there, operand))
        if event is None:
            real = 0
        else:
            real = event.revision if target == "mod_revision" else getattr(event, _TARGETS[target])
        return bool(OPERATORS[operator](real, operand))

    def _operations(self) -> str:
        responses = self._value.get("responses")
        for number, op in enumerate(self._branch):
            said = responses[number] if responses is not None and number < len(responses) else ...
            wrong = self._operation(op, said)
            if wrong:
                return f"its operation {number + 1}, {op[0]} of {op[1]!r}: {wrong}"
        return ""

    def _operation(self, op: list[Any], said: Any) -> str:
        kind, key = op[0], op[1]
        if kind == "put":
            event = self._replay.on(key, self._revision)
            if event is None or event.value != op[2]:
                return f"the log has no such write at revision {self._revision}"
            self._own[key] = event
            return ""
        if kind == "get":
            event = self._at(key)
            return "" if said is ... else difference(said, event)
        there = [event for name in self._names(op) if (event := self._at(name)) is not None]
        if kind == "range":
            return "" if said is ... else same_items(said, there)
        for event in there:
            self._own[event.key] = None
            real = self._replay.on(event.key, self._revision)
            if real is None:
                return f"{event.key!r} was not deleted at revision {self._revision}"
        if said is not ... and said is not None and int(said) != len(there):
            return f"{said} keys deleted instead of {len(there)}"
        return ""


def same_items(items: list[dict[str, Any]], events: list[LogEvent], limit: int = 0) -> str:
    """How the items of a range differ from the log; "" if they do not."""
    if limit:
        events = events[:limit]
    for item, event in zip(items, events, strict=False):
        if item["key"] != event.key:
            return f"it has {item['key']!r} where {event.key!r} belongs"
        wrong = difference(item, event)
        if wrong:
            return f"{event.key!r} has {wrong}"
    if len(items) != len(events):
        return f"{len(items)} keys instead of {len(events)}"
    return ""
