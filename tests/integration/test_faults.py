"""Real processes: killed, stopped, out of disk, with an old directory, under load."""

import asyncio
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from raftkv.errors import CorruptionError, DirectoryLocked, DiskFailure
from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.cli.running import raftctl
from tests.integration import faults
from tests.processes import Cluster, Server, raftkv

FAST = ("--heartbeat-interval=50", "--election-timeout=500")


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Cluster]:
    """Three members with short timeouts."""
    with raftkv(tmp_path, 3, *FAST) as cluster:
        yield cluster


def put(server: Server, key: str, value: str = "v", seconds: float = 60.0) -> int:
    """A put at one member; its revision. Errors: grpc.RpcError."""
    with grpc.insecure_channel(server.endpoint) as channel:
        request = rpc_pb2.PutRequest(key=key.encode(), value=value.encode())
        answer = rpc_pb2_grpc.KVStub(channel).Put(request, timeout=seconds, wait_for_ready=True)
        return int(answer.header.revision)


def keys(server: Server) -> list[str]:
    """All keys, read linearizably."""
    with grpc.insecure_channel(server.endpoint) as channel:
        request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", keys_only=True)
        answer = rpc_pb2_grpc.KVStub(channel).Range(request, timeout=60, wait_for_ready=True)
        return [pair.key.decode() for pair in answer.kvs]


def leader_and_others(cluster: Cluster) -> tuple[Server, list[Server]]:
    """Who leads now, and the rest."""
    deadline = time.monotonic() + 60
    leader = None
    while leader is None and time.monotonic() < deadline:
        leader = asyncio.run(faults.leader_of(cluster.servers))
    assert leader is not None
    return leader, [one for one in cluster.servers if one is not leader]


