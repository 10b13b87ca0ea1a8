"""Faults as windows of time, from what the nemesis says that it did."""

from collections.abc import Mapping
from typing import Any

from jepsen_lite.checker.base import Window
from jepsen_lite.history import Call, History

START, STOP = "start-", "stop-"


def windows_of(history: History, kinds: Mapping[str, str]) -> list[Window]:
    """Every fault that struck, by its beginning. kinds: f -> the name of its nemesis.

    One that nobody stopped lasts until the history ends.
    """
    found: list[Window] = []
    begun: dict[str, tuple[int, str]] = {}
    end_ns = history[-1].time_ns if len(history) else 0
    for call in history.nemesis_calls():
        f = call.invoke.f
        kind = kinds.get(f, f.removeprefix(START).removeprefix(STOP))
        done_ns = end_ns if call.end is None else call.end.time_ns
        if f.startswith(STOP):
            if kind in begun:
                start_ns, detail = begun.pop(kind)
                found.append(Window(kind, start_ns, done_ns, detail))
        elif struck(call):
            if not f.startswith(START):
                found.append(Window(kind, call.invoke.time_ns, done_ns, _detail(call)))
            elif kind not in begun:
                begun[kind] = (call.invoke.time_ns, _detail(call))
    found += [Window(kind, start, end_ns, detail) for kind, (start, detail) in begun.items()]
    return sorted(found, key=lambda window: (window.start_ns, window.kind))


def struck(call: Call) -> bool:
    """Whether the nemesis could do what it wanted."""
    value: Any = None if call.end is None else call.end.value
    nothing = value == "nothing" or (isinstance(value, dict) and "nothing" in value)
    return call.end is not None and not nothing


def _detail(call: Call) -> str:
    value = None if call.end is None else call.end.value
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, text in value.items())
    return "" if value is None else str(value)
