"""What one server process is told, as one frozen value.

Names, meanings and defaults are etcd's (`etcd --help`); `raftkv.cli.flags` makes
it from text. Whatever is wrong raises ConfigError with the flag, the reason and
the remedy.

Two checks wait until they apply: `check_bootstrap` compares the initial cluster
with this member's own URLs, which only a first start uses; a restart takes its
members from its data directory and ignores --initial-cluster, as in etcd.

Identities follow etcd: a member's id is a hash of its peer URLs and the token,
the cluster's id a hash of its first members' ids, so all members of a new
cluster compute the same ids without talking to each other.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from raftkv import limits
from raftkv.errors import ConfigError

DEFAULT_QUOTA_BYTES: Final = 2 * 1024 * limits.MIB
_LOOPBACK_HOSTS: Final = frozenset({"localhost", "127.0.0.1", "::1"})


class Url(NamedTuple):
    """A checked http or https URL with a port and no path. `host` has no brackets."""

    scheme: str
    host: str
    port: int

    @property
    def secure(self) -> bool:
        """True for https."""
        return self.scheme == "https"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """One side's certificates; every path is readable when this exists.

    ca_file: signs the other side's certificates; None: the system's CAs.
    require_client_cert: refuse a client without a certificate signed by `ca_file`.
    """

    cert_file: Path
    key_file: Path
    ca_file: Path | None
    require_client_cert: bool


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Everything one server process is told. The defaults are a single node on localhost.

    initial_cluster: member name -> its peer URLs, as text, in the order given; left empty
        it becomes this member alone, as etcd's default.
    quota_backend_bytes: NOSPACE above this size; 0: no limit (etcd's negative values).
    listen_client_http_urls: for HTTP alone, which the client URLs then do not serve; none: they do.
    listen_metrics_urls: for metrics and health alone, besides the client URLs.
    enable_pprof: serve profiles of the process below /debug/pprof/.
    cors: origins whose scripts may use HTTP, "*": all. host_whitelist: hosts that may be asked for
        without TLS, "*": all.
    auto_compaction_retention_seconds, _revisions: at most one is not 0; both 0: off.
    strict_reconfig_check: refuse changes of members that would leave no quorum of those that
        answer. max_learners: at a time.
    auto_promote: as a learner, ask for the vote when caught up. rejoin: with an empty directory,
        have the cluster replace the member of these peer URLs by this one, as a learner that asks.
    force_new_cluster: begin a cluster of this member alone with what its directory holds.
        force_new_cluster_bump: added to the revision then.
    initial_corrupt_check: have the rows of all members compared after each start.
    corrupt_check_seconds: between two comparisons of all rows, 0: none.
    state_check_seconds: between two comparisons of the rolling state hashes, 0: none.
    watch_progress_notify_interval_seconds: between bookmarks of watches that have no events.
    metrics: basic, or extensive: how long calls take is measured too.
    log_outputs: default, stderr, stdout or paths. warning_apply_seconds, warning_request_seconds:
        what takes longer is logged; 0: nothing.
    client_tls, peer_tls: None without certificates; needed by https listen URLs.
    """

    name: str = "default"
    data_dir: Path = Path("default.raftkv")
    listen_client_urls: tuple[Url, ...] = (Url("http", "localhost", 2379),)
    advertise_client_urls: tuple[Url, ...] = (Url("http", "localhost", 2379),)
    listen_peer_urls: tuple[Url, ...] = (Url("http", "localhost", 2380),)
    initial_advertise_peer_urls: tuple[Url, ...] = (Url("http", "localhost", 2380),)
    initial_cluster: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    initial_cluster_state: str = "new"
    initial_cluster_token: str = "etcd-cluster"
    heartbeat_interval_ms: int = 100
    election_timeout_ms: int = 1000
    snapshot_count: int = 100_000
    max_request_bytes: int = limits.MAX_REQUEST_BYTES
    max_txn_ops: int = limits.MAX_TXN_OPS
    max_concurrent_streams: int = limits.MAX_CONCURRENT_STREAMS
    grpc_keepalive_min_time_seconds: float = 5.0
    grpc_keepalive_interval_seconds: float = 7200.0
    grpc_keepalive_timeout_seconds: float = 20.0
    listen_client_http_urls: tuple[Url, ...] = ()
    listen_metrics_urls: tuple[Url, ...] = ()
    enable_grpc_gateway: bool = True
    enable_pprof: bool = False
    cors: tuple[str, ...] = ()
    host_whitelist: tuple[str, ...] = ("*",)
    client_tls: TlsFiles | None = None
    peer_tls: TlsFiles | None = None
    quota_backend_bytes: int = DEFAULT_QUOTA_BYTES
    auto_compaction_retention_seconds: float = 0.0
    auto_compaction_retention_revisions: int = 0
    initial_corrupt_check: bool = False
    corrupt_check_seconds: float = 0.0
    state_check_seconds: float = 10.0
    watch_progress_notify_interval_seconds: float = 600.0
    strict_reconfig_check: bool = True
    max_learners: int = limits.MAX_LEARNERS
    auto_promote: bool = False
    rejoin: bool = False
    force_new_cluster: bool = False
    force_new_cluster_bump: int = 1_000_000_000
    metrics: str = "basic"
    log_level: str = "info"
    log_format: str = "json"
    log_outputs: tuple[str, ...] = ("default",)
    warning_apply_seconds: float = 0.1
    warning_request_seconds: float = 0.3

    def __post_init__(self) -> None:
        if not self.initial_cluster:
            urls = tuple(str(url) for url in self.initial_advertise_peer_urls)
            object.__setattr__(self, "initial_cluster", {self.name: urls})

    @property
    def cluster_id(self) -> int:
        """The cluster's id, if this configuration bootstraps it."""
        return cluster_id(self.initial_cluster, self.initial_cluster_token)

    @property
    def member_id(self) -> int:
        """This member's id, if this configuration bootstraps the cluster."""
        return member_id(self.initial_cluster[self.name], self.initial_cluster_token)


