"""Exactly-once writes: repeated until they are answered, carried out once (raftkv.v1 Sessions).

A client with `exactly_once` opens a session with its first write and keeps it as it keeps
leases. Each write is numbered; one whose outcome is unknown is repeated, at other endpoints too,
until its deadline. What remains unknown then is an OutcomeUnknown as ever.

A session that is lost (this client was cut off for longer than its TTL) is replaced for the
writes that follow. A write of the old one that was never sent before is begun anew in the new
one; one that may have been carried out is not: nobody knows its answer any more.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

from google.protobuf.message import Message

from raftkv.client.aio.runtime import Mutex, sleep
from raftkv.client.errors import (
    ClientError,
    ExactlyOnceUnsupported,
    OutcomeUnknown,
    SessionLost,
    TooManyRequests,
    Unsupported,
)
from raftkv.client.kept import Kept
from raftkv.client.lifetime import now
from raftkv.client.once import Sequences, Write, is_answer
from raftkv.pb import rpc_pb2, v1_pb2

if TYPE_CHECKING:
    from raftkv.client.aio.connection import Connection, Question

Reply = TypeVar("Reply", bound=Message)

OPEN: Final = "/raftkv.v1.Sessions/OpenSession"
REVOKE: Final = "/etcdserverpb.Lease/LeaseRevoke"
TTL_SECONDS: Final = 60
CLOSE_SECONDS: Final = 0.5
PAUSE_SECONDS: Final = 0.002


class Sessions:
    """The session of one client: opened when first needed, replaced when it is lost."""

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection
        self._opening = Mutex()
        self._sequences: Sequences | None = None
        self._kept: Kept | None = None

    async def write(self, question: "Question[Reply]") -> Reply:
        """One write. Errors: ClientError; OutcomeUnknown if its time is over without an answer."""
        while True:
            sequences = await self._session(question.left)
            write = await self._begin(sequences, question)
            try:
                return await self._connection.ask(question, write)
            except ClientError as error:
                lost = isinstance(error, OutcomeUnknown) and isinstance(error.reason, SessionLost)
                if not lost or write.may_be_done:
                    raise _judged(error, write) from error
                self._drop(sequences)
            finally:
                sequences.end(write)

    async def close(self) -> None:
        """Ends the session at the server, if that is quickly done."""
        kept, self._kept, self._sequences = self._kept, None, None
        if kept is None or not kept.alive:
            return
        self._connection.keeper.release(kept)
        with suppress(ClientError):  # it will run out
            await self._connection.call(
                REVOKE,
                rpc_pb2.LeaseRevokeRequest(ID=kept.id),
                rpc_pb2.LeaseRevokeResponse,
                write=False,  # may be repeated; and it is in no session itself
                timeout=CLOSE_SECONDS,
            )

    async def _session(self, seconds: float) -> Sequences:
        """The present session, or a new one. Errors: ExactlyOnceUnsupported, ClientError."""
        if self._is_alive and self._sequences is not None:
            return self._sequences
        async with self._opening:
            if self._is_alive and self._sequences is not None:
                return self._sequences
            sent = now()
            try:
                answer = await self._connection.call(
                    OPEN,
                    v1_pb2.OpenSessionRequest(ttl=TTL_SECONDS),
                    v1_pb2.OpenSessionResponse,
                    write=False,  # one too many runs out by itself
                    timeout=seconds,
                )
            except Unsupported as error:
                raise ExactlyOnceUnsupported(
                    "this server keeps no sessions, so it cannot carry out repeated writes once: "
                    "use a client without exactly_once",
                    code=error.code,
                    endpoint=error.endpoint,
                ) from error
            self._kept = self._connection.keeper.keep(answer.session, answer.ttl, sent)
            self._sequences = Sequences(answer.session)
            return self._sequences

    @property
    def _is_alive(self) -> bool:
        return self._kept is not None and self._kept.alive

    async def _begin(self, sequences: Sequences, question: "Question[Reply]") -> Write:
        """The next number, as soon as there is room. Errors: TooManyRequests."""
        while True:
            write = sequences.begin()
            if write is not None:
                return write
            if question.left <= 0:
                raise TooManyRequests("too many writes of this client are without an answer")
            await sleep(PAUSE_SECONDS)

    def _drop(self, sequences: Sequences) -> None:
        if self._sequences is sequences:
            kept, self._kept, self._sequences = self._kept, None, None
            if kept is not None:
                self._connection.keeper.release(kept, "the server does not know the session")


def _judged(error: ClientError, write: Write) -> ClientError:
    """What the write's last error tells about the write."""
    if not write.may_be_done or isinstance(error, OutcomeUnknown) or is_answer(error):
        return error
    return OutcomeUnknown(error)
