"""Queues of keys: what a lock and an election have in common (etcd's client/v3/concurrency).

Whoever wants to be first puts the key <name>/<lease in hex>, unless it is there. The order of the
queue is the order of the keys' create revisions, and who has the oldest key is first. A waiter
waits until the newest of the keys before its own is gone, or its own is, and looks again: so the
end of one key wakes one waiter, and whoever lost its lease hears of it at once. Clients that keep
such a queue by themselves stand in the same one.

    enter -> wait until no older key is left -> look at the own key once more (C04)

The set of older keys only shrinks, and the own key's entry is applied here when `enter` returns: so
"no older key is left" needs no more than this member's own state. That the own key is still there
is looked up last, and after a wait behind a read index: the lease may have ended meanwhile.

Any other end than being first takes the key away again (C09): by a transaction that compares the
create revision, repeated until it is decided; if the lease is the server's own, by revoking it. A
put that is under way when the caller gives up is waited for first. What stays is a key whose put
ended with an unknown outcome: it goes with its lease.

A wait survives changes of the leader, because only writes and reads need one. After a request
timeout without any leader it ends as writes do, and if its client wants a leader (`hasleader`) or
the member stops, as long streams do (`longstreams`).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from raftkv.errors import (
    ELECTION_NOT_LEADER,
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    REQUEST_TOO_LARGE,
    STOPPED,
    TIMEOUT_LEADER_FAIL,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.audience import Batch
from raftkv.kv.leases import grant_request, revoke_request
from raftkv.kv.machine import Result
from raftkv.kv.txn import validate_txn
from raftkv.kv.watches import Watcher
from raftkv.kv.watchindex import prefix_end
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.raft.types import NOBODY
from raftkv.server.services.context import Context
from raftkv.server.services.lease import choose_id
from raftkv.server.watching import Watching
from raftkv.wire.grpc import RequestHead

OWN_TTL_SECONDS: Final = 60  # of a lease that the server grants by itself
_RETRY_SECONDS: Final = 0.5  # between attempts to take a key away
_ENVELOPE_BYTES: Final = 18  # as for every write

Compare = rpc_pb2.Compare
Range = rpc_pb2.RangeRequest


class Place(NamedTuple):
    """A key in a queue.

    prefix: the queue's keys begin with it. create_revision: tells this key from a later one of
    the same name; the fencing token of a lock.
    """

    prefix: bytes
    key: bytes
    lease: int
    create_revision: int


class First(NamedTuple):
    """A place that has become the first of its queue.

    entered_revision: of the transaction that put the key, or found it there.
    revision: of the answer that showed it to be first.
    """

    place: Place
    entered_revision: int
    revision: int


def prefix_of(name: bytes) -> bytes:
    """What the keys of a queue begin with."""
    return name + b"/"


def key_of(name: bytes, lease: int) -> bytes:
    """The key in the queue `name` of the holder of a lease, as Go's %x writes its id."""
    return prefix_of(name) + b"%x" % lease


def created_at(key: bytes, revision: int) -> rpc_pb2.Compare:
    """The guard: true while `key` is the one created at `revision`; 0: there is none."""
    return Compare(key=key, target=Compare.CREATE, result=Compare.EQUAL, create_revision=revision)


def put(key: bytes, value: bytes, lease: int) -> rpc_pb2.RequestOp:
    """The operation that puts a key attached to a lease."""
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))


