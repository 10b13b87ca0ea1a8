"""The flags of `raftkv serve`: one table, and the way from their text to a configuration.

Names, meanings and defaults are etcd's (`etcd --help`). The command line, the
environment and a YAML file (`raftkv.cli.sources`) each give raw text per flag;
it is parsed and checked once, here.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from raftkv import limits
from raftkv.config import (
    DEFAULT_QUOTA_BYTES,
    ServerConfig,
    TlsFiles,
    Url,
    parse_duration_seconds,
    parse_initial_cluster,
    parse_urls,
)
from raftkv.errors import ConfigError

ENV_PREFIX: Final = "RAFTKV_"
MAX_ELECTION_TIMEOUT_MS: Final = 50_000
MIN_HEARTBEATS_PER_ELECTION: Final = 5
MIN_NOTIFY_SECONDS: Final = 0.1
DEFAULT_NOTIFY_SECONDS: Final = 600.0
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "panic", "fatal")
LOG_FORMATS: Final = ("json", "console")
METRICS: Final = ("basic", "extensive")


class Flag(NamedTuple):
    """One setting. `is_switch`: may stand alone on the command line, meaning true."""

    name: str
    default: str
    text: str
    is_switch: bool = False

    @property
    def env(self) -> str:
        """The environment variable of this flag."""
        return ENV_PREFIX + self.name.upper().replace("-", "_")

    @property
    def key(self) -> str:
        """The name as a Python identifier."""
        return self.name.replace("-", "_")


FLAGS: Final = (
    Flag("name", "default", "Human-readable name for this member."),
    Flag("data-dir", "", "Path to the data directory. Default: ${name}.raftkv"),
    Flag("listen-client-urls", "http://localhost:2379", "URLs to listen on for clients."),
    Flag("advertise-client-urls", "http://localhost:2379", "Client URLs to tell the cluster."),
    Flag("listen-client-http-urls", "", "URLs for HTTP; the client URLs then speak only gRPC."),
    Flag("listen-metrics-urls", "", "More URLs to serve metrics and health on."),
    Flag("enable-grpc-gateway", "true", "Serve the JSON gateway.", True),
    Flag("enable-pprof", "false", "Serve profiles of the process below /debug/pprof/.", True),
    Flag("cors", "", "Origins whose scripts may use HTTP (CORS). *: all, as etcd."),
    Flag("host-whitelist", "*", "Host names to serve HTTP for without TLS. Empty or *: all."),
    Flag("listen-peer-urls", "http://localhost:2380", "URLs to listen on for peers."),
    Flag("initial-advertise-peer-urls", "http://localhost:2380", "Peer URLs to tell the cluster."),
    Flag("initial-cluster", "", "First members: name=peerURL,... Default: this member alone."),
    Flag("initial-cluster-state", "new", "'new', or 'existing' to join a running cluster."),
    Flag("initial-cluster-token", "etcd-cluster", "Keeps clusters with equal URLs apart."),
    Flag("heartbeat-interval", "100", "Milliseconds between heartbeats."),
    Flag("election-timeout", "1000", "Milliseconds without a leader before an election."),
    Flag("snapshot-count", "100000", "Applied entries between two snapshots."),
    Flag("max-request-bytes", str(limits.MAX_REQUEST_BYTES), "Largest client request, in bytes."),
    Flag("max-txn-ops", str(limits.MAX_TXN_OPS), "Most operations in a transaction."),
    Flag(
        "max-concurrent-streams",
        str(limits.MAX_CONCURRENT_STREAMS),
        "Most streams open at a time on one client connection.",
    ),
    Flag("grpc-keepalive-min-time", "5s", "Shortest time between two pings of a client."),
    Flag("grpc-keepalive-interval", "2h", "Time between pings to a client (0: none)."),
    Flag("grpc-keepalive-timeout", "20s", "Wait for a ping's answer before closing."),
    Flag("cert-file", "", "TLS certificate shown to clients."),
    Flag("key-file", "", "Key of --cert-file."),
    Flag("trusted-ca-file", "", "CA that signs client certificates."),
    Flag("client-cert-auth", "false", "Demand a client certificate.", True),
    Flag("peer-cert-file", "", "TLS certificate shown to peers."),
    Flag("peer-key-file", "", "Key of --peer-cert-file."),
    Flag("peer-trusted-ca-file", "", "CA that signs peer certificates."),
    Flag("peer-client-cert-auth", "false", "Demand a certificate from peers.", True),
    Flag("quota-backend-bytes", "0", "Raise an alarm above this size (0: 2 GiB, < 0: no limit)."),
    Flag("auto-compaction-mode", "periodic", "'periodic' or 'revision'."),
    Flag("auto-compaction-retention", "0", "Hours or a duration, or revisions, to keep (0: all)."),
    Flag(
        "experimental-initial-corrupt-check",
        "false",
        "Compare the rows of all members after each start.",
        True,
    ),
    Flag("experimental-corrupt-check-time", "0s", "Between comparisons of all rows (0: none)."),
    Flag("state-check-interval", "10s", "Between comparisons of state hashes (0: none)."),
    Flag("watch-progress-notify-interval", "10m", "Between bookmarks of quiet watches."),
    Flag("strict-reconfig-check", "true", "Refuse member changes that risk the quorum.", True),
    Flag("max-learners", str(limits.MAX_LEARNERS), "Most members without a vote at a time."),
    Flag("auto-promote", "false", "As a learner, ask for a vote when caught up.", True),
    Flag("rejoin", "false", "With an empty data directory: replace the member that lost it.", True),
    Flag("force-new-cluster", "false", "Go on alone with this directory: others are lost.", True),
    Flag("force-new-cluster-bump-amount", "1000000000", "Added to the revision by the flag above."),
    Flag("metrics", "basic", "'basic', or 'extensive': how long calls take as well."),
    Flag("log-level", "info", "One of " + ", ".join(LOG_LEVELS) + "."),
    Flag("log-format", "json", "'json' or 'console'."),
    Flag("log-outputs", "default", "Where to: stderr (the default), stdout or files, commas."),
    Flag("warning-apply-duration", "100ms", "Log what takes longer to apply (0: nothing)."),
    Flag("experimental-warning-apply-duration", "", "Older name of --warning-apply-duration."),
    Flag("warning-unary-request-duration", "300ms", "Log requests that wait longer (0: none)."),
    Flag(
        "experimental-warning-unary-request-duration",
        "",
        "Older name of --warning-unary-request-duration.",
    ),
    Flag("config-file", "", "YAML file; makes other flags and the environment ignored."),
)
FLAG_NAMES: Final = frozenset(flag.name for flag in FLAGS)


# --- from raw text to a configuration -------------------------------------------


def _integer(values: Mapping[str, str], flag: str, low: int, high: int = 2**63 - 1) -> int:
    try:
        number = int(values[flag])
    except ValueError:
        raise ConfigError(f"--{flag}: {values[flag]!r} is not a whole number") from None
    if not low <= number <= high:
        bound = f"at least {low}" if number < low else f"at most {high}"
        raise ConfigError(f"--{flag}: {number} must be {bound}")
    return number


def _seconds(values: Mapping[str, str], flag: str) -> float:
    try:
        seconds = parse_duration_seconds(values[flag])
    except ValueError as error:
        raise ConfigError(f"--{flag}: {error}") from None
    if seconds < 0:
        raise ConfigError(f"--{flag}: {values[flag]} must not be negative")
    return seconds


def _renamed_seconds(values: Mapping[str, str], flag: str) -> float:
    """Of a flag that older releases of etcd call experimental; the older name wins if given."""
    older = f"experimental-{flag}"
    return _seconds(values, older if values[older] else flag)


def _outputs(values: Mapping[str, str]) -> tuple[str, ...]:
    outputs = tuple(filter(None, (one.strip() for one in values["log-outputs"].split(","))))
    if not outputs:
        raise ConfigError("--log-outputs: name at least one of stderr, stdout and files")
    return outputs


def _choice(values: Mapping[str, str], flag: str, choices: Sequence[str]) -> str:
    if values[flag] not in choices:
        offered = ", ".join(choices)
        raise ConfigError(f"--{flag}: {values[flag]!r} is unknown; use one of {offered}")
    return values[flag]


def _switch(values: Mapping[str, str], flag: str) -> bool:
    """As Go's strconv.ParseBool."""
    text = values[flag]
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ConfigError(f"--{flag}: {text!r} is neither true nor false")


