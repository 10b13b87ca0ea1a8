"""The TLS handshake of accepted connections: a deadline, and a reason for every failure.

The event loop's own TLS server closes a connection whose handshake fails and says nothing.
So listeners accept plain TCP into an `Entrance`, which makes the handshake itself:

    connected -> the client's hello -> start_tls -> the real protocol
                                                 -> failed: one line in the log, closed
                 offers nothing that is served: an alert, one line in the log, closed

All of it within limits.HANDSHAKE_SECONDS. `start_tls` puts a protocol of its own on the
transport, which is then given the hello as if it came from there. Bytes of the client may
follow its last handshake message in the same segment, before `start_tls` has returned; the
entrance keeps them for the real protocol.

A client that offers protocols by ALPN, but none that is served here, fails with the alert that
Go's servers send (`raftkv.server.hello`). One that offers nothing is let through: its first bytes
show what it speaks, and if it is silent the deadline of the HTTP/2 preface ends it.
"""

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from typing import Final, cast

from raftkv import limits
from raftkv.server.hello import NO_APPLICATION_PROTOCOL, offered_protocols
from raftkv.server.logs import Repeats

log = logging.getLogger("raftkv.tls")

_REASONS: Final = {
    "HTTP_REQUEST": "an HTTP request without TLS on a TLS port",
    "WRONG_VERSION_NUMBER": "bytes that are no TLS handshake on a TLS port",
    "UNSUPPORTED_PROTOCOL": "a TLS version below 1.2",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no client certificate, and this port demands one",
}


class NoCommonProtocol(ConnectionError):
    """A client whose ALPN offer has nothing that is served."""

    def __init__(self, offered: list[bytes], served: Iterable[bytes]) -> None:
        names = ", ".join(name.decode("ascii", "backslashreplace") for name in offered[:8])
        wanted = " or ".join(sorted(name.decode() for name in served))
        super().__init__(f"a client that offers {names[:80]} by ALPN, but not {wanted}")


def explain(error: BaseException) -> str:
    """What came in instead of a handshake, for a person."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"a client certificate that is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        known = _REASONS.get(error.reason)
        if known is not None:
            return known
        words = error.reason.lower().replace("_", " ")
        if "alert" in words:
            return f"the client refused this server's certificate or settings: {words}"
        return f"a TLS handshake that failed: {words}"
    if isinstance(error, NoCommonProtocol):
        return str(error)
    if isinstance(error, ConnectionAbortedError):  # the event loop's word for the deadline
        return f"no TLS handshake within {limits.HANDSHAKE_SECONDS:g} s"
    return "a connection that closed before its TLS handshake was complete"


class Entrances:
    """All TLS handshakes under way on one port.

    context: of the server. make: gives the protocol that takes over. side: client or peer.
    protocols: that are served, by their names in ALPN.
    admits: says whether one more connection may begin its handshake.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        make: Callable[[], asyncio.Protocol],
        side: str,
        protocols: Sequence[str] = ("h2",),
    ) -> None:
        self.loop = loop
        self.protocols = frozenset(name.encode() for name in protocols)
        self.context = context
        self.make = make
        self.admits: Callable[[asyncio.Transport], bool] = lambda transport: True
        self.under_way: dict[Entrance, None] = {}
        self._side = side
        self._repeats = Repeats()

    def protocol(self) -> "Entrance":
        """Factory for `loop.create_server`."""
        return Entrance(self)

    def failed(self, address: object, error: BaseException) -> None:
        """Says once what came in; a host that comes again with the same is counted."""
        reason = explain(error)
        host = address[0] if isinstance(address, tuple) else address
        times = self._repeats.times((host, reason), self.loop.time())
        if times:
            fields = {"remote-addr": str(address), "error": reason}
            if times > 1:
                fields["times"] = str(times)
            log.warning("rejected connection on %s endpoint", self._side, extra=fields)

    def close(self) -> None:
        """Cuts what has not finished its handshake."""
        for entrance in list(self.under_way):
            entrance.abort()


