"""Lists that transactions append to and read (Kingsbury and Alvaro, Elle, 2020).

Every element is appended once, so one read of a list tells the order of all versions before it:
each read must be a prefix of the longest one, and who wrote which version, who read it and who
overwrote it makes a graph of transactions (`graph`). A cycle in it breaks serializability, with
edges of real time strict serializability.

What needs no cycle: elements that nobody appended, that a failed transaction appended (G1a) or
that were not the last ones of their transaction (G1b), elements twice in a list, reads that do not
have the transaction's own appends (internal), reads that contradict each other (incompatible
order), and two transactions that read the same version and both appended to it (lost update).

A transaction of unknown outcome counts as done once an element of it was read. An append that was
acknowledged and never read comes behind all that was read.
"""

from collections.abc import Iterator
from typing import Any

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.graph import RW, WR, WW
from jepsen_lite.checker.txns import FAILED, OK, Edge, Txns
from jepsen_lite.checker.values import show


class Append:
    """See the module's docstring."""

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        txns = Txns(run.history)
        return _Lists(txns).verdict()


class _Lists:
    def __init__(self, txns: Txns) -> None:
        self._txns = txns
        self._findings = Findings()
        self._writer: dict[Any, dict[Any, int]] = {}  # key -> element -> transaction
        self._inner: dict[tuple[Any, Any], int] = {}  # appends followed by another one
        self._reads: dict[Any, list[tuple[int, list[Any]]]] = {}  # key -> who read what
        self._longest: dict[Any, tuple[int, list[Any]]] = {}
        self._writers: dict[Any, list[int]] = {}  # key -> by place of the longest, -1: nobody
        self._tails: dict[Any, list[int]] = {}  # key -> whose acknowledged append nobody read

    def verdict(self) -> Verdict:
        txns = self._txns
        self._index()
        for key, reads in self._reads.items():
            self._order(key, reads)
        for key, writers in self._writer.items():
            self._unread(key, writers)
        edges = txns.report_cycles(self._findings, self._edges)
        amount = sum(map(len, self._reads.values()))
        acknowledged = txns.states.count(OK)
        return self._findings.verdict(
            transactions=len(txns), acknowledged=acknowledged, reads=amount, edges=edges
        )

    # --- one transaction ----------------------------------------------------------------------

    def _index(self) -> None:
        writer, reads, states = self._writer, self._reads, self._txns.states
        for number, steps in enumerate(self._txns.steps):
            ok = states[number] == OK
            keys = set()
            for kind, key, said in steps:
                keys.add(key)
                if kind == "append":
                    of_key = writer.get(key)
                    if of_key is None:
                        of_key = writer[key] = {}
                    of_key[said] = number
                elif ok:
                    of_reads = reads.get(key)
                    if of_reads is None:
                        of_reads = reads[key] = []
                    of_reads.append((number, said or []))
            if len(keys) < len(steps):
                self._repeated(number, steps, ok)

    def _repeated(self, number: int, steps: list[Any], ok: bool) -> None:
        """A transaction that names a key twice: its own appends, and what it saw of them."""
        last: dict[Any, Any] = {}
        known: dict[Any, list[Any]] = {}  # the list, once it was read
        own: dict[Any, list[Any]] = {}  # appends since, or since the beginning
        for kind, key, said in steps:
            if kind == "append":
                if key in last:
                    self._inner[key, last[key]] = number
                last[key] = said
                own.setdefault(key, []).append(said)
            elif ok:
                seen, mine = list(said or []), own.get(key, [])
                if key in known:
                    wrong = seen != known[key] + mine
                else:
                    wrong = bool(mine) and seen[-len(mine) :] != mine
                if wrong:
                    text = (
                        f"{self._txns.show(number)} contradicts itself: its read of key {key!r} "
                        f"does not fit what it read or appended before."
                    )
                    self._findings.add("internal", text, (self._txns.op(number),))
                known[key], own[key] = seen, []

    # --- one key ------------------------------------------------------------------------------

    def _order(self, key: Any, reads: list[tuple[int, list[Any]]]) -> None:
        """The order of a key's versions, and the reads that do not fit it."""
        longest_by, longest = max(reads, key=lambda read: len(read[1]))
        fitting = []
        for number, seen in reads:
            if seen == longest[: len(seen)]:
                fitting.append((number, seen))
            else:
                self._incompatible(key, (number, seen), (longest_by, longest))
        self._reads[key] = fitting
        self._longest[key] = (longest_by, longest)
        if len(set(longest)) < len(longest):
            self._twice(key, longest_by, longest)
        of_key = self._writer.get(key, {})
        writers = [of_key.get(element, -1) for element in longest]
        self._writers[key] = writers
        states = self._txns.states
        for place, number in enumerate(writers):
            if number < 0 or states[number] == FAILED:
                self._not_committed(key, longest[place], number, place, fitting)
        self._lost_updates(key, fitting)
        if self._inner:
            for number, seen in fitting:
                by = self._inner.get((key, seen[-1])) if seen else None
                if by is not None and by != number:
                    self._intermediate(key, seen[-1], by, number)

    def _incompatible(
        self, key: Any, one: tuple[int, list[Any]], other: tuple[int, list[Any]]
    ) -> None:
        shown = self._txns.show
        if len(set(one[1])) < len(one[1]):
            self._twice(key, *one)
        place = next(
            (n for n, (a, b) in enumerate(zip(one[1], other[1], strict=False)) if a != b), 0
        )
        text = (
            f"Two reads of key {key!r} cannot both be right, they differ at place {place}: "
            f"{shown(one[0])} and {shown(other[0])}."
        )
        self._findings.add(
            "incompatible-order", text, (self._txns.op(one[0]), self._txns.op(other[0]))
        )

    def _twice(self, key: Any, number: int, seen: list[Any]) -> None:
        again = next(one for place, one in enumerate(seen) if one in seen[:place])
        text = (
            f"T{self._txns.op(number)} read {again!r} twice in key {key!r}, which was appended "
            f"once: {show(seen)}."
        )
        ops = [self._txns.op(number)]
        if again in self._writer.get(key, {}):
            ops.append(self._txns.op(self._writer[key][again]))
        self._findings.add("duplicate-elements", text, ops)

    def _not_committed(
        self, key: Any, element: Any, by: int, place: int, reads: list[tuple[int, list[Any]]]
    ) -> None:
        reader = next(number for number, seen in reads if len(seen) > place)
        op = self._txns.op
        if by < 0:
            text = f"{self._txns.show(reader)} read {element!r} of key {key!r}; nobody appended it."
            self._findings.add("garbage-read", text, (op(reader),))
            return
        text = (
            f"{self._txns.show(reader)} read {element!r} of key {key!r}, but the transaction "
            f"{self._txns.show(by)} that appended it failed."
        )
        self._findings.add("G1a", text, (op(by), self._txns.ends[by], op(reader)))

    def _intermediate(self, key: Any, element: Any, by: int, reader: int) -> None:
        shown, op = self._txns.show, self._txns.op
        text = (
            f"{shown(reader)} read key {key!r} up to {element!r}, which is the middle of "
            f"transaction {shown(by)}."
        )
        self._findings.add("G1b", text, (op(by), op(reader)))

    def _lost_updates(self, key: Any, reads: list[tuple[int, list[Any]]]) -> None:
        """Two transactions that appended to the same version."""
        of_key = self._writer.get(key, {})
        appended = set(of_key.values())
        first: dict[int, int] = {}  # length of what was read -> transaction
        for number, seen in reads:
            if number not in appended or (seen and of_key.get(seen[-1]) == number):
                continue
            steps = self._txns.steps[number]
            if next(kind for kind, name, _ in steps if name == key) == "append":
                continue  # it has read what it had appended to
            other = first.setdefault(len(seen), number)
            if other != number:
                text = (
                    f"{self._txns.show(other)} and {self._txns.show(number)} read the same version "
                    f"of key {key!r}, and both appended to it: one of the updates was lost."
                )
                ops = (self._txns.op(other), self._txns.op(number))
                self._findings.add("lost-update", text, ops)

    def _unread(self, key: Any, writers: dict[Any, int]) -> None:
        """Acknowledged appends that no read has: they come behind all that was read."""
        read = set(self._longest[key][1]) if key in self._longest else set()
        if len(read) < len(writers):
            states = self._txns.states
            tails = {n for e, n in writers.items() if e not in read and states[n] == OK}
            if tails:
                self._tails[key] = sorted(tails)

    # --- the graph ----------------------------------------------------------------------------

    def _edges(self) -> Iterator[Edge]:
        for key, writers in self._writers.items():
            longest = self._longest[key][1]
            before = -1
            for place, number in enumerate(writers):
                if number >= 0:
                    if before >= 0:
                        yield before, number, WW, key, longest[place]
                    before = number
            for number, seen in self._reads[key]:
                length = len(seen)
                if length and writers[length - 1] >= 0:
                    yield writers[length - 1], number, WR, key, seen[-1]
                if length < len(writers) and writers[length] >= 0:
                    yield number, writers[length], RW, key, longest[length]
        for key, tails in self._tails.items():
            yield from self._tail_edges(key, tails)

    def _tail_edges(self, key: Any, tails: list[int]) -> Iterator[Edge]:
        """To the appends that nobody read: from the last writer, and the readers of the end.

        Of many readers the first and the last called will do: a cycle comes from being called
        after an append was answered, which the last ones are if anyone is.
        """
        if key not in self._longest:
            return
        _, longest = self._longest[key]
        writers = self._writers[key]
        readers = [number for number, seen in self._reads[key] if len(seen) == len(longest)]
        readers = readers if len(readers) <= 8 else readers[:4] + readers[-4:]
        for tail in tails:
            element = next(e for e, n in self._writer[key].items() if n == tail)
            if writers and writers[-1] >= 0:
                yield writers[-1], tail, WW, key, element
            for number in readers:
                yield number, tail, RW, key, element
