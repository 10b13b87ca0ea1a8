"""What happened in a run: operations in the order in which they began and ended.

One line of JSON per operation, keys in this order, defaults left out:

    {"index":0,"process":3,"type":"invoke","f":"write","value":"v1","time":1200345}
    {"index":1,"process":3,"type":"ok","f":"write","value":"v1","time":2500321}

An invocation (type "invoke") is completed by the next operation of the same process: "ok" (it was
carried out), "fail" (it was not, and never will be) or "info" (nobody knows; the process is
retired, so no later operation has its number). What the nemesis does has process -1 and always
ends with "info", which says what was really done.

`time` is nanoseconds since the run began, of a clock that never goes back.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Self, overload

from raftkv.errors import RaftkvError

NEMESIS: Final = -1
COMPLETIONS: Final = frozenset({"ok", "fail", "info"})
TYPES: Final = COMPLETIONS | {"invoke"}

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


class HistoryError(RaftkvError):
    """A history that cannot be read or contradicts itself; the text says where."""


@dataclass(frozen=True, slots=True)
class Op:
    """One end of an operation.

    process: who did it; NEMESIS for faults. type: "invoke", "ok", "fail" or "info". f: what it
    does, as its workload or nemesis names it. value: JSON. time_ns: nanoseconds since the run
    began. index: its place in the history; -1 before it has one. error: why it failed.
    """

    process: int
    type: str
    f: str
    value: Any
    time_ns: int
    index: int = -1
    error: str = ""

    def done(self, type: str, value: Any = None, *, error: str = "") -> "Op":
        """The completion of this invocation: "ok", "fail" or "info".

        value: None = the invocation's own. Time and index are the interpreter's to set.
        """
        assert type in COMPLETIONS, type
        value = self.value if value is None else value
        return Op(self.process, type, self.f, value, self.time_ns, -1, error)

    def line(self) -> str:
        """Its line of JSON, with the line's end."""
        fields: dict[str, Any] = {
            "index": self.index,
            "process": self.process,
            "type": self.type,
            "f": self.f,
            "value": self.value,
            "time": self.time_ns,
        }
        if self.error:
            fields["error"] = self.error
        return _encode(fields) + "\n"


@dataclass(frozen=True, slots=True)
class Call:
    """An invocation and what completed it; end is None where nothing did."""

    invoke: Op
    end: Op | None

    @property
    def ok(self) -> bool:
        """Carried out, and answered."""
        return self.end is not None and self.end.type == "ok"

    @property
    def failed(self) -> bool:
        """Surely not carried out."""
        return self.end is not None and self.end.type == "fail"

    @property
    def unknown(self) -> bool:
        """It may have been carried out, or may still be."""
        return self.end is None or self.end.type == "info"


class History(Sequence[Op]):
    """The operations of a run, in order."""

    def __init__(self, ops: Iterable[Op] = ()) -> None:
        self._ops = list(ops)
        self._calls: list[Call] | None = None

    def __len__(self) -> int:
        return len(self._ops)

    @overload
    def __getitem__(self, place: int) -> Op: ...

    @overload
    def __getitem__(self, place: slice) -> list[Op]: ...

    def __getitem__(self, place: int | slice) -> Op | list[Op]:
        return self._ops[place]

    def __iter__(self) -> Iterator[Op]:
        return iter(self._ops)

    def client_ops(self) -> list[Op]:
        """All operations of clients."""
        return [op for op in self._ops if op.process != NEMESIS]

    def nemesis_ops(self) -> list[Op]:
        """All operations of the nemesis."""
        return [op for op in self._ops if op.process == NEMESIS]

    def calls(self) -> list[Call]:
        """Every invocation of a client with its completion, in the order of invocations."""
        if self._calls is None:
            self._calls = _paired(self.client_ops())
        return self._calls

    def nemesis_calls(self) -> list[Call]:
        """Every invocation of the nemesis with its completion."""
        return _paired(self.nemesis_ops())

    def check_complete(self) -> None:
        """Errors: HistoryError, if something is missing or in a place where it cannot be.

        Every completion has its invocation, a process has at most one open call and none after
        an "info", indices grow by one, times never fall.
        """
        open_calls: dict[int, Op] = {}
        retired: set[int] = set()
        before = 0
        for place, op in enumerate(self._ops):
            _check_place(op, place, before)
            before = op.time_ns
            if op.type == "invoke":
                if op.process in open_calls:
                    raise HistoryError(f"operation {place}: process {op.process} is busy already")
                if op.process in retired:
                    raise HistoryError(f"operation {place}: process {op.process} is retired")
                open_calls[op.process] = op
                continue
            begun = open_calls.pop(op.process, None)
            if begun is None or begun.f != op.f:
                raise HistoryError(f"operation {place}: it completes no invocation")
            if op.type == "info" and op.process != NEMESIS:
                retired.add(op.process)

    # --- files ----------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Writes it as lines of JSON. Errors: OSError."""
        with path.open("w", encoding="utf-8") as file:
            for op in self._ops:
                file.write(op.line())

    @classmethod
    def read(cls, path: Path, partial: bool = False) -> Self:
        """Reads what `write` or `Journal` wrote.

        partial: what comes after the first line that is damaged is left out.
        Errors: HistoryError (it names the line), OSError.
        """
        ops: list[Op] = []
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    ops.append(parsed(line))
                except HistoryError as error:
                    if partial:
                        break
                    raise HistoryError(
                        f"{path}, line {number}: {error}; "
                        f"--partial checks the {len(ops)} operations before it"
                    ) from None
        return cls(ops)


class Journal:
    """Writes operations to a file while they happen; nothing is kept in memory.

    Lines reach the file when `flush` is called or some kilobytes have gathered.
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", buffering=64 * 1024)

    def add(self, op: Op) -> None:
        """Appends one operation."""
        self._file.write(op.line())

    def flush(self) -> None:
        """Hands everything to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Ends the file. A second call does nothing."""
        self._file.close()


def parsed(line: bytes | str) -> Op:
    """The operation of one line. Errors: HistoryError."""
    text = line.decode("utf-8", "replace") if isinstance(line, bytes) else line
    if not text.endswith("\n"):
        raise HistoryError("the file ends in the middle of a line")
    try:
        fields = json.loads(text)
    except ValueError:
        raise HistoryError("it is not a line of JSON") from None
    try:
        op = Op(
            fields["process"],
            fields["type"],
            fields["f"],
            fields["value"],
            fields["time"],
            fields["index"],
            fields.get("error", ""),
        )
    except (KeyError, TypeError, AttributeError):
        raise HistoryError("it lacks a field of an operation") from None
    if op.type not in TYPES or type(op.process) is not int or type(op.time_ns) is not int:
        raise HistoryError("it is not an operation")
    return op


def _check_place(op: Op, place: int, before_ns: int) -> None:
    if op.index != place:
        raise HistoryError(f"operation {place}: its index is {op.index}")
    if op.time_ns < before_ns:
        raise HistoryError(f"operation {place}: it happened before the one in front of it")


def _paired(ops: Iterable[Op]) -> list[Call]:
    invocations: list[Op] = []
    ends: dict[int, Op] = {}
    latest: dict[int, int] = {}  # process -> place of its open invocation
    for op in ops:
        if op.type == "invoke":
            latest[op.process] = len(invocations)
            invocations.append(op)
        elif op.process in latest:
            ends[latest.pop(op.process)] = op
    return [Call(op, ends.get(place)) for place, op in enumerate(invocations)]
