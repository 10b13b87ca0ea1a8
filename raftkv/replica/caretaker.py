"""What a member does for the health of the store, besides serving: checks, space, standing back.

On the leader, ten times a second: is a comparison due (`audit`), has somebody been found wrong, and
is there news about space to tell in the log (`kv.space`)? None of it has a client that waits; what
is not appended now is tried again.

On every member: report behind each CHECK entry; and once a CORRUPT alarm names this member, stop
serving and leading. Its log is sound, so it goes on voting and acknowledging. It is `condemned`
until the alarm is gone.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from raftkv.errors import CORRUPT
from raftkv.kv import commands
from raftkv.kv.machine import StateMachine
from raftkv.kv.space import Told, space_request
from raftkv.kv.upkeep import ROLLING, ROWS
from raftkv.raft.core import Core
from raftkv.raft.messages import StateReport
from raftkv.raft.roles import Refusal
from raftkv.raft.types import NOBODY
from raftkv.replica.audit import Audit
from raftkv.replica.effects import Effects
from raftkv.replica.reading import Reading

Append = Callable[[int, bytes], bool]

_CHECK_REQUESTS: Final = {ROLLING: b"\0", ROWS: b"\1"}


@dataclass(frozen=True, slots=True)
class UpkeepSettings:
    """What a leader does by itself.

    quota_bytes: what it tells the cluster, 0: no quota; None: it tells nothing.
    check_seconds: between two comparisons of rolling hashes while there are writes, 0: none.
    rows_seconds: between two comparisons of all rows, 0: none.
    """

    quota_bytes: int | None = None
    check_seconds: float = 0.0
    rows_seconds: float = 0.0


NO_UPKEEP: Final = UpkeepSettings()


class Caretaker:
    """One member's upkeep.

    condemned: a CORRUPT alarm names this member.
    rows_wanted: (index, revision) of the newest entry that asks for a hash over the rows; the
        driver takes it away and calls `rows_hashed`.
    """

    __slots__ = (
        "_audit",
        "_core",
        "_next_check",
        "_next_rows",
        "_outbox",
        "_said",
        "_seen",
        "_settings",
        "_term",
        "condemned",
        "rows_wanted",
    )

    def __init__(self, core: Core, settings: UpkeepSettings, machine: StateMachine) -> None:
        self._core = core
        self._settings = settings
        self._audit = Audit()
        self._term = 0  # in which this member leads, as far as checks are concerned
        self._next_check = self._next_rows = 0.0
        self._said: tuple[int, Told] | None = None  # (term, told) on its way through the log
        self._outbox: list[StateReport] = []
        self._seen: tuple[StateMachine, int] | None = None  # whose alarms, and how many changes
        self.condemned = False
        self.rows_wanted: tuple[int, int] | None = None
        self._look(machine)

    # --- every member ----------------------------------------------------------
    def applied(self, machine: StateMachine, reading: Reading, effects: Effects) -> None:
        """Entries were applied, or another state was installed."""
        checks = machine.upkeep.checks
        if checks:
            for index, kind, state_hash, revision in checks:
                self._audit.began(index, kind)
                self._report(index, ROLLING, 0, 0, state_hash)
                if kind == ROWS:
                    self.rows_wanted = index, revision
            checks.clear()
        if self._seen != (machine, machine.alarms.changes):
            effects.alarms_changed = True
            if self._look(machine):  # reads that were to come from this state have no answer
                effects.replies.extend((ticket, CORRUPT) for ticket in reading.drain())

    def _look(self, machine: StateMachine) -> bool:
        """Looks at changed alarms. True if this member is condemned and was not before."""
        self._seen = machine, machine.alarms.changes
        before, self.condemned = self.condemned, machine.alarms.names(self._core.member)
        self._core.barred = self.condemned
        return self.condemned and not before

    def stand_down(self, target: int) -> None:
        """For each tick while this member may not lead: hands over to `target`, if it leads."""
        if self._core.is_leader and target != NOBODY:
            with suppress(Refusal):
                self._core.transfer(target)

    def rows_hashed(self, index: int, revision: int, compacted: int, rows_hash: int) -> None:
        """What came of `rows_wanted`."""
        self._report(index, ROWS, revision, compacted, rows_hash)

    def _report(self, index: int, kind: int, revision: int, compacted: int, value: int) -> None:
        core = self._core
        leader = core.leader
        if leader != NOBODY:
            covered = revision, compacted, value
            self.on_report(
                StateReport(leader, core.member, core.term, index, kind, *covered), own=True
            )

    def on_report(self, report: StateReport, *, own: bool = False) -> None:
        """A report of another member, or (own) one to send."""
        if own and report.to != self._core.member:
            self._outbox.append(report)
        else:
            self._audit.note(report)

    def send(self, effects: Effects) -> None:
        """Reports for the leader go with this turn's messages."""
        if self._outbox:
            effects.messages += self._outbox
            self._outbox = []

    # --- the leader --------------------------------------------------------------
    def tend(self, now: float, machine: StateMachine, append: Append) -> None:
        """Proposes what is due. now: seconds of the driver's clock."""
        core = self._core
        if not core.own_term_committed or machine.applied_term != core.term:
            return
        if self._term != core.term:
            self._term = core.term
            self._next_check = now + self._settings.check_seconds
            self._next_rows = now + self._settings.rows_seconds
        self._tend_space(machine, append)
        for request in self._audit.accusations(machine, core.configuration, core.term):
            append(commands.ALARM, request)
        self._tend_checks(now, machine, append)

    def _tend_checks(self, now: float, machine: StateMachine, append: Append) -> None:
        if self._settings.rows_seconds and now >= self._next_rows:
            if append(commands.CHECK, _CHECK_REQUESTS[ROWS]):
                self._next_rows = now + self._settings.rows_seconds
                self._next_check = now + self._settings.check_seconds
        elif self._settings.check_seconds and now >= self._next_check:
            self._next_check = now + self._settings.check_seconds
            if machine.applied_index > self._audit.newest[ROLLING]:  # or nothing has happened since
                append(commands.CHECK, _CHECK_REQUESTS[ROLLING])

    def _tend_space(self, machine: StateMachine, append: Append) -> None:
        known, quota = machine.space.told, self._settings.quota_bytes
        if quota is None or (not quota and not known.quota_bytes):
            return
        if self._said is not None and self._said[1] == known:
            self._said = None  # applied here
        revision, size = machine.reclaimed
        if revision <= known.reclaimed_revision:
            revision, size = known.reclaimed_revision, known.reclaimed_bytes
        same = quota == known.quota_bytes and known.member in machine.members
        member = known.member if same else self._core.member
        wanted = Told(member, quota, revision, size)
        if wanted == known or self._said == (self._core.term, wanted):
            return
        if append(commands.SPACE, space_request(wanted)):
            self._said = self._core.term, wanted
