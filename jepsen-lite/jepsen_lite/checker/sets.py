"""A set that is added to and read as a whole.

An element is known from the moment that its add was answered or a read with it was answered. A read
that is called later and lacks it is stale if a later read has it again, else it is lost. Elements
that nobody added, or only an add that failed, are unexpected; one that a read has twice is
duplicated. Reads that may be old (serializable) can only be unexpected or duplicated.
"""

from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.values import answer, asked, of_kind, place
from jepsen_lite.history import Call


class Set:
    """See the module's docstring. f: "add" and "read"; elements may be anything hashable."""

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        return _Elements(run.history.calls()).verdict()


class _Elements:
    def __init__(self, calls: list[Call]) -> None:
        self._findings = Findings()
        self._adds = {asked(call)["element"]: call for call in of_kind(calls, "add")}
        self._reads: list[tuple[Call, list[Any]]] = []
        for call in of_kind(calls, "read"):
            value = answer(call)
            if value is not None:
                self._reads.append((call, value.get("elements") or []))
        self._known: dict[Any, Call] = {}  # the first answer that shows an element

    def verdict(self) -> Verdict:
        for call, elements in self._reads:
            self._unexpected(call, elements)
        self._learn()
        lost, stale = self._missing()
        seen = {element for _, elements in self._reads for element in elements}
        acknowledged = [element for element, call in self._adds.items() if call.ok]
        return self._findings.verdict(
            adds=len(self._adds),
            acknowledged=len(acknowledged),
            reads=len(self._reads),
            lost=lost,
            stale=stale,
            acknowledged_and_never_read=sum(one not in seen for one in acknowledged),
            unknown_and_read=sum(one in seen for one, c in self._adds.items() if c.unknown),
        )

    def _unexpected(self, call: Call, elements: list[Any]) -> None:
        for element in elements if len(set(elements)) < len(elements) else ():
            if elements.count(element) > 1:
                text = f"A read has {element!r} {elements.count(element)} times."
                self._findings.add("duplicated", text, (place(call),))
                break
        for element in elements:
            add = self._adds.get(element)
            if add is None:
                text = f"A read has {element!r}, which nobody added."
                self._findings.add("unexpected", text, (place(call),))
            elif add.failed:
                text = f"A read has {element!r}, but its add was told that it failed."
                self._findings.add("unexpected", text, (add.invoke.index, place(call)))
            elif add.invoke.index > place(call):
                text = f"A read has {element!r} before its add was called."
                self._findings.add("unexpected", text, (place(call), add.invoke.index))

    def _learn(self) -> None:
        known: dict[Any, tuple[int, Call]] = {}
        for element, call in self._adds.items():
            if call.ok:
                known[element] = (place(call), call)
        for call, elements in self._reads:
            for element in elements:
                before = known.get(element)
                if before is None or place(call) < before[0]:
                    known[element] = (place(call), call)
        order = sorted(known.items(), key=lambda item: item[1][0])
        self._known = {element: call for element, (_, call) in order}

    def _missing(self) -> tuple[int, int]:
        """Adds what is lost or stale; returns how many elements were each."""
        order = list(self._known)
        moments = [place(call) for call in self._known.values()]
        expected: set[Any] = set()
        upto = 0
        missing: dict[Any, Call] = {}  # the first read that lacks an element
        back: dict[Any, Call] = {}  # one called later that has it again
        for call, elements in self._reads:
            if asked(call).get("serializable"):
                continue
            while upto < len(order) and moments[upto] < call.invoke.index:
                expected.add(order[upto])
                upto += 1
            seen = set(elements)
            for element in expected - seen:
                missing.setdefault(element, call)
                back.pop(element, None)
            for element in missing.keys() & seen:
                back[element] = call
        for element, call in sorted(missing.items(), key=lambda item: place(item[1])):
            shown = self._known[element]
            how = "its add" if shown.invoke.f == "add" else "a read with it"
            text = f"A read lacks {element!r}, though {how} had been answered before it was called"
            ops = [place(shown), call.invoke.index, place(call)]
            if element in back:
                text += "; a later read has it."
                self._findings.add("stale-read", text, [*ops, place(back[element])])
            else:
                self._findings.add("lost", text + "; no later read has it.", ops)
        return len(missing) - len(back), len(back)
