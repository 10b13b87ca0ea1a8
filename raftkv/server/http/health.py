"""/health, /livez and /readyz.

/health is one answer in JSON (etcd 3.5). /livez and /readyz are lists of named checks, each also
a page of its own below them (etcd 3.5.11 and 3.6); `exclude` leaves checks out, `verbose` shows
them when all is well. What fails is always shown.

A linearizable read needs a quorum, so it is part of readiness and never of liveness: members
that are cut off must not be restarted for it. A member that is stopping is not ready from its
first moment on, so that whoever balances load has time to notice.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final, Protocol, TypeAlias
from urllib.parse import parse_qs

from raftkv import limits
from raftkv.errors import NO_LEADER, TIMEOUT, ApiError
from raftkv.pb import rpc_pb2
from raftkv.raft.types import NOBODY
from raftkv.server.http.messages import NOSNIFF, TEXT, Exchange, Request, plain_error
from raftkv.server.http.site import Page, only_get
from raftkv.server.services.context import Context

log = logging.getLogger("raftkv.health")

NOSPACE: Final = "NOSPACE"
CORRUPT: Final = "CORRUPT"

_ALARMS: Final[dict[int, str]] = {number: name for name, number in rpc_pb2.AlarmType.items()}
_ONE_KEY: Final = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", limit=1, keys_only=True)

# Tells what is wrong, "" if nothing; by a callback, because some of it has to be asked.
Done: TypeAlias = Callable[[str], None]
Check: TypeAlias = Callable[[Done], None]


class Condition(Protocol):
    """What the pages ask about their member."""

    def alarms(self) -> Iterable[str]:
        """The names of the alarms that concern this member."""

    def leader(self) -> int:
        """The leader's id, or NOBODY."""

    def is_learner(self) -> bool:
        """Whether this member has no vote."""

    def is_stopping(self) -> bool:
        """Whether this member is about to end."""

    def read(self, serializable: bool, done: Callable[[ApiError | None], None]) -> None:
        """Makes a read of the store and says how it ended."""

    def told(self, *, healthy: bool) -> None:
        """/health was answered."""


def _flags(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.query, keep_blank_values=True)


# --- /health --------------------------------------------------------------------


def health_page(condition: Condition) -> Page:
    """/health of a member."""
    return only_get(partial(_health, condition))


def _health(condition: Condition, exchange: Exchange, request: Request) -> None:
    flags = _flags(request)
    serializable = flags.get("serializable", [""])[0] == "true"
    excluded = flags.get("exclude", [])
    reason = ""
    for alarm in condition.alarms():
        if alarm not in excluded:
            reason = f"ALARM {alarm}"
            break
    if not reason and not serializable and condition.leader() == NOBODY:
        reason = "RAFT NO LEADER"
    if reason:
        _tell_health(condition, exchange, reason)
    else:
        condition.read(serializable, partial(_read_for_health, condition, exchange))


def _read_for_health(condition: Condition, exchange: Exchange, error: ApiError | None) -> None:
    _tell_health(condition, exchange, "" if error is None else f"RANGE ERROR:{error.text}")


def _tell_health(condition: Condition, exchange: Exchange, reason: str) -> None:
    condition.told(healthy=not reason)
    answer = {"health": "false" if reason else "true", "reason": reason}
    text = json.dumps(answer, separators=(",", ":"))
    if reason:
        log.warning("serving /health false", extra={"reason": reason})
        exchange.respond(*plain_error(503, text))
    else:
        exchange.respond(200, (TEXT,), text.encode())


# --- /livez, /readyz --------------------------------------------------------------


def checks_pages(condition: Condition) -> dict[str, Page]:
    """/livez and /readyz with a page per check."""
    serializable = partial(_read_check, condition, True)
    live: dict[str, Check] = {"serializable_read": serializable}
    ready: dict[str, Check] = {
        "data_corruption": partial(_corruption_check, condition),
        "serializable_read": serializable,
        "linearizable_read": partial(_read_check, condition, False),
        "non_learner": partial(_learner_check, condition),
    }
    stopping = {"shutdown": partial(_stopping_check, condition)}
    pages: dict[str, Page] = {}
    for path, checks, hidden in (("/livez", live, {}), ("/readyz", ready, stopping)):
        pages[path] = only_get(partial(_run_all, path, checks, hidden))
        for name, check in checks.items():
            own = f"{path}/{name}"
            pages[own] = only_get(partial(_run_all, own, {name: check}, {}))
    return pages


def _read_check(condition: Condition, serializable: bool, done: Done) -> None:
    condition.read(serializable, lambda error: done("" if error is None else error.text))