def _readable(values: Mapping[str, str], flag: str) -> Path | None:
    if not values[flag]:
        return None
    path = Path(values[flag])
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise ConfigError(f"--{flag}: cannot read {str(path)!r}: {error.strerror}") from None


def _tls(values: Mapping[str, str], side: str, listen: tuple[Url, ...]) -> TlsFiles | None:
    """The TLS settings of one side; `side` is "" for clients and "peer-" for peers."""
    cert, key = f"{side}cert-file", f"{side}key-file"
    ca, auth = f"{side}trusted-ca-file", f"{side}client-cert-auth"
    cert_path, key_path, ca_path = (_readable(values, flag) for flag in (cert, key, ca))
    required = _switch(values, auth)
    if (cert_path is None) != (key_path is None):
        given, missing = (cert, key) if key_path is None else (key, cert)
        raise ConfigError(f"--{given} needs --{missing}: a certificate and its key go together")
    if cert_path is None or key_path is None:
        secure = next((url for url in listen if url.secure), None)
        if secure is not None:
            raise ConfigError(f"{secure} needs --{cert} and --{key}, or use http://")
        if required or ca_path is not None:
            given = auth if required else ca
            raise ConfigError(f"--{given} needs --{cert} and --{key}, and https:// URLs")
        return None
    if required and ca_path is None:
        raise ConfigError(f"--{auth} needs --{ca}: the CA that signs the certificates to accept")
    return TlsFiles(cert_path, key_path, ca_path, required)