def wait_for(condition: object, seconds: float = 60.0) -> None:
    """Polls a callable until it is true."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def logged(server: Server, *words: str) -> list[dict[str, object]]:
    """The log lines that hold all the words."""
    lines = [line for line in server.log_end(100_000).splitlines() if line.startswith("{")]
    return [json.loads(line) for line in lines if all(word in line for word in words)]


def log_with(server: Server, words: str) -> str:
    """The whole output, with the assertion that `words` are in it."""
    text = server.log_end(1000)
    assert words in text, text
    return text


# --- the whole history ---------------------------------------------------------------


@pytest.mark.slow
def test_no_fault_of_processes_breaks_a_promise(tmp_path: Path) -> None:
    """R18, R33, R42, D01: kills and pauses under load; the history is strictly serializable."""
    report = faults.run(tmp_path, seed=1, seconds=10.0)
    assert not report.problems, report.lines()
    # A run that did nothing proves nothing.
    assert report.faults.total() >= 2, report.lines()
    assert report.outcomes["ok"] >= 300, report.lines()
    assert report.revisions >= 100, report.lines()
    assert len(report.resumed) >= 2, report.lines()


# --- disks ------------------------------------------------------------------------------


FULL_BYTES = 16_384
FILLER = "x" * FULL_BYTES


def _forbid_growth(server: Server) -> None:
    """From now on no file of the process may grow beyond FULL_BYTES: writes to the log fail, and
    there is room for the last words in the process's output.
    """
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (FULL_BYTES, resource.RLIM_INFINITY))


@pytest.mark.slow
def test_a_member_that_cannot_write_acknowledges_nothing_and_stops(tmp_path: Path) -> None:
    """D10, D12: a single member, so every answer would be its own."""
    with raftkv(tmp_path, 1) as cluster:
        server = cluster.servers[0]
        kept = [f"k{one}" for one in range(20)]
        for key in kept:
            put(server, key, FILLER)
        _forbid_growth(server)
        with pytest.raises(grpc.RpcError) as caught:
            put(server, "lost", seconds=3)
        assert caught.value.code() != grpc.StatusCode.OK
        wait_for(lambda: not server.running())
        assert server.stop() == DiskFailure.exit_code
        log_with(server, "stopping: ")
        server.start()  # there is space again
        server.wait_ready()
        found = keys(server)
        assert [key for key in found if key != "lost"] == sorted(kept)
        put(server, "again")


@pytest.mark.slow
def test_the_cluster_goes_on_without_a_leader_whose_disk_fails(trio: Cluster) -> None:
    """D10, D12: nothing acknowledged is lost, and the member comes back when it can write."""
    leader, others = leader_and_others(trio)
    for one in range(10):
        put(leader, f"a{one}", FILLER)
    _forbid_growth(leader)
    put(others[0], "b0")
    put(others[1], "b1")
    wait_for(lambda: not leader.running())
    assert leader.stop() == DiskFailure.exit_code
    assert logged(leader, "stopping: ")
    leader.start()
    leader.wait_ready()
    for server in trio.servers:
        assert keys(server) == sorted([f"a{one}" for one in range(10)] + ["b0", "b1"])


@pytest.mark.slow
def test_a_directory_that_became_read_only_stops_the_member(tmp_path: Path) -> None:
    """D13: the mark cannot be replaced any more, so nothing may depend on it."""
    with raftkv(tmp_path, 1) as cluster:
        server = cluster.servers[0]
        put(server, "before")
        server.stop()
        # Root writes everywhere unless it gives that right up.
        server._command[:0] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
        server.start()
        server.wait_ready()
        data = tmp_path / server.name
        places = [data, *(path for path in data.rglob("*") if path.is_dir())]
        try:
            for path in places:
                path.chmod(0o500)
            server.kill()
            server.start()
            wait_for(lambda: not server.running())
            assert server.stop() in (DiskFailure.exit_code, 10)
            assert str(data) in server.log_end(3)
            assert "Permission denied" in server.log_end(3)
            assert "Traceback" not in server.log_end(100)
        finally:
            for path in places:
                path.chmod(0o700)
        server.start()
        server.wait_ready()
        assert keys(server) == ["before"]


@pytest.mark.slow
def test_a_second_process_on_the_same_directory_ends_by_itself(tmp_path: Path) -> None:
    """D23. The first one does not notice."""
    with raftkv(tmp_path / "one", 1) as cluster:
        first = cluster.servers[0]
        second = raftkv(tmp_path / "two", 1).servers[0]
        place = second._command.index("--data-dir") + 1
        second._command[place] = str(tmp_path / "one" / first.name)
        second.start()
        wait_for(lambda: not second.running())
        assert second.stop() == DirectoryLocked.exit_code
        assert str(first.pid) in second.log_end(3) or first.name in second.log_end(3)
        put(first, "still")


# --- an old copy of a directory ------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("leader_changed", [False, True], ids=["same-leader", "new-leader"])
def test_a_member_with_an_old_copy_of_its_directory_refuses_and_can_rejoin(
    trio: Cluster, tmp_path: Path, leader_changed: bool
) -> None:
    """R34: the leader knows what the member acknowledged since, and every member which of its
    starts was the last.
    """
    leader, others = leader_and_others(trio)
    member, witness = others
    put(leader, "old")
    member.stop()
    data, copy = tmp_path / member.name, tmp_path / "copy"
    shutil.copytree(data, copy)
    member.start()
    member.wait_ready()
    for one in range(50):
        put(member, f"new{one}")
    member.kill()
    shutil.rmtree(data)
    copy.rename(data)
    if leader_changed:
        leader.kill()
        leader.start()
        leader.wait_ready()
    member.start()
    wait_for(lambda: not member.running())
    assert member.stop() == CorruptionError.exit_code
    text = log_with(member, "raftctl member remove")
    member.start()  # a supervisor does that, and each time the copy has one start more
    wait_for(lambda: not member.running())
    assert member.stop() == CorruptionError.exit_code
    number = text.split("raftctl member remove ")[1].split("`")[0].split(",")[0]
    # The steps that the message names.
    base = ["--endpoints", f"{leader.endpoint},{witness.endpoint}"]
    removed = raftctl([*base, "member", "remove", number])
    assert removed.exit_code == 0, removed.err
    url = f"http://127.0.0.1:{member.peer_port}"
    added = raftctl([*base, "member", "add", member.name, f"--peer-urls={url}"])
    assert added.exit_code == 0, added.err
    shutil.rmtree(data)
    member._command.append("--initial-cluster-state=existing")
    member.start()
    member.wait_ready()
    assert len(keys(member)) == 51
    put(member, "back")
    assert "back" in keys(witness)


# --- clients that vanish, and members that leave ---------------------------------------------

VANISHING = """
import sys, time, grpc
from raftkv.pb import rpc_pb2, rpc_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
rpc_pb2_grpc.KVStub(channel).Put(rpc_pb2.PutRequest(key=b"k"), timeout=20, wait_for_ready=True)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_client_that_stands_still_is_closed_after_a_ping(tmp_path: Path) -> None:
    """The server's keepalive: TCP alone would keep the connection for ever."""
    flags = ("--grpc-keepalive-interval=500ms", "--grpc-keepalive-timeout=3s")
    with raftkv(tmp_path, 1, *flags) as cluster:
        server = cluster.servers[0]
        client = subprocess.Popen(
            [sys.executable, "-c", VANISHING, server.endpoint], stdout=subprocess.PIPE
        )
        try:
            assert client.stdout is not None
            assert client.stdout.readline() == b"ready\n"
            before = len(logged(server, "keepalive"))
            time.sleep(1.5)  # it answers pings, so nothing happens
            assert len(logged(server, "keepalive")) == before
            os.kill(client.pid, signal.SIGSTOP)
            wait_for(lambda: len(logged(server, "no answer to a keepalive ping")) > before)
            time.sleep(0.5)
            assert len(logged(server, "no answer to a keepalive ping")) == before + 1
        finally:
            client.kill()
            client.wait()


