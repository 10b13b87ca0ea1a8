"""List-and-watch caches: what a cache held is what the store held at the cache's revision.

The caches of a process never go back, and one that was asked to catch up has at least the newest
revision that any call had been answered with before (C15, M17).
"""

from typing import Any

from jepsen_lite.checker.base import Anomaly, Evidence, LogEvent, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.replay import Replay
from jepsen_lite.checker.transactions import same_items
from jepsen_lite.checker.values import answer, of_kind, place
from jepsen_lite.history import Call, History


class Cache:
    """See the module's docstring. f: "cache"."""

    def check(self, run: Evidence) -> Verdict:
        """Undecided without the store's log."""
        if run.log is None:
            missing = Anomaly("no-log", "The store's own log could not be read.")
            return Verdict(False, True, {}, [missing])
        findings = Findings()
        replay = Replay(run.log)
        calls = [
            (call, value)
            for call in of_kind(run.history.calls(), "cache")
            if (value := answer(call)) is not None
        ]
        held: dict[tuple[str, int], list[LogEvent] | None] = {}
        keys = unchecked = 0
        for call, value in calls:
            prefix, revision = value["prefix"], value["revision"]
            if (prefix, revision) not in held:
                held[prefix, revision] = replay.within(prefix, prefix + "\U0010ffff", revision)
            there = held[prefix, revision]
            if there is None:
                unchecked += 1
                continue
            keys += len(there)
            wrong = same_items(value["kvs"], there)
            if wrong:
                text = f"A cache of {prefix!r} at revision {revision} is wrong: {wrong}."
                findings.add("cache-differs", text, (place(call),))
        _backwards(calls, findings)
        _behind(run.history, findings)
        return findings.verdict(
            caches_compared=len(calls) - unchecked,
            keys_compared=keys,
            not_checkable_after_compaction=unchecked,
        )


def _backwards(calls: list[tuple[Call, dict[str, Any]]], findings: Findings) -> None:
    latest: dict[tuple[int, str], tuple[int, Call]] = {}
    for call, value in calls:
        name = (call.invoke.process, value["prefix"])
        revision = value["revision"]
        before = latest.get(name)
        if before is not None and revision < before[0]:
            text = (
                f"Process {name[0]}'s cache of {name[1]!r} went back from revision {before[0]} to "
                f"{revision}."
            )
            findings.add("cache-went-back", text, (place(before[1]), place(call)))
        latest[name] = (revision, call)


def _behind(history: History, findings: Findings) -> None:
    """Caches that were asked to catch up, by real time.

    Only writes count for what had been answered: a cache need not know of revisions that changed
    none of its keys, which its answer may be too old to tell; so its own keys' writes.
    """
    newest: dict[str, tuple[int, int]] = {}  # key -> revision, operation
    open_calls: dict[int, dict[str, tuple[int, int]]] = {}
    for op in history:
        if op.process < 0:
            continue
        if op.type == "invoke" and op.f == "cache":
            open_calls[op.process] = dict(newest)
        value = op.value
        if op.type != "ok" or type(value) is not dict:
            continue
        if op.f == "put" and "key" in value:
            newest[value["key"]] = (value["revision"], op.index)
        elif op.f == "cache" and value.get("catch_up"):
            for key, (revision, by) in open_calls.get(op.process, {}).items():
                if key.startswith(value["prefix"]) and revision > value["revision"]:
                    text = (
                        f"A cache was asked to catch up and came to revision {value['revision']}, "
                        f"but the put of {key!r} at {revision} had been answered before."
                    )
                    findings.add("cache-behind", text, (by, op.index))
                    break