def _corruption_check(condition: Condition, done: Done) -> None:
    done(f"alarm activated: {CORRUPT}" if CORRUPT in condition.alarms() else "")


def _learner_check(condition: Condition, done: Done) -> None:
    done("not supported for learner" if condition.is_learner() else "")


def _stopping_check(condition: Condition, done: Done) -> None:
    done("the member is stopping" if condition.is_stopping() else "")


def _run_all(
    path: str,
    checks: Mapping[str, Check],
    hidden: Mapping[str, Check],
    exchange: Exchange,
    request: Request,
) -> None:
    """hidden: checks that are shown only when they fail: etcd has no such ones."""
    flags = _flags(request)
    excluded = flags.get("exclude", [])
    unknown = [name for name in excluded if name not in checks]
    if unknown:
        log.warning("excluded health checks that do not exist", extra={"checks": unknown})
    wanted = {name: check for name, check in checks.items() if name not in excluded}
    _Round(path, exchange, {**wanted, **hidden}, frozenset(hidden), "verbose" in flags).begin()


class _Round:
    """One answer: all checks are begun at once, and it is given when the last has ended."""

    def __init__(
        self,
        path: str,
        exchange: Exchange,
        checks: Mapping[str, Check],
        hidden: frozenset[str],
        verbose: bool,
    ) -> None:
        self._path = path
        self._exchange = exchange
        self._checks = checks
        self._hidden = hidden
        self._verbose = verbose
        self._found: dict[str, str] = {}

    def begin(self) -> None:
        """Asks all."""
        for name, check in self._checks.items():
            check(partial(self._done, name))
        if not self._checks:
            self._tell()

    def _done(self, name: str, wrong: str) -> None:
        self._found[name] = wrong
        if len(self._found) == len(self._checks):
            self._tell()

    def _tell(self) -> None:
        lines, failed = [], False
        for name in self._checks:
            wrong = self._found[name]
            failed = failed or bool(wrong)
            if wrong:
                lines.append(f"[-]{name} failed: {wrong}\n")
            elif name not in self._hidden:
                lines.append(f"[+]{name} ok\n")
        shown = "".join(lines)
        if failed:
            log.error("Health check error", extra={"path": self._path, "reason": shown})
            self._exchange.respond(*plain_error(503, shown))
        else:
            text = (shown if self._verbose else "") + "ok\n"
            self._exchange.respond(200, (TEXT, NOSNIFF), text.encode())


class MemberCondition:
    """The condition of a running member.

    context: its services' context.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._stopping = False

    def stopping(self) -> None:
        """The member is about to end."""
        self._stopping = True

    def alarms(self) -> Iterable[str]:
        """See `Condition`."""
        replica = self._context.replica
        return [_ALARMS[kind] for kind in replica.machine.alarms.concerning(replica.member)]

    def leader(self) -> int:
        """See `Condition`."""
        return self._context.replica.leader

    def is_learner(self) -> bool:
        """See `Condition`."""
        return self._context.replica.is_learner

    def is_stopping(self) -> bool:
        """See `Condition`."""
        return self._stopping

    def told(self, *, healthy: bool) -> None:
        """See `Condition`."""
        if healthy:
            self._context.health_successes += 1
        else:
            self._context.health_failures += 1

    def read(self, serializable: bool, done: Callable[[ApiError | None], None]) -> None:
        """A range of at most one key, behind a read index unless it is serializable.

        Whoever asks for health gets an answer soon: a read that would wait for a leader, or waits
        for others too long, has failed.
        """
        if serializable:
            done(self._range())
            return
        if self.leader() == NOBODY:
            done(NO_LEADER)
            return
        driver, once = self._context.driver, _Once(done)
        once.timer = driver.loop.call_later(limits.HEALTH_SECONDS, once.tell, TIMEOUT)
        error = self._context.read((self._confirmed, once))
        if error is not None:
            once.tell(error)
        else:
            driver.wake()

    def _range(self) -> ApiError | None:
        found = self._context.replica.machine.range(_ONE_KEY)
        return found if isinstance(found, ApiError) else None

    def _confirmed(self, ticket: Any, error: ApiError | None) -> None:
        ticket[1].tell(error or self._range())


class _Once:
    """Passes on the first of an answer and its deadline."""

    def __init__(self, done: Callable[[ApiError | None], None]) -> None:
        self.timer: asyncio.TimerHandle | None = None
        self._done: Callable[[ApiError | None], None] | None = done

    def tell(self, error: ApiError | None) -> None:
        """How the read ended."""
        done, self._done = self._done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(error)
