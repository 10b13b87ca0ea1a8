"""/debug/vars and, where they are allowed, the pages of /debug/pprof/."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.server.http.variables import raft_status
from tests import processes
from tests.server.harness import configs, replica_of, running, until
from tests.server.http.asking import SECONDS, Wire, ask, get, request

PPROF = ("", "cmdline", "goroutine", "profile?seconds=0.01")
BUSY = b"this process is being profiled already\n"


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[processes.Server]:
    """A member with --enable-pprof."""
    directory = tmp_path_factory.mktemp("debug")
    with processes.raftkv(
        directory, 1, "--enable-pprof", "--cors", "http://one.example"
    ) as cluster:
        yield cluster.servers[0]


# --- /debug/vars ------------------------------------------------------------------


def test_the_variables_are_those_of_this_process(allowed: processes.Server) -> None:
    answer = get(allowed.client_port, "/debug/vars")
    assert (answer.code, answer.headers["content-type"]) == (200, "application/json; charset=utf-8")
    found = json.loads(answer.body)
    assert list(found) == ["cmdline", "file_descriptor_limit", "memstats", "raft.status"]
    assert found["cmdline"][1:2] == ["serve"]
    assert "--enable-pprof" in found["cmdline"]
    limits = Path(f"/proc/{allowed.pid}/limits").read_text()
    [soft] = re.findall(r"Max open files +(\d+)", limits)
    assert found["file_descriptor_limit"] == int(soft)
    memory = found["memstats"]
    assert 10_000_000 < memory["ResidentBytes"] <= memory["VirtualBytes"]
    assert memory["ResidentBytes"] < memory["PeakResidentBytes"] * 2
    assert memory["NumGC"] > 0
    assert memory["EnableGC"] is True


def test_only_get_is_allowed_for_variables(allowed: processes.Server) -> None:
    for method in ("HEAD", "POST", "DELETE"):
        answer = ask(allowed.client_port, request("/debug/vars", method=method))
        assert (answer.code, answer.headers["allow"]) == (405, "GET")


def test_the_raft_status_is_the_replicas_and_a_leader_tells_of_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            replicas = [replica_of(node) for node in nodes]
            names = {f"{one.member:x}" for one in replicas}

            def settled() -> bool:
                applied = {one.machine.applied_index for one in replicas}
                seen = [raft_status(one) for one in replicas]
                followed = {one["lead"] for one in seen}
                known = [
                    (each["match"], each["next"])
                    for one in seen
                    for each in one["progress"].values()
                ]
                index = min(applied)
                return len(applied) == len(followed) == 1 and known == [(index, index + 1)] * 3

            await until(settled)
            for one in replicas:
                status = raft_status(one)
                assert status["id"] == f"{one.member:x}"
                assert status["lead"] in names
                assert status["vote"] in {*names, "0"}
                assert (status["term"], status["commit"]) == (one.core.term, one.core.commit)
                assert status["leadtransferee"] == "0"
                index = one.machine.applied_index
                assert status["applied"] == index
                if one.is_leader:
                    assert status["raftState"] == "StateLeader"
                    each = {"match": index, "next": index + 1, "state": "StateReplicate"}
                    assert status["progress"] == dict.fromkeys(names, each)
                else:
                    assert (status["raftState"], status["progress"]) == ("StateFollower", {})

    asyncio.run(scenario())


# --- /debug/pprof/ ----------------------------------------------------------------


@pytest.mark.parametrize("page", PPROF)
def test_without_the_flag_there_are_no_profiles(port: int, page: str) -> None:
    answer = get(port, f"/debug/pprof/{page}")
    assert (answer.code, answer.body) == (404, b"404 page not found\n")
    assert get(port, "/debug/pprof").code == 404
    assert get(port, "/debug/vars").code == 200


@pytest.mark.parametrize("path", ["/debug/vars", "/debug/pprof/", "/debug/pprof/goroutine"])
def test_the_port_for_metrics_has_none_of_these_pages(
    metrics_port: int, port: int, path: str
) -> None:
    assert get(metrics_port, path).code == 404


@pytest.mark.parametrize("page", ["vars", "pprof/", "pprof/goroutine"])
def test_a_page_of_the_web_is_refused_unless_it_is_listed(
    allowed: processes.Server, page: str
) -> None:
    """X15."""
    path = f"/debug/{page}"
    assert get(allowed.client_port, path, "Origin: http://two.example\r\n").code == 403
    listed = get(allowed.client_port, path, "Origin: http://one.example\r\n")
    assert listed.code == 200
    assert listed.headers["access-control-allow-origin"] == "http://one.example"


def test_the_index_leads_to_every_page(allowed: processes.Server) -> None:
    port = allowed.client_port
    moved = get(port, "/debug/pprof")
    assert (moved.code, moved.headers["location"]) == (301, "/debug/pprof/")
    index = get(port, "/debug/pprof/")
    assert (index.code, index.headers["content-type"]) == (200, "text/html; charset=utf-8")
    links = re.findall(r'href="([^"]+)"', index.body.decode())
    assert {link.partition("?")[0] for link in links} == {"cmdline", "goroutine", "profile"}
    for link in links:
        if not link.startswith("profile"):
            assert get(port, f"/debug/pprof/{link}").code == 200
    unknown = get(port, "/debug/pprof/nonsense")
    assert (unknown.code, unknown.body) == (404, b"Unknown profile\n")


def test_the_command_line_is_that_of_the_process(allowed: processes.Server) -> None:
    words = get(allowed.client_port, "/debug/pprof/cmdline").body.split(b"\0")
    real = Path(f"/proc/{allowed.pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    assert words[1:] == real[-len(words) + 1 :]
    assert len(words) > 3


def test_stacks_of_threads_and_tasks_come_grouped_or_each_by_itself(
    allowed: processes.Server,
) -> None:
    port = allowed.client_port
    for query in ("", "?debug=1"):
        grouped = get(port, f"/debug/pprof/goroutine{query}").body.decode()
        assert re.match(r"threads: total \d+, tasks: total \d+\n\n", grouped)
        assert re.search(
            r"^1 task\n(#.*\n)*#\traftkv\.server\.node\._serve\t", grouped, re.MULTILINE
        )
    each = get(port, "/debug/pprof/goroutine?debug=2").body.decode()
    assert 'thread "MainThread":\nraftkv.server.stacks.threads\n' in each
    assert 'thread "disk":\nraftkv.server.disk.Disk._run\n' in each
    assert re.search(
        r'^task "[^"]+":\n(?:.*\n\t.*\n)*?raftkv\.server\.node\._serve\n', each, re.MULTILINE
    )


def _profile(seconds: str) -> bytes:
    return request(f"/debug/pprof/profile?seconds={seconds}", method="GET")


def _until_profiled(port: int, profiled: bool) -> None:
    """Waits for it without a profile of its own, which could be the one."""
    end = time.monotonic() + SECONDS
    while (b'thread "profiling":' in get(port, "/debug/pprof/goroutine?debug=2").body) != profiled:
        assert time.monotonic() < end


def test_a_profile_is_collapsed_stacks_as_text(allowed: processes.Server) -> None:
    answer = ask(allowed.client_port, _profile("0.2"))
    assert (answer.code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    lines = answer.body.decode().splitlines()
    assert all(re.fullmatch(r"[^ ;]+(;[^ ;]+)+ [1-9]\d*", line) for line in lines), lines
    assert any(line.startswith("disk;threading.") for line in lines)
    assert any(";raftkv.server.node.run;" in line for line in lines)


def test_a_second_profile_at_a_time_is_refused_and_the_member_answers_meanwhile(
    allowed: processes.Server,
) -> None:
    port = allowed.client_port
    with Wire(port) as first:
        first.send(_profile("60"))
        _until_profiled(port, True)
        answer = ask(port, _profile("0.01"))
        assert (answer.code, answer.body) == (503, BUSY)
        assert get(port, "/health").code == 200
    _until_profiled(port, False)


@pytest.mark.parametrize("half", [True, False])
def test_a_profile_ends_when_its_client_goes(allowed: processes.Server, half: bool) -> None:
    port = allowed.client_port
    with Wire(port) as gone:
        gone.send(_profile("60"))
        _until_profiled(port, True)
        if half:
            gone.half_close()
            assert gone.rest() == b""
    _until_profiled(port, False)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the curl command is needed")
def test_profiles_over_http2_are_the_same_and_end_with_their_client(
    allowed: processes.Server,
) -> None:
    port = allowed.client_port
    command = ["curl", "-sS", "--http2-prior-knowledge", "-m", "120"]
    url = f"http://127.0.0.1:{port}/debug/pprof/profile?seconds="
    short = subprocess.run([*command, url + "0.05"], capture_output=True, check=True, timeout=120)
    assert b"MainThread;" in short.stdout
    gone = subprocess.Popen([*command, url + "60"], stdout=subprocess.DEVNULL)
    try:
        _until_profiled(port, True)
    finally:
        gone.kill()
        gone.wait()
    _until_profiled(port, False)


@pytest.mark.parametrize("seconds", ["61", "1e9", "inf"])
def test_a_longer_profile_than_a_minute_is_refused(allowed: processes.Server, seconds: str) -> None:
    answer = ask(allowed.client_port, _profile(seconds))
    assert (answer.code, answer.body) == (400, b"seconds may be at most 60\n")


@pytest.mark.parametrize("seconds", ["", "x", "0", "-1", "nan"])
def test_what_is_no_time_means_half_a_minute_as_in_etcd(
    allowed: processes.Server, seconds: str
) -> None:
    with socket.create_connection(("127.0.0.1", allowed.client_port), SECONDS) as client:
        client.sendall(_profile(seconds))
        _until_profiled(allowed.client_port, True)
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
    _until_profiled(allowed.client_port, False)


def test_a_member_that_stops_waits_for_no_profile(tmp_path: Path) -> None:
    """It tells at once what it has seen until then."""

    async def scenario() -> bytes:
        async with running(configs(1, tmp_path, enable_pprof=True)) as nodes:
            [node] = nodes
            port = node.config.listen_client_urls[0].port
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(_profile("60"))
            assert node.clients is not None
            await until(lambda: node.clients.open_calls)
            await node.stop()
            answer = await reader.read()
            writer.close()
            return answer

    answer = asyncio.run(scenario())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in head
    assert f"{threading.current_thread().name};".encode() in body
