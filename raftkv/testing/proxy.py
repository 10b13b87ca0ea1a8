"""A network between nodes that can be cut, one way or both, without root.

Every node gets a proxy in front of its port, and the others dial the proxy. All bytes from node
A to node B belong to one `Flow`, whichever of the two opened the connection: so a cut from A to B
holds the requests of A's connections and the answers on B's.

A cut is silence, not an end. Bytes, ends and resets are held, and pass once the flow is
open again, as TCP would send again what a broken network lost. A connection that is begun during
a cut is accepted and hears nothing (a real SYN would get no answer either); its target never
hears of it if the dialler gives up first. No proxy can hold the kernel's own acknowledgements: a
sender sees its bytes taken until the buffers between are full.

A proxy's door follows its target. While nobody listens there, the proxy does not listen either,
so diallers are refused as they would be without it: that a process is gone shows at once, behind
a cut too. Before the target has listened for the first time its diallers are held instead,
and reach it as soon as it does.

All proxies of a network live on one event loop in one thread. Its methods may be called from any
thread; when they return, what they say is so.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Hashable, Iterable
from contextlib import suppress
from typing import Any, Final, Self, TypeVar

import uvloop

from raftkv.testing.flows import MAX_HELD_BYTES, End, Flow, Pipe

Node = Hashable
Identify = Callable[[bytes], Node | None]  # first bytes -> who sent them; None: not known yet

MAX_FIRST_BYTES: Final = 64 * 1024  # after so many, a dialler is nobody who is known
POLL_SECONDS: Final = 0.02
FIRST_POLL_SECONDS: Final = 0.003
_HOST: Final = "127.0.0.1"
_Result = TypeVar("_Result")


class _Connection:
    """A dialler's connection to a proxy, and the proxy's own to the target once it has one."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy
        self.dialler = End(self)
        self._target = End(self)
        self._pipes: tuple[Pipe, ...] = ()
        self._first = b""
        self._task: asyncio.Task[None] | None = None
        proxy.connections[self] = None

    def received(self, end: End, data: bytes) -> None:
        """Bytes of one side."""
        if self._pipes:
            self._pipes[end is self._target].feed(data)
            return
        self._first += data
        if self._task is None:
            node = self._proxy.identify(self._first)
            if node is not None or len(self._first) > MAX_FIRST_BYTES:
                self._task = asyncio.get_running_loop().create_task(self._connect(node))
        if len(self._first) > MAX_HELD_BYTES:
            end.read_on(False)

    async def _connect(self, node: Node | None) -> None:
        there, back = self._proxy.flows(node)
        while there.blocked or back.blocked:  # a handshake needs both ways
            await there.opened.wait()
            await back.opened.wait()
        if not await self._proxy.reach(lambda: self._target) or not self._target.connected:
            self.dialler.abort()
            return
        self._pipes = (
            Pipe(there, self.dialler, self._target),
            Pipe(back, self._target, self.dialler),
        )
        first, self._first = self._first, b""
        self._pipes[0].feed(first)
        self.review()

    def lost(self, end: End) -> None:
        """One side is gone: the other one hears of it when what was sent before has passed."""
        if not self._pipes or not (self.dialler.connected or self._target.connected):
            self.close()
        elif end is self.dialler:
            self._pipes[0].feed(b"")
        else:
            self._proxy.start(self._target_gone())

    async def _target_gone(self) -> None:
        await self._proxy.look()  # whoever dials again must find the door shut if it has ended
        if self.dialler.connected and self._pipes:
            self._pipes[1].feed(b"")

    def review(self) -> None:
        """Something changed: moves what can be moved."""
        for pipe in self._pipes:
            pipe.run()

    def close(self) -> None:
        """Cuts both sides."""
        self._proxy.connections.pop(self, None)
        if self._task is not None:
            self._task.cancel()
        pipes, self._pipes = self._pipes, ()
        for pipe in pipes:
            pipe.close()
        self.dialler.abort()
        self._target.abort()