def _retention(values: Mapping[str, str]) -> tuple[float, int]:
    """(seconds, revisions) to keep; a bare number means hours in mode periodic, as in etcd."""
    flag = "auto-compaction-retention"
    mode = _choice(values, "auto-compaction-mode", ("periodic", "revision"))
    if mode == "revision":
        return 0.0, _integer(values, flag, 0)
    if values[flag].isascii() and values[flag].isdigit():
        return int(values[flag]) * 3600.0, 0
    return _seconds(values, flag), 0


def _notify_interval(values: Mapping[str, str]) -> float:
    """Seconds; 0 means the default and very short ones the shortest, as in etcd."""
    seconds = _seconds(values, "watch-progress-notify-interval")
    return max(seconds, MIN_NOTIFY_SECONDS) if seconds else DEFAULT_NOTIFY_SECONDS


def _timing(values: Mapping[str, str]) -> tuple[int, int]:
    heartbeat = _integer(values, "heartbeat-interval", 1)
    election = _integer(values, "election-timeout", 1)
    if election < MIN_HEARTBEATS_PER_ELECTION * heartbeat:
        raise ConfigError(
            f"--election-timeout: {election} ms must be at least {MIN_HEARTBEATS_PER_ELECTION} "
            f"times --heartbeat-interval ({heartbeat} ms); raise it to "
            f"{MIN_HEARTBEATS_PER_ELECTION * heartbeat} or more"
        )
    if election > MAX_ELECTION_TIMEOUT_MS:
        raise ConfigError(
            f"--election-timeout: {election} ms is too long; at most {MAX_ELECTION_TIMEOUT_MS} ms"
        )
    return heartbeat, election


def _listen_urls(values: Mapping[str, str], flag: str) -> tuple[Url, ...]:
    urls = parse_urls(flag, values[flag])
    for url in urls:
        if url.host == "localhost":
            continue
        try:
            ipaddress.ip_address(url.host)
        except ValueError:
            raise ConfigError(
                f"--{flag}: {url} must name an IP address to bind to, not a host name; "
                f"use 0.0.0.0 for all and put {url.host!r} in the advertised URLs"
            ) from None
    return urls


def _names(values: Mapping[str, str], flag: str) -> tuple[str, ...]:
    """Comma-separated names."""
    return tuple(name.strip() for name in values[flag].split(",") if name.strip())


def _advertised_urls(values: Mapping[str, str], flag: str) -> tuple[Url, ...]:
    urls = parse_urls(flag, values[flag])
    for url in urls:
        if url.host in ("0.0.0.0", "::"):
            raise ConfigError(f"--{flag}: others cannot dial {url}; name this machine's address")
        if url.port == 0:
            raise ConfigError(f"--{flag}: others cannot dial {url}; name a port")
    return urls