# --- identities ---------------------------------------------------------------


def _digest_u64(seed: bytes) -> int:
    """The first 8 bytes of SHA-1, never 0 (0 means "nobody")."""
    digest = hashlib.sha1(seed, usedforsecurity=False).digest()
    value = int.from_bytes(digest[:8], "big")
    return value or _digest_u64(digest)


def member_id(peer_urls: Iterable[str], token: str, salt: str = "") -> int:
    """A member's id: the same on every node and in etcd for the same input.

    salt: empty for members of the initial cluster; for one added later something
        that differs each time, so that a removed member's id never comes back.
    Source: etcd server/etcdserver/api/membership/member.go, NewMember.
    """
    return _digest_u64(("".join(sorted(peer_urls)) + token + salt).encode())


def cluster_id(initial_cluster: Mapping[str, Iterable[str]], token: str) -> int:
    """The cluster's id: a hash of its first members' ids in ascending order."""
    ids = sorted(member_id(urls, token) for urls in initial_cluster.values())
    return _digest_u64(b"".join(one.to_bytes(8, "big") for one in ids))


# --- parsing of single values ---------------------------------------------------

_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_SECONDS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}


def parse_duration_seconds(text: str) -> float:
    """A duration as Go writes it ("300ms", "1.5h", "1h30m", "0"), in seconds.

    Errors: ValueError with the reason.
    """
    sign = -1.0 if text.startswith("-") else 1.0
    body = text[1:] if text[:1] in ("-", "+") else text
    if body == "0":
        return 0.0
    total, end = 0.0, 0
    for match in _DURATION.finditer(body):
        if match.start() != end:
            break
        total += float(match[1]) * _UNIT_SECONDS[match[2]]
        end = match.end()
    if not body or end != len(body):
        raise ValueError(f"{text!r} is not a duration; write a number with a unit, as 5s or 1h30m")
    return sign * total