class Proxy:
    """Listens on `port` for `target_port`, both of the loopback. Lives on a running loop.

    identify: who sent these first bytes. flows: the flows to and from the node behind the
    target, for a dialler.
    """

    def __init__(
        self,
        port: int,
        target_port: int,
        identify: Identify,
        flows: Callable[[Node | None], tuple[Flow, Flow]],
    ) -> None:
        self.identify = identify
        self.flows = flows
        self.connections: dict[_Connection, None] = {}
        self._port, self._target_port = port, target_port
        self._loop = asyncio.get_running_loop()
        self._door: asyncio.Server | None = None
        self._reached = False
        self._watch: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def open(self) -> None:
        """Begins to listen. Raises OSError."""
        self._door = await self._loop.create_server(
            lambda: _Connection(self).dialler, _HOST, self._port
        )

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs something that ends with this proxy at the latest."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def reach(self, protocol: Callable[[], asyncio.Protocol]) -> bool:
        """Connects to the target; False if nobody listens there any more."""
        while True:
            try:
                await self._loop.create_connection(protocol, _HOST, self._target_port)
            except OSError:
                if self._reached:
                    self._shut()
                    return False
                await asyncio.sleep(FIRST_POLL_SECONDS)
            else:
                self._reached = True
                return True

    async def look(self) -> None:
        """Shuts the door if nobody listens at the target."""
        if self._watch is None and not await self._target_listens():
            self._shut()

    async def _target_listens(self) -> bool:
        try:
            transport, _ = await self._loop.create_connection(
                asyncio.Protocol, _HOST, self._target_port
            )
        except OSError:
            return False
        transport.abort()
        return True

    def _shut(self) -> None:
        if self._watch is None and self._door is not None:
            self._door.close()
            self._door = None
            self._watch = self._loop.create_task(self._await_target())

    async def _await_target(self) -> None:
        while self._door is None:
            await asyncio.sleep(POLL_SECONDS)
            if await self._target_listens():
                with suppress(OSError):  # somebody else has the door's port for a moment
                    await self.open()
        self._watch = None

    async def close(self) -> None:
        """Cuts everything and listens no more."""
        tasks = [*self._tasks]
        if self._watch is not None:
            tasks.append(self._watch)
        for task in tasks:
            task.cancel()
        if self._door is not None:
            self._door.close()
            self._door = None
        for connection in list(self.connections):
            connection.close()
        await asyncio.gather(*tasks, return_exceptions=True)


class Network:
    """Proxies of several nodes and the flows between all of them, on a thread of their own."""

    def __init__(self) -> None:
        self._proxies: dict[Node, Proxy] = {}
        self._flows: dict[tuple[Node, Node], Flow] = {}
        started = threading.Event()
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(started,), name="raftkv-network", daemon=True
        )
        self._thread.start()
        started.wait()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.call_soon(started.set)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _do(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    # --- building -----------------------------------------------------------

    def add(self, node: Node, port: int, target_port: int, identify: Identify) -> None:
        """Puts a proxy at `port` in front of `node`, which listens at `target_port`.

        Both ports are of 127.0.0.1. identify: names the dialler by its first bytes. OSError.
        """
        self._do(self._add(node, port, target_port, identify))

    async def _add(self, node: Node, port: int, target_port: int, identify: Identify) -> None:
        proxy = Proxy(
            port,
            target_port,
            identify,
            lambda dialler: (self._flow(dialler, node), self._flow(node, dialler)),
        )
        await proxy.open()
        self._proxies[node] = proxy

    def _flow(self, source: Node | None, target: Node | None) -> Flow:
        if source is None or target is None:
            return Flow()  # of somebody unknown: nobody can name it
        return self._flows.setdefault((source, target), Flow())

    # --- faults -------------------------------------------------------------

    def cut(self, sources: Iterable[Node], targets: Iterable[Node]) -> None:
        """Holds everything from `sources` to `targets`, one way. Nothing passes after it returned.

        Bytes that a target's kernel already has are its own: it may still read them.
        """
        pairs = [(one, other) for one in sources for other in targets if one != other]
        self._do(self._set(pairs, blocked=True))

    def partition(self, side: Iterable[Node], other_side: Iterable[Node]) -> None:
        """Cuts both ways between two sets of nodes."""
        pairs = [(one, other) for one in side for other in other_side if one != other]
        self._do(self._set([*pairs, *((b, a) for a, b in pairs)], blocked=True))

    def delay(self, sources: Iterable[Node], targets: Iterable[Node], seconds: float) -> None:
        """Lets everything from `sources` to `targets` arrive so much later; 0: at once again."""
        pairs = [(one, other) for one in sources for other in targets if one != other]
        self._do(self._set(pairs, latency_seconds=seconds))

    def heal(self) -> None:
        """Ends every cut and every delay."""
        self._do(self._heal())

    async def _heal(self) -> None:
        for flow in self._flows.values():
            flow.change(blocked=False, latency_seconds=0.0)

    async def _set(
        self,
        pairs: Iterable[tuple[Node, Node]],
        *,
        blocked: bool | None = None,
        latency_seconds: float | None = None,
    ) -> None:
        for pair in pairs:
            flow = self._flow(*pair)
            flow.change(
                flow.blocked if blocked is None else blocked,
                flow.latency_seconds if latency_seconds is None else latency_seconds,
            )

    def is_cut(self, source: Node, target: Node) -> bool:
        """Whether what `source` sends to `target` is held."""
        flow = self._flows.get((source, target))
        return flow is not None and flow.blocked

    # --- the end --------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cuts every connection and ends the thread. A second call does nothing."""
        if not self._thread.is_alive():
            return
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _close(self) -> None:
        for proxy in self._proxies.values():
            await proxy.close()
        await asyncio.sleep(0)  # the ends of the connections
