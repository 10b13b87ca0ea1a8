"""deploy/haproxy and deploy/nginx are valid, and clients behind them survive a member."""

import http.client
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from raftkv.client import Client, ClientError
from tests.architecture import ROOT
from tests.deploy.pods import PATIENCE_SECONDS, POLL_SECONDS, Member, Pods, wait_until
from tests.processes import free_ports

HAPROXY: Final = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
NGINX: Final = ROOT / "deploy" / "nginx" / "nginx.conf"
KEYS: Final = 20


def _installed(program: str) -> str:
    """Its path; also where it is not on an ordinary user's. Skips the test without it."""
    found = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def _nginx() -> str:
    """Its path, if it can pass on streams."""
    program = _installed("nginx")
    built = subprocess.run([program, "-V"], capture_output=True, text=True, check=True).stderr
    if not re.search(r"--with-stream(\s|$)", built) and not list(
        Path("/etc/nginx/modules-enabled").glob("*stream*.conf")
    ):
        pytest.skip("nginx is installed without its stream module")
    return program


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    return True


# --- the shipped files, on this machine's ports -------------------------------------


def _with(text: str, changes: Sequence[tuple[str, str]]) -> str:
    for old, new in changes:
        assert old in text, f"{old!r} is not in the shipped file any more"
        text = text.replace(old, new)
    return text


@dataclass(frozen=True, slots=True)
class Proxy:
    """port: for clients. status_port: HAProxy's page of members, or NGINX's health page."""

    port: int
    status_port: int

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.port}"

    def page(self, path: str, port: int = 0, body: bytes | None = None) -> tuple[int, str]:
        """(status, text) of a page. port: another than `status_port`."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.status_port, timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            reply = connection.getresponse()
            return reply.status, reply.read().decode()
        finally:
            connection.close()


@contextmanager
def _running(command: Sequence[str | Path], proxy: Proxy) -> Iterator[Proxy]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        wait_until(lambda: process.poll() is not None or _listens(proxy.port))
        assert process.poll() is None, "the proxy ended"
        yield proxy
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def haproxy(places: Sequence[tuple[int, int]], directory: Path) -> Iterator[Proxy]:
    """HAProxy with the shipped file in front of members at these ports, for clients and metrics."""
    program, (port, status_port) = _installed("haproxy"), free_ports(2)
    changes = [
        ("bind :2379", f"bind 127.0.0.1:{port}"),
        ("127.0.0.1:8404", f"127.0.0.1:{status_port}"),
    ]
    for number, (client_port, metrics_port) in enumerate(places, 1):
        here = f"127.0.0.1:{client_port} port {metrics_port}"
        changes.append((f"10.0.0.{number}:2379", here))
    file = directory / HAPROXY.name
    file.write_text(_with(HAPROXY.read_text(), changes))
    with _running([program, "-db", "-f", file], Proxy(port, status_port)) as proxy:
        yield proxy


@contextmanager
def nginx(members: Sequence[Member], directory: Path) -> Iterator[Proxy]:
    """NGINX with the shipped file in front of these members."""
    program, (port, status_port) = _nginx(), free_ports(2)
    buffers = " ".join(
        f"{kind}_temp_path {directory / kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    changes = [
        ("listen 2379", f"listen 127.0.0.1:{port}"),
        ("listen 2381", f"listen 127.0.0.1:{status_port}"),
        ("/run/nginx.pid", f"{directory / 'nginx.pid'}"),
        ("http {", f"http {{ {buffers}"),
    ]
    for number, one in enumerate(members, 1):
        changes.append((f"10.0.0.{number}:2379", one.server.endpoint))
        changes.append((f"10.0.0.{number}:2381", f"127.0.0.1:{one.metrics_port}"))
    file = directory / NGINX.name
    file.write_text(_with(NGINX.read_text(), changes))
    command: list[str | Path] = [program, "-e", "stderr", "-c", file, "-g", "daemon off;"]
    with _running(command, Proxy(port, status_port)) as proxy:
        yield proxy


def test_haproxy_takes_the_shipped_file_without_a_warning() -> None:
    done = subprocess.run(
        [_installed("haproxy"), "-c", "-f", HAPROXY],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


def test_nginx_takes_the_shipped_file(tmp_path: Path) -> None:
    file = tmp_path / NGINX.name
    file.write_text(_with(NGINX.read_text(), [("/run/nginx.pid", f"{tmp_path / 'pid'}")]))
    done = subprocess.run(
        [_nginx(), "-e", "stderr", "-t", "-c", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "syntax is ok" in done.stderr, done.stderr
    assert "[warn]" not in done.stderr


def _state(proxy: Proxy, number: int) -> str:
    """What HAProxy thinks of a member: UP, DOWN, or on its way."""
    _, text = proxy.page("/;csv")
    rows = [line.split(",") for line in text.splitlines()]
    columns = rows[0]
    [row] = [one for one in rows if one[:2] == ["members", f"node{number}"]]
    return row[columns.index("status")]


class _Ready(http.server.BaseHTTPRequestHandler):
    """Answers every page, /readyz among them."""

    def do_GET(self) -> None:
        self.send_response(http.client.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


def test_haproxy_gives_a_connection_that_a_dead_member_refuses_to_another(tmp_path: Path) -> None:
    """Also the first one, while its checks still tell that it is there."""
    dead, *_ = free_ports(1)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Ready) as living,
        ThreadPoolExecutor(1) as pool,
    ):
        pool.submit(living.serve_forever)
        try:
            alive = living.server_address[1]
            with haproxy([(dead, alive), (alive, alive), (alive, alive)], tmp_path) as proxy:
                wait_until(lambda: _state(proxy, 1) == "UP")
                for _ in range(10):
                    assert proxy.page("/", proxy.port) == (http.client.OK, "")
        finally:
            living.shutdown()


# --- clients behind them ----------------------------------------------------------


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with Pods(tmp_path_factory.mktemp("proxied")) as pods:
        yield pods


def _places(pods: Pods) -> list[tuple[int, int]]:
    return [(one.server.client_port, one.metrics_port) for one in pods.members]


def _id(member: Member) -> int:
    with Client(member.server.endpoint, timeout=PATIENCE_SECONDS) as client:
        return client.get("id").header.member_id


def _serving(client: Client, pods: Pods) -> Member:
    """The member that this client's connection leads to."""
    answered = client.put("who", "?").header.member_id
    [found] = [one for one in pods.members if _id(one) == answered]
    return found