def build(given: Mapping[str, str]) -> ServerConfig:
    """A checked configuration.

    given: raw text per flag name, for the flags that some source set.
    Errors: ConfigError, naming the flag, why it is wrong and what to do.
    """
    unknown = sorted(set(given) - FLAG_NAMES)
    if unknown:
        raise ConfigError(f"--{unknown[0]}: no such flag")
    values = {flag.name: given.get(flag.name, flag.default) for flag in FLAGS}
    name = values["name"]
    if not name or "=" in name or "," in name:
        raise ConfigError(f"--name: {name!r} must not be empty nor hold '=' or ','")
    if "listen-client-urls" in given and "advertise-client-urls" not in given:
        raise ConfigError(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        )
    listen_client = _listen_urls(values, "listen-client-urls")
    listen_peer = _listen_urls(values, "listen-peer-urls")
    listen_http, listen_metrics = (
        _listen_urls(values, flag) if values[flag] else ()
        for flag in ("listen-client-http-urls", "listen-metrics-urls")
    )
    both = sorted({url[1:] for url in listen_client} & {url[1:] for url in listen_peer})
    if both and both[0][1] != 0:
        host, port = both[0]
        raise ConfigError(f"--listen-peer-urls: {host}:{port} is in --listen-client-urls too")
    text = values["initial-cluster"]
    heartbeat, election = _timing(values)
    quota = _integer(values, "quota-backend-bytes", -(2**63))
    kept_seconds, kept_revisions = _retention(values)
    return ServerConfig(
        name=name,
        data_dir=Path(values["data-dir"] or f"{name}.raftkv"),
        listen_client_urls=listen_client,
        advertise_client_urls=_advertised_urls(values, "advertise-client-urls"),
        listen_client_http_urls=listen_http,
        listen_metrics_urls=listen_metrics,
        enable_grpc_gateway=_switch(values, "enable-grpc-gateway"),
        enable_pprof=_switch(values, "enable-pprof"),
        cors=_names(values, "cors"),
        host_whitelist=_names(values, "host-whitelist") or ("*",),
        listen_peer_urls=listen_peer,
        initial_advertise_peer_urls=_advertised_urls(values, "initial-advertise-peer-urls"),
        initial_cluster=parse_initial_cluster(text) if text else {},
        initial_cluster_state=_choice(values, "initial-cluster-state", ("new", "existing")),
        initial_cluster_token=values["initial-cluster-token"],
        heartbeat_interval_ms=heartbeat,
        election_timeout_ms=election,
        snapshot_count=_integer(values, "snapshot-count", 1),
        max_request_bytes=_integer(
            values, "max-request-bytes", 1, limits.MAX_PEER_MESSAGE_BYTES - limits.MAX_APPEND_BYTES
        ),
        max_txn_ops=_integer(values, "max-txn-ops", 1),
        max_concurrent_streams=_integer(values, "max-concurrent-streams", 1, 2**32 - 1),
        grpc_keepalive_min_time_seconds=_seconds(values, "grpc-keepalive-min-time"),
        grpc_keepalive_interval_seconds=_seconds(values, "grpc-keepalive-interval"),
        grpc_keepalive_timeout_seconds=_seconds(values, "grpc-keepalive-timeout"),
        client_tls=_tls(values, "", (*listen_client, *listen_http, *listen_metrics)),
        peer_tls=_tls(values, "peer-", listen_peer),
        quota_backend_bytes=max(quota, 0) if quota else DEFAULT_QUOTA_BYTES,
        auto_compaction_retention_seconds=kept_seconds,
        auto_compaction_retention_revisions=kept_revisions,
        initial_corrupt_check=_switch(values, "experimental-initial-corrupt-check"),
        corrupt_check_seconds=_seconds(values, "experimental-corrupt-check-time"),
        state_check_seconds=_seconds(values, "state-check-interval"),
        watch_progress_notify_interval_seconds=_notify_interval(values),
        strict_reconfig_check=_switch(values, "strict-reconfig-check"),
        max_learners=_integer(values, "max-learners", 1),
        auto_promote=_switch(values, "auto-promote"),
        rejoin=_switch(values, "rejoin"),
        force_new_cluster=_switch(values, "force-new-cluster"),
        force_new_cluster_bump=_integer(values, "force-new-cluster-bump-amount", 0),
        metrics=_choice(values, "metrics", METRICS),
        log_level=_choice(values, "log-level", LOG_LEVELS),
        log_format=_choice(values, "log-format", LOG_FORMATS),
        log_outputs=_outputs(values),
        warning_apply_seconds=_renamed_seconds(values, "warning-apply-duration"),
        warning_request_seconds=_renamed_seconds(values, "warning-unary-request-duration"),
    )
