"""A small gRPC client over the wire code's client half that says what each failure proves.

A call that was never written to a socket failed for certain. One that ended with an error of
the API failed as that error says (`raftkv.errors`: its outcome). Everything else, a lost
connection or no answer in time, leaves open whether a write was or will be done.
"""

import asyncio
from typing import Any, Final, cast

from raftkv import errors
from raftkv.errors import ApiError
from raftkv.errors import Outcome as Told
from raftkv.wire.h2_client import ClientConnection

DIAL_SECONDS: Final = 1.0
DEFINITE_TEXTS: Final = frozenset(
    error.text
    for error in vars(errors).values()
    if isinstance(error, ApiError) and error.outcome is Told.DEFINITE
)


class CallFailed(Exception):
    """A call without an answer. definite: it was not done and never will be."""

    def __init__(self, text: str, *, definite: bool) -> None:
        super().__init__(text)
        self.definite = definite


class Wire(asyncio.Protocol):
    """One connection; unary calls only."""

    def __init__(self) -> None:
        self.connection = ClientConnection(self, b"test")
        self.usable = True
        self._answers: dict[int, asyncio.Future[bytes]] = {}
        self._messages: dict[int, bytes] = {}
        self._transport: asyncio.Transport | None = None

    @staticmethod
    async def connect(port: int) -> "Wire":
        """A connection to 127.0.0.1. Errors: CallFailed, definite: nothing was sent."""
        loop = asyncio.get_running_loop()
        try:
            _, wire = await asyncio.wait_for(
                loop.create_connection(Wire, "127.0.0.1", port), DIAL_SECONDS
            )
        except (OSError, TimeoutError) as error:
            raise CallFailed(f"no connection: {error}", definite=True) from None
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        self.connection.receive(data, 0.0)
        if self.connection.closing or self.connection.going_away:
            self.usable = False
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self.connection.connection_lost("the connection was lost")

    def _flush(self) -> None:
        assert self._transport is not None
        output = self.connection.take_output()
        if output:
            self._transport.write(output)

    def headers(self, stream: int) -> None:
        pass

    def message(self, stream: int, message: bytes) -> None:
        self._messages[stream] = message

    def finished(self, stream: int, code: int, text: str) -> None:
        message = self._messages.pop(stream, b"")
        answer = self._answers.pop(stream, None)
        if answer is None or answer.done():
            return
        if code:
            answer.set_exception(CallFailed(text, definite=text in DEFINITE_TEXTS))
        else:
            answer.set_result(message)

    async def call(self, path: str, request: Any, reply: Any, seconds: float) -> Any:
        """A unary call; the parsed answer. Errors: CallFailed."""
        if not self.usable:
            raise CallFailed("the connection is closed", definite=True)
        stream = self.connection.request(path.encode(), request.SerializeToString(), end=True)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._answers[stream] = answer
        self._flush()
        try:
            return reply.FromString(await asyncio.wait_for(answer, seconds))
        except TimeoutError:
            raise CallFailed("no answer in time", definite=False) from None

    def close(self) -> None:
        """Cuts the connection; what is under way fails."""
        self.usable = False
        if self._transport is not None:
            self._transport.abort()
