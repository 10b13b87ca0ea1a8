"""Registers that transactions write and read (Kingsbury and Alvaro, Elle, 2020).

Every value is written once, so a read tells whose write it saw. Which version came before which is
known from the revisions of the store where an answer has them (a transaction's writes all have its
own; `versions` says those of what it read), from transactions that read one version and wrote the
next, and from the fact that nothing comes before the first state. Edges and names are those of
`graph`.

What needs no cycle: values that nobody wrote, that a failed transaction wrote (G1a) or that were
not the last ones of their transaction (G1b), reads that do not have the transaction's own writes
(internal), and two transactions that read the same version and both wrote (lost update).
"""

from collections.abc import Iterator
from typing import Any, Final

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.graph import RW, WR, WW
from jepsen_lite.checker.txns import FAILED, OK, Edge, Txns

_INITIAL_EDGES: Final = 8  # from one reader of the first state, where no order is known


class WriteRead:
    """See the module's docstring."""

    def check(self, run: Evidence) -> Verdict:
        """Needs nothing but the history."""
        return _Registers(Txns(run.history)).verdict()


class _Registers:
    def __init__(self, txns: Txns) -> None:
        self._txns = txns
        self._findings = Findings()
        self._writer: dict[Any, dict[Any, int]] = {}  # key -> value -> transaction
        self._inner: dict[tuple[Any, Any], int] = {}  # writes followed by another one
        self._reads: dict[Any, list[tuple[int, Any]]] = {}  # key -> who read what of others
        self._revisions: dict[Any, dict[Any, int]] = {}  # key -> value -> mod_revision
        self._next: dict[Any, list[tuple[Any, Any]]] = {}  # key -> (version read, one written)

    def verdict(self) -> Verdict:
        for number in range(len(self._txns)):
            self._one(number)
        for key, reads in self._reads.items():
            self._sources(key, reads)
            self._lost_updates(key, reads)
        edges = self._txns.report_cycles(self._findings, self._edges)
        amount = sum(map(len, self._reads.values()))
        ordered = sum(map(len, self._revisions.values()))
        return self._findings.verdict(
            transactions=len(self._txns),
            acknowledged=self._txns.states.count(OK),
            reads=amount,
            versions_of_known_order=ordered,
            edges=edges,
        )

    def _one(self, number: int) -> None:
        """What a transaction wrote, what it read of others, and whether it saw its own writes."""
        ok = self._txns.states[number] == OK
        value = self._txns.values[number]
        versions = value.get("versions") or {}
        read: dict[Any, Any] = {}
        wrote: dict[Any, Any] = {}
        for kind, key, said in self._txns.steps[number]:
            if kind == "w":
                if key in wrote:
                    self._inner[key, wrote[key]] = number
                wrote[key] = said
                self._writer.setdefault(key, {})[said] = number
            elif not ok:
                continue
            elif key in wrote or key in read:
                if said != wrote.get(key, read.get(key)):
                    text = f"{self._txns.show(number)} contradicts itself about key {key!r}."
                    self._findings.add("internal", text, (self._txns.op(number),))
            else:
                read[key] = said
                self._reads.setdefault(key, []).append((number, said))
                revision = versions.get(key, versions.get(str(key)))
                if revision and said is not None:
                    self._revisions.setdefault(key, {})[said] = revision
        revision = value.get("revision")
        for key, said in wrote.items() if ok else ():
            if type(revision) is int:
                self._revisions.setdefault(key, {})[said] = revision
            if key in read:
                self._next.setdefault(key, []).append((read[key], said))

    def _sources(self, key: Any, reads: list[tuple[int, Any]]) -> None:
        """Whose writes were read."""
        of_key = self._writer.get(key, {})
        shown, op = self._txns.show, self._txns.op
        for number, said in reads:
            if said is None:
                continue
            by = of_key.get(said)
            if by is None:
                text = f"{shown(number)} read {said!r} of key {key!r}, which nobody wrote."
                self._findings.add("garbage-read", text, (op(number),))
            elif self._txns.states[by] == FAILED:
                text = (
                    f"{shown(number)} read {said!r} of key {key!r}, but the transaction "
                    f"{shown(by)} that wrote it failed."
                )
                self._findings.add("G1a", text, (op(by), self._txns.ends[by], op(number)))
            elif (key, said) in self._inner and by != number:
                text = (
                    f"{shown(number)} read {said!r} of key {key!r}, which is the middle of "
                    f"transaction {shown(by)}."
                )
                self._findings.add("G1b", text, (op(by), op(number)))

    def _lost_updates(self, key: Any, reads: list[tuple[int, Any]]) -> None:
        writers = set(self._writer.get(key, {}).values())
        first: dict[Any, int] = {}
        for number, said in reads:
            if number not in writers:
                continue
            other = first.setdefault(said, number)
            if other != number:
                shown, op = self._txns.show, self._txns.op
                text = (
                    f"{shown(other)} and {shown(number)} read the same version {said!r} of key "
                    f"{key!r}, and both wrote it: one of the updates was lost."
                )
                self._findings.add("lost-update", text, (op(other), op(number)))

    # --- the graph ----------------------------------------------------------------------------

    def _edges(self) -> Iterator[Edge]:
        for key, writers in self._writer.items():
            yield from self._of_key(key, writers, self._reads.get(key, []))

    def _of_key(
        self, key: Any, writers: dict[Any, int], reads: list[tuple[int, Any]]
    ) -> Iterator[Edge]:
        revisions = self._revisions.get(key, {})
        order = sorted((r, said) for said, r in revisions.items() if said in writers)
        following: dict[Any, list[Any]] = {}
        before: Any = None
        for _, said in order:
            following[before] = [said]
            before = said
        for said, after in self._next.get(key, []):
            if said not in revisions or after not in revisions:
                following.setdefault(said, []).append(after)
        if not order:
            read = {said for _, said in reads}
            committed = [
                said for said, n in writers.items() if self._txns.states[n] == OK or said in read
            ]
            following.setdefault(None, []).extend(committed[:_INITIAL_EDGES])
        for said, afters in following.items():
            for after in afters:
                if said is not None and said in writers:
                    yield writers[said], writers[after], WW, key, after
        for number, said in reads:
            if said in writers:
                yield writers[said], number, WR, key, said
            for after in following.get(said, ()):
                yield number, writers[after], RW, key, after
