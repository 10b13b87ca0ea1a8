"""etcdserverpb.Lease/LeaseKeepAlive: renewals on a stream, and their answers in order.

The hot path of leases. A request is an id in a few bytes, and clients send the same few bytes
again and again: they are looked up, not decoded, and stand in the answer as they came. The answers
of one turn share one header and, per stream, one DATA frame.

    request  = 08 id
    answer   = header | 10 id | 18 ttl          a field that is 0 is left out

The clock of leases may answer the second question of a stream before the first one (an entry of
the log decides about that one's lease). Answers wait for their turn then, as etcd, which takes one
request after the other, would have them. At most `ASKED` questions of a stream are before the clock
at a time; further ones wait here, up to `MAX_WAITING` of them, for a client with many leases
repeats itself all the time while there is no leader.

A question that the clock could not answer in time ends its stream: "no leader" if none is known,
"request timed out" otherwise. An idle stream lives through anything but that (`longstreams`).
"""

from collections import deque
from typing import Any, Final

from google.protobuf.message import DecodeError

from raftkv.errors import NO_LEADER, TIMEOUT, TOO_MANY_REQUESTS, ApiError
from raftkv.kv.encoding import varint
from raftkv.pb import rpc_pb2
from raftkv.raft.types import NOBODY
from raftkv.replica.effects import LeaseAnswer
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Call
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.wire.frames import PREFIX
from raftkv.wire.grpc import RequestHead

ASKED: Final = 1024  # questions of one stream before the clock
MAX_WAITING: Final = 65_536  # of one stream: what etcd would hold in a stream's window is less
KNOWN_REQUESTS: Final = 10_000

_ID_TAG: Final = b"\x10"
_TTL_TAG: Final = b"\x18"


class Known:
    """A request that was read. lease: which it names. end: of the newest answer to it, which said
    `ttl` (seconds).
    """

    __slots__ = ("_field", "end", "lease", "ttl")

    def __init__(self, message: bytes) -> None:
        self.lease = rpc_pb2.LeaseKeepAliveRequest.FromString(message).ID
        self._field = _ID_TAG + varint(self.lease) if self.lease else b""
        self.end = self._field
        self.ttl = 0

    def answer(self, ttl: int) -> bytes:
        """What follows the header if the answer says `ttl`."""
        self.ttl = ttl
        self.end = self._field + _TTL_TAG + varint(ttl) if ttl else self._field
        return self.end


