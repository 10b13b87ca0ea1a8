"""What comes in at the ports without belonging there, and directories that do not fit."""

import asyncio
from pathlib import Path

import pytest

from raftkv import limits
from raftkv.errors import Code
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import AppendEntries, AppendReply, Heartbeat, VoteRequest
from raftkv.raft.types import Entry
from raftkv.server import clients
from raftkv.server.links import STATE_PATH, STREAM_PATH
from raftkv.server.node import Node
from raftkv.wire import peer
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.impostor import Impostor, metadata
from tests.server.logged import Lines

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\x04\0\0\0\0\0"
STRANGER = 0xBAD


async def throw(port: int, data: bytes) -> bytes:
    """Sends bytes and returns what comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = b""
    async with asyncio.timeout(60):
        try:
            writer.write(data)
            while piece := await reader.read(65536):
                answer += piece
        except OSError:
            pass
        finally:
            writer.transport.abort()
    return answer


def ports(node: Node) -> list[int]:
    """The client port and the peer port."""
    return [node.config.listen_client_urls[0].port, node.config.listen_peer_urls[0].port]


async def alive(node: Node) -> None:
    """A put succeeds."""
    client = await Client.connect(node)
    await client.put(b"alive", b"yes")
    client.close()


def leader_of(nodes: list[Node]) -> Node:
    """The member that leads."""
    return next(node for node in nodes if replica_of(node).is_leader)


BAD = {
    "zeros": (b"\0" * 100, "not HTTP/2"),
    "no-settings": (PREFACE + b"\0\0\x08\x06\0\0\0\0\0" + b"x" * 8, ""),
    "huge-frame": (PREFACE + SETTINGS + b"\xff\xff\xff\0\0\0\0\0\x01", ""),
    "data-on-nothing": (PREFACE + SETTINGS + b"\0\0\1\0\1\0\0\0\1x", ""),
}
BAD_FOR_PEERS = {
    "http1": (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", "an HTTP/1 request on a gRPC port"),
}


@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
def test_what_is_no_grpc_is_closed_with_one_line_each(
    tmp_path: Path, lines: Lines, port: int
) -> None:
    """O12."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            bad = {**BAD, **(BAD_FOR_PEERS if port else {})}
            for data, reason in bad.values():
                lines.records.clear()
                answer = await throw(ports(nodes[0])[port], data)
                assert answer.startswith(b"HTTP/1.1 400") == data.startswith(b"GET")
                closed = [one for one in lines.records if "remote-addr" in vars(one)]
                assert len(closed) == 1
                assert reason in str(vars(closed[0])["error"])
            await alive(nodes[0])

    asyncio.run(scenario())
    assert not lines.broken()


