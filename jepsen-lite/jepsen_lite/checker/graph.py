"""Graphs of transactions: which had to come before which, and why; cycles are anomalies.

Kinds of edges (Adya 1999; Kingsbury and Alvaro, Elle, 2020), a -> b:

    ww  b's write of a key is the next version after a's
    wr  b read what a wrote
    rw  b overwrote what a read
    pr  the same process did b after a
    rt  a was answered before b was called

A cycle's name says what it takes: only ww G0; ww and wr G1c; one rw G-single; more G2. With
"-process" or "-realtime" it needs edges of these kinds too: serializable, but not strictly.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, TypeAlias

WW, WR, RW, PROCESS, REALTIME = 1, 2, 4, 8, 16

_ORDERS: Final = (("", 0), ("-process", PROCESS), ("-realtime", PROCESS | REALTIME))
_BUDGET: Final = 2_000_000  # edges that one search for a shorter cycle may look at

Steps: TypeAlias = list[tuple[int, int]]


def _amount(steps: Steps, kind: int) -> int:
    return sum(one == kind for _, one in steps)


class _Shape(NamedTuple):
    """A name: the kinds of edges that may follow, and of the first one; is it really that?"""

    name: str
    allowed: int
    first: int
    holds: Callable[[Steps], bool]


_SHAPES: Final = (
    _Shape("G0", WW, WW, lambda steps: _amount(steps, WW) > 0),
    _Shape("G1c", WW | WR, WR, lambda steps: True),
    _Shape("G-single", WW | WR, RW, lambda steps: True),
    _Shape("G2", WW | WR | RW, RW, lambda steps: _amount(steps, RW) > 1),
)


class Cycle(NamedTuple):
    """name: of the anomaly. steps: (transaction, kind of the edge to the next one)."""

    name: str
    steps: Steps


class Graph:
    """Edges between transactions 0 to count - 1."""

    def __init__(self, count: int) -> None:
        self.after: list[list[int]] = [[] for _ in range(count)]  # targets
        self.kinds: list[list[int]] = [[] for _ in range(count)]  # of each edge

    def edge(self, before: int, after: int, kind: int) -> None:
        """One more; from a node to itself there is none."""
        if before != after:
            self.after[before].append(after)
            self.kinds[before].append(kind)

    def cycles(self, component: list[int]) -> Iterator[Cycle]:
        """The shortest cycle of the gravest names that a component has.

        At most one of G0, and one of the first of G1c, G-single and G2 that there is; with the
        weakest order that makes one.
        """
        inside = set(component)
        for suffix, order in _ORDERS:
            found = False
            for shape in _SHAPES:
                steps = self._shortest(inside, shape.allowed | order, shape.first, shape.holds)
                if steps is not None:
                    yield Cycle(shape.name + suffix, steps)
                    found = True
                    if shape.name != "G0":
                        return
            if found:
                return

    def _shortest(
        self, inside: set[int], allowed: int, first: int, holds: Callable[[Steps], bool]
    ) -> Steps | None:
        """The shortest cycle with a first edge of that kind and then of the allowed ones."""
        best: Steps | None = None
        budget = _BUDGET
        for start in sorted(self._narrow(inside, allowed | first)):
            steps, cost = self._round(start, inside, allowed, first, len(best) if best else 0)
            if steps is not None and holds(steps):
                best = steps
                if len(best) == 2:
                    break
            budget -= cost
            if budget < 0 and best:
                break
        return best

    def _narrow(self, inside: set[int], allowed: int) -> set[int]:
        """Of a component: what still lies on cycles when only these edges are allowed."""
        places = sorted(inside)
        number = {node: place for place, node in enumerate(places)}
        after = [
            [number[a] for a, k in self._edges(node) if k & allowed and a in inside]
            for node in places
        ]
        return {places[place] for found in components(after) for place in found}

    def _edges(self, node: int) -> Iterator[tuple[int, int]]:
        return zip(self.after[node], self.kinds[node], strict=True)

    def _round(
        self, start: int, inside: set[int], allowed: int, first: int, below: int
    ) -> tuple[Steps | None, int]:
        """Breadth first from a node back to it, in fewer than `below` steps (0: any), and the
        number of edges looked at."""
        came: dict[int, tuple[int, int]] = {}
        queue = deque([(start, 0)])
        cost = 0
        while queue:
            node, depth = queue.popleft()
            wanted = allowed if depth else first
            if below and depth + 1 >= below:
                break
            for after, kind in self._edges(node):
                cost += 1
                if not kind & wanted or after not in inside or after in came:
                    continue
                came[after] = (node, kind)
                if after == start:
                    return _back(came, start), cost
                queue.append((after, depth + 1))
        return None, cost


def _back(came: dict[int, tuple[int, int]], start: int) -> Steps:
    """The way from a node to itself, each node with the edge that leaves it."""
    steps = [came[start]]
    while steps[-1][0] != start:
        steps.append(came[steps[-1][0]])
    return steps[::-1]


def components(after: list[list[int]]) -> list[list[int]]:
    """Strongly connected components of more than one node (Tarjan 1972, without recursion)."""
    count = len(after)
    index = [0] * count  # 0: not met
    low = [0] * count
    stacked = bytearray(count)
    stack: list[int] = []
    found: list[list[int]] = []
    clock = 0
    for root in range(count):
        if index[root]:
            continue
        clock += 1
        index[root] = low[root] = clock
        stack.append(root)
        stacked[root] = 1
        work = [(root, iter(after[root]))]
        while work:
            node, rest = work[-1]
            for target in rest:
                if not index[target]:
                    clock += 1
                    index[target] = low[target] = clock
                    stack.append(target)
                    stacked[target] = 1
                    work.append((target, iter(after[target])))
                    break
                if stacked[target] and index[target] < low[node]:
                    low[node] = index[target]
            else:
                work.pop()
                if work and low[node] < low[work[-1][0]]:
                    low[work[-1][0]] = low[node]
                if low[node] == index[node]:
                    component = []
                    while True:
                        top = stack.pop()
                        stacked[top] = 0
                        component.append(top)
                        if top == node:
                            break
                    if len(component) > 1:
                        found.append(component)
    return found
