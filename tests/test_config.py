"""What a configuration accepts and refuses: URLs, durations, clusters, identities."""

import hashlib

import pytest

from raftkv.config import (
    ServerConfig,
    TlsFiles,
    Url,
    check_bootstrap,
    cluster_id,
    member_id,
    parse_duration_seconds,
    parse_initial_cluster,
    parse_url,
    parse_urls,
    warnings,
)
from raftkv.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("5s", 5.0),
        ("300ms", 0.3),
        ("1.5h", 5400.0),
        ("1h30m", 5400.0),
        ("2h45m30.5s", 9930.5),
        ("100us", 0.0001),
        ("100µs", 0.0001),
        ("7ns", 7e-9),
        (".5s", 0.5),
        ("-2s", -2.0),
        ("+2s", 2.0),
    ],
)
def test_a_duration_reads_as_go_writes_it(text: str, seconds: float) -> None:
    assert parse_duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "5x", "5s3", "1h 30m", "--5s", "1,5s", "-"])
def test_a_duration_without_a_unit_or_with_rubbish_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:2379", Url("http", "127.0.0.1", 2379)),
        ("https://node1.example:443", Url("https", "node1.example", 443)),
        ("http://[::1]:2380", Url("http", "::1", 2380)),
        ("http://localhost:0", Url("http", "localhost", 0)),
    ],
)
def test_a_url_survives_reading_and_writing(text: str, url: Url) -> None:
    assert parse_url(text) == url
    assert str(url) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:2379", "scheme must be http or https"),
        ("ftp://127.0.0.1:2379", "scheme must be http or https"),
        ("unix:///run/raftkv.sock", "unix sockets are not offered"),
        ("http://127.0.0.1", "host:port"),
        ("http://:2379", "host:port"),
        ("http://127.0.0.1:2379/", "must not contain a path"),
        ("http://127.0.0.1:2379/v3", "must not contain a path"),
        ("http://127.0.0.1:2379?x=1", "must not contain a path"),
        ("http://127.0.0.1:99999", "[Pp]ort"),
        ("http://127.0.0.1:http", "[Pp]ort"),
        ("http://me@127.0.0.1:2379", "user"),
        ("", "scheme"),
    ],
)
def test_a_bad_url_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_url(text)


def test_url_lists_skip_blanks_and_refuse_doubles_and_emptiness() -> None:
    assert len(parse_urls("listen-client-urls", " http://a:1 , http://a:2,")) == 2
    with pytest.raises(ConfigError, match=r"--listen-client-urls.*twice"):
        parse_urls("listen-client-urls", "http://a:1,http://a:1")
    with pytest.raises(ConfigError, match=r"--listen-client-urls.*at least one"):
        parse_urls("listen-client-urls", " , ")


def test_an_initial_cluster_may_name_a_member_several_times() -> None:
    members = parse_initial_cluster("a=http://a:1,b=http://b:1,a=http://a:2")
    assert members == {"a": ("http://a:1", "http://a:2"), "b": ("http://b:1",)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "names no member"),
        ("http://a:1", "not name=URL"),
        ("=http://a:1", "not name=URL"),
        ("a", "not name=URL"),
        ("a=a:1", "scheme"),
        ("a=http://x:1,b=http://x:1", "'a' and 'b'"),
        ("a=http://x:1,a=http://x:1", "'a' and 'a'"),
    ],
)
def test_a_bad_initial_cluster_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_initial_cluster(text)


def test_identities_are_those_that_etcd_gives_its_default_member() -> None:
    # Printed by every etcd started without flags.
    assert ServerConfig().member_id == 0x8E9E05C52164694D
    assert ServerConfig().cluster_id == 0xCDF818194E3A8C32


def test_identities_depend_on_the_urls_and_the_token_but_not_on_their_order() -> None:
    one = member_id(["http://a:1", "http://b:1"], "t")
    assert one == member_id(["http://b:1", "http://a:1"], "t")
    others = {
        member_id(["http://a:1"], "t"),
        member_id(["http://a:1", "http://b:1"], "u"),
        member_id(["http://a:1", "http://b:1"], "t", salt="5"),
    }
    assert one not in others
    assert len(others) == 3
    cluster = {"x": ("http://a:1",), "y": ("http://b:1",)}
    assert cluster_id(cluster, "t") == cluster_id(dict(reversed(cluster.items())), "t")
    assert cluster_id(cluster, "t") != cluster_id(cluster, "u")


def test_an_identity_is_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    real = hashlib.sha1
    asked: list[bytes] = []

    class Zero:
        def __init__(self, seed: bytes, usedforsecurity: bool = True) -> None:
            asked.append(seed)
            self.seed = seed

        def digest(self) -> bytes:
            return bytes(20) if len(asked) == 1 else real(self.seed).digest()

    monkeypatch.setattr(hashlib, "sha1", Zero)
    assert member_id(["http://a:1"], "t") != 0
    assert len(asked) == 2, "the zero was hashed once more"


def test_the_default_configuration_is_a_cluster_of_one() -> None:
    config = ServerConfig(name="solo")
    assert config.initial_cluster == {"solo": ("http://localhost:2380",)}
    check_bootstrap(config)


def _member(cluster: str, advertised: str) -> ServerConfig:
    return ServerConfig(
        name="a",
        initial_cluster=parse_initial_cluster(cluster),
        initial_advertise_peer_urls=parse_urls("initial-advertise-peer-urls", advertised),
    )


def test_a_first_start_needs_this_member_in_its_initial_cluster() -> None:
    check_bootstrap(_member("a=http://a:1,b=http://b:1", "http://a:1"))
    check_bootstrap(_member("a=http://a:1,a=http://a:2", "http://a:2,http://a:1"))
    with pytest.raises(ConfigError, match="has no 'a', only b"):
        check_bootstrap(_member("b=http://b:1", "http://a:1"))


@pytest.mark.parametrize(
    ("cluster", "advertised", "reason"),
    [
        ("a=http://a:1", "http://a:2", "http://a:2 is missing there"),
        ("a=http://a:1", "http://a:1,http://a:2", "http://a:2 is missing there"),
        ("a=http://a:1,a=http://a:2", "http://a:1", "http://a:2 is not advertised"),
    ],
)
def test_a_first_start_refuses_other_urls_than_it_advertises(
    cluster: str, advertised: str, reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_bootstrap(_member(cluster, advertised))


def test_an_open_peer_port_without_client_certificates_is_warned_of() -> None:
    """X13."""
    everywhere = parse_urls("listen-peer-urls", "http://0.0.0.0:2380")
    (warning,) = warnings(ServerConfig(listen_peer_urls=everywhere))
    assert "http://0.0.0.0:2380" in warning
    assert "--peer-client-cert-auth" in warning
    assert warnings(ServerConfig()) == []


def test_certificates_without_https_are_warned_of() -> None:
    from pathlib import Path

    tls = TlsFiles(Path("c"), Path("k"), None, False)
    (warning,) = warnings(ServerConfig(client_tls=tls))
    assert "not used" in warning