class Entrance(asyncio.Protocol):
    """One connection until its handshake is done."""

    def __init__(self, entrances: Entrances) -> None:
        self._entrances = entrances
        self._transport: asyncio.Transport | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._hello = b""
        self._task: asyncio.Task[None] | None = None  # from the hello on
        self._early: list[bytes] = []
        self._lost: tuple[Exception | None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """TCP is connected: waits for the hello."""
        self._transport = cast(asyncio.Transport, transport)
        entrances = self._entrances
        if not entrances.admits(self._transport):
            self._transport.abort()
            return
        entrances.under_way[self] = None
        self._deadline = entrances.loop.time() + limits.HANDSHAKE_SECONDS
        self._timer = entrances.loop.call_at(self._deadline, self._fail, ConnectionAbortedError())

    def data_received(self, data: bytes) -> None:
        """A piece of the hello, or decrypted bytes that came with the end of the handshake."""
        if self._task is not None:
            self._early.append(data)
            return
        if self not in self._entrances.under_way:
            return  # refused; the rest of what it says is of no interest
        self._hello += data
        offered = offered_protocols(self._hello)
        if offered is None:
            return
        assert self._transport is not None
        assert self._timer is not None
        self._timer.cancel()
        protocols = self._entrances.protocols
        if offered and protocols.isdisjoint(offered):
            self._transport.write(NO_APPLICATION_PROTOCOL)
            self._fail(NoCommonProtocol(offered, protocols))
            return
        self._transport.pause_reading()  # until start_tls is the one who reads
        self._task = self._entrances.loop.create_task(self._shake_hands(self._transport))

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone before the real protocol took over."""
        self._lost = (exc,)
        if self._task is None and self in self._entrances.under_way:
            self._fail(exc or ConnectionResetError())

    def abort(self) -> None:
        """Cuts the connection."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._entrances.under_way.pop(self, None)
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, error: BaseException) -> None:
        """No handshake with this client; what was written still goes out."""
        assert self._transport is not None
        assert self._timer is not None
        self._timer.cancel()
        self._entrances.under_way.pop(self, None)
        self._entrances.failed(self._transport.get_extra_info("peername"), error)
        self._transport.close()

    async def _shake_hands(self, plain: asyncio.Transport) -> None:
        entrances = self._entrances
        loop = entrances.loop
        address = plain.get_extra_info("peername")
        handshake = loop.create_task(
            loop.start_tls(
                plain,
                self,
                entrances.context,
                server_side=True,
                ssl_handshake_timeout=max(self._deadline - loop.time(), 0.001),
            )
        )
        try:
            await asyncio.sleep(0)  # start_tls puts its protocol on the transport
            await asyncio.sleep(0)  # and tells it so, before it reads anything
            if plain.is_closing():
                raise ConnectionResetError
            _feed(plain.get_protocol(), self._hello)
            secure = await handshake
        except (OSError, EOFError) as error:
            entrances.failed(address, error)
            plain.abort()
            return
        finally:
            handshake.cancel()
            entrances.under_way.pop(self, None)
        if secure is None:  # closed while the handshake ended
            return
        self._hand_over(secure)

    def _hand_over(self, secure: asyncio.Transport) -> None:
        protocol = self._entrances.make()
        secure.set_protocol(protocol)
        protocol.connection_made(secure)
        for data in self._early:
            protocol.data_received(data)
        self._early.clear()
        if self._lost is not None:
            protocol.connection_lost(self._lost[0])


def _feed(protocol: asyncio.BaseProtocol, data: bytes) -> None:
    """Gives a protocol bytes as its transport would."""
    buffered = cast(asyncio.BufferedProtocol, protocol)  # of asyncio and of uvloop
    while data:
        room = memoryview(buffered.get_buffer(len(data)))
        taken = min(len(room), len(data))
        room[:taken] = data[:taken]
        buffered.buffer_updated(taken)
        data = data[taken:]
