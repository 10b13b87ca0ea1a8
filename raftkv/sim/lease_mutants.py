"""Known-wrong variants of leases: some for `sim.mutants`, some for schedules of their own."""

from typing import Any, Final

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.leases import LeaseCommands
from raftkv.raft.types import Entry
from raftkv.replica import lessor
from raftkv.replica.contact import Contact
from raftkv.replica.lessor import DATED, RUNNING, Leased, Lessor

_apply = LeaseCommands.apply
_renew = Lessor.renew


def _apply_without_fence(self: LeaseCommands, entry: Entry, at: int) -> bytes | ApiError:
    """An expiry of any term ends leases."""
    if entry.payload[1] == commands.LEASE_EXPIRE:
        term = int.from_bytes(entry.payload[at : at + 8], "big")
        entry = Entry(entry.index, term, entry.kind, entry.payload)
    return _apply(self, entry, at)


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
NO_EXTRA: Final[Patches] = ((lessor, "EXTRA_ELECTION_TIMEOUTS", 0.0),)
NO_CONTACT: Final[Patches] = ((Contact, "sent_at", _always_in_contact),)

# (name, ((owner, attribute, replacement), ...)) of those that whole runs notice
PATCHES: Final[tuple[tuple[str, Patches], ...]] = (
    ("expire without the term fence", NO_FENCE),
    ("renew without clearing the checkpoint", NO_CLEARING),
)
