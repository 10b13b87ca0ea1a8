"""What every thread and every task of the process is doing: stacks as names and places.

Nothing but names of functions, files and lines leaves this module: a frame's variables may hold
clients' values.

A thread's stack is what runs. A task's is the chain of coroutines that wait for each other, which
`asyncio.Task.get_stack` does not show: it ends at the outermost one.
"""

import asyncio
import sys
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, TypeAlias

_DEPTH: Final = 256  # of a stack; what is further out is not shown


class Place(NamedTuple):
    """function: with its module and class. line: of `file`, counted from 1."""

    function: str
    file: str
    line: int


Stack: TypeAlias = tuple[Place, ...]


class Activity(NamedTuple):
    """kind: "thread" or "task". name: as given by whoever started it. stack: innermost first."""

    kind: str
    name: str
    stack: Stack


def function_name(code: CodeType, module: object) -> str:
    """The function of some code, with its module and class."""
    return f"{module}.{code.co_qualname}"


def thread_names() -> dict[int, str]:
    """The name of every thread that Python started, by its identifier."""
    return {one.ident: one.name for one in threading.enumerate() if one.ident is not None}


def threads() -> list[Activity]:
    """All threads that run Python, that of the caller included."""
    names = thread_names()
    return [
        Activity("thread", names.get(ident, str(ident)), tuple(_of_frame(frame)))
        for ident, frame in sys._current_frames().items()
    ]


def tasks(loop: asyncio.AbstractEventLoop) -> list[Activity]:
    """All tasks of a loop that have not ended; to be called in its thread."""
    return [
        Activity("task", task.get_name(), tuple(_of_coroutine(task.get_coro())))
        for task in asyncio.all_tasks(loop)
    ]


def _place(frame: FrameType, line: int | None) -> Place:
    code = frame.f_code
    name = function_name(code, frame.f_globals.get("__name__", "?"))
    return Place(name, code.co_filename, line or 0)


def _of_frame(frame: FrameType | None) -> Iterator[Place]:
    for _ in range(_DEPTH):
        if frame is None:
            return
        yield _place(frame, frame.f_lineno)
        frame = frame.f_back


def _of_coroutine(waiting: Any) -> list[Place]:
    """Of a coroutine, a generator or whatever else can be awaited; those in C have no frame."""
    found: list[Place] = []
    for _ in range(_DEPTH):
        for kind in ("cr", "gi", "ag"):
            frame = getattr(waiting, f"{kind}_frame", None)
            if frame is not None:
                found.append(_place(frame, frame.f_lineno))
                break
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
        if waiting is None:
            break
    return found[::-1]


# --- as text ----------------------------------------------------------------------


def each(found: list[Activity]) -> str:
    """One paragraph per thread and task."""
    return "\n".join(
        f'{one.kind} "{one.name}":\n'
        + "".join(f"{place.function}\n\t{place.file}:{place.line}\n" for place in one.stack)
        for one in found
    )


def grouped(found: list[Activity]) -> str:
    """One paragraph per different stack with how many there are, the most frequent first."""
    counts: dict[tuple[str, Stack], int] = {}
    for one in found:
        key = (one.kind, one.stack)
        counts[key] = counts.get(key, 0) + 1
    total = {kind: sum(one.kind == kind for one in found) for kind in ("thread", "task")}
    paragraphs = [f"threads: total {total['thread']}, tasks: total {total['task']}\n"]
    for (kind, stack), count in sorted(counts.items(), key=lambda item: -item[1]):
        lines = [f"#\t{place.function}\t{place.file}:{place.line}\n" for place in stack]
        paragraphs.append(f"{count} {kind}{'' if count == 1 else 's'}\n" + "".join(lines))
    return "\n".join(paragraphs)