def _put_at_last(client: Client, key: str) -> None:
    """A put that was acknowledged; attempts before it may have failed."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            client.put(key, key, timeout=10)
        except ClientError:
            assert time.monotonic() < deadline
            time.sleep(POLL_SECONDS)
        else:
            return


def _gateway_counts(proxy: Proxy) -> str:
    """How many keys `who` there are, asked in JSON; nothing if the connection was cut meanwhile."""
    try:
        status, text = proxy.page("/v3/kv/range", proxy.port, b'{"key":"d2hv"}')
    except (OSError, http.client.HTTPException):  # plain HTTP repeats nothing by itself
        return ""
    return str(json.loads(text)["count"]) if status == http.client.OK else ""


def _outlives(proxy: Proxy, pods: Pods, prefix: str) -> None:
    """The promise: a member dies, and puts, reads and a watch go on through the same address."""
    keys = [f"{prefix}/{number}" for number in range(KEYS)]
    with (
        Client(proxy.endpoint, timeout=PATIENCE_SECONDS) as client,
        client.watch(f"{prefix}/", prefix=True) as watch,
    ):
        client.put(keys[0], keys[0])
        member = _serving(client, pods)
        member.server.kill()
        try:
            for key in keys[1:]:
                _put_at_last(client, key)
            held = {item.key.decode() for item in client.get_prefix(f"{prefix}/")}
            assert held == set(keys)
            seen: set[str] = set()
            while seen != set(keys):
                seen |= {event.key.decode() for event in watch.next(timeout=PATIENCE_SECONDS)}
            wait_until(lambda: _gateway_counts(proxy) == "1")
        finally:
            member.server.start()
            member.server.wait_ready()


@pytest.mark.slow
def test_clients_behind_haproxy_go_on_when_their_member_dies(pods: Pods, tmp_path: Path) -> None:
    with haproxy(_places(pods), tmp_path) as proxy:
        _outlives(proxy, pods, "haproxy")


@pytest.mark.slow
def test_clients_behind_nginx_go_on_when_their_member_dies(pods: Pods, tmp_path: Path) -> None:
    with nginx(pods.members, tmp_path) as proxy:
        _outlives(proxy, pods, "nginx")


@pytest.mark.slow
def test_haproxy_leaves_a_member_that_takes_connections_and_is_not_ready(
    pods: Pods, tmp_path: Path
) -> None:
    """A stopped process still accepts, by its kernel: only /readyz shows that nobody is there."""
    with (
        haproxy(_places(pods), tmp_path) as proxy,
        Client(proxy.endpoint, timeout=PATIENCE_SECONDS) as client,
    ):
        member = _serving(client, pods)
        number = pods.members.index(member) + 1
        wait_until(lambda: _state(proxy, number) == "UP")
        os.kill(member.server.pid, signal.SIGSTOP)
        try:
            assert _listens(member.server.client_port)
            wait_until(lambda: _state(proxy, number) == "DOWN")
            _put_at_last(client, "left")
        finally:
            os.kill(member.server.pid, signal.SIGCONT)
        wait_until(lambda: _state(proxy, number) == "UP")


@pytest.mark.slow
def test_nginx_tells_whether_any_member_is_ready(pods: Pods, tmp_path: Path) -> None:
    with nginx(pods.members, tmp_path) as proxy:
        pods.members[0].server.kill()
        try:
            wait_until(lambda: proxy.page("/readyz")[0] == http.client.OK)
            assert proxy.page("/other")[0] == http.client.NOT_FOUND
        finally:
            pods.members[0].server.start()
            pods.members[0].server.wait_ready()