class KeepAlives:
    """All LeaseKeepAlive streams of one member; also what collects the answers of one turn."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.driver = context.driver
        self.dirty = False
        self.requests: dict[bytes, Known] = {}
        self._answering: list[KeepAliveCall] = []

    def open(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """A call begins."""
        call = KeepAliveCall(self, client, stream)
        error = self.context.refusal(head)
        if error is not None:
            client.fail(stream, error)
        else:
            self.context.long_streams.add(call, head)
            self.context.renewal_streams += 1
            call.counted = True
        return call

    def known(self, message: bytes) -> Known:
        """Reads a request and remembers it in `requests`. Raises DecodeError."""
        known = Known(message)
        if len(self.requests) >= KNOWN_REQUESTS:
            self.requests.clear()
        self.requests[message] = known
        return known

    def answers(self, call: "KeepAliveCall") -> None:
        """A stream has its first answer of this turn."""
        self._answering.append(call)
        if not self.dirty:
            self.driver.mark_dirty(self)

    def flush(self) -> None:
        """Sends what has been answered since the last time; once per turn (`driver.Flushable`)."""
        answering, self._answering = self._answering, []
        header = self.context.header_now()
        clients: list[ClientProtocol] = []
        for call in answering:
            client = call.client
            if not client.dirty:  # else it is among these, or its own turn comes
                client.dirty = True
                clients.append(client)
            call.flush(header)
        for client in clients:
            client.dirty = False
            client.flush()

    def error(self, error: ApiError) -> ApiError:
        """What etcd calls an error of the clock."""
        if error is TIMEOUT and self.context.replica.leader == NOBODY:
            return NO_LEADER
        return error


class KeepAliveCall:
    """One stream."""

    __slots__ = (
        "_early",
        "_half_closed",
        "_order",
        "_over",
        "_ready",
        "_renew",
        "_requests",
        "_service",
        "_stream",
        "_take",
        "_waiting",
        "_wake",
        "client",
        "counted",
    )

    def __init__(self, service: KeepAlives, client: ClientProtocol, stream: int) -> None:
        self.client = client
        self._service = service
        self._stream = stream
        self._renew = service.context.replica.renew
        self._requests = service.requests
        self._wake = service.driver.wake
        self._take = self._answered  # one bound method for all tickets
        self._order: deque[Any] = deque()  # tickets without an answer, oldest first
        self._early: dict[int, LeaseAnswer | ApiError] = {}  # by the ticket's identity
        self._waiting: deque[Known] | None = None  # most streams never need one
        self._ready: list[bytes] = []  # ends of answers: what follows the header
        self._half_closed = False
        self._over = False
        self.counted = False  # among those that are open

    # --- what the client says -------------------------------------------------

    def message(self, message: bytes) -> None:
        """A renewal."""
        if self._over:
            return
        known = self._requests.get(message)
        if known is None:
            try:
                known = self._service.known(message)
            except DecodeError:
                self.abandon(CANNOT_DECODE)
                return
        if len(self._order) < ASKED:
            self._ask(known)
            self._wake()
            return
        waiting = self._waiting
        if waiting is None:
            waiting = self._waiting = deque()
        if len(waiting) < MAX_WAITING:
            waiting.append(known)
        else:
            self.abandon(TOO_MANY_REQUESTS)

    def half_closed(self) -> None:
        """No more renewals come: the call ends behind the last answer."""
        self._half_closed = True
        if not self._over and not self._order:
            self._service.answers(self)

    def cancelled(self) -> None:
        """The client is gone."""
        self._leave()

    def writable(self) -> None:
        """The client has taken what was sent."""

    # --- the work ---------------------------------------------------------------

    def abandon(self, error: ApiError) -> None:
        """Ends the stream with an error, behind the answers that there are."""
        if self._over:
            return
        self._send(self._service.context.header_now())
        self._leave()
        client = self.client
        client.fail(self._stream, error)
        client.routes.finished(client, self._stream)
        client.driver.mark_dirty(client)

    def _leave(self) -> None:
        self._over = True
        self._order.clear()
        self._early.clear()
        self._waiting = None
        self._ready.clear()
        context = self._service.context
        context.long_streams.remove(self)
        if self.counted:
            self.counted = False
            context.renewal_streams -= 1

    def _ask(self, known: Known) -> None:
        ticket = (self._take, known)
        error = self._renew(known.lease, ticket)
        if error is not None:
            self.abandon(error)
        else:
            self._order.append(ticket)

    def _answered(self, ticket: Any, result: LeaseAnswer | ApiError) -> None:
        order = self._order
        if not order:
            return  # the stream has ended
        if order[0] is not ticket:
            self._early[id(ticket)] = result
            return
        order.popleft()
        self._put(ticket, result)
        if self._early:
            self._put_early()

    def _put_early(self) -> None:
        """Answers that waited for the one before them."""
        order, early = self._order, self._early
        while order and id(order[0]) in early:
            ticket = order.popleft()
            self._put(ticket, early.pop(id(ticket)))

    def _put(self, ticket: Any, result: LeaseAnswer | ApiError) -> None:
        if type(result) is not LeaseAnswer:
            assert isinstance(result, ApiError)
            self.abandon(self._service.error(result))
            return
        known, ttl = ticket[1], result[1]
        ready = self._ready
        if not ready:
            self._service.answers(self)
        ready.append(known.end if known.ttl == ttl else known.answer(ttl))
        if self._waiting:
            self._ask(self._waiting.popleft())
            self._wake()  # this turn's questions are taken already

    def flush(self, header: bytes) -> None:
        """Sends the answers that there are. header: their field 1."""
        if self._over:
            return
        self._send(header)
        if self._half_closed and not self._order:
            self._leave()
            self.client.connection.finish(self._stream)
            self.client.routes.finished(self.client, self._stream)

    def _send(self, header: bytes) -> None:
        ready = self._ready
        if ready:
            prefix, size = PREFIX.pack, len(header)
            end, count = ready.pop(), len(ready) + 1
            answers = prefix(0, size + len(end)) + header + end
            if ready:  # most streams have one at a time
                before = [prefix(0, size + len(end)) + header + end for end in ready]
                answers = b"".join(before) + answers
                ready.clear()
            self.client.connection.send_framed(self._stream, answers, count)
