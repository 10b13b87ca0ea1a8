"""raftctl's calls: several endpoints, deadlines, and never a write twice.

The endpoints are tried in order. A call moves on to the next endpoint when it
surely was not carried out: no connection came about, or the server said so
("no leader", "not supported for learner"). A read moves on whenever its server
is unavailable, or has used half of the time that is left without an answer. A
write whose connection broke, or that has no answer, stays where it is: it may
have been applied, so it ends with an error that says so (errors.Outcome.UNKNOWN).

With several endpoints a server that knows no leader is asked to say so at once
(etcd's "hasleader"), which no waiting in a minority would end. If all say so,
the rounds go on, for an election may be under way.

When no endpoint can be reached at all, the rounds go on until the dial timeout,
so that a command typed while a server starts still gets through. grpcio is
imported with the first channel; its own log is off.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from raftkv.cli.exits import BAD_ARGUMENTS, BAD_CONNECTION, ERROR, CtlError

if TYPE_CHECKING:
    import grpc
    from google.protobuf.message import Message

Reply = TypeVar("Reply", bound="Message")

ROUND_PAUSE_SECONDS: Final = 0.1
NO_HOST_TEXTS: Final = ("DNS resolution failed", "errors resolving")  # grpcio's old and new words
NOT_SENT_TEXTS: Final = ("failed to connect to all addresses", *NO_HOST_TEXTS)
NO_LEADER_TEXT: Final = "etcdserver: no leader"
NOT_DONE_TEXTS: Final = frozenset({NO_LEADER_TEXT, "etcdserver: rpc not supported for learner"})
DEADLINE_TEXT: Final = "context deadline exceeded"
OUTCOME_UNKNOWN_TEXT: Final = "it may or may not have been carried out; check before you repeat it"


@dataclass(frozen=True, slots=True)
class Target:
    """How to reach the servers: the global options of raftctl.

    endpoints: host:port, http://host:port or https://host:port.
    ca_file, cert_file, key_file: PEM files, or empty.
    skip_verify: trust whatever certificate the server shows (its first one is pinned).
    secure: TLS also for endpoints without a scheme.
    """

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    command_timeout_seconds: float = 5.0
    dial_timeout_seconds: float = 2.0
    keepalive_time_seconds: float = 2.0
    keepalive_timeout_seconds: float = 6.0
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    skip_verify: bool = False
    secure: bool = False
    user: str = ""
    password: str = ""


class CallFailed(CtlError):
    """A call that no endpoint answered with success. `text` is what etcdctl would print."""

    def __init__(self, text: str) -> None:
        super().__init__(text, ERROR)


@dataclass(slots=True)
class _Failures:
    """A round in which no endpoint answered.

    reasons: by endpoint. last_text: of the last one that was reached; empty: none was.
    leaderless: all that were reached said that they know no leader (yet).
    """

    reasons: dict[str, str] = field(default_factory=dict)
    last_text: str = ""
    leaderless: bool = False


@dataclass(slots=True)
class Connection:
    """Channels to the endpoints of one Target, opened when first used. Close it after use."""

    target: Target
    _channels: "dict[str, grpc.Channel]" = field(default_factory=dict)
    _token: str = ""

    def read(self, method: str, request: "Message", reply: type[Reply]) -> Reply:
        """Call a method that changes nothing; it may be asked of several endpoints.

        method: "KV/Range" for /etcdserverpb.KV/Range, or a whole path. Errors: CallFailed.
        """
        return self._call(method, request, reply, repeatable=True)

    def write(self, method: str, request: "Message", reply: type[Reply]) -> Reply:
        """Call a method at most once. Errors: CallFailed, saying if the outcome is unknown."""
        return self._call(method, request, reply, repeatable=False)

    def only(self, endpoint: str) -> "Connection":
        """A connection to this endpoint alone, sharing the login. Close it as well."""
        return Connection(replace(self.target, endpoints=(endpoint,)), _token=self._token)

    def stream(
        self,
        endpoint: str,
        path: str,
        requests: "Iterator[Message]",
        reply: type[Reply],
        *,
        wants_leader: bool = True,
    ) -> "grpc.Call":
        """A streaming call of one endpoint; to be iterated for its answers.

        path: "/package.Service/Method". It has no deadline. wants_leader: a cut-off server ends
        it. Errors: CtlError for a login; grpc.RpcError while it is iterated.
        """
        if self.target.user and not self._token:
            self._login()
        metadata = [("token", self._token)] if self._token else []
        if wants_leader:
            metadata.append(("hasleader", "true"))
        stub = self._channel(endpoint).stream_stream(
            path,
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=reply.FromString,
        )
        call: grpc.Call = stub(requests, metadata=metadata)
        return call

    def begin(
        self,
        endpoint: str,
        method: str,
        request: "Message",
        reply: type[Reply],
        timeout_seconds: float,
    ) -> "grpc.Future":
        """Starts one call of one endpoint; its outcome is the caller's to judge.

        method: as for `read`. Errors: CtlError for a login or an endpoint that makes no sense.
        """
        if self.target.user and not self._token:
            self._login()
        metadata = [("token", self._token)] if self._token else []
        stub = self._channel(endpoint).unary_unary(
            _path(method),
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        return stub.future(request, timeout=timeout_seconds, metadata=metadata)

    def close(self) -> None:
        """Close every channel."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    # --- one call over all endpoints --------------------------------------------

    def _call(self, method: str, request: "Message", reply: type[Reply], repeatable: bool) -> Reply:
        if self.target.user and not self._token:
            self._login()
        started = time.monotonic()
        deadline = started + self.target.command_timeout_seconds
        give_up = started + min(
            self.target.dial_timeout_seconds, self.target.command_timeout_seconds
        )
        while True:
            done = self._round(method, request, reply, repeatable, deadline)
            if not isinstance(done, _Failures):
                return done
            if done.last_text and not done.leaderless:
                raise CallFailed(done.last_text)
            if time.monotonic() + ROUND_PAUSE_SECONDS >= (deadline if done.leaderless else give_up):
                raise CallFailed(done.last_text or DEADLINE_TEXT + _why(done.reasons))
            time.sleep(ROUND_PAUSE_SECONDS)

    def _round(
        self,
        method: str,
        request: "Message",
        reply: type[Reply],
        repeatable: bool,
        deadline: float,
    ) -> "Reply | _Failures":
        """Asks the endpoints in order until one answers. Errors: CallFailed, which is final."""
        import grpc

        failures = _Failures()
        several = len(self.target.endpoints) > 1
        leading = several and not getattr(request, "serializable", False)
        for endpoint in self.target.endpoints:
            left = deadline - time.monotonic()
            if left <= 0:
                raise CallFailed(failures.last_text or DEADLINE_TEXT + _why(failures.reasons))
            is_last = endpoint == self.target.endpoints[-1]
            share = left if is_last or not repeatable else left / 2
            try:
                return self._call_one(endpoint, method, request, reply, share, leading)
            except grpc.RpcError as error:
                text, moves_on = _judge(error, repeatable, endpoint)
                silent = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
                if not moves_on and not (silent and repeatable and not is_last):
                    raise CallFailed(text) from None
                failures.reasons[endpoint] = short_reason(error)
                if not _was_not_sent(error):
                    agrees = failures.leaderless or not failures.last_text
                    failures.leaderless = leading and agrees and text == NO_LEADER_TEXT
                    failures.last_text = text
        return failures

    def _call_one(
        self,
        endpoint: str,
        method: str,
        request: "Message",
        reply: type[Reply],
        timeout_seconds: float,
        leading: bool,
    ) -> Reply:
        metadata = [("token", self._token)] if self._token else []
        if leading:
            metadata.append(("hasleader", "true"))
        stub = self._channel(endpoint).unary_unary(
            _path(method),
            request_serializer=type(request).SerializeToString,
            response_deserializer=reply.FromString,
        )
        answer: Reply = stub(request, timeout=timeout_seconds, metadata=metadata)
        return answer

    def _login(self) -> None:
        from raftkv.pb import rpc_pb2

        request = rpc_pb2.AuthenticateRequest(name=self.target.user, password=self.target.password)
        anonymous = Connection(replace(self.target, user=""), self._channels)
        try:
            answer = anonymous.read("Auth/Authenticate", request, rpc_pb2.AuthenticateResponse)
        except CallFailed as error:
            raise CtlError(error.text, BAD_CONNECTION) from None
        self._token = answer.token

    # --- channels ---------------------------------------------------------------

    def _channel(self, endpoint: str) -> "grpc.Channel":
        if endpoint not in self._channels:
            self._channels[endpoint] = self._open(endpoint)
        return self._channels[endpoint]

    def _open(self, endpoint: str) -> "grpc.Channel":
        import grpc

        scheme, separator, address = endpoint.partition("://")
        if not separator:
            scheme, address = ("https" if self.target.secure else "http"), endpoint
        address = address.rstrip("/")
        if scheme not in ("http", "https"):
            raise CtlError(
                f"endpoint {endpoint}: use host:port, http:// or https://", BAD_ARGUMENTS
            )
        milliseconds = int(self.target.dial_timeout_seconds * 1000)
        options: list[tuple[str, Any]] = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            ("grpc.enable_http_proxy", 0),
            ("grpc.enable_retries", 0),  # a retry below us could write twice
            ("grpc.min_reconnect_backoff_ms", milliseconds),  # also the time for one connect
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", max(milliseconds, 100)),
            ("grpc.keepalive_time_ms", int(self.target.keepalive_time_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.target.keepalive_timeout_seconds * 1000)),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        if scheme == "http":
            return grpc.insecure_channel(address, options)
        ca, name = None, ""
        if self.target.skip_verify:
            ca, name = _shown_certificate(address, self.target)
            options.append(("grpc.ssl_target_name_override", name))
        elif self.target.ca_file:
            ca = _read(self.target.ca_file)
        key = _read(self.target.key_file) if self.target.key_file else None
        cert = _read(self.target.cert_file) if self.target.cert_file else None
        credentials = grpc.ssl_channel_credentials(ca, key, cert)
        return grpc.secure_channel(address, credentials, options)


