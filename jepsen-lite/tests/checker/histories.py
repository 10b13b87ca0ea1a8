"""Histories for the tests of checkers: written by hand, or made by a store that is right.

`Script` writes a history line by line and the store's log beside it. `serial_run` has processes
overlap at random; each operation takes place at one moment between its call and its answer, so
every promise holds. Tests then break one thing.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from random import Random
from typing import Any

from jepsen_lite.checker.base import Evidence, LogEvent, StoreLog, Verdict, Window
from jepsen_lite.history import NEMESIS, History, Op
from jepsen_lite.workload.options import Options

MILLISECOND_NS = 1_000_000


class Script:
    """A history that is written operation by operation, a millisecond apart."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.store = Store()
        self.windows: list[Window] = []
        self.now_ns = 0
        self._asked: dict[int, tuple[str, Any]] = {}

    def invoke(
        self, process: int, f: str, value: Any = None, /, *, at_s: float | None = None
    ) -> int:
        """A call. Returns its index."""
        self._asked[process] = (f, value)
        return self._add(process, "invoke", f, value, at_s)

    def ok(self, process: int, /, *, at_s: float | None = None, **answer: Any) -> int:
        """Its answer: what was asked and more."""
        f, value = self._asked.pop(process)
        told = {**value, **answer} if isinstance(value, dict) else answer or value
        return self._add(process, "ok", f, told, at_s)

    def fail(self, process: int, error: str = "no") -> int:
        """It did not take place."""
        f, value = self._asked.pop(process)
        return self._add(process, "fail", f, value, None, error)

    def info(self, process: int, error: str = "timeout") -> int:
        """Nobody knows."""
        f, value = self._asked.pop(process)
        return self._add(process, "info", f, value, None, error)

    def call(self, process: int, f: str, value: Any = None, /, **answer: Any) -> int:
        """A call and its answer at once. Returns the answer's index."""
        self.invoke(process, f, value)
        return self.ok(process, **answer)

    def nemesis(self, f: str, *, at_s: float | None = None) -> None:
        """A fault."""
        self._add(NEMESIS, "info", f, None, at_s)

    def _add(
        self, process: int, type: str, f: str, value: Any, at_s: float | None, error: str = ""
    ) -> int:
        self.now_ns = int(at_s * 1e9) if at_s is not None else self.now_ns + MILLISECOND_NS
        self.ops.append(Op(process, type, f, value, self.now_ns, len(self.ops), error))
        return len(self.ops) - 1

    def evidence(self, log: StoreLog | None = None) -> Evidence:
        """What a checker gets."""
        history = History(self.ops)
        history.check_complete()
        return Evidence(history, log or self.store.log(), Options(), windows=self.windows)


class Store:
    """A store that is right: the log and what it leaves."""

    def __init__(self, revision: int = 1) -> None:
        self.first = self.revision = revision
        self.events: list[LogEvent] = []
        self.live: dict[str, LogEvent] = {}

    def put(self, key: str, value: str, lease: int = 0) -> int:
        """Returns its revision."""
        self.revision += 1
        before = self.live.get(key)
        created = before.create_revision if before else self.revision
        version = before.version + 1 if before else 1
        event = LogEvent(self.revision, key, value, version, created, lease)
        self.live[key] = event
        self.events.append(event)
        return self.revision

    def delete(self, *keys: str) -> int:
        """Returns the revision afterwards."""
        gone = [key for key in keys if self.live.pop(key, None)]
        self.revision += bool(gone)
        self.events += [LogEvent(self.revision, key, None, 0, 0) for key in gone]
        return self.revision

    def item(self, key: str) -> dict[str, Any]:
        """A get's answer."""
        event = self.live.get(key)
        if event is None:
            return {"value": None, "revision": self.revision}
        return {
            "value": event.value,
            "mod_revision": event.revision,
            "version": event.version,
            "create_revision": event.create_revision,
            "revision": self.revision,
        }

    def log(self) -> StoreLog:
        """All that happened."""
        revisions = list(dict.fromkeys(event.revision for event in self.events))
        return StoreLog(revisions, list(self.events), self.first, self.revision)


Step = Callable[[dict[str, Any]], dict[str, Any]]


def serial_run(
    random: Random,
    count: int,
    ask: Callable[[Random, int], tuple[str, dict[str, Any]]],
    act: Callable[[str, dict[str, Any]], dict[str, Any]],
    *,
    processes: int = 5,
    unknown: float = 0.0,
) -> list[Op]:
    """`count` operations of overlapping processes.

    ask: (random, number) -> f and value. act: does it at its one moment, returns its answer.
    unknown: how many of them end "info"; half of these take place.
    """
    ops: list[Op] = []
    busy: dict[int, tuple[str, dict[str, Any], dict[str, Any] | None]] = {}
    free = list(range(processes))
    next_process = processes
    asked = now_ns = 0
    while asked < count or busy:
        now_ns += random.randrange(1, 1000)
        if free and asked < count and (not busy or random.random() < 0.4):
            process = free.pop(random.randrange(len(free)))
            f, value = ask(random, asked)
            asked += 1
            busy[process] = (f, value, None)
            ops.append(Op(process, "invoke", f, value, now_ns, len(ops)))
            continue
        process = random.choice(list(busy))
        f, value, answer = busy[process]
        lost = unknown and random.random() < unknown
        if answer is None and not (lost and random.random() < 0.5):
            busy[process] = (f, value, {**value, **act(f, value)})
            continue
        del busy[process]
        if lost or answer is None:
            ops.append(Op(process, "info", f, value, now_ns, len(ops), "timeout"))
            free.append(next_process)
            next_process += 1
        else:
            ops.append(Op(process, "ok", f, answer, now_ns, len(ops)))
            free.append(process)
    return ops


def changed(ops: Iterable[Op], index: int, **fields: Any) -> list[Op]:
    """The same history with other fields in one operation; of a dict `value`, only its members."""
    found = list(ops)
    value = fields.pop("value", None)
    if value is not None:
        old = found[index].value
        fields["value"] = {**old, **value} if isinstance(old, dict) else value
    found[index] = replace(found[index], **fields)
    return found


def names(verdict: Verdict) -> set[str]:
    """The names of what was found."""
    return {anomaly.name for anomaly in verdict.anomalies}


def only(verdict: Verdict, name: str) -> tuple[int, ...]:
    """The witness of the only kind of anomaly that was found."""
    assert names(verdict) == {name}, verdict
    assert not verdict.passed
    assert all(anomaly.text for anomaly in verdict.anomalies)
    return verdict.anomalies[0].ops
