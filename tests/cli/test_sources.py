"""`raftkv serve`: flags, environment and file become one configuration, or one clear error."""

from pathlib import Path

import pytest

from raftkv.cli import server
from raftkv.cli.flags import FLAG_NAMES, FLAGS, build
from raftkv.cli.sources import NOT_OFFERED_KEYS, TUNING_KEYS, load
from raftkv.config import ServerConfig
from raftkv.errors import ConfigError


def test_no_flag_at_all_gives_the_defaults() -> None:
    config, notes = load({}, {})
    assert config == ServerConfig()
    assert notes == []


def test_every_flag_reaches_its_field(tmp_path: Path) -> None:
    for name in ("c", "k", "ca"):
        (tmp_path / name).write_text("pem")
    pem = {name: str(tmp_path / name) for name in ("c", "k", "ca")}
    config = build(
        {
            "name": "n",
            "data-dir": "/d",
            "listen-client-urls": "https://0.0.0.0:1",
            "advertise-client-urls": "https://n:1",
            "listen-peer-urls": "https://0.0.0.0:2",
            "initial-advertise-peer-urls": "https://n:2",
            "initial-cluster": "n=https://n:2,m=https://m:2",
            "initial-cluster-state": "existing",
            "initial-cluster-token": "t",
            "heartbeat-interval": "50",
            "election-timeout": "250",
            "snapshot-count": "7",
            "max-request-bytes": "8",
            "max-txn-ops": "9",
            "max-concurrent-streams": "10",
            "grpc-keepalive-min-time": "1s",
            "grpc-keepalive-interval": "1m",
            "grpc-keepalive-timeout": "1h",
            "cert-file": pem["c"],
            "key-file": pem["k"],
            "trusted-ca-file": pem["ca"],
            "client-cert-auth": "true",
            "peer-cert-file": pem["c"],
            "peer-key-file": pem["k"],
            "peer-trusted-ca-file": pem["ca"],
            "peer-client-cert-auth": "T",
            "quota-backend-bytes": "11",
            "auto-compaction-mode": "revision",
            "auto-compaction-retention": "12",
            "watch-progress-notify-interval": "5s",
            "strict-reconfig-check": "false",
            "max-learners": "13",
            "auto-promote": "true",
            "rejoin": "true",
            "force-new-cluster": "true",
            "force-new-cluster-bump-amount": "14",
            "listen-client-http-urls": "http://0.0.0.0:3",
            "listen-metrics-urls": "http://0.0.0.0:4",
            "enable-grpc-gateway": "false",
            "enable-pprof": "true",
            "cors": "http://a",
            "host-whitelist": "b",
            "experimental-initial-corrupt-check": "true",
            "experimental-corrupt-check-time": "1h",
            "state-check-interval": "1m",
            "log-level": "debug",
            "log-format": "console",
            "metrics": "extensive",
            "log-outputs": "stdout,/l",
            "warning-apply-duration": "1s",
            "experimental-warning-unary-request-duration": "2s",
        }
    )
    default = ServerConfig()
    same = [
        name
        for name in ServerConfig.__dataclass_fields__
        if getattr(config, name) == getattr(default, name)
    ]
    assert same == ["auto_compaction_retention_seconds"], "every other field differs"
    assert config.auto_compaction_retention_revisions == 12
    assert config.client_tls is not None
    assert config.client_tls.require_client_cert
    assert config.peer_tls is not None
    assert config.peer_tls.require_client_cert
    assert (config.heartbeat_interval_ms, config.election_timeout_ms) == (50, 250)
    assert config.grpc_keepalive_interval_seconds == 60.0
    assert config.log_outputs == ("stdout", "/l")
    assert (config.warning_apply_seconds, config.warning_request_seconds) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"name": ""}, "--name: '' must not be empty"),
        ({"name": "a=b"}, "--name"),
        ({"heartbeat-interval": "ten"}, "--heartbeat-interval: 'ten' is not a whole number"),
        ({"heartbeat-interval": "0"}, "--heartbeat-interval: 0 must be at least 1"),
        ({"election-timeout": "499"}, "at least 5 times --heartbeat-interval .100 ms.*500"),
        ({"election-timeout": "50001"}, "too long"),
        ({"listen-client-urls": "http://127.0.0.1:1"}, "--advertise-client-urls is required"),
        (
            {"listen-client-urls": "http://host:1", "advertise-client-urls": "http://host:1"},
            "--listen-client-urls: http://host:1 must name an IP address",
        ),
        ({"listen-peer-urls": "127.0.0.1:1"}, "--listen-peer-urls: .*scheme"),
        ({"listen-peer-urls": "http://localhost:2379"}, "is in --listen-client-urls too"),
        ({"initial-advertise-peer-urls": "http://0.0.0.0:1"}, "cannot dial http://0.0.0.0:1"),
        ({"advertise-client-urls": "http://a:0"}, "--advertise-client-urls: .*name a port"),
        ({"initial-cluster": "nonsense"}, "--initial-cluster"),
        ({"initial-cluster-state": "old"}, "--initial-cluster-state: 'old'.*new, existing"),
        ({"max-txn-ops": "-1"}, "--max-txn-ops: -1 must be at least 1"),
        ({"max-concurrent-streams": str(2**32)}, "--max-concurrent-streams: .*at most"),
        ({"grpc-keepalive-timeout": "20"}, "--grpc-keepalive-timeout: '20' is not a duration"),
        ({"grpc-keepalive-timeout": "-1s"}, "must not be negative"),
        ({"client-cert-auth": "maybe"}, "--client-cert-auth: 'maybe' is neither true nor false"),
        ({"client-cert-auth": "true"}, "--client-cert-auth needs --cert-file and --key-file"),
        ({"cert-file": "/none/c"}, "--cert-file: cannot read '/none/c': No such file"),
        ({"listen-peer-urls": "https://127.0.0.1:1"}, "needs --peer-cert-file"),
        ({"quota-backend-bytes": "2G"}, "--quota-backend-bytes: '2G' is not a whole number"),
        ({"auto-compaction-mode": "daily"}, "--auto-compaction-mode: 'daily'"),
        ({"auto-compaction-retention": "1x"}, "--auto-compaction-retention: '1x'"),
        (
            {"auto-compaction-mode": "revision", "auto-compaction-retention": "1h"},
            "--auto-compaction-retention: '1h' is not a whole number",
        ),
        ({"log-level": "loud"}, "--log-level: 'loud' is unknown; use one of debug"),
        ({"log-format": "xml"}, "--log-format"),
        ({"lissten": "x"}, "--lissten: no such flag"),
    ],
)
def test_a_wrong_flag_is_refused_and_named(given: dict[str, str], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        build(given)


def test_a_certificate_needs_its_key_and_client_certificates_need_a_ca(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.write_text("x")
    with pytest.raises(ConfigError, match="--cert-file needs --key-file"):
        build({"cert-file": str(pem)})
    with pytest.raises(ConfigError, match="--peer-key-file needs --peer-cert-file"):
        build({"peer-key-file": str(pem)})
    with pytest.raises(ConfigError, match="--client-cert-auth needs --trusted-ca-file"):
        build({"cert-file": str(pem), "key-file": str(pem), "client-cert-auth": "true"})


@pytest.mark.parametrize(
    ("mode", "text", "seconds", "revisions"),
    [
        ("periodic", "0", 0.0, 0),
        ("periodic", "2", 7200.0, 0),
        ("periodic", "30m", 1800.0, 0),
        ("revision", "1000", 0.0, 1000),
    ],
)
def test_auto_compaction_keeps_hours_durations_or_revisions(
    mode: str, text: str, seconds: float, revisions: int
) -> None:
    config = build({"auto-compaction-mode": mode, "auto-compaction-retention": text})
    assert config.auto_compaction_retention_seconds == seconds
    assert config.auto_compaction_retention_revisions == revisions


@pytest.mark.parametrize(("text", "seconds"), [("0", 600.0), ("1ms", 0.1), ("1h", 3600.0)])
def test_bookmarks_of_watches_have_a_default_and_a_shortest_interval(
    text: str, seconds: float
) -> None:
    config = build({"watch-progress-notify-interval": text})
    assert config.watch_progress_notify_interval_seconds == seconds


@pytest.mark.parametrize(("text", "quota"), [("0", 2 << 30), ("-1", 0), ("5000", 5000)])
def test_the_quota_defaults_to_2_gib_and_negative_means_none(text: str, quota: int) -> None:
    assert build({"quota-backend-bytes": text}).quota_backend_bytes == quota


def test_the_cluster_defaults_to_this_member_at_its_advertised_urls() -> None:
    config = build({"name": "n", "initial-advertise-peer-urls": "http://n:1"})
    assert config.initial_cluster == {"n": ("http://n:1",)}
    assert config.data_dir == Path("n.raftkv")


# --- environment ----------------------------------------------------------------


def test_flags_win_over_the_environment() -> None:
    environ = {"RAFTKV_NAME": "env", "RAFTKV_HEARTBEAT_INTERVAL": "20", "RAFTKV_LOG_LEVEL": ""}
    config, notes = load({"name": "flag"}, environ)
    assert config.name == "flag"
    assert config.heartbeat_interval_ms == 20
    assert config.log_level == "info", "an empty variable counts as not set"
    assert notes == []


def test_an_unknown_variable_is_warned_of() -> None:
    _, notes = load({}, {"RAFTKV_HART_BEAT": "1", "PATH": "/bin"})
    assert notes == ["unrecognized environment variable RAFTKV_HART_BEAT"]


@pytest.mark.parametrize("name", ["CLIENT_CRL_FILE", "PEER_CERT_ALLOWED_CN", "CIPHER_SUITES"])
def test_a_variable_whose_loss_would_weaken_refuses_the_start(name: str) -> None:
    """X11: as the flag does."""
    with pytest.raises(ConfigError, match=f"RAFTKV_{name}: .* is not offered"):
        load({}, {f"RAFTKV_{name}": "x"})
    with pytest.raises(ConfigError, match=f"RAFTKV_{name}: .* is not offered"):
        load({"config-file": "any.yml"}, {f"RAFTKV_{name}": "x"})
    load({}, {f"RAFTKV_{name}": "", "RAFTKV_AUTO_TLS": "false"})


def test_what_is_offered_is_not_among_what_is_missing() -> None:
    assert not FLAG_NAMES & (NOT_OFFERED_KEYS | TUNING_KEYS)


@pytest.mark.parametrize("name", ["listen-metrics-urls", "listen-client-http-urls"])
def test_ports_for_http_can_be_set_in_the_environment(name: str) -> None:
    variable = "RAFTKV_" + name.upper().replace("-", "_")
    config, _ = load({}, {variable: "http://127.0.0.1:12381"})
    assert str(getattr(config, name.replace("-", "_"))[0]) == "http://127.0.0.1:12381"


def test_every_flag_has_a_variable_of_its_own() -> None:
    assert len({flag.env for flag in FLAGS}) == len(FLAGS)
    assert "RAFTKV_INITIAL_ADVERTISE_PEER_URLS" in {flag.env for flag in FLAGS}


# --- configuration file -----------------------------------------------------------


def _file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "raftkv.yml"
    path.write_text(text)
    return str(path)


def test_a_file_makes_flags_and_environment_ignored_and_says_which(tmp_path: Path) -> None:
    path = _file(tmp_path, "name: file\nheartbeat-interval: 30\n")
    config, notes = load({"config-file": path, "name": "flag"}, {"RAFTKV_SNAPSHOT_COUNT": "5"})
    assert config.name == "file"
    assert config.heartbeat_interval_ms == 30
    assert config.snapshot_count == 100_000
    (note,) = notes
    assert "--name" in note
    assert "RAFTKV_SNAPSHOT_COUNT" in note


def test_a_file_can_be_named_by_the_environment(tmp_path: Path) -> None:
    path = _file(tmp_path, "name: file\n")
    config, notes = load({}, {"RAFTKV_CONFIG_FILE": path})
    assert config.name == "file"
    assert notes == []


def test_a_file_holds_lists_switches_and_tls_where_etcd_has_them(tmp_path: Path) -> None:
    pem = tmp_path / "pem"
    pem.write_text("x")
    path = _file(
        tmp_path,
        f"""
listen-peer-urls: [https://127.0.0.1:1, https://127.0.0.1:2]
wal-dir:
discovery: ''
client-transport-security:
  auto-tls: false
peer-transport-security:
  cert-file: {pem}
  key-file: {pem}
  trusted-ca-file: {pem}
  client-cert-auth: true
""",
    )
    config, notes = load({"config-file": path}, {})
    assert len(config.listen_peer_urls) == 2
    assert config.peer_tls is not None
    assert config.peer_tls.require_client_cert
    assert config.client_tls is None
    assert notes == [f"{path}: wal-dir is not offered and has no effect"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nmae: x", "unknown key nmae; did you mean name?"),
        ("peer-transport-security: {cert-fil: x}", "unknown key peer-transport-security.cert-fil"),
        ("peer-transport-security: 5", "peer-transport-security must hold"),
        ("peer-transport-security: {auto-tls: true}", "auto-tls is not offered"),
        ("discovery: http://10.0.0.1", "discovery is not offered"),
        ("- a", "must hold `flag: value` lines"),
        ("name: [1, 2]", "name must be a plain value"),
        ("name: {a: b}", "name must be a plain value"),
        ("a: b: c", "is not YAML"),
        ("election-timeout: 1", "--election-timeout"),
    ],
)
def test_a_wrong_file_is_refused_with_the_key(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load({"config-file": _file(tmp_path, text)}, {})


def test_a_missing_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--config-file: cannot read '/none': No such file"):
        load({"config-file": "/none"}, {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not YAML"):
        load({"config-file": str(tmp_path / "binary")}, {})


# --- the command ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["serve", "--bogus"], "Error: No such option '--bogus'."),
        (["serve", "--election-timeout", "1"], "Error: --election-timeout: 1 ms must be"),
        (["serve", "--election-timeout=1"], "Error: --election-timeout: 1 ms must be"),
        (["serve", "-election-timeout=1"], "Error: --election-timeout: 1 ms must be"),
        (["serve", "-election-timeout", "1"], "Error: --election-timeout: 1 ms must be"),
        (["serve", "--client-cert-auth"], "Error: --client-cert-auth needs --cert-file"),
        (["serve", "--client-cert-auth=x"], "Error: --client-cert-auth: 'x' is neither"),
        (["serve", "--name=n", "--initial-cluster=m=http://m:1"], "Error: --initial-cluster: has"),
        (["bogus"], "Error: No such command 'bogus'."),
        (["local"], "Error: Missing option '--data-dir'."),
        (["local", "--data-dir=d", "--nodes=0"], "Error: Invalid value for '--nodes'"),
    ],
)
def test_wrong_arguments_end_with_code_2_and_one_line(
    argv: list[str], error: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert server.run([*argv[:1], *argv[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    first, *rest = captured.err.splitlines()
    assert first.startswith(error)
    assert all(line.startswith("Run 'raftkv") for line in rest)


def test_version_names_both_versions(capsys: pytest.CaptureFixture[str]) -> None:
    assert server.run(["version"]) == 0
    assert capsys.readouterr().out.startswith("raftkv version: ")
