"""What lies under the client library in the simulated world, in the place of grpcio and threads.

The library itself is the real one: its retries, its choice of endpoints, its watches, leases and
recipes run as they are. Below them a `SimChannel` carries calls to a simulated member and back, in
virtual time: everything that is sent travels for a while, in order on each stream; a member that is
down refuses, one that dies breaks its calls, one that stands still says nothing.

The keeper of leases, a thread elsewhere, is the same code driven by a task (`LoopKeeper`).
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message

from jepsen_lite.target.simserver import ENDS, Answer, End, Ticket, serve
from raftkv.client import keeper
from raftkv.client.aio.connection import Connection
from raftkv.client.aio.runtime import Channel, Metadata, Prepared, Stream
from raftkv.client.keeper import LONGEST_WAIT_SECONDS, Keeper
from raftkv.client.kept import Kept
from raftkv.client.lifetime import now
from raftkv.client.settings import Settings
from raftkv.errors import ApiError
from raftkv.pb import rpc_pb2
from raftkv.sim.node import Node
from raftkv.sim.world import World

Reply = TypeVar("Reply", bound=Message)
Find = Callable[[], Node]  # the member that an address leads to now

TRAVEL_US: Final = 100  # at least, one way
REFUSED: Final = "failed to connect to all addresses; last error: Connection refused"
_STATUS: Final = {code.value[0]: code for code in grpc.StatusCode}


def failed(code: int, text: str) -> grpc.aio.AioRpcError:
    """What grpcio raises for this status."""
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(_STATUS[code], empty, empty, details=text)


class Road:
    """The ways of one client. random: of how long they take."""

    def __init__(self, world: World, random: Random) -> None:
        self.world = world
        self.random = random

    def travel_us(self) -> int:
        """One way."""
        return TRAVEL_US + int(self.random.expovariate(1.0) * 200)


class SimChannel(Channel):
    """Leads to one address. find: who lives there."""

    def __init__(self, road: Road, find: Find) -> None:
        # Not Channel's: nothing is dialled.
        self._road = road
        self._find = find
        self._open: dict[SimCall | asyncio.Future[Answer], None] = {}

    async def unary(
        self, path: str, request: Message, reply: type[Reply], timeout: float, metadata: Prepared
    ) -> Reply:
        """See Channel."""
        answer = asyncio.get_running_loop().create_future()
        self._open[answer] = None
        world, data = self._road.world, request.SerializeToString()
        world.after(self._road.travel_us(), self._arrive, path, data, answer)
        try:
            async with asyncio.timeout(max(timeout, 0.0)):
                found = await answer
        except TimeoutError:
            code = grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
            raise failed(code, "Deadline Exceeded") from None
        finally:
            self._open.pop(answer, None)
        if isinstance(found, ApiError):
            raise failed(found.code, found.text)
        assert isinstance(found, bytes)
        return reply.FromString(found)

    def _arrive(self, path: str, data: bytes, answer: "asyncio.Future[Answer]") -> None:
        node = self._find()
        if not node.up:
            _settle(answer, _refusal())
            return

        def back(found: Answer) -> None:
            self._road.world.after(self._road.travel_us(), _settle, answer, found)

        node.later(0, serve, node, path, data, Ticket(node, back))

    def stream(self, path: str, reply: type[Reply], metadata: Metadata) -> Stream[Reply]:
        """See Channel."""
        return Stream(self.call(path, reply))

    def call(self, path: str, reply: type[Message]) -> "SimCall":
        """The client's end of a bidirectional call."""
        call = SimCall(self._road, self._find, path, reply)
        self._open[call] = None
        call.when_over = lambda: self._open.pop(call, None)
        return call

    async def close(self) -> None:
        """See Channel."""
        for one in list(self._open):
            one.cancel()


def _refusal() -> ApiError:
    return ApiError(grpc.StatusCode.UNAVAILABLE.value[0], REFUSED)