@pytest.mark.parametrize("port", [0, 1], ids=["client", "peer"])
def test_a_connection_that_says_nothing_ends_at_the_deadline(
    tmp_path: Path, lines: Lines, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O04, O05: no byte, or the preface and half a frame."""
    from raftkv.wire import policy

    defaults = list(policy.ConnectionLimits.__init__.__defaults__ or ())
    place = defaults.index(limits.HANDSHAKE_SECONDS)
    defaults[place] = 0.4
    monkeypatch.setattr(policy.ConnectionLimits.__init__, "__defaults__", tuple(defaults))

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            number = ports(nodes[0])[port]
            await asyncio.gather(
                *(throw(number, b"") for _ in range(30)), throw(number, PREFACE + SETTINGS[:5])
            )
            await alive(nodes[0])

    asyncio.run(scenario())
    assert lines.rejected() == ["no HTTP/2 handshake within 0.4 s"] * len(lines.rejected())
    assert 1 <= len(lines.rejected()) <= 2
    assert not lines.broken()


def test_a_client_that_never_reads_why_it_is_closed_is_cut(
    tmp_path: Path, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """O11: closing politely must not last for ever, nor be logged again and again."""
    monkeypatch.setattr(clients, "LINGER_SECONDS", 0.5)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            writer_client = await Client.connect(nodes[0])
            await writer_client.put(b"big", b"x" * 1_000_000)
            reader = await Client.connect(nodes[0])
            transport = reader._transport
            assert transport is not None
            transport.pause_reading()
            answers = [
                reader.start("/etcdserverpb.KV/Range", rpc_pb2.RangeRequest(key=b"big"))
                for _ in range(12)
            ]
            reader.flush()
            assert nodes[0].clients is not None
            left = nodes[0].clients.connections
            await until(lambda: any(one._paused for one in left))
            transport.write(b"\0\0\1\0\1\0\0\0\0x")  # DATA on stream 0: an error
            await until(lambda: len(left) == 1, 60)
            for answer in answers:
                answer.cancel()
            transport.abort()
            writer_client.close()

    asyncio.run(scenario())
    closed = [str(vars(one).get("error")) for one in lines.records]
    assert len([reason for reason in closed if "stream 0" in reason]) == 1
    assert not lines.broken()


def test_a_forged_sender_changes_nothing(tmp_path: Path, lines: Lines) -> None:
    """O13: messages that name another sender or receiver than the stream's are dropped."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            leader = leader_of(nodes)
            follower = next(node for node in nodes if node is not leader)
            me, boss = replica_of(follower).member, replica_of(leader).member
            core = replica_of(follower).core
            term, commit = core.term, core.commit
            impostor = await Impostor.connect(follower)
            await impostor.open(metadata(follower, STRANGER))
            assert impostor.greeting is not None
            impostor.send(
                [
                    Heartbeat(me, boss, term + 1000, commit + 1000),
                    VoteRequest(me, boss, term + 1000, 10**9, term + 999, force=True),
                    AppendReply(me, boss, term + 1000, True, 10**9),
                    AppendEntries(me, boss, term, commit, term, [], commit + 1000),
                    Heartbeat(boss, STRANGER, term + 1000, commit),
                ]
            )
            await alive(follower)
            assert core.term == term
            assert core.leader == boss
            assert not replica_of(follower).core.is_leader
            impostor.close()

    asyncio.run(scenario())
    assert not lines.broken()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({b"raftkv-cluster": b"%016x" % 1}, "cluster ID mismatch"),
        ({b"raftkv-to": b"%016x" % 1}, "member ID mismatch"),
        ({b"raftkv-cluster": b"zzz"}, "names no raftkv member"),
        ({b"raftkv-member": b""}, "names no raftkv member"),
    ],
    ids=["cluster", "member", "garbage", "empty"],
)
def test_a_stranger_is_refused_with_one_line(
    tmp_path: Path, lines: Lines, changed: dict[bytes, bytes], text: str
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            for _ in range(20):
                impostor = await Impostor.connect(nodes[0])
                await impostor.open({**metadata(nodes[0], STRANGER), **changed})
                code, told = await impostor.refusal()
                assert code in (Code.FAILED_PRECONDITION, Code.INVALID_ARGUMENT)
                assert text in told
                impostor.close()

    asyncio.run(scenario())
    refused = [one.getMessage() for one in lines.records if "refused member" in one.getMessage()]
    assert len(refused) == 1
    assert text in refused[0]
    assert not lines.broken()


def test_a_member_that_came_back_with_another_directory_is_refused(tmp_path: Path) -> None:
    """R33 at the stream: the incarnation that the cluster knows is another one."""

    async def scenario() -> None:
        async with running(configs(2, tmp_path)) as nodes:
            other = replica_of(nodes[1]).member
            impostor = await Impostor.connect(nodes[0])
            await impostor.open(metadata(nodes[0], other))
            code, text = await impostor.refusal()
            assert code == Code.FAILED_PRECONDITION
            assert "another data directory" in text
            impostor.close()

    asyncio.run(scenario())


def test_urls_that_cannot_be_dialled_are_not_believed(tmp_path: Path, lines: Lines) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            for urls in (b"\xff\xfe", b"http://[::1", b"http://x:99999", b"gopher://x:1", b",,,"):
                impostor = await Impostor.connect(nodes[0])
                await impostor.open(metadata(nodes[0], STRANGER, urls=urls))
                assert impostor.greeting is not None
                impostor.close()
            await alive(nodes[0])

    asyncio.run(scenario())
    assert not lines.broken()


@pytest.mark.parametrize(
    "packet",
    [
        b"\xff" * 50,
        b"\x0a\xff\xff\xff\xff\xff\x01",
        b"\x0a\x05hello",
        peer.pack(b"\x63\0\0\0\0"),
        peer.pack(b"\1\0\0\0\x02ab"),
        peer.pack(b"\1\xff\xff\xff\xff"),
    ],
    ids=["noise", "length", "short", "kind", "cut", "size"],
)
def test_a_malformed_packet_ends_its_stream_and_nothing_else(
    tmp_path: Path, lines: Lines, packet: bytes
) -> None:
    """O12, R41."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            for path in (STREAM_PATH, STATE_PATH):
                impostor = await Impostor.connect(nodes[0])
                await impostor.open(metadata(nodes[0], STRANGER), path)
                impostor.send_raw(packet)
                code, text = await impostor.refusal()
                assert code == Code.INVALID_ARGUMENT or path == STATE_PATH
                assert text or path == STATE_PATH
                impostor.close()
            await alive(nodes[0])

    asyncio.run(scenario())
    assert not lines.broken()


def test_entries_with_a_hole_are_refused_before_they_reach_the_log(
    tmp_path: Path, lines: Lines
) -> None:
    """O13: a turn that broke off over them would have to end the process."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            replica = replica_of(nodes[0])
            last = replica.core.log.last_index
            impostor = await Impostor.connect(nodes[0])
            await impostor.open(metadata(nodes[0], STRANGER))
            entries = [Entry(last + 1, 1, 0, b"x"), Entry(last + 3, 1, 0, b"x")]
            term = replica.core.term
            impostor.send([AppendEntries(replica.member, STRANGER, term, last, 1, entries, 0)])
            code, text = await impostor.refusal()
            assert code == Code.INVALID_ARGUMENT
            assert "do not follow" in text
            impostor.close()
            await alive(nodes[0])

    asyncio.run(scenario())
    assert not lines.broken()


def test_a_term_that_no_election_can_reach_is_refused(tmp_path: Path, lines: Lines) -> None:
    """O13: taken over, it would leave no terms to elect anyone in, for good."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            replica = replica_of(nodes[0])
            term = replica.core.term
            impostor = await Impostor.connect(nodes[0])
            await impostor.open(metadata(nodes[0], STRANGER))
            impostor.send([AppendReply(replica.member, STRANGER, 2**64 - 1, False, 0)])
            code, text = await impostor.refusal()
            assert code == Code.INVALID_ARGUMENT
            assert "no term of this cluster" in text
            impostor.close()
            await alive(nodes[0])
            assert replica.core.term == term

    asyncio.run(scenario())
    assert not lines.broken()


def test_an_oversized_message_is_refused_before_it_is_read(tmp_path: Path, lines: Lines) -> None:
    """O13: the length alone is enough; the member does not wait for 64 MiB."""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as nodes:
            impostor = await Impostor.connect(nodes[0])
            await impostor.open(metadata(nodes[0], STRANGER))
            size = limits.MAX_PEER_MESSAGE_BYTES + 1
            head = b"\0" + size.to_bytes(4, "big")
            frame = (len(head) + 100).to_bytes(3, "big") + b"\0\0"
            impostor.write(frame + impostor.stream.to_bytes(4, "big") + head + b"x" * 100)
            code, text = await impostor.refusal()
            assert code == Code.RESOURCE_EXHAUSTED
            assert str(size) in text
            impostor.close()
            await alive(nodes[0])

    asyncio.run(scenario())
    assert not lines.broken()


def test_a_client_that_pings_too_often_is_told_to_calm_down(tmp_path: Path, lines: Lines) -> None:
    """O10: as grpc-go enforces it: the third ping too many ends the connection."""
    ping = b"\0\0\x08\x06\0\0\0\0\0" + b"12345678"

    async def scenario() -> None:
        async with running(configs(1, tmp_path, grpc_keepalive_min_time_seconds=60.0)) as nodes:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports(nodes[0])[0])
            writer.write(PREFACE + SETTINGS)
            answer = b""
            async with asyncio.timeout(60):
                writer.write(ping * 4)
                while piece := await reader.read(65536):
                    answer += piece
            enhance_your_calm = (11).to_bytes(4, "big")
            assert enhance_your_calm + b"too_many_pings" in answer
            writer.transport.abort()
            await alive(nodes[0])

    asyncio.run(scenario())
    assert not lines.broken()
