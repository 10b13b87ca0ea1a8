# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A bidirectional call as it is, for what the library has no verb for.

A watch of the library goes on at other servers, a lease is renewed all by itself. A conversation
does nothing of that: it is one call at one endpoint, which ends when that server does. What is sent
is the servers' own messages, and what is read is all that they answer.

What it shares with the verbs: the channels, TLS, the login, the choice of the endpoint (one whose
conversation failed is asked later than others), and the errors.
"""

from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

import grpc
from google.protobuf.message import Message

from raftkv.client.errors import ClientClosed, ClientError, TimedOut
from raftkv.client.sync.connection import Connection
from raftkv.client.sync.runtime import Stream, finish
from raftkv.errors import Code

Reply = TypeVar("Reply", bound=Message)


class Conversation(Generic[Reply]):
    """See the module's docstring. Made by `Client.stream`; `read` is for one reader.

    endpoint: who is asked. over: the call has ended, well or not; nothing more will come.
    """

    def __init__(self, connection: Connection, place: int, stream: Stream[Reply]) -> None:
        self.endpoint: str = connection.settings.endpoints[place].text
        self.over: bool = False
        self._connection = connection
        self._place = place
        self._stream = stream
        self._answered = False
        self._closed = False

    def write(self, request: Message) -> None:
        """Sends `request` behind earlier messages. Whether that works is heard by `read`."""
        self._stream.write(request)

    def done_writing(self) -> None:
        """Tells the server that no message follows."""
        self._stream.done_writing()

    def read(self, timeout: float | None = None) -> Reply | None:
        """The next answer; None when the server has ended the call well.

        timeout: seconds, None = for ever. Errors: TimedOut (nothing is lost: ask again, unless
        `over` says that it was the server's word); ClientClosed after `close`, of the client too;
        what the call failed with.
        """
        try:
            answer = self._stream.read(timeout)
        except TimeoutError:
            raise TimedOut("nothing came in time", code=Code.DEADLINE_EXCEEDED) from None
        except grpc.RpcError as error:
            failure = self._connection.failure(error, self._place)
            if not self.over:
                self.over = True
                self._connection.broken(self._place)
                with suppress(ClientError):
                    self._connection.renew_token(failure)  # for the next one
            raise failure from error
        if answer is not None:
            if not self._answered:
                self._answered = True
                self._connection.healthy(self._place)
        elif self._closed:
            raise ClientClosed("the conversation is closed")
        else:
            self.over = True
            self._connection.check()  # the end may be the client's
        return answer

    def give_up(self) -> None:
        """Ends the call and asks this endpoint later than others: it does not answer."""
        if not self.over:
            self._connection.broken(self._place)
        self.close()

    def close(self) -> None:
        """Ends the call; who waits in `read` stops waiting. A second time: nothing."""
        self.over = self._closed = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        finish(self.close)
