"""Whose turn it was, by the store's log: for locks and elections.

Both are queues of keys under a prefix: whose key was created first has the turn, until that key is
deleted. So by the log turns never overlap, and grow with the keys' create_revisions; what can be
wrong is that a client was told of a turn that it did not have:

* its key is not in the log;
* its key was deleted before everyone in front of it was gone: it never had the turn;
* it was told so too early: somebody asked the store after it had been told, and was answered at a
  revision at which someone in front of it was still there.
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import Final, NamedTuple

from jepsen_lite.checker.replay import Replay
from jepsen_lite.checker.values import answer, place
from jepsen_lite.history import Call, History

_LATE: Final = 1 << 62  # a revision behind all others


class Turn(NamedTuple):
    """From which revision on a key had its turn, and at which it was gone (0: never).

    before: the keys that were in front of it when it came.
    """

    begin: int
    end: int
    before: tuple[str, ...]


class Turns:
    """Of one store. Questions name a queue by its prefix."""

    def __init__(self, replay: Replay, history: History) -> None:
        self._replay = replay
        self._turns: dict[str, dict[int, Turn]] = {}  # by prefix, then by token
        self._calls: list[int] = []  # where calls with a revision began
        self._oldest: list[int] = []  # the least revision answered from there on
        found = [
            (call.invoke.index, value["revision"])
            for call in history.calls()
            if call.invoke.f in ("write", "put", "get", "read", "cas", "txn")
            and (value := answer(call)) is not None
            and type(value.get("revision")) is int
            and not value.get("serializable")
        ]
        oldest = _LATE
        for begun, revision in sorted(found, reverse=True):
            oldest = min(oldest, revision)
            self._calls.append(begun)
            self._oldest.append(oldest)
        self._calls.reverse()
        self._oldest.reverse()

    def _generations(self, prefix: str) -> list[tuple[int, int, str]]:
        """Every generation of every key of a queue: created, gone (0: never), key."""
        found = []
        for key in self._replay.names(prefix, prefix[:-1] + chr(ord(prefix[-1]) + 1)):
            created = 0
            for event in self._replay.keys[key][1]:
                if event.value is None:
                    if created:
                        found.append((created, event.revision, key))
                    created = 0
                elif not created:
                    created = event.create_revision
            if created:
                found.append((created, 0, key))
        return sorted(found)

    def turn(self, prefix: str, token: int) -> Turn | None:
        """The turn of the key that was created at this revision; None: there is none."""
        turns = self._turns.get(prefix)
        if turns is None:
            turns = self._turns[prefix] = {}
            there: list[tuple[int, int, str]] = []
            for one in self._generations(prefix):
                created, gone, _ = one
                there = [other for other in there if not other[1] or other[1] > created]
                begin = max((other[1] or _LATE for other in there), default=created)
                turns[created] = Turn(begin, gone, tuple(other[2] for other in there))
                there.append(one)
        return turns.get(token)

    def faults(self, prefix: str, token: int, call: Call) -> Iterator[tuple[str, str]]:
        """What is wrong with an answer that told of a turn: a name, and a sentence."""
        if self._replay.floor and token <= self._replay.floor:
            return
        turn = self.turn(prefix, token)
        if turn is None:
            yield "not-in-log", f"no key under {prefix!r} was created at revision {token}"
        elif turn.begin == _LATE:
            yield "not-its-turn", f"{', '.join(turn.before)} in front of it never went"
        elif turn.end and turn.begin >= turn.end:
            yield (
                "never-its-turn",
                f"its key was gone at revision {turn.end}, those in front of it at {turn.begin}",
            )
        else:
            at = bisect_left(self._calls, place(call))
            if at < len(self._calls) and self._oldest[at] < turn.begin:
                yield (
                    "too-early",
                    f"the store was still at revision {self._oldest[at]} afterwards, but those in "
                    f"front of it were there until {turn.begin}",
                )

    def held(self, prefix: str, token: int, revision: int) -> bool:
        """Was it this key's turn at a revision?"""
        turn = self.turn(prefix, token)
        return turn is not None and turn.begin <= revision and not 0 < turn.end <= revision
