"""TLS and logins: against real servers, and what is told when they do not fit."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from raftkv.client import TLS, sync
from raftkv.client.errors import (
    AccountError,
    AuthenticationFailed,
    BadSettings,
    NotConnected,
    PermissionDenied,
    TokenRefused,
)
from raftkv.errors import Outcome
from raftkv.pb import rpc_pb2
from tests import processes
from tests.client.conftest import Face, Served
from tests.client.gate import Gate
from tests.server.certificates import Authority

PASSWORD = "secret"
SOON_SECONDS = 15.0  # on any machine; calls here may take 60 s, so it was not their time that ended


# --- logins, at a real etcd ---------------------------------------------------------------
def _etcdctl(endpoint: str, *words: str) -> None:
    done = subprocess.run(
        [str(processes.ETCDCTL), f"--endpoints={endpoint}", *words],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert not done.returncode, done.stderr.decode()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """An etcd with users: root, and `user` who may read and write "open/". Tokens live 1 s."""
    # The flag goes through simple tokens: they are forgotten after so many seconds.
    with processes.etcd(tmp_path, "--auth-token-ttl", "1") as cluster:
        endpoint = cluster.endpoints
        for words in (
            ("user", "add", f"root:{PASSWORD}"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "some"),
            ("role", "grant-permission", "some", "--prefix=true", "readwrite", "open/"),
            ("user", "add", f"user:{PASSWORD}"),
            ("user", "grant-role", "user", "some"),
            ("auth", "enable"),
        ):
            _etcdctl(endpoint, *words)
        yield endpoint


def _as_root(endpoint: str, *words: str) -> None:
    _etcdctl(endpoint, f"--user=root:{PASSWORD}", *words)


def test_a_login_is_made_and_renewed_by_itself(guarded: str, face: Face) -> None:
    """C13: a stale token, and one of an old auth revision."""

    async def scenario(client: Any) -> None:
        await client.put("open/a", "1")
        with pytest.raises(PermissionDenied) as caught:
            await client.put("shut/a", "1")
        assert caught.value.outcome is Outcome.DEFINITE
        with pytest.raises(PermissionDenied):  # which etcd says in other words here
            await client.call(
                "/etcdserverpb.Maintenance/HashKV",
                rpc_pb2.HashKVRequest(),
                rpc_pb2.HashKVResponse,
                write=False,
            )
        time.sleep(2.2)  # etcd forgets the token
        await client.put("open/a", "2")
        _as_root(guarded, "role", "add", "another")  # a new auth revision
        assert (await client.get("open/a")).text == "2"
        _as_root(guarded, "role", "delete", "another")
        async for kv in client.iterate("open/"):
            assert kv.text == "2"

    face.run(scenario, guarded, user="user", password=PASSWORD)


def test_a_wrong_password_is_one_clear_error(guarded: str, face: Face) -> None:
    async def scenario(client: Any) -> None:
        for call in (client.put("open/a", "1"), client.get("open/a")):
            with pytest.raises(AuthenticationFailed) as caught:
                await call
            assert caught.value.outcome is Outcome.DEFINITE
            assert PASSWORD not in str(caught.value)

    face.run(scenario, guarded, user="user", password="wrong")


def test_no_login_where_one_is_needed_is_one_clear_error(guarded: str, face: Face) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises(AccountError) as caught:
            await client.get("open/a")
        assert "user name is empty" in caught.value.text

    face.run(scenario, guarded)


def test_a_password_that_was_changed_ends_in_an_error_after_one_new_login(
    guarded: str, face: Face
) -> None:
    """C13: re-authenticate once, then error."""

    async def scenario(client: Any) -> None:
        await client.put("open/a", "1")
        _as_root(guarded, "user", "delete", "user")
        with pytest.raises((AuthenticationFailed, TokenRefused, AccountError, PermissionDenied)):
            await client.put("open/a", "2")

    face.run(scenario, guarded, user="user", password=PASSWORD)


def test_a_login_is_spared_where_none_is_in_force(etcd_served: Served, face: Face) -> None:
    async def scenario(client: Any) -> None:
        await client.put("somewhere", "1")
        assert (await client.get("somewhere")).text == "1"

    face.run(scenario, etcd_served.endpoints, user="user", password=PASSWORD)


def test_a_login_is_made_when_it_comes_into_force(tmp_path: Path, face: Face) -> None:
    with processes.etcd(tmp_path) as cluster:
        endpoint = cluster.endpoints

        async def scenario(client: Any) -> None:
            await client.put("a", "1")
            _etcdctl(endpoint, "user", "add", f"root:{PASSWORD}")
            _etcdctl(endpoint, "user", "grant-role", "root", "root")
            _etcdctl(endpoint, "auth", "enable")
            await client.put("a", "2")

        face.run(scenario, endpoint, user="root", password=PASSWORD)


@pytest.mark.slow
def test_leases_and_watches_log_in_as_well(guarded: str) -> None:
    """C13: the keeper's stream and a watch's."""
    with sync.Client(guarded, user="user", password=PASSWORD) as client:
        with client.lease(4) as lease:
            client.put("open/a", "1", lease=lease)
            time.sleep(6.0)  # longer than its TTL, and than a token lives
            assert lease.alive
            assert client.get("open/a").exists
        with client.watch("open/", prefix=True) as watch:
            client.put("open/b", "1")
            assert watch.next(timeout=60.0).events[0].key == b"open/b"


# --- TLS ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the servers' certificates."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Somebody else."""
    return Authority(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="module", params=["raftkv", "etcd"])
