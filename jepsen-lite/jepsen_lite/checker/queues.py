"""A queue: what goes in comes out once.

Elements are unique. One that came out and never went in (or only by an enqueue that failed, or only
later) is unexpected; one that came out twice is duplicated. One whose enqueue was answered and that
never came out is lost, if the queue was found empty by someone who asked after that answer. Each
dequeue of unknown outcome may have taken one element, so that many are forgiven. With `fifo`, an
element that went in wholly before another one must not come out wholly after it.
"""

from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, of_kind, place
from jepsen_lite.history import Call


class Queue:
    """See the module's docstring. f: "enqueue", "dequeue" and "drain"."""

    def __init__(self, fifo: bool = False) -> None:
        self._fifo = fifo

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        return _Elements(run.history.calls()).verdict(self._fifo)


class _Elements:
    def __init__(self, calls: list[Call]) -> None:
        self._findings = Findings()
        self._in = {asked(call)["element"]: call for call in of_kind(calls, "enqueue")}
        self._out: dict[Any, list[Call]] = {}
        self._empty: list[Call] = []  # answers of an empty queue
        self._unsure: list[Call] = []  # may have taken one element
        for call in of_kind(calls, "dequeue"):
            value = answer(call)
            if value is not None:
                self._came(value.get("element"), call)
            elif call.unknown:
                self._unsure.append(call)
        for call in of_kind(calls, "drain"):
            value = answer(call)
            if value is not None:
                elements = value.get("elements") or []
                for element in elements:
                    self._came(element, call)
                if not elements:  # else it may have stopped before the end
                    self._empty.append(call)
            elif call.unknown:
                self._unsure.append(call)

    def _came(self, element: Any, call: Call) -> None:
        if element is None:
            self._empty.append(call)
        else:
            self._out.setdefault(element, []).append(call)

    def verdict(self, fifo: bool) -> Verdict:
        for element, calls in self._out.items():
            self._sources(element, calls)
            if len(calls) > 1:
                text = f"{element!r} came out of the queue {len(calls)} times, it went in once."
                self._findings.add("duplicated", text, map(place, calls[:2]))
        forgiven = self._lost()
        if fifo:
            self._order()
        return self._findings.verdict(
            enqueues=len(self._in),
            acknowledged=sum(call.ok for call in self._in.values()),
            came_out=len(self._out),
            dequeues_of_unknown_outcome=len(self._unsure),
            perhaps_taken_by_those=forgiven,
            recovered=sum(self._in[e].unknown for e in self._out if e in self._in),
        )

    def _sources(self, element: Any, calls: list[Call]) -> None:
        source, first = self._in.get(element), calls[0]
        if source is None:
            text = f"{element!r} came out of the queue, nobody put it in."
            self._findings.add("unexpected", text, (place(first),))
        elif source.failed:
            text = f"{element!r} came out of the queue, but its enqueue was told that it failed."
            self._findings.add("unexpected", text, (place(source), place(first)))
        elif source.invoke.index > place(first):
            text = f"{element!r} came out of the queue before its enqueue was called."
            self._findings.add("unexpected", text, (place(first), source.invoke.index))

    def _lost(self) -> int:
        """Adds what is lost; returns how many were forgiven."""
        if not self._empty:
            return 0
        last = max(self._empty, key=lambda call: call.invoke.index)
        gone = [
            (element, call)
            for element, call in self._in.items()
            if call.ok and element not in self._out and place(call) < last.invoke.index
        ]
        takers = sum(1 for call in self._unsure if call.invoke.index < place(last))
        if any(call.invoke.f == "drain" for call in self._unsure):
            takers = len(gone)  # it may have taken all
        if len(gone) <= takers:
            return len(gone)
        excuse = f"; only {takers} of {len(gone)} could have been taken" if takers else ""
        for element, call in gone:
            text = (
                f"The enqueue of {element!r} was answered, it never came out, and later the queue "
                f"was empty{excuse}."
            )
            self._findings.add("lost", text, (place(call), last.invoke.index, place(last)))
        return 0

    def _order(self) -> None:
        """First in, first out, as far as real time says what was first."""
        through = [
            (self._in[element], calls[0], element)
            for element, calls in self._out.items()
            if element in self._in and self._in[element].ok and calls[0].invoke.f == "dequeue"
        ]
        by_end = sorted(through, key=lambda one: place(one[0]))
        by_call = sorted(through, key=lambda one: one[0].invoke.index)
        upto = 0
        latest: tuple[Call, Call, Any] | None = None  # went in before; taken last of these
        for went_in, came_out, element in by_call:
            while upto < len(by_end) and place(by_end[upto][0]) < went_in.invoke.index:
                one = by_end[upto]
                if latest is None or one[1].invoke.index > latest[1].invoke.index:
                    latest = one
                upto += 1
            if latest is not None and latest[1].invoke.index > place(came_out):
                text = f"{latest[2]!r} went in before {element!r}, but came out after it."
                ops = (place(latest[0]), place(went_in), place(came_out), place(latest[1]))
                self._findings.add("out-of-order", text, ops)
