# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A party: who takes part, and for how long.

    with client.party("workers").join("host-a", "10.0.0.7") as membership:
        while membership.is_held: ...
    for one in client.party("workers").members(): ...

When things go wrong:

* A member dies or is cut off: its membership goes with its lease, at most the TTL later. Until then
  others see it. Nobody can know sooner.
* A member is paused beyond its lease, or cannot reach the servers: `is_held` is false and `lost` is
  set before the others can see it gone, by its own clock. It is not a member again by itself:
  whoever wants that joins again.
* A member dies and comes back under the same identity before its old lease has ended: for that
  long there are two memberships of one identity, the younger one being alive.
* The answer to `join` or `update` is lost: both are sent again. The key carries the lease's id, so
  it is nobody else's, and the second time nothing is done twice.
* The caller of `join` is cancelled: the lease is revoked, and no ghost takes part.

`raftkv.client.membership` has the layout.
"""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from raftkv.client import membership
from raftkv.client.errors import LeaseLost, LeaseNotFound, NotAcquired, NotHeld
from raftkv.client.keys import Key, encoded
from raftkv.client.membership import Participant
from raftkv.client.mirror import Snapshot
from raftkv.client.patience import Patience
from raftkv.client.results import RangeResult
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.cache import Cache
from raftkv.client.sync.recipes.marks import repeated
from raftkv.client.sync.recipes.queue import let_go
from raftkv.client.sync.recipes.view import View
from raftkv.client.txn import GetPrefix, Txn, key

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client
    from raftkv.client.sync.lease import Lease

__all__ = ["Membership", "Participant", "Party"]


class Membership:
    """This process's part in a party. Ends with `leave`, or with its `with`.

    fencing_token: the revision at which it began.
    """

    def __init__(
        self, client: "Client", own: bytes, identity: bytes, lease: "Lease", joined: int
    ) -> None:
        self.key = own
        self.identity = identity
        self.lease = lease
        self.fencing_token = joined
        self._written = joined
        self._client = client
        self._is_left = False

    @property
    def is_held(self) -> bool:
        """Whether it lasts, by this process's own clock; asks nobody."""
        return not self._is_left and self.lease.alive

    @property
    def lost(self) -> runtime.Event:
        """Set when it is over, at the latest when its time is up by the own clock."""
        return self.lease.lost

    def on_loss(self, callback: Callable[[], object]) -> None:
        """Calls `callback` once, in another thread, if it is lost before `leave`."""
        self.lease.on_loss(callback)

    def guard(self, txn: Txn) -> Txn:
        """`txn`, to succeed only while this membership lasts."""
        return txn.when(key(self.key).create_revision == self.fencing_token)

    def update(self, value: Key, timeout: float | None = None) -> None:
        """Replaces the value that others see.

        timeout: seconds, None = the client's. Errors: NotHeld after `leave`, LeaseLost,
        OutcomeUnknown, other ClientErrors.
        """
        if self._is_left:
            raise NotHeld(f"{self.key!r} was left")
        self.lease.check()
        patience = Patience(self._client.timeout if timeout is None else timeout)
        wanted = encoded(value)
        while True:
            updating = membership.updating(
                self.key, self.fencing_token, self._written, wanted, self.lease.id
            )
            result = repeated(self._client, updating, patience)
            if result.succeeded:
                self._written = result.revision
                return
            found = result.results[0]
            assert isinstance(found, RangeResult)
            if not found.kvs or found.kvs[0].create_revision != self.fencing_token:
                raise LeaseLost(f"the membership {self.key!r} is gone")
            self._written = found.kvs[0].mod_revision
            if found.kvs[0].value == wanted:
                return  # the first attempt, whose answer was lost
            if patience.is_over:
                raise NotAcquired(f"others always wrote {self.key!r} first")

    def leave(self) -> None:
        """Ends it; the second time nothing happens. At worst it lasts for the rest of its lease."""
        if not self._is_left:
            self._is_left = True
            runtime.finish(let_go, self.lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        was_lost = not self._is_left and not self.is_held
        self.leave()
        if was_lost and error is None:
            raise LeaseLost(f"the membership {self.key!r} was lost before it was left")


class Party:
    """See the module's docstring. Made by `Client.party`.

    ttl: seconds that a membership outlives a process that is gone.
    """

    def __init__(self, client: "Client", name: Key, *, ttl: float = 10.0) -> None:
        self.name: bytes = encoded(name)
        self._client = client
        self._ttl = ttl

    def join(
        self, identity: Key, value: Key = b"", timeout: float | None = None
    ) -> runtime.Acquiring[Membership]:
        """Takes part, until `leave`.

        identity: who this is. value: what others see with it. timeout: seconds, None = the
        client's. Errors: ClientError, and then nothing of it is left.
        """
        return runtime.acquiring(self._join(encoded(identity), encoded(value), timeout))

    def _join(self, identity: bytes, value: bytes, timeout: float | None) -> Membership:
        patience = Patience(timeout)
        lease = self._client.lease(self._ttl, timeout=patience.call_timeout())
        try:
            own = membership.place(self.name, identity, lease.id)
            joined = join(self._client, own, value, lease, patience)
        except BaseException:
            runtime.finish(let_go, lease)
            raise
        return Membership(self._client, own, identity, lease, joined)

    def members(self, timeout: float | None = None) -> tuple[Participant, ...]:
        """Who takes part, the oldest first. timeout: seconds, None = the client's."""
        found = self._client.read(GetPrefix(membership.below(self.name)), timeout=timeout)
        return membership.participants(self.name, found.kvs)

    def watch(self) -> View[tuple[Participant, ...]]:
        """Who takes part, kept up to date: to be used in `with` and iterated."""

        def read(snapshot: Snapshot) -> tuple[Participant, ...]:
            return membership.participants(self.name, snapshot.kvs.values())

        return View(Cache(self._client, membership.below(self.name)), read)


def join(client: "Client", own: bytes, value: bytes, lease: "Lease", patience: Patience) -> int:
    """Puts the key of a membership; returns the revision at which that began.

    Errors: LeaseLost, OutcomeUnknown, other ClientErrors.
    """
    try:
        result = repeated(client, membership.joining(own, value, lease.id), patience)
    except LeaseNotFound as error:
        raise LeaseLost(f"the lease of {own!r} was lost before it began") from error
    if result.succeeded:
        return result.revision
    found = result.results[0]
    assert isinstance(found, RangeResult)
    return found.kvs[0].create_revision