def _settle(answer: "asyncio.Future[Answer]", found: Answer) -> None:
    if not answer.done():
        answer.set_result(found)


class SimCall:
    """The client's end of a stream: what `runtime.Stream` needs of a call of grpcio.

    unread: answers that were sent and not read yet.
    """

    def __init__(self, road: Road, find: Find, path: str, reply: type[Message]) -> None:
        self.unread = 0
        self.when_over: Callable[[], object] = lambda: None
        self._road = road
        self._reply = reply
        self._end: End | None = None
        self._there_us = self._here_us = 0  # when the last of each way arrives
        self._inbox: deque[Answer] = deque()
        self._reader: asyncio.Future[None] | None = None
        self._over = False
        self._there(self._connect, find, path)

    # --- the way there ------------------------------------------------------------
    def _there(self, act: Callable[..., None], *arguments: Any) -> None:
        """Travels to the member, behind what was sent before."""
        world = self._road.world
        arrives_us = max(world.now_us + self._road.travel_us(), self._there_us + 1)
        self._there_us = arrives_us
        world.after(arrives_us - world.now_us, act, *arguments)

    def _connect(self, find: Find, path: str) -> None:
        node = find()
        if not node.up or path not in ENDS:
            self._arrived(_refusal())
        elif not self._over:
            self._end = ENDS[path](node, self, self._road.random)

    def _deliver(self, data: bytes) -> None:
        end = self._end
        if end is not None and not end.closed:
            end.later(0, partial(end.message, data))

    def _hang_up(self) -> None:
        if self._end is not None:
            self._end.close()

    async def write(self, request: Message) -> None:
        """Sends a request."""
        self._there(self._deliver, request.SerializeToString())

    async def done_writing(self) -> None:
        """Nothing follows: what these streams do does not depend on that."""

    def cancel(self) -> None:
        """The client ends the call."""
        if not self._over:
            self._over = True
            self._there(self._hang_up)
            self._wake()
            self.when_over()

    # --- the way back -------------------------------------------------------------
    def arrive_later(self, answer: Answer) -> None:
        """The server says something, behind what it said before; an error is the end."""
        world = self._road.world
        arrives_us = max(world.now_us + self._road.travel_us(), self._here_us + 1)
        self._here_us = arrives_us
        self.unread += 1
        world.after(arrives_us - world.now_us, self._arrived, answer)

    def _arrived(self, answer: Answer) -> None:
        self._inbox.append(answer)
        self._wake()

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def read(self) -> Any:
        """The next answer. Errors: grpc.RpcError, and CancelledError behind `cancel`."""
        while not self._inbox and not self._over:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        if self._over:
            raise asyncio.CancelledError
        answer = self._inbox[0]
        if isinstance(answer, ApiError):  # again, whenever it is asked
            raise failed(answer.code, answer.text)
        self._inbox.popleft()
        end = self._end
        was_full = end is not None and end.full()
        self.unread -= 1
        if was_full and end is not None and not end.closed:
            end.later(0, end.drained)
        return self._reply.FromString(answer)


# --- leases ---------------------------------------------------------------------------------
class SimRoute:
    """A `keeper.Route`. channels: by endpoint."""

    def __init__(self, connection: Connection, channels: dict[str, SimChannel]) -> None:
        self._connection = connection
        self.channels = channels

    def endpoints(self) -> Sequence[str]:
        """See Route."""
        listed = list(self.channels)
        first = self._connection.places.current
        return [*listed[first:], *listed[:first]]

    def dial(self, endpoint: str) -> grpc.Channel:
        """See Route."""
        raise AssertionError("a LoopLine has no channel of grpcio's")

    def metadata(self) -> Sequence[tuple[str, str]]:
        """See Route."""
        return ()


