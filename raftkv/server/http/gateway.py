"""The JSON gateway: which method a path is, and what a request says beside its body.

The methods are those of the service catalogue, found by their descriptors: one that is added
there has its page. A method that no route answers is refused as it would be over gRPC.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from raftkv import limits
from raftkv.errors import Code, ProtocolError
from raftkv.server.driver import Driver
from raftkv.server.http import paths
from raftkv.server.http.calls import StreamCall, UnaryCall, error_body
from raftkv.server.http.fromjson import encoder
from raftkv.server.http.messages import (
    ANSWERED,
    JSON,
    OF_TEXT,
    Exchange,
    Receiver,
    Request,
    plain_error,
)
from raftkv.server.http.site import GATEWAY
from raftkv.server.http.tojson import printer
from raftkv.server.http.websocket import WebSocketConnection, accept_key
from raftkv.server.routes import Routes
from raftkv.wire.grpc import (
    SESSION_METADATA,
    RequestHead,
    decode_binary,
    decode_timeout,
)
from raftkv.wire.tally import UNCOUNTED, Tally

if TYPE_CHECKING:
    from raftkv.server.clients import ClientListener

_METADATA: Final = b"grpc-metadata-"


class Method:
    """One method. request, answer: from and to JSON."""

    def __init__(
        self, method: MethodDescriptor, session_paths: Iterable[bytes], tally: Tally
    ) -> None:
        path = f"/{method.containing_service.full_name}/{method.name}".encode()
        self.path = path
        self.request = encoder(method.input_type)
        self.answer = printer(method.output_type)
        self.client_streaming = bool(method.client_streaming)
        self.unary = not (method.client_streaming or method.server_streaming)
        self.in_sessions = path in session_paths
        self.head = RequestHead(path, {}, unary=self.unary, tally=tally)
        self._last: tuple[bytes, bytes] = (b"", b"")

    def line(self, message: bytes) -> bytes:
        """A message of a stream. Many streams may be given the same one, one after the other."""
        if self._last[0] != message or not message:
            text = self.answer.text(message)
            self._last = (message, f'{{"result":{text}}}\n'.encode())
        return self._last[1]


class Gateway:
    """All of the gateway's pages.

    services: descriptors of every service of the catalogue. max_message_bytes: of a request in
    gRPC's encoding. tallies: count the calls of methods, by their gRPC paths.
    """

    def __init__(
        self,
        driver: Driver,
        routes: Routes,
        services: Iterable[ServiceDescriptor],
        max_message_bytes: int,
        tallies: Mapping[bytes, Tally],
    ) -> None:
        self.driver = driver
        self.routes = routes
        self.max_message_bytes = max_message_bytes
        self.max_body_bytes = max_message_bytes * limits.HTTP_BODY_FACTOR
        methods = {}
        for service in services:
            for method in service.methods:
                name = f"{service.full_name}/{method.name}"
                tally = tallies.get(f"/{name}".encode(), UNCOUNTED)
                methods[name] = Method(method, routes.session_paths, tally)
        self._methods = {
            GATEWAY + path: methods[name] for path, name in paths.ETCD.items() if name in methods
        }
        known = set(paths.ETCD.values())
        self._methods |= {
            f"/{name}": method for name, method in methods.items() if name not in known
        }

    def knows(self, path: str) -> bool:
        """Whether a path is a method's."""
        return path in self._methods

    def too_large(self, size: int) -> str:
        """What a client is told about a message of `size` bytes, or more."""
        return f"grpc: received message larger than max ({size} vs. {self.max_message_bytes})"

    def open(self, exchange: Exchange, request: Request) -> Receiver:
        """A request begins."""
        method = self._methods.get(request.path)
        if method is None:
            exchange.respond(404, OF_TEXT, b"Not Found\n")
            return ANSWERED
        if request.method != b"POST":
            exchange.respond(*plain_error(405))
            return ANSWERED
        return self._call(method, exchange, request)

    def _call(self, method: Method, exchange: Exchange, request: Request) -> Receiver:
        try:
            head = self._head(method, request.headers)
        except ProtocolError as error:
            body = error_body(Code.INVALID_ARGUMENT, str(error))
            exchange.respond(400, (JSON,), body)
            return ANSWERED
        call = UnaryCall if method.unary else StreamCall
        return call(self, method, exchange, head)

    def _head(self, method: Method, headers: dict[bytes, bytes]) -> RequestHead:
        """What gRPC would have said in its headers. Raises ProtocolError."""
        metadata: dict[bytes, bytes] = {}
        timeout = None
        for name, value in headers.items():
            if name[:5] == b"grpc-":
                if name == b"grpc-timeout":
                    timeout = _timeout(value)
                elif name.startswith(_METADATA):
                    key = name[len(_METADATA) :]
                    metadata[key] = decode_binary(value) if key[-4:] == b"-bin" else value
            elif name == b"authorization":
                metadata[name] = metadata[b"token"] = value
        if not metadata and timeout is None:
            return method.head
        in_session = not SESSION_METADATA.isdisjoint(metadata)
        if in_session and not method.in_sessions:
            raise ProtocolError("this call cannot be in a session: leave its metadata out")
        return RequestHead(
            method.path,
            metadata,
            timeout,
            authority=headers.get(b"host", b""),
            unary=method.unary,
            in_session=in_session,
            tally=method.head.tally,
        )

    # --- WebSockets -----------------------------------------------------------

    def upgrades(self, request: Request) -> bool:
        """Whether the request is a WebSocket's handshake (RFC 6455 4.2.1), or wants to be one."""
        return request.method == b"GET"

    def upgrade(
        self,
        listener: "ClientListener",
        transport: asyncio.Transport,
        exchange: Exchange,
        request: Request,
        data: bytes,
    ) -> None:
        """Answers a handshake; `data` came behind it."""
        key = accept_key(request.headers)
        if key is None:
            status, fields, body = plain_error(400)
            version = (b"Sec-Websocket-Version", b"13")
            exchange.respond(status, (*fields, version), body)
            return
        socket = WebSocketConnection(listener, transport)
        headers = dict(request.headers)
        bearer, _, token = headers.get(b"sec-websocket-protocol", b"").partition(b",")
        if bearer == b"Bearer":
            headers[b"authorization"] = token.strip()
        post = Request(b"POST", request.path, request.query, headers, request.secure)
        socket.take_over(key, lambda: self.open(socket, post), data, bearer == b"Bearer")


def _timeout(value: bytes) -> float:
    try:
        return decode_timeout(value)
    except ProtocolError:
        raise ProtocolError(f"invalid grpc-timeout: {value.decode('latin-1')}") from None
