"""Locks: by their tokens, by the store's log, and by what clients believed.

A holder believes that it holds from the answer to its acquire until it calls release (or writes
last). A client that is stopped believes so for too long, and no lock service can prevent that; what
it can do is hand out a token that grows, so that late writes are refused (Kleppmann 2016; Jepsen,
etcd 3.4.3). So:

* always: an acquire that is called after another one was answered has a greater token, no two have
  the same, and each was told of a turn that it had by the log (`turns`);
* with fencing: no write succeeded when it was not its token's turn, and tokens of the writes of
  one key never fall. That beliefs overlap is only counted;
* without: the same, and beliefs that overlap are anomalies as well. They are to be found: that is
  the unsafety.
"""

from collections import defaultdict
from typing import Any, NamedTuple

from jepsen_lite.checker.base import Anomaly, Evidence, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.replay import Replay
from jepsen_lite.checker.turns import Turns
from jepsen_lite.checker.values import answer, asked, place, seconds
from jepsen_lite.history import Call

_UNFENCED = "unfenced"


class Lock:
    """See the module's docstring. f: "acquire", "release" and "write".

    fencing: None = unless the workload's name ends with "unfenced".
    """

    def __init__(self, fencing: bool | None = None) -> None:
        self._fencing = fencing

    def check(self, run: Evidence) -> Verdict:
        """Undecided without the store's log."""
        if run.log is None:
            missing = Anomaly("no-log", "The store's own log could not be read.")
            return Verdict(False, True, {}, [missing])
        fencing = self._fencing
        if fencing is None:
            fencing = not run.options.workload.endswith(_UNFENCED)
        turns = Turns(Replay(run.log), run.history)
        return _Locks(run.history.calls(), turns, fencing).verdict()


class _Belief(NamedTuple):
    """From when to when a client believed that it held: indices in the history."""

    begin: int
    end: int
    process: int
    token: int
    since_ns: int


class _Locks:
    def __init__(self, calls: list[Call], turns: Turns, fencing: bool) -> None:
        self._findings = Findings()
        self._turns = turns
        self._fencing = fencing
        self._acquired: dict[str, list[tuple[Call, int]]] = defaultdict(list)
        self._written: list[tuple[Call, dict[str, Any]]] = []
        self._last: dict[tuple[str, int], int] = {}  # where a belief ends
        self._refused = 0
        for call in calls:
            self._note(call)

    def _note(self, call: Call) -> None:
        value, f = answer(call), call.invoke.f
        if value is None:
            if f == "release" and asked(call).get("token"):
                self._last[asked(call)["lock"], asked(call)["token"]] = call.invoke.index
            return
        if f == "acquire":
            self._acquired[value["lock"]].append((call, value["token"]))
        elif f == "release" and "token" in value:
            self._last[value["lock"], value["token"]] = call.invoke.index
        elif f == "write" and "token" in value:
            if value.get("succeeded") is False:
                self._refused += 1
                return
            self._written.append((call, value))
            name = (value["lock"], value["token"])
            self._last[name] = max(self._last.get(name, 0), place(call))

    def verdict(self) -> Verdict:
        overlaps = 0
        for lock, acquired in self._acquired.items():
            self._tokens(lock, acquired)
            for call, token in acquired:
                for name, text in self._turns.faults(lock + "/", token, call):
                    told = f"Process {call.invoke.process} was told that it holds {lock!r} with "
                    self._findings.add(name, f"{told}token {token}, but {text}.", (place(call),))
            overlaps += self._beliefs(lock, acquired)
        self._late_writes()
        self._falling_tokens()
        return self._findings.verdict(
            acquisitions=sum(map(len, self._acquired.values())),
            writes=len(self._written),
            writes_refused_by_token=self._refused,
            beliefs_that_overlapped=overlaps,
        )

    def _tokens(self, lock: str, acquired: list[tuple[Call, int]]) -> None:
        """They grow in real time."""
        by_end = sorted(acquired, key=lambda one: place(one[0]))
        upto = 0
        newest: tuple[Call, int] | None = None
        met: dict[int, Call] = {}
        for call, token in sorted(acquired, key=lambda one: one[0].invoke.index):
            while upto < len(by_end) and place(by_end[upto][0]) < call.invoke.index:
                if newest is None or by_end[upto][1] > newest[1]:
                    newest = by_end[upto]
                upto += 1
            other = met.setdefault(token, call)
            if other is not call:
                text = f"Lock {lock!r} was acquired twice with the same token {token}."
                self._findings.add("same-token", text, (place(other), place(call)))
            elif newest is not None and token < newest[1]:
                text = (
                    f"Lock {lock!r} was acquired with token {token}, though {newest[1]} had been "
                    f"handed out before that acquire was called."
                )
                ops = (place(newest[0]), call.invoke.index, place(call))
                self._findings.add("token-fell", text, ops)

    def _beliefs(self, lock: str, acquired: list[tuple[Call, int]]) -> int:
        """How many overlap; anomalies without fencing."""
        beliefs = []
        for call, token in acquired:
            end = self._last.get((lock, token), place(call))
            process = call.invoke.process
            assert call.end is not None
            beliefs.append(_Belief(place(call), end, process, token, call.end.time_ns))
        beliefs.sort()
        overlaps = 0
        longest: _Belief | None = None
        for belief in beliefs:
            if longest is not None and belief.begin < longest.end:
                overlaps += 1
                if not self._fencing:
                    text = (
                        f"Two clients held lock {lock!r} at once: process {longest.process} (token "
                        f"{longest.token}) since {seconds(longest.since_ns)}, and process "
                        f"{belief.process} (token {belief.token}) since "
                        f"{seconds(belief.since_ns)}, when the first had not finished."
                    )
                    ops = (longest.begin, belief.begin, longest.end)
                    self._findings.add("two-holders", text, ops)
            if longest is None or belief.end > longest.end:
                longest = belief
        return overlaps

    def _late_writes(self) -> None:
        for call, value in self._written:
            lock, token, revision = value["lock"], value["token"], value["revision"]
            if self._turns.held(lock + "/", token, revision):
                continue
            turn = self._turns.turn(lock + "/", token)
            when = f", which ended at {turn.end}" if turn and turn.end else ""
            text = (
                f"A write under lock {lock!r} succeeded at revision {revision}, when it was not "
                f"the turn of its token {token}{when}."
            )
            ops = [call.invoke.index, place(call)]
            ops += [place(one) for one, its in self._acquired.get(lock, ()) if its == token]
            self._findings.add("late-write", text, ops)

    def _falling_tokens(self) -> None:
        newest: dict[str, tuple[int, Call]] = {}
        for call, value in sorted(self._written, key=lambda one: one[1]["revision"]):
            key, token = value["key"], value["token"]
            before = newest.get(key)
            if before is not None and token < before[0]:
                text = (
                    f"{key!r} was written with token {token} at revision {value['revision']}, "
                    f"after a write with token {before[0]}."
                )
                ops = (place(before[1]), call.invoke.index, place(call))
                self._findings.add("old-token-write", text, ops)
            else:
                newest[key] = (token, call)
