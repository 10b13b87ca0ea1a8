"""How a client reaches its servers: endpoints, TLS, times. Pure but for reading PEM files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raftkv.client.errors import BadSettings
from raftkv.client.keys import Namespace

Pem = bytes | str | os.PathLike[str]
ChannelOptions = Sequence[tuple[str, int | str]]

_AS_WRITTEN: Final = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:")  # grpcio's own schemes


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS to the servers. A `bytes` is PEM text, a `str` or a path names a file with it.

    ca: whom to trust; none = the roots that grpcio brings along. cert, key: this client's own,
    both or neither. server_name: what the server's certificate must be for, if that is not the
    endpoint's host name.
    """

    ca: Pem | None = None
    cert: Pem | None = None
    key: Pem | None = field(default=None, repr=False)
    server_name: str = ""

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.key is None):
            raise BadSettings("TLS: give both cert and key, or neither")


def pem(given: Pem | None) -> bytes | None:
    """The PEM text itself. Errors: BadSettings if a file cannot be read."""
    if given is None or isinstance(given, bytes):
        return given
    try:
        return Path(given).read_bytes()
    except OSError as error:
        raise BadSettings(f"TLS: cannot read {error.filename}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server address. text: as the user wrote it. address: what grpcio dials."""

    text: str
    address: str
    secure: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """All that a connection goes by. Times in seconds.

    timeout: of a call that names none. dial_timeout: of one connect, and how long a call looks
    for an endpoint that can be reached at all. require_leader: a server that knows no leader
    must say so at once. keepalive_time, keepalive_timeout: a connection with calls under way on
    which nothing comes is asked, and is closed if it does not answer. prefer_leader: go to the
    endpoint that leads, where the members tell their client URLs.
    """

    endpoints: tuple[Endpoint, ...]
    timeout: float = 5.0
    dial_timeout: float = 2.0
    tls: TLS | None = None
    user: str = ""
    password: str = field(default="", repr=False)
    namespace: Namespace = field(default_factory=Namespace)
    require_leader: bool = True
    keepalive_time: float = 2.0
    keepalive_timeout: float = 2.0
    channel_options: ChannelOptions = ()
    interceptors: Sequence[object] = ()
    exactly_once: bool = False
    prefer_leader: bool = False

    def __post_init__(self) -> None:
        times = (self.timeout, self.dial_timeout, self.keepalive_time, self.keepalive_timeout)
        if min(times) <= 0:
            raise BadSettings("timeouts must be above 0 seconds")
        if self.password and not self.user:
            raise BadSettings("a password without a user")


def parsed(endpoints: str | Sequence[str], tls: TLS | None) -> tuple[Endpoint, ...]:
    """Endpoints from "host:port,host:port" or a sequence of such. Errors: BadSettings.

    Each is host:port, http://host:port, https://host:port, unix:path or another of grpcio's
    names (dns://server/host:port). Without http or https TLS is used iff `tls` is given.
    """
    listed = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
    found = tuple(_endpoint(text.strip(), tls) for text in listed if text.strip())
    if not found:
        raise BadSettings("no endpoint was given")
    return found


def _endpoint(text: str, tls: TLS | None) -> Endpoint:
    if text.startswith(_AS_WRITTEN):
        return Endpoint(text, text, tls is not None)
    scheme, separator, address = text.partition("://")
    if not separator:
        scheme, address = ("http" if tls is None else "https"), text
    address = address.rstrip("/")
    if scheme not in ("http", "https"):
        raise BadSettings(f"endpoint {text}: use host:port, http://, https:// or unix:")
    if scheme == "http" and tls is not None:
        raise BadSettings(f"endpoint {text}: TLS is set up, but http:// goes without")
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536 or "/" in host:
        raise BadSettings(f"endpoint {text}: not host:port")
    return Endpoint(text, address, scheme == "https")