def secure(
    request: pytest.FixtureRequest,
    authority: Authority,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """host:port of a server with TLS that demands client certificates."""
    directory = tmp_path_factory.mktemp("secure")
    client, peer = processes.free_ports(2)
    cert, key = authority.certificate("node")
    name = request.param
    program = [str(processes.ETCD), "--log-level=error"] if name == "etcd" else [*processes.RAFTKV]
    command = [
        *program,
        f"--name={name}",
        f"--data-dir={directory / 'data'}",
        f"--listen-client-urls=https://127.0.0.1:{client}",
        f"--advertise-client-urls=https://127.0.0.1:{client}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster={name}=http://127.0.0.1:{peer}",
        f"--cert-file={cert}",
        f"--key-file={key}",
        f"--trusted-ca-file={authority.ca}",
        "--client-cert-auth",
    ]
    server = processes.Server(name, command, directory, client, peer)
    server.start()
    try:
        yield server.endpoint
    finally:
        server.kill()


def _tls(authority: Authority, **options: Any) -> TLS:
    cert, key = authority.certificate("client")
    return TLS(authority.ca, cert, key, **options)


def _until_up(call: Any) -> Any:
    """The server may still be starting: nothing but that may be refused here."""
    deadline = time.monotonic() + processes.START_SECONDS
    while True:
        try:
            return call()
        except NotConnected:
            if time.monotonic() > deadline:
                raise


def test_both_faces_speak_tls_with_certificates_from_files_or_memory(
    secure: str, authority: Authority, face: Face
) -> None:
    from_files = _tls(authority)
    with sync.Client(secure, tls=from_files) as client:
        _until_up(lambda: client.get("a"))

    async def scenario(client: Any) -> None:
        await client.put("a", "1")
        assert (await client.get("a")).text == "1"

    cert, key = authority.certificate("client")
    in_memory = TLS(authority.ca.read_bytes(), cert.read_bytes(), key.read_bytes())
    face.run(scenario, secure, tls=from_files)
    face.run(scenario, f"https://{secure}", tls=in_memory)


def test_leases_and_watches_go_over_tls(secure: str, authority: Authority) -> None:
    with sync.Client(secure, tls=_tls(authority)) as client:
        _until_up(lambda: client.get("a"))
        with client.lease(20) as lease, client.watch("w") as watch:
            client.put("w", "1", lease=lease)
            assert watch.next(timeout=60.0).events[0].value == b"1"
            lease.refresh()


def test_a_name_can_be_given_for_a_server_behind_another_address(
    secure: str, authority: Authority
) -> None:
    with sync.Client(secure, tls=_tls(authority, server_name="localhost")) as client:
        _until_up(lambda: client.get("a"))
    with (
        sync.Client(
            secure, tls=_tls(authority, server_name="elsewhere"), dial_timeout=0.5
        ) as client,
        pytest.raises(NotConnected, match="another name"),
    ):
        client.get("a")


@pytest.mark.parametrize("mistake", ["plain to TLS", "strange CA", "no certificate"])
def test_tls_that_does_not_fit_is_one_clear_error_in_time(
    mistake: str, secure: str, authority: Authority, stranger: Authority, face: Face
) -> None:
    """C10: a TLS-broken endpoint."""
    with sync.Client(secure, tls=_tls(authority)) as client:
        _until_up(lambda: client.get("a"))

    async def scenario(client: Any) -> None:
        started = time.monotonic()
        with pytest.raises(NotConnected) as caught:
            await client.put("a", "1")
        assert time.monotonic() - started < SOON_SECONDS
        assert caught.value.outcome is Outcome.DEFINITE
        assert secure in caught.value.text

    tls = {
        "plain to TLS": None,
        "strange CA": TLS(stranger.ca, *authority.certificate("client")),
        "no certificate": TLS(authority.ca),
    }[mistake]
    face.run(scenario, secure, tls=tls, dial_timeout=0.5, timeout=60.0)


def test_tls_to_a_plain_port_is_one_clear_error_in_time(
    server: Served, authority: Authority, face: Face
) -> None:
    async def scenario(client: Any) -> None:
        started = time.monotonic()
        with pytest.raises(NotConnected, match=r"TLS handshake failed|connection reset"):
            await client.put("a", "1")
        assert time.monotonic() - started < SOON_SECONDS

    face.run(scenario, server.endpoints, tls=TLS(authority.ca), dial_timeout=0.5, timeout=60.0)


def test_a_tls_broken_endpoint_is_passed_over(
    secure: str, authority: Authority, face: Face
) -> None:
    """C10: the others still serve."""
    with sync.Client(secure, tls=_tls(authority)) as client:
        _until_up(lambda: client.get("a"))

    async def scenario(client: Any) -> None:
        started = time.monotonic()
        await client.put("a", "1")
        assert time.monotonic() - started < SOON_SECONDS

    with _deaf_port(b"HTTP/1.1 400 Bad Request\r\n\r\n") as broken:
        face.run(scenario, f"{broken},{secure}", tls=_tls(authority), timeout=60.0)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"none\.pem"):
        sync.Client("a:1", tls=TLS(tmp_path / "none.pem"))