@contextmanager
def connected(target: Target) -> Iterator[Connection]:
    """A Connection that is closed at the end."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    connection = Connection(target)
    try:
        yield connection
    finally:
        connection.close()


def _path(method: str) -> str:
    return method if method.startswith("/") else f"/etcdserverpb.{method}"


# --- what an error means ------------------------------------------------------


def _was_not_sent(error: "grpc.RpcError") -> bool:
    import grpc

    return error.code() == grpc.StatusCode.UNAVAILABLE and (error.details() or "").startswith(
        NOT_SENT_TEXTS
    )


def _judge(error: "grpc.RpcError", repeatable: bool, endpoint: str) -> tuple[str, bool]:
    """(what to print, may the next endpoint be asked)."""
    import grpc

    code, details = error.code(), error.details() or ""
    if _was_not_sent(error) or details in NOT_DONE_TEXTS:
        return details, True
    if details.startswith("etcdserver: "):
        return details, repeatable and code == grpc.StatusCode.UNAVAILABLE
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DEADLINE_TEXT if repeatable else f"{DEADLINE_TEXT}: {OUTCOME_UNKNOWN_TEXT}", False
    if code == grpc.StatusCode.UNAVAILABLE:
        lost = f"lost the connection to {endpoint} before its answer"
        return (lost, True) if repeatable else (f"{lost}: {OUTCOME_UNKNOWN_TEXT}", False)
    name = "".join(part.capitalize() for part in code.name.split("_"))
    return f"rpc error: code = {name} desc = {details}", False


def error_text(error: "grpc.RpcError", endpoint: str) -> str:
    """What to print about a call that changes nothing."""
    return _judge(error, repeatable=True, endpoint=endpoint)[0]


def short_reason(error: "grpc.RpcError") -> str:
    """Why an endpoint could not be reached, in a few words."""
    import grpc

    details = error.details() or error.code().name
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer"
    if details.startswith(NO_HOST_TEXTS):
        return "host name not found"
    for known in ("Connection refused", "Connection reset"):
        if known in details:
            return known.lower()
    if "andshake" in details or "SSL" in details:
        return "TLS handshake failed"
    return "no answer" if "imed out" in details or "imeout" in details else details


def _why(reasons: dict[str, str]) -> str:
    listed = ", ".join(f"{endpoint}: {reason}" for endpoint, reason in reasons.items())
    return f": no endpoint could be reached ({listed})" if listed else ""


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtlError(f"open {path}: {reason}", BAD_ARGUMENTS) from None


def _shown_certificate(address: str, target: Target) -> tuple[bytes, str]:
    """The certificate a server shows, and a host name that it is valid for.

    grpcio cannot skip verification, so --insecure-skip-tls-verify pins what the
    server shows right now. An expired certificate is refused all the same.
    """
    import socket
    import ssl

    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        if target.cert_file:
            context.load_cert_chain(target.cert_file, target.key_file or None)
        with (
            socket.create_connection((host, int(port)), target.dial_timeout_seconds) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            shown = secure.getpeercert(binary_form=True)
    except (OSError, ValueError) as error:
        raise CallFailed(f"{address}: cannot fetch its certificate: {error}") from None
    assert shown is not None, "a TLS server always shows one"
    pem = ssl.DER_cert_to_PEM_cert(shown)
    return pem.encode(), _certificate_name(pem) or host


def _certificate_name(pem: str) -> str:
    """The first DNS or IP name of a PEM certificate, or ""."""
    import ssl
    import tempfile

    with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
        file.write(pem)
        file.flush()
        decoded = ssl._ssl._test_decode_cert(file.name)  # type: ignore[attr-defined]
    for _, name in decoded.get("subjectAltName", ()):
        return str(name).replace("*", "any", 1)
    for part in decoded.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""
