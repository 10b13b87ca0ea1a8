"""O04: clients beyond the limit are turned away at once; nobody else notices."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from raftkv import limits
from raftkv.server.descriptors import clients_under
from raftkv.server.node import Node
from tests.server.certificates import Authority
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.logged import Lines
from tests.server.test_tls import put, secure_node


def port_of(node: Node) -> int:
    """The client port."""
    return node.config.listen_client_urls[0].port


def limit(node: Node, most: int) -> None:
    """As if the process could open only so many files."""
    assert node.clients is not None
    node.clients.max_connections = most


def turned_away(lines: Lines) -> int:
    """How many clients were turned away, as the log says it."""
    found = [one for one in lines.records if "turned a client away" in one.getMessage()]
    return sum(int(vars(one).get("times", 1)) for one in found)


async def closed_at_once(port: int) -> None:
    """Connects, and sees the end of the connection without having sent a byte."""
    async with asyncio.timeout(60):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        try:
            assert await reader.read() == b""
        except OSError:
            pass
        finally:
            writer.transport.abort()


def test_clients_beyond_the_limit_are_turned_away_and_the_others_undisturbed(
    tmp_path: Path, lines: Lines
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            limit(node, 3)
            clients = [await Client.connect(node) for _ in range(3)]
            for client in clients:
                await client.put(b"k", b"v")
            await asyncio.gather(*(closed_at_once(port_of(node)) for _ in range(50)))
            for client in clients:
                await client.put(b"k", b"v")
            assert node.clients is not None
            assert len(node.clients.connections) == 3
            clients.pop().close()
            await until(lambda: len(node.clients.connections) == 2)
            clients.append(await Client.connect(node))
            await clients[-1].put(b"k", b"v")
            for client in clients:
                client.close()

    asyncio.run(scenario())
    assert turned_away(lines) == 1  # the other 49 are not worth a line each
    assert not lines.broken()


def test_who_comes_after_the_quiet_time_is_logged_with_the_number_of_all(
    tmp_path: Path, lines: Lines
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            limit(node, 0)
            assert node.clients is not None
            for _ in range(5):
                await closed_at_once(port_of(node))
            node.clients._repeats._quiet = 0.0
            await closed_at_once(port_of(node))

    asyncio.run(scenario())
    assert turned_away(lines) == 1 + 5


def test_members_are_never_turned_away(tmp_path: Path, lines: Lines) -> None:
    """They find each other again while no client gets in."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            for node in nodes:
                limit(node, 0)
            before = [dict(node._peers.accepted) for node in nodes if node._peers is not None]
            for node in nodes:
                assert node._peers is not None
                for accepted in list(node._peers.accepted):
                    accepted.abort()
            for node, old in zip(nodes, before, strict=True):
                await until(
                    lambda node=node, old=old: (
                        sum(one.sender != 0 for one in node._peers.accepted if one not in old) == 2
                    )
                )
            await closed_at_once(port_of(nodes[0]))
            await until(lambda: any(replica_of(node).is_leader for node in nodes))
            leader = next(node for node in nodes if replica_of(node).is_leader)
            limit(leader, 1)
            client = await Client.connect(leader)
            await client.put(b"k", b"v")
            client.close()

    asyncio.run(scenario())
    assert not lines.broken()


def test_handshakes_under_way_count_until_their_deadline(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 3.0)
    authority = Authority(tmp_path_factory.mktemp("certificates") / "ours")

    async def scenario() -> None:
        async with secure_node(tmp_path, authority) as node:
            limit(node, 3)
            silent = [await asyncio.open_connection("127.0.0.1", port_of(node)) for _ in range(3)]
            await closed_at_once(port_of(node))
            assert turned_away(lines) == 1
            async with asyncio.timeout(60):
                await asyncio.gather(*(reader.read() for reader, _ in silent))
            await put(node, authority)
            for _, writer in silent:
                writer.transport.abort()

    asyncio.run(scenario())
    assert not lines.broken()


@pytest.mark.parametrize(
    ("files", "clients"), [(256, 128), (1024, 512), (4096, 3072), (1048576, 1047552)]
)
def test_the_member_keeps_files_for_itself(files: int, clients: int) -> None:
    assert clients_under(files) == clients


def test_a_server_raises_its_limit_of_open_files_as_far_as_it_may() -> None:
    program = (
        "import resource\n"
        "from raftkv.server.descriptors import admitted_clients, raise_limit\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (200, 3000))\n"
        "assert admitted_clients() == 100\n"
        "raise_limit()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), admitted_clients())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.stdout == "(3000, 3000) 1976\n", done.stderr