def parse_url(text: str) -> Url:
    """A URL that a member listens on or tells others. Errors: ValueError with the reason."""
    parts = urlsplit(text)
    if parts.scheme in ("unix", "unixs"):
        raise ValueError(f"{text!r}: unix sockets are not offered; use http:// or https://")
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"{text!r}: URL scheme must be http or https, as http://127.0.0.1:2379")
    if parts.path or parts.query or parts.fragment:
        raise ValueError(f"{text!r}: URL must not contain a path")
    if "@" in parts.netloc:
        raise ValueError(f"{text!r}: URL must not contain a user")
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if not parts.hostname or port is None:
        raise ValueError(f"{text!r}: URL address does not have the form host:port")
    return Url(parts.scheme, parts.hostname, port)


def parse_urls(flag: str, text: str) -> tuple[Url, ...]:
    """Comma-separated URLs of one flag, each once. Errors: ConfigError."""
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise ConfigError(f"--{flag}: needs at least one URL, as http://127.0.0.1:2379")
    try:
        urls = tuple(parse_url(piece) for piece in pieces)
    except ValueError as error:
        raise ConfigError(f"--{flag}: {error}") from None
    if len(set(urls)) != len(urls):
        raise ConfigError(f"--{flag}: {text!r} has a URL twice; name each once")
    return urls


def parse_initial_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """`name=peerURL,...` as a map from name to peer URLs; a name may stand several times.

    Errors: ConfigError for an empty name, a bad URL or a URL given to two members.
    """
    members: dict[str, tuple[str, ...]] = {}
    seen: dict[Url, str] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        name, equals, url_text = piece.partition("=")
        if not equals or not name:
            raise ConfigError(
                f"--initial-cluster: {piece!r} is not name=URL; write node1=http://10.0.0.1:2380"
            )
        try:
            url = parse_url(url_text)
        except ValueError as error:
            raise ConfigError(f"--initial-cluster: {error}") from None
        if url in seen:
            raise ConfigError(f"--initial-cluster: {url} is given to {seen[url]!r} and {name!r}")
        seen[url] = name
        members[name] = (*members.get(name, ()), str(url))
    if not members:
        raise ConfigError("--initial-cluster: names no member; write node1=http://10.0.0.1:2380")
    return members


# --- checks that wait ---------------------------------------------------------


def check_bootstrap(config: ServerConfig) -> None:
    """What only a first start must meet: this member is in its own initial cluster.

    Errors: ConfigError when the name is missing there or its URLs differ from
    --initial-advertise-peer-urls (etcd server/config/config.go, VerifyBootstrap).
    """
    listed = config.initial_cluster.get(config.name)
    if listed is None:
        names = ", ".join(config.initial_cluster)
        raise ConfigError(
            f"--initial-cluster: has no {config.name!r}, only {names}; "
            f"set --name to one of them or add {config.name}=URL"
        )
    advertised = {str(url) for url in config.initial_advertise_peer_urls}
    missing = sorted(advertised - set(listed))
    surplus = sorted(set(listed) - advertised)
    if missing or surplus:
        difference = (
            f"{missing[0]} is missing there" if missing else f"{surplus[0]} is not advertised"
        )
        raise ConfigError(
            f"--initial-cluster: gives {config.name} {','.join(listed)}, but "
            f"--initial-advertise-peer-urls is {','.join(sorted(advertised))}: {difference}"
        )


def warnings(config: ServerConfig) -> list[str]:
    """What works but is probably not meant, one sentence each."""
    found = []
    for side, tls, listen in (
        ("client", config.client_tls, config.listen_client_urls),
        ("peer", config.peer_tls, config.listen_peer_urls),
    ):
        plain = [str(url) for url in listen if not url.secure]
        if tls is not None and plain:
            found.append(f"{side} URL {plain[0]} is http: its certificates are not used there")
    if config.peer_tls is None or not config.peer_tls.require_client_cert:
        open_to_all = [
            str(url) for url in config.listen_peer_urls if url.host not in _LOOPBACK_HOSTS
        ]
        if open_to_all:
            found.append(
                f"anyone who reaches {open_to_all[0]} can act as a peer: "
                "set --peer-client-cert-auth with certificates, or keep the network private"
            )
    return found
