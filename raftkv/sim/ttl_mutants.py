"""Known-wrong variants of puts with a TTL and of what is said to be left of a lease."""

from typing import Final

from raftkv.errors import ApiError
from raftkv.kv import leases
from raftkv.kv.leases import Lease, LeaseCommands, put_with_ttl_request
from raftkv.replica.lessor import Clock, Lessor
from raftkv.replica.served import Leased
from raftkv.sim.lease_mutants import Patches

_put_with_ttl = LeaseCommands._put_with_ttl
_checked = leases._checked
_remaining = Lessor.remaining
_look = Lessor._look


def _grant_less(self: LeaseCommands, request: bytes, index: int) -> bytes | ApiError:
    """The TTL loses a fifth of a second."""
    lease, ttl_ms = (int.from_bytes(request[at : at + 8], "big") for at in (0, 8))
    return _put_with_ttl(self, put_with_ttl_request(lease, ttl_ms - 200, request[16:]), index)


def _forget_that_it_is_hidden(lease: Lease) -> Lease:
    """Each of many puts of one key leaves a lease behind."""
    return _checked(lease)._replace(hidden=False)


def _say_what_was_granted(self: Lessor, lease: int, machine: Leased) -> tuple[float, float]:
    """The whole TTL is left, always."""
    left, granted = _remaining(self, lease, machine)
    return (granted if left > 0 else left), granted


def _say_unknown_when_over(self: Lessor, lease: int, machine: Leased) -> tuple[float, float]:
    """A lease of which less than half is left is said to be gone."""
    left, granted = _remaining(self, lease, machine)
    return (left, granted) if left > granted / 2 else (-1, 0)


def _forget_short_ones(self: Lessor) -> list[Clock]:
    """Nobody looks at leases below a second when they are due."""
    silent = _look(self)
    for clock in list(self._due):
        if clock.ttl < 1:
            self._due.remove(clock)
    return silent


# (name, ((owner, attribute, replacement), ...))
PATCHES: Final[tuple[tuple[str, Patches], ...]] = (
    ("grant a put with a TTL less", ((LeaseCommands, "_put_with_ttl", _grant_less),)),
    ("leave the lease of a replaced put", ((leases, "_checked", _forget_that_it_is_hidden),)),
    ("say that all of a lease is left", ((Lessor, "remaining", _say_what_was_granted),)),
    ("say that half a lease is none", ((Lessor, "remaining", _say_unknown_when_over),)),
    ("forget leases that are due", ((Lessor, "_look", _forget_short_ones),)),
)
