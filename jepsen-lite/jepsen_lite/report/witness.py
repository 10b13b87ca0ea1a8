"""The smallest witness of an anomaly as a picture: processes as rows, operations as bars.

Places on the axis are the order of what happened, not its time: operations of a witness may lie
minutes apart or microseconds, and only their order tells anything. Times stand in the list below.
A bar that fades to the right has no known end.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

from jepsen_lite.checker.base import Anomaly
from jepsen_lite.history import NEMESIS, Call, History, Op
from jepsen_lite.report.markup import drawing, element, label, plain, shown

SHOWN_CALLS: Final = 16  # in one picture
LONGEST_VALUE: Final = 1500  # characters, in the list
LANE: Final = 44
LEFT: Final = 84
CHARACTER: Final = 6.2  # width of one, about
SLOT: Final = 76  # between two moments, at least


def short(value: Any) -> str:
    """A value for a bar: without names where they are obvious."""
    if not isinstance(value, dict):
        return plain(value if isinstance(value, str) else _json(value))
    parts = []
    for name, one in value.items():
        if name in ("version", "create_revision", "calls", "responses", "kvs"):
            continue
        text = one if isinstance(one, str) else _json(one)
        parts.append(plain(text) if name in ("key", "value", "element") else f"{name}={text}")
    return plain(" ".join(parts))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


class Finder:
    """From indices in a history to calls. prefix: what all keys begin with, to be left out."""

    def __init__(self, history: History, prefix: str = "") -> None:
        self.prefix: str = prefix
        self._by_index: dict[int, Call] = {}
        for call in (*history.calls(), *history.nemesis_calls()):
            self._by_index[call.invoke.index] = call
            if call.end is not None:
                self._by_index[call.end.index] = call

    def calls(self, indices: Sequence[int]) -> list[Call]:
        """The calls that these operations begin or end, each once, in order of beginning."""
        found = {
            call.invoke.index: call
            for call in (self._by_index.get(index) for index in indices)
            if call is not None
        }
        return [found[index] for index in sorted(found)]


def picture(anomaly: Anomaly, finder: Finder) -> str:
    """The picture and the list of its operations; empty for an anomaly without operations."""
    calls = finder.calls(anomaly.ops)
    if not calls:
        return ""
    drawn = calls[:SHOWN_CALLS]
    parts = [_drawing(drawn, anomaly.name, finder.prefix)]
    if len(calls) > len(drawn):
        more = len(calls) - len(drawn)
        parts.append(element("p", f"and {more:,} more operations", class_="soft"))
    parts.append(_listed(drawn))
    return "".join(parts)


def _drawing(calls: Sequence[Call], name: str, prefix: str) -> str:
    processes = sorted({call.invoke.process for call in calls})
    moments = sorted({moment for call in calls for moment in _span(call) if moment is not None})
    titles = [_title(call, prefix) for call in calls]
    slot = max(SLOT, min(max(map(len, titles)), 36) * CHARACTER / 1.6)
    width = max(LEFT + slot * (len(moments) + 0.5) + 12, 420)
    place = {moment: LEFT + 8 + slot * number for number, moment in enumerate(moments)}
    height = LANE * len(processes) + 14
    parts = []
    for row, process in enumerate(processes):
        middle = row * LANE + LANE / 2 + 6
        parts.append(element("path", d=f"M{LEFT} {middle:g}H{width - 8:g}", class_="grid"))
        who = "nemesis" if process == NEMESIS else f"process {process}"
        parts.append(label(LEFT - 8, middle + 4, who, class_="end key"))
    bars: list[str] = []  # from the last to the first
    free_until = dict.fromkeys(processes, width - 10)  # where the next label of the row begins
    for call, title in sorted(
        zip(calls, titles, strict=True), key=lambda one: -one[0].invoke.index
    ):
        process = call.invoke.process
        begin, end = _span(call)
        left, right = place[begin], width - 10 if end is None else place[end]
        room = int((free_until[process] - left) / CHARACTER) - 1
        free_until[process] = left
        top = processes.index(process) * LANE + 8
        bars.append(_bar(call, left, right, top, (title, max(room, 8))))
    return drawing(width, height, f"The operations behind {name}", *parts, *reversed(bars))


def _span(call: Call) -> tuple[int, int | None]:
    """Indices of beginning and end; None: not known."""
    if call.end is None or (call.unknown and call.invoke.process != NEMESIS):
        return call.invoke.index, None
    return call.invoke.index, call.end.index


def _bar(call: Call, left: float, right: float, top: float, title: tuple[str, int]) -> str:
    """title: with its longest length in characters."""
    outcome = call.end.type if call.end is not None else "info"
    return element(
        "g",
        element("title", shown(_sentence(call), LONGEST_VALUE)),
        element(
            "rect",
            x=round(left, 1),
            y=top + 17,
            width=round(max(right - left, 6), 1),
            height=9,
            rx=2,
            class_=f"op-{outcome}",
        ),
        label(round(left, 1), top + 12, title[0], longest=title[1], class_="key"),
    )


def _title(call: Call, prefix: str) -> str:
    end = call.end
    value = end.value if end is not None and end.type == "ok" else call.invoke.value
    mark = "" if end is not None and end.type == "ok" else f" [{end.type if end else 'info'}]"
    text = f"{call.invoke.f}{mark} {short(value)}"
    return text.replace(prefix, "") if prefix else text


def _sentence(call: Call) -> str:
    end = call.end
    closing = "never ended" if end is None else f"{end.type} at {end.time_ns / 1e9:.6f} s"
    return f"{call.invoke.f} began at {call.invoke.time_ns / 1e9:.6f} s, {closing}"


def _listed(calls: Sequence[Call]) -> str:
    """The operations in full, as a table that folds."""
    ends = [op for call in calls for op in (call.invoke, call.end)]
    rows = [_row(op) for op in ends if op is not None]
    head = element(
        "thead",
        element("tr", *(element("th", one) for one in ("#", "time", "process", "what", "value"))),
    )
    table = element("table", head, element("tbody", *rows), class_="stack")
    return element("details", element("summary", "These operations in full"), element("div", table))


def _row(op: Op) -> str:
    error = element("div", shown(op.error, 400), class_="bad") if op.error else ""
    value = element("code", shown(_json(op.value), LONGEST_VALUE))
    return element(
        "tr",
        element("td", str(op.index), class_="number"),
        element("td", f"{op.time_ns / 1e9:.6f} s"),
        element("td", "nemesis" if op.process == NEMESIS else str(op.process)),
        element("td", f"{shown(op.type)} {shown(op.f, 60)}"),
        element("td", value, error),
    )
