"""Strict serializability with the revision as the witness, in O(n log n).

Every answer carries the revision it was made at, and the committed log gives the
order of all commands. So no search is needed:

1. Replay the log once through `sim.model`. Every acknowledged command must be in it
   exactly once, with the revision and the answer that the replay gives.
2. Every read must have seen exactly what the replay has at the revision of its answer.
3. Real time: sweep the calls in time order. A change must have a larger revision than
   everything that returned before it was called; everything else must not have a
   smaller one.
4. A command of unknown outcome that is in the log counts as done (its call is checked
   as in 3; its return is the first answer that shows its revision, which 3 covers
   because that answer has the revision). One that is not in the log must stay unseen,
   which 2 covers. A command that failed definitely and changed something is an
   aborted read waiting to be seen: a violation.
5. Reads without an answer say nothing. Serializable reads: only 2.

Complete for strict serializability as long as revisions are what 1 says; `sim.wgl`
checks samples without trusting them.
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from raftkv.sim.model import Applied, Model
from raftkv.sim.operations import Get, Logged, Operation, Outcome, Response


class Violation(NamedTuple):
    """What must not be. operations: identities of the operations that prove it."""

    rule: str
    explanation: str
    operations: tuple[int, ...] = ()


class Replay(NamedTuple):
    """The log's commands after the replay: the model and what each command did."""

    model: Model
    applied: dict[int, Applied]
    violations: list[Violation]


def replay_log(log: Sequence[Logged]) -> Replay:
    """Apply every command of the committed log, in order, to a fresh model."""
    model = Model()
    applied: dict[int, Applied] = {}
    violations = []
    for logged in log:
        done = model.apply(logged.request)
        if logged.identity in applied:
            violations.append(
                Violation(
                    "exactly once",
                    f"operation {logged.identity} is in the log again at index {logged.log_index}",
                    (logged.identity,),
                )
            )
            continue
        applied[logged.identity] = done
    return Replay(model, applied, violations)


def check_history(
    log: Sequence[Logged], history: Sequence[Operation], *, most: int = 20
) -> list[Violation]:
    """Every violation of strict serializability, at most `most`; empty: none.

    log: all client commands of the committed log, in log order.
    history: every operation of every client, in any order.
    """
    replay = replay_log(log)
    violations = list(replay.violations)
    known = {operation.identity for operation in history}
    violations.extend(
        Violation("nothing invented", f"the log has unknown operation {identity}")
        for identity in replay.applied
        if identity > 0 and identity not in known
    )
    for operation in history:
        violations.extend(_check_answer(operation, replay))
    violations.extend(_check_real_time(history, replay.applied))
    return violations[:most]


def _check_answer(operation: Operation, replay: Replay) -> list[Violation]:
    """Rules 1, 2 and 4 for one operation."""
    identity = operation.identity
    applied = replay.applied.get(identity)
    if operation.outcome is Outcome.DEFINITE:
        if applied is not None and applied.changed:
            return [
                Violation(
                    "aborted read",
                    f"operation {identity} was told {operation.error!r} but made revision "
                    f"{applied.revision}",
                    (identity,),
                )
            ]
        return []
    if operation.outcome is not Outcome.OK:
        return []
    if isinstance(operation.request, Get):
        return _check_read(operation, operation.request, replay.model)
    if applied is None:
        return [
            Violation(
                "acknowledged is durable",
                f"operation {identity} {operation.request} was acknowledged at revision "
                f"{operation.revision} and is not in the log",
                (identity,),
            )
        ]
    return _differs(operation, applied.revision, applied.response)


def _check_read(operation: Operation, request: Get, model: Model) -> list[Violation]:
    if operation.revision > model.revision:
        return [
            Violation(
                "revision exists",
                f"read {operation.identity} answered at revision {operation.revision}, "
                f"the log ends at {model.revision}",
                (operation.identity,),
            )
        ]
    return _differs(operation, operation.revision, model.get(request, operation.revision))


def _differs(operation: Operation, revision: int, response: Response | None) -> list[Violation]:
    if operation.revision == revision and operation.response == response:
        return []
    return [
        Violation(
            "the answer is the log's",
            f"operation {operation.identity} {operation.request} was answered "
            f"{operation.revision} {operation.response}, the log says {revision} {response}",
            (operation.identity,),
        )
    ]


def _check_real_time(history: Sequence[Operation], applied: dict[int, Applied]) -> list[Violation]:
    """Rule 3 for answered operations, and 4's half of it for unknown commands in the log."""
    violations = []
    returned: list[tuple[int, int, int]] = []  # heap of (time, revision, identity)
    newest, newest_by = 0, 0
    for operation in sorted(history, key=lambda one: (one.called_us, one.identity)):
        while returned and returned[0][0] < operation.called_us:
            _, revision, identity = heappop(returned)
            if revision > newest:
                newest, newest_by = revision, identity
        request = operation.request
        done = applied.get(operation.identity)
        answered = operation.outcome is Outcome.OK
        if isinstance(request, Get):
            if not answered or request.serializable:
                continue
            revision, changed = operation.revision, False
        elif done is not None and operation.outcome is not Outcome.DEFINITE:
            revision, changed = done.revision, done.changed
        else:
            continue
        if revision < newest or (changed and revision == newest):
            rule = "stale read" if isinstance(request, Get) else "real-time order of writes"
            violations.append(
                Violation(
                    rule,
                    f"operation {operation.identity} {request} called at {operation.called_us} us "
                    f"has revision {revision}, but operation {newest_by} had returned {newest}",
                    (newest_by, operation.identity),
                )
            )
        if answered and operation.returned_us is not None:
            heappush(returned, (operation.returned_us, revision, operation.identity))
    return violations
