"""Elections: one leader at a time by the store's revisions, and observers who see them in order.

Who was told that it leads had its turn by the log (`turns`), so leaders of two revision ranges that
overlap are impossible unless that fails. Campaigns in sequence have growing tokens.

What an observer saw was in the log: the leader's key, its value and its revisions. It never sees an
older leader after a newer one, nor an older value of one leader, and its first look is not older
than what others had seen or been told that they lead before it was called (C08).
"""

from collections import defaultdict
from typing import Any

from jepsen_lite.checker.base import Anomaly, Evidence, LogEvent, Verdict
from jepsen_lite.checker.findings import Findings
from jepsen_lite.checker.replay import Replay
from jepsen_lite.checker.turns import Turns
from jepsen_lite.checker.values import answer, of_kind, place
from jepsen_lite.history import Call


class Election:
    """See the module's docstring. f: "campaign", "resign" and "observe"."""

    def check(self, run: Evidence) -> Verdict:
        """Undecided without the store's log."""
        if run.log is None:
            missing = Anomaly("no-log", "The store's own log could not be read.")
            return Verdict(False, True, {}, [missing])
        return _Elections(run.history.calls(), Replay(run.log), run).verdict()


class _Elections:
    def __init__(self, calls: list[Call], replay: Replay, run: Evidence) -> None:
        self._findings = Findings()
        self._replay = replay
        self._turns = Turns(replay, run.history)
        self._campaigns = [(call, v) for call in of_kind(calls, "campaign") if (v := answer(call))]
        self._observed = [(call, v) for call in of_kind(calls, "observe") if (v := answer(call))]
        self._events: dict[int, list[LogEvent]] = defaultdict(list)
        for event in replay.log.events:
            self._events[event.revision].append(event)

    def verdict(self) -> Verdict:
        for call, value in self._campaigns:
            self._leader(call, value)
        self._in_sequence()
        looks = 0
        for call, value in self._observed:
            looks += len(value["seen"])
            self._observation(call, value)
        self._first_looks()
        return self._findings.verdict(
            terms=len(self._campaigns),
            leaders_by_revision=len({v["token"] for _, v in self._campaigns}),
            observations=len(self._observed),
            leaders_seen=looks,
        )

    def _leader(self, call: Call, value: dict[str, Any]) -> None:
        election, token = value["election"], value["token"]
        for name, text in self._turns.faults(election + "/", token, call):
            told = f"Process {call.invoke.process} was told that it leads {election!r} with token"
            self._findings.add(name, f"{told} {token}, but {text}.", (place(call),))

    def _in_sequence(self) -> None:
        newest: dict[str, tuple[int, Call]] = {}
        campaigns = sorted(self._campaigns, key=lambda one: place(one[0]))
        upto = 0
        for call, value in sorted(self._campaigns, key=lambda one: one[0].invoke.index):
            while upto < len(campaigns) and place(campaigns[upto][0]) < call.invoke.index:
                done, its = campaigns[upto]
                before = newest.get(its["election"])
                if before is None or its["token"] > before[0]:
                    newest[its["election"]] = (its["token"], done)
                upto += 1
            before = newest.get(value["election"])
            if before is not None and value["token"] <= before[0]:
                text = (
                    f"{value['election']!r} was won with token {value['token']}, though "
                    f"{before[0]} had won before that campaign was called."
                )
                ops = (place(before[1]), call.invoke.index, place(call))
                self._findings.add("token-fell", text, ops)

    # --- observers ----------------------------------------------------------------------------

    def _observation(self, call: Call, value: dict[str, Any]) -> None:
        last = (0, 0)
        for seen in value["seen"]:
            token, revision = seen["token"], seen.get("revision", 0)
            if token < last[0] or (token == last[0] and revision < last[1]):
                text = (
                    f"An observer of {value['election']!r} saw the leader of token {token} "
                    f"(revision {revision}) after that of token {last[0]} (revision {last[1]})."
                )
                self._findings.add("older-leader", text, (place(call),))
            last = max(last, (token, revision))
            self._real(call, value["election"], seen)

    def _real(self, call: Call, election: str, seen: dict[str, Any]) -> None:
        """Was there such a leader?"""
        token, revision = seen["token"], seen.get("revision") or seen["token"]
        if self._replay.floor and token <= self._replay.floor:
            return
        prefix = election + "/"
        turn = self._turns.turn(prefix, token)
        if turn is None or (turn.end and turn.begin >= turn.end):
            text = f"An observer of {election!r} saw the leader of token {token}, who never led."
            self._findings.add("no-such-leader", text, (place(call),))
            return
        events = [one for one in self._events.get(revision, ()) if one.key.startswith(prefix)]
        if "value" in seen and all(one.value != seen["value"] for one in events):
            text = (
                f"An observer of {election!r} saw the value {seen['value']!r} at revision "
                f"{revision}, which the log does not have."
            )
            self._findings.add("wrong-value", text, (place(call),))

    def _first_looks(self) -> None:
        newest: dict[str, tuple[int, Call]] = {}
        told = [(call, {**value, "seen": [value]}) for call, value in self._campaigns]
        ended = sorted([*self._observed, *told], key=lambda one: place(one[0]))
        upto = 0
        for call, value in sorted(self._observed, key=lambda one: one[0].invoke.index):
            while upto < len(ended) and place(ended[upto][0]) < call.invoke.index:
                done, its = ended[upto]
                token = max((seen["token"] for seen in its["seen"]), default=0)
                if token > newest.get(its["election"], (0, done))[0]:
                    newest[its["election"]] = (token, done)
                upto += 1
            before = newest.get(value["election"])
            if before and value["seen"] and value["seen"][0]["token"] < before[0]:
                text = (
                    f"An observer of {value['election']!r} began with the leader of token "
                    f"{value['seen'][0]['token']}, though {before[0]} led before."
                )
                ops = (place(before[1]), call.invoke.index, place(call))
                self._findings.add("older-leader", text, ops)
