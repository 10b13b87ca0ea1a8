"""grpc.health.v1.Health: SERVING for "" while the process serves."""

from collections.abc import Callable

from raftkv.errors import Code
from raftkv.pb import health_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Call, Routes
from raftkv.wire.grpc import RequestHead

_PATH = b"/grpc.health.v1.Health/"
_STATUS = health_pb2.HealthCheckResponse


class HealthService:
    """Answers for the whole server (service "") only, as etcd does.

    draining: called when the server is about to stop.
    """

    def __init__(self) -> None:
        self._serving = True
        self._suspended = False  # out of service until its state is rebuilt
        self._watchers: dict[_Watcher, None] = {}
        self.draining: list[Callable[[], None]] = []

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.unary[_PATH + b"Check"] = self.check
        routes.streams[_PATH + b"Watch"] = self.watch

    def reply_for(self, service: str) -> bytes | None:
        """The encoded answer for a service name, None if there is no such service."""
        if service:
            return None
        serving = self._serving and not self._suspended
        status = _STATUS.SERVING if serving else _STATUS.NOT_SERVING
        return _STATUS(status=status).SerializeToString()

    def check(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """Health.Check."""
        reply = self.reply_for(health_pb2.HealthCheckRequest.FromString(message).service)
        if reply is None:
            client.connection.finish(stream, Code.NOT_FOUND, "unknown service")
        else:
            client.reply(stream, reply)

    def watch(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """Health.Watch: the present status, then each change."""
        return _Watcher(self, client, stream)

    def suspend(self, out_of_service: bool) -> None:
        """This member serves nobody for now, or again. May be said twice."""
        if out_of_service != self._suspended:
            self._suspended = out_of_service
            for watcher in list(self._watchers):
                watcher.tell()

    def drain(self) -> None:
        """The server is about to stop: tells it to whoever asks or watches."""
        self._serving = False
        for watcher in list(self._watchers):
            watcher.tell()
        for listener in self.draining:
            listener()

    def add(self, watcher: "_Watcher") -> None:
        """A new watch."""
        self._watchers[watcher] = None

    def remove(self, watcher: "_Watcher") -> None:
        """A watch has ended."""
        self._watchers.pop(watcher, None)


class _Watcher:
    """One Health.Watch call."""

    def __init__(self, service: HealthService, client: ClientProtocol, stream: int) -> None:
        self._service = service
        self._client = client
        self._stream = stream
        self._name = ""

    def message(self, message: bytes) -> None:
        """The request names the service."""
        self._name = health_pb2.HealthCheckRequest.FromString(message).service
        self._service.add(self)
        self.tell()

    def tell(self) -> None:
        """Sends the present status."""
        reply = self._service.reply_for(self._name)
        if reply is None:
            reply = _STATUS(status=_STATUS.SERVICE_UNKNOWN).SerializeToString()
        self._client.connection.send(self._stream, reply)
        self._client.driver.mark_dirty(self._client)

    def half_closed(self) -> None:
        """The client sends nothing more; it goes on listening."""

    def cancelled(self) -> None:
        """The client is gone."""
        self._service.remove(self)

    def writable(self) -> None:
        """Output has drained."""
