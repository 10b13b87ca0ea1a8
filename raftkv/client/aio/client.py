"""The client: everything that can be asked of a cluster, as methods of one object.

    async with Client("127.0.0.1:2379") as client:
        await client.put("greeting", "hello")
        print((await client.get("greeting")).text)

What happens when something goes wrong is written where it is decided: `raftkv.client.errors`
(what an error lets you conclude), `raftkv.client.retrying` (what is asked again, and where),
`raftkv.client.endpoints` (which endpoint is asked).
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import Message

from raftkv.client.aio.cluster import ClusterVerbs
from raftkv.client.aio.connection import Connection
from raftkv.client.aio.conversation import Conversation
from raftkv.client.aio.factories import RecipeFactories
from raftkv.client.aio.kv import KeyValueVerbs
from raftkv.client.aio.lease import LeaseKeeping
from raftkv.client.aio.leases import LeaseVerbs
from raftkv.client.aio.pages import Pages
from raftkv.client.aio.runtime import finish
from raftkv.client.aio.watch import WatchVerbs
from raftkv.client.keys import Key, Namespace, encoded
from raftkv.client.settings import TLS, ChannelOptions, Settings, parsed

Reply = TypeVar("Reply", bound=Message)


class Client(KeyValueVerbs, WatchVerbs, LeaseKeeping, LeaseVerbs, ClusterVerbs, RecipeFactories):
    """A client of raftkv or etcd. Nothing is dialled before the first call.

    endpoints: "host:port,host:port" or a sequence; http:// and https:// may stand in front.
    timeout: seconds for a call that names none, over all its attempts. dial_timeout: seconds
    for one connect, and how long a call looks for an endpoint that can be reached at all.
    tls, user, password: see TLS; a token is got and renewed by itself. namespace: a prefix of
    all keys, which no result shows. require_leader: a server that knows no leader is left.
    keepalive_time, keepalive_timeout: seconds; a connection with calls under way on which
    nothing comes is probed, and closed if the probe has no answer. channel_options,
    interceptors: grpcio's, handed through. exactly_once: writes whose outcome is unknown are
    repeated and carried out once (raftkv only). prefer_leader: ask the leader first, where it
    is among the endpoints.
    Errors: BadSettings.

    A client may be used by many threads (synchronous) or tasks of one event loop (asyncio). It
    cannot be used in a forked child: there every call raises ForkedClient; make a new one.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str] = "127.0.0.1:2379",
        *,
        timeout: float = 5.0,
        dial_timeout: float = 2.0,
        tls: TLS | None = None,
        user: str | None = None,
        password: str | None = None,
        namespace: Key = b"",
        require_leader: bool = True,
        keepalive_time: float = 2.0,
        keepalive_timeout: float = 2.0,
        channel_options: ChannelOptions = (),
        interceptors: Sequence[object] = (),
        exactly_once: bool = False,
        prefer_leader: bool = False,
    ) -> None:
        self._namespace = Namespace(encoded(namespace))
        self._connection = Connection(
            Settings(
                endpoints=parsed(endpoints, tls),
                timeout=timeout,
                dial_timeout=dial_timeout,
                tls=tls,
                user=user or "",
                password=password or "",
                namespace=self._namespace,
                require_leader=require_leader,
                keepalive_time=keepalive_time,
                keepalive_timeout=keepalive_timeout,
                channel_options=channel_options,
                interceptors=interceptors,
                exactly_once=exactly_once,
                prefer_leader=prefer_leader,
            )
        )
        self._pages = Pages(self._connection)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints, as they were given."""
        return tuple(each.text for each in self._connection.settings.endpoints)

    @property
    def namespace(self) -> bytes:
        """The prefix of all keys."""
        return self._namespace.prefix

    @property
    def timeout(self) -> float:
        """Seconds for a call that names none."""
        return self._connection.settings.timeout

    @property
    def revision(self) -> int:
        """The highest revision of the store that any answer has told of; 0 at first."""
        return self._connection.revision

    async def call(
        self,
        path: str,
        request: Message,
        reply: type[Reply],
        *,
        write: bool,
        timeout: float | None = None,
    ) -> Reply:
        """Any unary call of the servers, with the same care as the verbs.

        path: "/package.Service/Method". request: its message. reply: the class of the answer.
        write: it may change something. timeout: seconds, None = the client's.
        Keys in messages are the server's: the namespace is not put before them.
        Errors: ClientError; OutcomeUnknown only if `write`.
        """
        return await self._connection.call(path, request, reply, write=write, timeout=timeout)

    async def stream(self, path: str, reply: type[Reply]) -> Conversation[Reply]:
        """Any bidirectional call of the servers, as it is: nothing is repeated or resumed.

        path: "/package.Service/Method". reply: the class of the answers. It goes to the endpoint
        that is asked first now, and whether that answers is heard by the first `read`.
        Errors: ClientError, of the login.
        """
        place, stream = await self._connection.stream(path, reply)
        return Conversation(self._connection, place, stream)

    async def close(self) -> None:
        """Ends what runs and closes the connections; calls under way raise ClientClosed.

        Also when its caller is cancelled meanwhile: nobody would end the keeping of leases then.
        """
        await finish(self._connection.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
