"""Known-wrong variants of leases: some for `sim.mutants`, some for schedules of their own."""

from typing import Any, Final

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.leases import Lease, LeaseCommands
from raftkv.raft.types import Entry
from raftkv.replica import lessor
from raftkv.replica.contact import Contact
from raftkv.replica.lessor import DATED, RUNNING, Lessor
from raftkv.replica.served import Leased, Served

_apply = LeaseCommands.apply
_renew = Lessor.renew


def _apply_without_fence(self: LeaseCommands, entry: Entry, at: int) -> bytes | ApiError:
    """An expiry of any term ends leases."""
    if entry.payload[1] == commands.LEASE_EXPIRE:
        term = int.from_bytes(entry.payload[at : at + 8], "big")
        entry = Entry(entry.index, term, entry.kind, entry.payload)
    return _apply(self, entry, at)


def _know_everything(self: LeaseCommands, number: int, known_index: int) -> Lease | None:
    """What was decided for a lease goes for a later one of its id, too."""
    return self.leases.get(number)


def _date_by_this_leadership(self: Lessor, known: Lease) -> tuple[float, float]:
    """Every new leader begins to count anew."""
    since = self._began
    if known.remaining_ms:
        return since, since + known.remaining_ms / 1000
    return since, since + known.ttl_ms / 1000 + self._extra


def _renewed_long_ago(self: Served, index: int) -> float:
    """Takes leases for silent since the first change of the leader."""
    return self._ended_at[0] if self._ended_at else self.time


def _renew_without_clearing(self: Lessor, lease: int, machine: Leased) -> float:
    """The log goes on saying what was left before the renewal."""
    clock = self._clock(lease, machine)
    if clock is not None and clock.stage == DATED:
        clock.stage = RUNNING
    return _renew(self, lease, machine)


def _always_in_contact(self: Contact, now: float, echoed: int) -> float:
    """A leader takes itself for one that was heard just now."""
    return now


Patches = tuple[tuple[Any, str, Any], ...]
NO_FENCE: Final[Patches] = ((LeaseCommands, "apply", _apply_without_fence),)
NO_CLEARING: Final[Patches] = ((Lessor, "renew", _renew_without_clearing),)
NO_KNOWN: Final[Patches] = ((LeaseCommands, "_known", _know_everything),)
NO_DATES: Final[Patches] = ((Lessor, "_dates", _date_by_this_leadership),)
NO_EXTRA: Final[Patches] = ((lessor, "EXTRA_ELECTION_TIMEOUTS", 0.0),)
NO_CONTACT: Final[Patches] = ((Contact, "sent_at", _always_in_contact),)

OLD_DATES: Final[Patches] = ((Served, "leadership_ended_at", _renewed_long_ago),)

# (name, ((owner, attribute, replacement), ...)) of those that whole runs notice
PATCHES: Final[tuple[tuple[str, Patches], ...]] = (
    ("expire without the term fence", NO_FENCE),
    ("renew without clearing the checkpoint", NO_CLEARING),
    ("count a lease as silent since an old change of the leader", OLD_DATES),
)

# Likewise, of those that need a leader which applies its decisions late.
OVERTAKEN_PATCHES: Final[tuple[tuple[str, Patches], ...]] = (
    ("let what was decided for a lease meet a later one of its id", NO_KNOWN),
)