class Absence:
    """Waits until one of some keys is deleted; a sink of the hub of watches.

    future: done when one may be gone. Whoever asked looks for itself then.
    """

    def __init__(
        self, watching: Watching, keys: tuple[bytes, ...], future: "asyncio.Future[None]"
    ) -> None:
        self._watching = watching
        self.future = future
        self._watchers = [Watcher(self, 0, key, no_put=True) for key in keys]
        for watcher in self._watchers:
            watching.add(watcher)

    def deliver(self, watcher: Watcher, first: int, last: int, events: Batch) -> None:
        """A key was deleted."""
        self._done()

    def full(self) -> bool:
        """There is room for the one thing that comes."""
        return False

    def cancelled(self, watcher: Watcher, compact_revision: int) -> None:
        """It may have been deleted in revisions that are compacted."""
        self._done()

    def _done(self) -> None:
        if not self.future.done():
            self.future.set_result(None)

    def abandon(self, error: ApiError) -> None:
        """The wait ends with an error."""
        if not self.future.done():
            self.future.set_exception(copy_of(error))

    def close(self) -> None:
        """Nobody waits any more."""
        for watcher in self._watchers:
            self._watching.remove(watcher)
        self.future.cancel()


class Queues:
    """The queues of one member, for coroutines; see the module's docstring."""

    def __init__(self, context: Context, watching: Watching) -> None:
        self._context = context
        self._watching = watching
        self._driver = context.driver
        self._waiting: dict[Place, int] = {}  # calls of this member that wait at a place
        self._work: dict[asyncio.Task[None], None] = {}  # what callers have left to do
        self._absences: dict[Absence, None] = {}
        self._no_leader: asyncio.TimerHandle | None = None
        self._driver.role_listeners.append(self._role_changed)

    # --- the member's own store ------------------------------------------------

    def propose(self, command: int, request: bytes) -> "asyncio.Future[Result]":
        """A write; its result or ApiError comes when it is applied here."""
        future: asyncio.Future[Result] = self._driver.loop.create_future()
        if len(request) + _ENVELOPE_BYTES > self._context.max_request_bytes:
            error: ApiError | None = REQUEST_TOO_LARGE
        else:
            error = self._context.propose(command, request, (_settle, future))
        if error is not None:
            future.set_exception(copy_of(error))
        else:
            self._driver.wake()
        return future

    async def transact(self, request: rpc_pb2.TxnRequest) -> tuple[int, rpc_pb2.TxnResponse]:
        """A transaction: its revision, and its answer without header. Raises ApiError."""
        error = validate_txn(request, self._context.max_txn_ops)
        if error is not None:
            raise copy_of(error)
        result = await self.propose(commands.TXN, request.SerializeToString())
        return result.revision, rpc_pb2.TxnResponse.FromString(result.body)

    async def confirm(self) -> None:
        """Afterwards this member's state has all that was answered before. Raises ApiError."""
        future: asyncio.Future[None] = self._driver.loop.create_future()
        error = self._context.read((_settle, future))
        if error is not None:
            raise copy_of(error)
        self._driver.wake()
        await future

    def find(self, request: Range) -> tuple[int, list[kv_pb2.KeyValue]]:
        """The revision of this member's state, and what a range finds in it."""
        result = self._context.replica.machine.range(request)
        assert isinstance(result, Result), "a range of the present cannot fail"
        return result.revision, list(rpc_pb2.RangeResponse.FromString(result.body).kvs)

    def oldest(self, name: bytes) -> tuple[int, kv_pb2.KeyValue | None]:
        """The revision of this member's state, and who is first in a queue."""
        prefix = prefix_of(name)
        revision, found = self.find(
            Range(
                key=prefix,
                range_end=prefix_end(prefix),
                limit=1,
                sort_target=Range.CREATE,
                sort_order=Range.ASCEND,
            )
        )
        return revision, found[0] if found else None

    async def grant(self) -> int:
        """A lease of the server's own. Raises ApiError."""
        while True:
            lease = choose_id(self._context)
            request = grant_request(lease, OWN_TTL_SECONDS * 1000)
            try:
                await self.propose(commands.LEASE_GRANT, request)
            except ApiError as error:
                if error.text != LEASE_EXISTS.text:
                    raise
            else:
                return lease

    # --- the queue ---------------------------------------------------------------

    async def become_first(
        self, name: bytes, lease: int, value: bytes, lost: ApiError, head: RequestHead
    ) -> First:
        """Enters a queue and waits. A key that is there keeps its place and gets the value.

        lease: 0: one of the server's own, which lives for a minute from the end of the wait.
        lost: the error if the key is gone before it was first. head: of the caller's call.
        Raises ApiError; then, and when cancelled, nothing is left behind.
        """
        own = not lease
        if own:
            lease = await self._grant_or_revoke()
        renewal = self._driver.loop.create_task(self._renew(lease)) if own else None
        try:
            place, entered = await self._enter(name, lease, value)
            revision = await self._stay(place, entered, lost, head)
        except BaseException:
            if own:
                self.start(self._revoke(lease))
            raise
        finally:
            if renewal is not None:
                renewal.cancel()
        return First(place, entered, revision)

    async def _enter(self, name: bytes, lease: int, value: bytes) -> tuple[Place, int]:
        """Puts the key unless it is there; the place, and the revision of the answer."""
        key = key_of(name, lease)
        request = rpc_pb2.TxnRequest(
            compare=[created_at(key, 0)],
            success=[put(key, value, lease)],
            failure=[rpc_pb2.RequestOp(request_range=Range(key=key))],
        )
        future = self.propose(commands.TXN, request.SerializeToString())
        try:
            result = await asyncio.shield(future)
        except asyncio.CancelledError:
            self.start(self._withdraw(Place(prefix_of(name), key, lease, 0), future))
            raise
        answer = rpc_pb2.TxnResponse.FromString(result.body)
        if answer.succeeded:
            return Place(prefix_of(name), key, lease, result.revision), result.revision
        found = answer.responses[0].response_range.kvs[0]
        place = Place(prefix_of(name), key, lease, found.create_revision)
        if found.value != value:
            try:
                await self.proclaim(place, value)
            except ApiError:
                self.start(self.leave(place))
                raise
        return place, result.revision

    async def proclaim(self, place: Place, value: bytes) -> int:
        """Replaces the value of a key that is still there; the revision. Raises ApiError."""
        revision, answer = await self.transact(
            rpc_pb2.TxnRequest(
                compare=[created_at(place.key, place.create_revision)],
                success=[put(place.key, value, place.lease)],
            )
        )
        if not answer.succeeded:
            raise copy_of(ELECTION_NOT_LEADER)
        return revision

    async def _stay(self, place: Place, entered: int, lost: ApiError, head: RequestHead) -> int:
        """Waits until no older key is left; the revision that showed it."""
        self._waiting[place] = self._waiting.get(place, 0) + 1
        kept = False
        try:
            waited = await self._wait_for_older(place, lost, head)
            revision = entered
            if waited:
                await self.confirm()
                revision = self._context.replica.machine.revision
            # Also without a wait: what was applied behind the put may have ended the lease.
            if not self._is_there(place):
                raise copy_of(lost)
            kept = True
            return revision
        finally:
            self._waiting[place] -= 1
            others = self._waiting[place]
            if not others:
                del self._waiting[place]
            if not kept and not others:
                self.start(self.leave(place))

    def _is_there(self, place: Place) -> bool:
        """Whether this member's state has the key of a place."""
        _, found = self.find(Range(key=place.key, keys_only=True))
        return bool(found) and found[0].create_revision == place.create_revision

    async def _wait_for_older(self, place: Place, lost: ApiError, head: RequestHead) -> bool:
        """Returns when no older key is left; False: there was none."""
        before = Range(
            key=place.prefix,
            range_end=prefix_end(place.prefix),
            limit=1,
            sort_target=Range.CREATE,
            sort_order=Range.DESCEND,
            max_create_revision=place.create_revision - 1,
            keys_only=True,
        )
        waited = False
        while True:
            _, found = self.find(before)
            if not found:
                return waited
            waited = True
            if not self._is_there(place):
                raise copy_of(lost)
            await self._absence((found[0].key, place.key), head)

    async def _absence(self, keys: tuple[bytes, ...], head: RequestHead) -> None:
        """Returns when one of some keys that are there now is deleted. Raises ApiError."""
        absence = Absence(self._watching, keys, self._driver.loop.create_future())
        self._absences[absence] = None
        self._context.long_streams.add(absence, head)
        self._role_changed()
        try:
            await absence.future
        finally:
            self._context.long_streams.remove(absence)
            del self._absences[absence]
            absence.close()

    def _role_changed(self) -> None:
        if self._context.replica.leader != NOBODY:
            if self._no_leader is not None:
                self._no_leader.cancel()
                self._no_leader = None
        elif self._absences and self._no_leader is None:
            seconds = self._context.replica.settings.request_timeout_seconds
            self._no_leader = self._driver.loop.call_later(seconds, self._leader_missed)

    def _leader_missed(self) -> None:
        self._no_leader = None
        for absence in list(self._absences):
            absence.abandon(TIMEOUT_LEADER_FAIL)

    # --- cleaning up ---------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs what a caller that is gone has left to do."""
        task = self._driver.loop.create_task(work)
        self._work[task] = None
        task.add_done_callback(lambda done: self._work.pop(done, None))

    async def leave(self, place: Place) -> None:
        """Takes a key away, however long it takes."""
        request = leaving(place).SerializeToString()
        await self._until_decided(place.lease, lambda: self.propose(commands.TXN, request))

    async def _withdraw(self, place: Place, entering: "asyncio.Future[Result]") -> None:
        """Takes away what a put under way makes, unless another call waits there."""
        try:
            result = await entering
        except ApiError:
            return
        if rpc_pb2.TxnResponse.FromString(result.body).succeeded:
            place = place._replace(create_revision=result.revision)
            if place not in self._waiting:
                await self.leave(place)

    async def _revoke(self, lease: int) -> None:
        """Revokes a lease of the server's own, however long it takes."""
        request = revoke_request(lease)
        await self._until_decided(lease, lambda: self.propose(commands.LEASE_REVOKE, request))

    async def _until_decided(
        self, lease: int, attempt: "Callable[[], asyncio.Future[Result]]"
    ) -> None:
        while True:
            try:
                await attempt()
            except ApiError as error:
                if error.text in (LEASE_NOT_FOUND.text, STOPPED.text):
                    return
            else:
                return
            if lease not in self._context.replica.machine.leases:
                return  # its keys went with it
            await asyncio.sleep(_RETRY_SECONDS)

    async def _grant_or_revoke(self) -> int:
        """A lease, or nothing of it: also when the caller gives up meanwhile."""
        task = self._driver.loop.create_task(self.grant())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self.start(self._revoke_granted(task))
            raise

    async def _revoke_granted(self, granting: "asyncio.Task[int]") -> None:
        try:
            lease = await granting
        except ApiError:
            return
        await self._revoke(lease)

    async def _renew(self, lease: int) -> None:
        """Keeps a lease of the server's own alive while its caller waits."""
        while True:
            await asyncio.sleep(OWN_TTL_SECONDS / 3)
            self._context.replica.renew(lease, (_ignore,))
            self._driver.wake()


def copy_of(error: ApiError) -> ApiError:
    """An error to raise: each raise would leave its traceback on the constant for good."""
    return ApiError(error.code, error.text, error.outcome)


def leaving(place: Place) -> rpc_pb2.TxnRequest:
    """The transaction that deletes a key unless it is another one by now."""
    return rpc_pb2.TxnRequest(
        compare=[created_at(place.key, place.create_revision)],
        success=[rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=place.key))],
    )


def _settle(ticket: Any, result: Any) -> None:
    """A ticket whose second item is a future: it gets the result or the error."""
    future = ticket[1]
    if future.done():
        return  # nobody waits any more
    if isinstance(result, ApiError):
        future.set_exception(copy_of(result))
    else:
        future.set_result(result)


def _ignore(ticket: Any, result: Any) -> None:
    """A ticket that nobody waits for."""