class LoopLine:
    """The keeper's `_Line` on the event loop: one LeaseKeepAlive stream."""

    def __init__(self, endpoint: str, kept_by: "LoopKeeper", route: SimRoute) -> None:
        self.endpoint = endpoint
        self.asked: dict[int, float] = {}
        path = keeper.RENEW
        self._stream: Stream[rpc_pb2.LeaseKeepAliveResponse] = Stream(
            route.channels[endpoint].call(path, rpc_pb2.LeaseKeepAliveResponse)
        )
        self._reading = asyncio.get_running_loop().create_task(self._read(kept_by))

    def ask(self, lease_id: int) -> None:
        """See _Line."""
        if lease_id not in self.asked:
            self.asked[lease_id] = now()
            loop = asyncio.get_running_loop()
            request = rpc_pb2.LeaseKeepAliveRequest(ID=lease_id)
            self._writing = loop.create_task(self._stream.write(request))

    def silent_since(self) -> float | None:
        """See _Line."""
        return min(self.asked.values(), default=None)

    def hang_up(self) -> None:
        """See _Line."""
        self._reading.cancel()

    def join(self, timeout: float) -> None:
        """See _Line: nobody waits for a task so."""

    async def _read(self, kept_by: "LoopKeeper") -> None:
        try:
            while (answer := await self._stream.read()) is not None:
                kept_by.answered(self, answer.ID, answer.TTL)
            kept_by.failed(self, "the server ended the stream")
        except grpc.RpcError as error:
            kept_by.failed(self, f"{self.endpoint}: {error}")
        finally:
            await self._stream.close()


class _Bell(threading.Condition):
    """A condition that wakes a task; there is one thread only."""

    def __init__(self) -> None:
        super().__init__()
        self.rung = asyncio.Event()

    def notify_all(self) -> None:
        """See Condition."""
        self.rung.set()


class LoopKeeper(Keeper):
    """A `Keeper` whose thread is a task. Its lines must be `LoopLine`s (`simtime`)."""

    def __init__(self, route: SimRoute) -> None:
        super().__init__(route)
        self._bell = _Bell()
        self._changed = self._bell
        self._thread = threading.Thread()  # never started: it keeps `keep` from starting one
        self._beating: asyncio.Task[None] | None = None

    def keep(self, lease_id: int, ttl: float, sent: float, *, renewing: bool = True) -> Kept:
        """See Keeper."""
        kept = super().keep(lease_id, ttl, sent, renewing=renewing)
        if self._beating is None and not self._closed:
            self._beating = asyncio.get_running_loop().create_task(self._beat())
        return kept

    def answered(self, line: LoopLine, lease_id: int, ttl: int) -> None:
        """A line has heard of a lease."""
        self._answered(line, lease_id, ttl)  # type: ignore[arg-type]  # it has what a _Line has

    def failed(self, line: LoopLine, reason: str) -> None:
        """A line has ended."""
        self._failed(line, reason)  # type: ignore[arg-type]

    async def _beat(self) -> None:
        """What `Keeper._run` does, between the rings of the bell."""
        while True:
            self._bell.rung.clear()
            closed, moment = self._closed, now()
            over = self._collect(moment)
            wake = moment if over or closed else self._attempt(moment)
            dropped, self._dropped = self._dropped, []
            self._late = ""
            for kept, reason in over:
                kept.tell(reason, lost=True)
            for line in dropped:
                line.hang_up()
            if closed:
                self._finish()
                return
            if not over and not dropped:
                await self._rest(min(max(wake - moment, 0.0), LONGEST_WAIT_SECONDS))

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds if self._leases else None):
                await self._bell.rung.wait()
        except TimeoutError:
            return


class SimConnection(Connection):
    """The library's own, over simulated channels. finds: by endpoint, in their order."""

    def __init__(self, settings: Settings, road: Road, finds: Sequence[Find]) -> None:
        super().__init__(settings)
        channels = [SimChannel(road, find) for find in finds]
        self._channels.update(enumerate(channels))
        names = [endpoint.text for endpoint in settings.endpoints]
        route = SimRoute(self, dict(zip(names, channels, strict=True)))
        self.keeper = LoopKeeper(route)