# --- ports that are no server ---------------------------------------------------------------
@contextmanager
def _deaf_port(says: bytes) -> Iterator[str]:
    """A port that accepts, and says this to whoever speaks (nothing: keeps silent)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    kept.append(connection)
                    if says:
                        connection.recv(1000)
                        connection.sendall(says)
                        connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(20.0)
            for each in kept:
                each.close()


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "no answer"),
        (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "no gRPC server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ""),
    ],
    ids=["silent", "http", "ssh"],
)
def test_a_port_that_is_no_server_is_one_clear_error_in_time(
    says: bytes, told: str, face: Face
) -> None:
    async def scenario(client: Any) -> None:
        for call in (client.get("a"), client.put("a", "1")):
            started = time.monotonic()
            with pytest.raises(NotConnected) as caught:
                await call
            assert time.monotonic() - started < SOON_SECONDS
            assert caught.value.outcome is Outcome.DEFINITE
            assert told in caught.value.text

    with _deaf_port(says) as endpoint:
        face.run(scenario, endpoint, dial_timeout=0.5, timeout=60.0)


def test_a_gate_to_nobody_is_one_clear_error_in_time(face: Face) -> None:
    async def scenario(client: Any) -> None:
        with pytest.raises(NotConnected):
            await client.put("a", "1")

    with Gate(f"127.0.0.1:{processes.free_ports(1)[0]}") as gate:
        face.run(scenario, gate.endpoint, dial_timeout=0.5, timeout=60.0)