@pytest.mark.slow
def test_sigterm_under_load_ends_every_running_call_and_hands_leadership_over(
    trio: Cluster,
) -> None:
    """A grpcio client sees no unknown outcome, the exit code is 0, writes go on elsewhere."""
    leader, others = leader_and_others(trio)
    acknowledged: list[str] = []
    failures: list[grpc.aio.AioRpcError] = []

    async def write(worker: int, stub: rpc_pb2_grpc.KVStub) -> None:
        count = 0
        while True:
            key = f"{worker}-{count}"
            count += 1
            try:
                await stub.Put(rpc_pb2.PutRequest(key=key.encode()), timeout=60)
            except grpc.aio.AioRpcError as error:
                failures.append(error)
                return
            acknowledged.append(key)

    async def scenario() -> int:
        async with grpc.aio.insecure_channel(leader.endpoint) as channel:
            stub = rpc_pb2_grpc.KVStub(channel)
            writers = [asyncio.create_task(write(one, stub)) for one in range(20)]
            async with asyncio.timeout(60):
                while len(acknowledged) <= 20:
                    await asyncio.sleep(0.01)
            loop = asyncio.get_running_loop()
            ending = loop.run_in_executor(None, leader.stop)
            await loop.run_in_executor(None, put, others[0], "elsewhere")
            code = await ending
            await asyncio.gather(*writers)
            return code

    code = asyncio.run(scenario())
    assert code == 0
    assert len(acknowledged) > 20
    assert {error.code() for error in failures} == {grpc.StatusCode.UNAVAILABLE}
    for error in failures:  # only new connections failed: nobody answers there any more
        assert "connect" in str(error.details()).lower(), error
    assert set(acknowledged) <= set(keys(others[0]))
    assert logged(leader, "handed leadership over")
    assert "Traceback" not in leader.log_end(1000)
