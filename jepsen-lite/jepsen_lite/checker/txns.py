"""Transactions of a history in flat lists, and the cycles that their dependencies make.

Real time with the frontier trick: whoever is called comes after all of the frontier; whoever is
answered takes the place of those that it came after. So the frontier stays about as small as the
number of processes, and every real-time order is still a path.
"""

from array import array
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeAlias

from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.graph import PROCESS, REALTIME, RW, WR, WW, Graph, components
from jepsen_lite.checker.values import show
from jepsen_lite.history import History

FAILED, UNKNOWN, OK = 0, 1, 2

_COMPONENTS: Final = 20  # that are explained


# Why one transaction had to come before another: before, after, kind, and the key and version.
Edge: TypeAlias = tuple[int, int, int, Any, Any]


class Txns:
    """See the module's docstring. Lists by the number of the transaction, in order of calls.

    steps: what it did: the answer's where there is one, else what was asked. states: FAILED,
    UNKNOWN or OK. calls, ends: indices in the history (-1: no end). values: of its end.
    before: those that were answered before it was called and are not before one of these.
    """

    def __init__(self, history: History) -> None:
        self.steps: list[list[Any]] = []
        self.states = array("b")
        self.processes: list[int] = []
        self.calls: list[int] = []
        self.ends: list[int] = []
        self.values: list[dict[str, Any]] = []
        self.before: list[list[int]] = []
        self._read(history)

    def __len__(self) -> int:
        return len(self.steps)

    def _read(self, history: History) -> None:
        under_way: dict[int, int] = {}
        frontier: list[int] = []
        for op in history:
            if op.f != "txn" or op.process < 0:
                continue
            value = op.value
            if op.type == "invoke":
                if type(value) is not dict or "txn" not in value:
                    continue
                under_way[op.process] = len(self.steps)
                self.steps.append(value["txn"])
                self.states.append(UNKNOWN)
                self.processes.append(op.process)
                self.calls.append(op.index)
                self.ends.append(-1)
                self.values.append(value)
                self.before.append(frontier)
                continue
            number = under_way.pop(op.process, None)
            if number is None:
                continue
            self.ends[number] = op.index
            if op.type == "fail":
                self.states[number] = FAILED
            elif op.type == "ok":
                self.states[number] = OK
                self.steps[number] = value["txn"]
                self.values[number] = value
                gone = self.before[number]
                frontier = [one for one in frontier if one not in gone]
                frontier.append(number)

    def op(self, number: int) -> int:
        """The history index that names a transaction."""
        return self.ends[number] if self.states[number] == OK else self.calls[number]

    def show(self, number: int) -> str:
        """A transaction in a sentence."""
        return f"T{self.op(number)} {show(self.steps[number])}"

    def report_cycles(self, findings: Findings, dependencies: Callable[[], Iterable[Edge]]) -> int:
        """Adds an anomaly for every cycle; returns the number of edges.

        dependencies: all edges but those of real time; asked for again when there are cycles, to
        explain them.
        """
        earlier: list[list[int]] = [[] for _ in self.before]
        for before, after, _, _, _ in dependencies():
            if before != after:
                earlier[after].append(before)
        # Components are the same with all edges turned round, and those of real time are there.
        turned = [
            mine + others if mine else others
            for mine, others in zip(earlier, self.before, strict=True)
        ]
        found = components(turned)
        if found:
            self._explain(findings, found, dependencies)
        return sum(map(len, turned))

    def _graph(self, dependencies: Iterable[Edge]) -> Graph:
        """With all edges and their kinds."""
        graph = Graph(len(self))
        latest: dict[int, int] = {}
        for number, before in enumerate(self.before):
            for one in before:
                graph.edge(one, number, REALTIME)
            process = self.processes[number]
            if process in latest:
                graph.edge(latest[process], number, PROCESS)
            latest[process] = number
        for one, after, kind, _, _ in dependencies:
            graph.edge(one, after, kind)
        return graph

    def _explain(
        self,
        findings: Findings,
        found: list[list[int]],
        dependencies: Callable[[], Iterable[Edge]],
    ) -> None:
        graph = self._graph(dependencies())
        found.sort(key=len)
        cycles = [one for component in found[:_COMPONENTS] for one in graph.cycles(component)]
        inside = {number for cycle in cycles for number, _ in cycle.steps}
        why = {edge[:3]: edge for edge in dependencies() if edge[0] in inside and edge[1] in inside}
        for name, steps in cycles:
            lines = []
            for place, (number, kind) in enumerate(steps):
                after = steps[(place + 1) % len(steps)][0]
                reason = self._reason(number, after, kind, why.get((number, after, kind)))
                lines.append(reason)
            told = "; ".join(self.show(number) for number, _ in steps)
            text = f"{told}. {', '.join(lines)}: each came before the next, and so before itself."
            findings.add(name, text, [self.op(number) for number, _ in steps])

    def _reason(self, before: int, after: int, kind: int, edge: Edge | None) -> str:
        one, other = f"T{self.op(before)}", f"T{self.op(after)}"
        if edge is None:
            if kind == PROCESS:
                return f"{one} was done by the same process before {other}"
            return f"{one} was answered before {other} was called"
        what = f"{edge[4]!r} of key {edge[3]!r}"
        if kind == WR:
            return f"{other} read {one}'s {what}"
        if kind == WW:
            return f"{other} wrote its {what} over {one}'s"
        assert kind == RW
        return f"{one} did not see {other}'s {what}"
