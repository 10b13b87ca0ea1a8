"""A further call on a link, beside its stream of Raft messages: pieces out, answers in, in order.

A call belongs to the one connection that it was opened on. When that breaks, the call has
failed for good, although the link may be connected again a moment later.
"""

import asyncio
from collections import deque

from raftkv.wire.h2_client import ClientConnection


class Call:
    """One call; see the module's docstring."""

    def __init__(
        self,
        transport: asyncio.Transport,
        connection: ClientConnection,
        path: bytes,
        metadata: list[tuple[bytes, bytes]],
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._answers: deque[bytes] = deque()
        self._failure = ""  # why no more answers come
        self._waiter: asyncio.Future[None] | None = None
        self.stream = connection.request(path, metadata=metadata)

    # --- for the caller -----------------------------------------------------

    def send(self, message: bytes) -> None:
        """Queues a piece and writes what the connection may write. Raises ConnectionError."""
        self._check()
        self._connection.send(self.stream, message)
        self.flush()

    def half_close(self) -> None:
        """No more pieces follow. Raises ConnectionError."""
        self._check()
        self._connection.half_close(self.stream)
        self.flush()

    def cancel(self) -> None:
        """Gives the call up, unless it has ended."""
        if not self._failure and not self._connection.closing:
            self._failure = "given up"
            self._connection.reset(self.stream)
            self.flush()

    def flush(self) -> None:
        """Writes what the connection has queued."""
        output = self._connection.take_output()
        if output and not self._transport.is_closing():
            self._transport.write(output)

    def queued_bytes(self) -> int:
        """Bytes of the whole connection that the kernel has not taken yet. ConnectionError."""
        self._check()
        return self._connection.queued_total() + self._transport.get_write_buffer_size()

    def take(self) -> bytes | None:
        """The next answer, if it is already there."""
        return self._answers.popleft() if self._answers else None

    async def answer(self, seconds: float) -> bytes:
        """The next answer. Raises TimeoutError, ConnectionError."""
        if not self._answers:
            self._check()
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await asyncio.wait_for(self._waiter, seconds)
            except TimeoutError:
                raise TimeoutError(f"no answer for {seconds:g} s") from None
            finally:
                self._waiter = None
        if not self._answers:
            self._check()
        return self._answers.popleft()

    def _check(self) -> None:
        if self._failure:
            raise ConnectionError(self._failure)

    # --- for the link -------------------------------------------------------

    def answered(self, message: bytes) -> None:
        """An answer arrived."""
        self._answers.append(message)
        self._rouse()

    def ended(self, reason: str) -> None:
        """No more answers come."""
        self._failure = reason
        self._rouse()

    def _rouse(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
