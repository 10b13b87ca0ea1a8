"""What a member does about alarms, and its part in comparing all rows.

Alarms are decided in the log (`kv/alarms`, `kv/space`, `replica/audit`). Here they are said in the
log of the process, once each time they change. A member that a CORRUPT alarm names also takes
itself out of service: its streams end, so that watchers go to other members, its health is
NOT_SERVING, and `Context.refusal` answers every call that would show its state, with etcd's
"corrupt cluster". Raft goes on without it as a leader (`replica/caretaker`). If the alarm is
disarmed it serves again, and the next comparison finds it again.

A hash over all rows is computed in slices beside other long work, one at a time.
"""

import logging
from collections.abc import Generator
from typing import Any, Final

from raftkv.errors import CORRUPT as CORRUPT_CLUSTER
from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.alarms import CORRUPT, NOSPACE, Alarm
from raftkv.kv.answers import HashResult
from raftkv.raft.types import NOBODY
from raftkv.server.driver import Driver
from raftkv.server.services.context import Context
from raftkv.server.services.health import HealthService
from raftkv.server.slices import Progress

log = logging.getLogger("raftkv.server")

COMPARE_ROWS: Final = b"\1"  # request of a CHECK command
REBUILD: Final = (
    "the state of member %016x is not what the other members have. It no longer serves clients "
    "and does not lead, but still votes. To rebuild it: stop it, move its data directory away, and "
    "start it with an empty one and --rejoin; or after `raftctl member remove %x` and "
    "`raftctl member add`"
)
DIVIDED: Final = (
    "the members have different states and no majority has the same one, so nobody can tell which "
    "is right: writes are refused. Compare `raftctl endpoint hashkv --cluster`, rebuild the wrong "
    "members or restore a backup, then `raftctl alarm disarm`"
)


class Guard:
    """See the module's docstring. asks_rows: have all rows compared once, after this start."""

    def __init__(
        self, driver: Driver, context: Context, health: HealthService, *, asks_rows: bool
    ) -> None:
        self._driver = driver
        self._context = context
        self._health = health
        self._asks_rows = asks_rows
        self._raised: list[Alarm] = []
        self._hashing: _RowsHash | None = None
        driver.upkeep = self.look
        self.look()

    def tick(self) -> None:
        """Called some times a second: the comparison at the start, once there is a leader."""
        replica = self._driver.replica
        if self._asks_rows and replica.leader != NOBODY and not replica.is_learner:
            ticket = (self._asked,)
            if replica.propose(commands.CHECK, COMPARE_ROWS, ticket) is None:
                self._asks_rows = False
                self._driver.wake()

    def _asked(self, ticket: Any, result: Any) -> None:
        self._asks_rows = isinstance(result, ApiError)

    def look(self) -> None:
        """Alarms have changed, or the rows are to be hashed."""
        caretaker = self._driver.replica.caretaker
        raised = self._driver.replica.machine.alarms.raised()
        if raised != self._raised:
            before, self._raised = self._raised, raised
            self._tell([one for one in raised if one not in before])
            for kind, member in before:
                if (kind, member) not in raised:
                    name = "NOSPACE" if kind == NOSPACE else "CORRUPT"
                    log.info("alarm is over", extra={"alarm": name, "member": f"{member:x}"})
        self._health.suspend(caretaker.condemned)
        if caretaker.condemned:
            self._context.long_streams.end(CORRUPT_CLUSTER)
        wanted, caretaker.rows_wanted = caretaker.rows_wanted, None
        if wanted is not None and self._hashing is None:
            self._hashing = _RowsHash(self, *wanted)
            self._driver.slices.resume(self._hashing)

    def _tell(self, raised: list[Alarm]) -> None:
        machine = self._driver.replica.machine
        for kind, member in raised:
            if kind == CORRUPT and member in machine.members:
                log.critical(REBUILD, member, member)
            elif kind == CORRUPT:
                log.critical(DIVIDED)
            else:
                log.warning(
                    "no space: writes that grow the store are refused",
                    extra={
                        "used-bytes": str(machine.space.used_bytes),
                        "quota-bytes": str(machine.space.told.quota_bytes),
                    },
                )

    # --- a hash over all rows ----------------------------------------------------
    def begin(self, revision: int) -> Generator[None, None, HashResult | ApiError]:
        """HashKV of the present state at `revision`."""
        return self._driver.replica.machine.hash_kv(revision)

    def hashed(self, index: int, found: HashResult | ApiError | None) -> None:
        """None or an error (compacted meanwhile): there is nothing to compare."""
        self._hashing = None
        if isinstance(found, HashResult):
            caretaker = self._driver.replica.caretaker
            caretaker.rows_hashed(index, found.hash_revision, found.compacted_revision, found.hash)
            self._driver.wake()


class _RowsHash:
    """HashKV for the CHECK entry at `index`, as a piece of long work."""

    def __init__(self, guard: Guard, index: int, revision: int) -> None:
        self._guard = guard
        self._index = index
        self._revision = revision
        self._steps: Generator[None, None, HashResult | ApiError] | None = None

    def wanted(self) -> bool:
        """Always."""
        return True

    def step(self) -> Progress:
        """Hashes some rows."""
        if self._steps is None:
            self._steps = self._guard.begin(self._revision)
        try:
            next(self._steps)
        except StopIteration as end:
            self._guard.hashed(self._index, end.value)
            return Progress.DONE
        return Progress.MORE

    def drop(self, error: ApiError | None) -> None:
        """Another state has come, or the end."""
        if self._steps is not None:
            self._steps.close()
        self._guard.hashed(self._index, None)
