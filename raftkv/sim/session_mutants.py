"""Known-wrong variants of sessions, for `sim.mutants`."""

from collections.abc import Iterator
from typing import Any, Final

from raftkv.kv import commands, machine
from raftkv.kv.backend import View
from raftkv.kv.commands import REQUEST_AT, SESSION, Triple
from raftkv.kv.encoding import SESSION_ROWS
from raftkv.kv.machine import StateMachine
from raftkv.kv.runs import put_run
from raftkv.kv.sessions import Answer, Sessions
from raftkv.kv.store import Store
from raftkv.kv.swaps import swap_run
from raftkv.raft.types import NORMAL, Entry

_judge = Sessions._judge
_repeat = Sessions.repeat
_snapshot_view = StateMachine.snapshot_view


def _load_nothing(self: Sessions, name: bytes, value: bytes) -> None:
    """Answers that were kept are forgotten at every start."""


class _Curtailed:
    """A picture of the rows of which those of sessions are missing."""

    def __init__(self, view: View) -> None:
        self._view = view

    def get(self, key: bytes) -> bytes | None:
        return self._view.get(key)

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        found = self._view.seek(key)
        if found is not None and SESSION_ROWS[0] <= found[0] < SESSION_ROWS[1]:
            return self._view.seek(SESSION_ROWS[1])
        return found

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        for name, value in self._view.scan(start, stop, reverse=reverse):
            if not SESSION_ROWS[0] <= name < SESSION_ROWS[1]:
                yield name, value

    def close(self) -> None:
        self._view.close()


def _view_without_answers(self: StateMachine) -> tuple[View, bytes]:
    view, meta = _snapshot_view(self)
    return _Curtailed(view), meta


def _always_new(self: Sessions, number: int, sequence: int, lowest: int) -> Answer | None:
    """Carries out whatever is not refused."""
    answer = _judge(self, number, sequence, lowest)
    session = self.by_id.get(number)
    return None if session is not None and sequence in session.answers else answer


def _sessions_do_not_matter(
    self: Sessions, number: int, sequence: int, lowest: int
) -> Answer | None:
    """Carries out the writes of sessions that are over."""
    return _judge(self, number, sequence, lowest) if number in self.by_id else None


def _nothing_is_closed(self: Sessions, number: int, sequence: int, lowest: int) -> Answer | None:
    """Carries out again what was answered and forgotten."""
    session = self.by_id.get(number)
    if session is not None and sequence < session.lowest:
        return None
    return _judge(self, number, sequence, lowest)


def _forget_too_much(self: Sessions, asked: Triple) -> Answer | None:
    """Takes every sequence below the newest one for answered."""
    number, sequence, _ = asked
    return _repeat(self, (number, sequence, sequence))


def _plain(entry: Entry) -> Entry:
    """An entry without its session."""
    payload = entry.payload
    if entry.kind != NORMAL or not payload or not payload[0] & SESSION:
        return entry
    at = REQUEST_AT[payload[0]]
    head = bytes((payload[0] & ~SESSION, payload[1])) + payload[2 : at - 24]
    return Entry(entry.index, entry.term, entry.kind, head + payload[at:])


def _put_run(store: Store, entries: list[Entry], first: int) -> list[tuple[int, bytes]]:
    """Runs take puts in sessions like any other."""
    return put_run(store, [_plain(entry) for entry in entries], first)


def _swap_run(store: Store, entries: list[Entry], first: int) -> list[tuple[int, bytes]]:
    return swap_run(store, [_plain(entry) for entry in entries], first)


_RUNS: Final = {bytes((commands.PUT,)): _put_run, bytes((commands.TXN,)): _swap_run}

# (name, ((owner, attribute, replacement), ...))
PATCHES: Final[tuple[tuple[str, tuple[tuple[Any, str, Any], ...]], ...]] = (
    ("forget sessions at a restart", ((Sessions, "_load_row", _load_nothing),)),
    ("a state without answers", ((StateMachine, "snapshot_view", _view_without_answers),)),
    ("carry out every repetition", ((Sessions, "_judge", _always_new),)),
    ("write in a session that is over", ((Sessions, "_judge", _sessions_do_not_matter),)),
    ("carry out what is closed", ((Sessions, "_judge", _nothing_is_closed),)),
    ("forget answers too early", ((Sessions, "repeat", _forget_too_much),)),
    ("runs without sessions", ((machine, "_RUNS", _RUNS),)),
)
