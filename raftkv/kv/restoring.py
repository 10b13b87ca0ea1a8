"""The rows of one cluster's state as the beginning of another cluster.

Keys, their history and leases stay. What belongs to the old cluster goes: its members and the ids
that it has removed, its alarms, a downgrade under way, and its sessions, whose clients would take
an answer of then for one of now: the lease of a session stays as a plain lease. Every lease has its
whole TTL again.

Clients may have seen revisions that this state does not have: it is older than the cluster was. If
they came back as other writes, a cache or a watch that goes on where it was would miss changes
without noticing. So the revision jumps further than any of them can have seen, and everything up
to it counts as compacted: whoever asks for older history is told so, and reads everything anew.

The applied index and term stay as well: they say where the new cluster's log begins.
"""

from typing import Final, NamedTuple

from raftkv.errors import CorruptionError
from raftkv.kv import loading
from raftkv.kv.backend import Row, View
from raftkv.kv.encoding import (
    ALARM_ROWS,
    APPLIED,
    APPLIED_ROW,
    DOWNGRADE_ROW,
    LEASE_ROWS,
    MEMBER_ROWS,
    REMOVED_ROWS,
    SESSION_ROWS,
)
from raftkv.kv.leases import lease_row, parse_lease_row
from raftkv.kv.members import Member, Roster
from raftkv.raft.membership import plain

REVISION_BUMP: Final = 1_000_000_000
MAX_REVISION: Final = (1 << 63) - 1


class Applied(NamedTuple):
    """Where a state stands: log index and term of its last entry, revision, compacted revision
    (-1: never compacted), rolling hash, bytes of all rows ever written.
    """

    applied_index: int
    applied_term: int
    revision: int
    compacted: int
    hash: int
    written_bytes: int


def read_applied(view: View) -> Applied:
    """Where a state stands. Raises CorruptionError for rows that are no state."""
    stored = view.get(APPLIED_ROW)
    if stored is None or len(stored) != APPLIED.size:
        raise CorruptionError("the state has no applied index")
    return Applied._make(APPLIED.unpack(stored))


def applied_row(applied: Applied) -> Row:
    """The row that says where a state stands."""
    return APPLIED_ROW, APPLIED.pack(*applied)


def restored_rows(
    view: View, members: list[Member], revision_bump: int, *, mark_compacted: bool
) -> list[Row]:
    """What must be written to the rows of `view` to make them the state of a new cluster.

    members: all of the new cluster, each with a vote. revision_bump: added to the revision.
    mark_compacted: everything up to the new revision. Raises CorruptionError for rows that are no
    state; ValueError if the revision would leave its range.
    """
    rows: list[Row] = []
    for start, stop in (MEMBER_ROWS, REMOVED_ROWS, ALARM_ROWS, SESSION_ROWS):
        rows += ((name, None) for name, _ in view.scan(start, stop))
    rows.append((DOWNGRADE_ROW, None))
    for name, value in view.scan(*LEASE_ROWS):
        lease = parse_lease_row(name, value)
        rows.append(lease_row(lease._replace(remaining_ms=0, session=False)))
    roster = Roster()
    roster.configure(plain(member.id for member in members), None)
    for member in members:
        roster.members[member.id] = member
    rows += loading.roster_rows(roster)
    applied = read_applied(view)
    revision = applied.revision + revision_bump
    if not 0 <= revision_bump <= revision <= MAX_REVISION:
        raise ValueError(f"revision {revision} is out of range")
    compacted = revision if mark_compacted else applied.compacted
    changed = applied._replace(revision=revision, compacted=compacted)
    rows.append(applied_row(changed))
    return rows
