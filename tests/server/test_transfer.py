"""State transfers that break in the middle: what goes on, what begins anew, what is refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from raftkv.config import parse_url
from raftkv.server import intake, transfer
from raftkv.server.node import Node
from raftkv.storage.snapshots import StateReceiver, StateSender
from tests.processes import free_ports
from tests.server.harness import Client, configs, published, replica_of, until
from tests.server.logged import Lines
from tests.server.proxies import Proxy

VALUES = 120
VALUE_BYTES = 64 * 1024
CHUNKS = 4 + VALUES * VALUE_BYTES // (256 * 1024)  # header, rows of about 256 KiB, end


class Counts:
    """Chunks that were made by any sender and taken by any receiver, by number."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.taken: list[int] = []
        self.receivers: list[StateReceiver] = []


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> Counts:
    found = Counts()
    chunks, add = StateSender.chunks, StateReceiver.add

    def counted_chunks(self: StateSender, start: int = 0) -> Iterator[bytes]:
        for chunk in chunks(self, start):
            found.sent.append(int.from_bytes(chunk[4:8], "big"))
            yield chunk

    def counted_add(self: StateReceiver, chunk: bytes) -> None:
        add(self, chunk)
        if self not in found.receivers:
            found.receivers.append(self)
        found.taken.append(int.from_bytes(chunk[4:8], "big"))

    monkeypatch.setattr(StateSender, "chunks", counted_chunks)
    monkeypatch.setattr(StateReceiver, "add", counted_add)
    return found


class Rig:
    """Three members; the third is behind a proxy, stopped, and has lost touch with the log."""

    def __init__(self, nodes: list[Node], proxy: Proxy) -> None:
        self.nodes = nodes
        self.proxy = proxy
        self.value = b"x" * VALUE_BYTES

    @property
    def leader(self) -> Node:
        """Who leads among the first two."""
        return next(node for node in self.nodes[:2] if replica_of(node).is_leader)

    async def start_third(self) -> None:
        """The third member comes up again."""
        self.nodes[2] = Node(self.nodes[2].config)
        await self.nodes[2].start()

    def caught_up(self) -> bool:
        """The third member has everything."""
        applied = int(replica_of(self.leader).machine.applied_index)
        return bool(replica_of(self.nodes[2]).machine.applied_index >= applied)

    def same_state(self) -> bool:
        """The third member's state is the leader's (rows reach a backend some turns later)."""
        ours, theirs = (replica_of(one).machine for one in (self.leader, self.nodes[2]))
        return list(ours.backend.scan(b"", b"\xff")) == list(theirs.backend.scan(b"", b"\xff"))


@asynccontextmanager
async def rig(path: Path) -> AsyncIterator[Rig]:
    """See Rig. Elections take a while, so that the load of a transfer causes none."""
    plain = configs(3, path, snapshot_count=20, heartbeat_interval_ms=50, election_timeout_ms=1000)
    public = plain[2].listen_peer_urls[0].port
    (private,) = free_ports(1)
    plain[2] = replace(plain[2], listen_peer_urls=(parse_url(f"http://127.0.0.1:{private}"),))
    proxy = Proxy(private)
    await proxy.start(public)
    nodes = [Node(one) for one in plain]
    try:
        await asyncio.gather(*(node.start() for node in nodes))
        await until(lambda: all(published(node) for node in nodes))
        await nodes[2].stop()
        await until(lambda: any(replica_of(node).is_leader for node in nodes[:2]))
        built = Rig(nodes, proxy)
        client = await Client.connect(built.leader)
        for number in range(VALUES):
            await client.put(b"%04d" % number, built.value)
        client.close()
        applied = replica_of(nodes[2]).machine.applied_index
        await until(lambda: replica_of(built.leader).core.log.anchor_index > applied + 10)
        yield built
    finally:
        await asyncio.gather(*(node.stop() for node in nodes))
        await proxy.stop()


@pytest.fixture(autouse=True)
def little_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a cut connection loses few chunks."""
    monkeypatch.setattr(transfer, "SENT_AHEAD_BYTES", 256 * 1024)


def said(lines: Lines, words: str) -> int:
    """How many lines of the log have these words."""
    return sum(words in one.getMessage() for one in lines.records)


def outgoing(node: Node) -> dict[int, transfer.Outgoing]:
    """The states that a member sends or keeps, by receiver."""
    assert node._peers is not None
    return node._peers.transfers._outgoing


def test_a_broken_transfer_goes_on_behind_the_last_chunk_that_arrived(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    """R36, X14: the connection is cut twice; every chunk is taken once and the state is right."""

    async def scenario() -> None:
        async with rig(tmp_path) as it:
            it.proxy.budgets = [3_000_000, 2_000_000]
            await it.start_third()
            await until(it.caught_up)
            assert it.proxy.cuts == 2
            await until(it.same_state)
            await until(lambda: not outgoing(it.leader))
            assert not replica_of(it.leader).housekeeping._in_flight

    asyncio.run(scenario())
    assert len(counts.receivers) == 1
    assert counts.taken == list(range(len(counts.taken)))
    assert len(counts.taken) >= CHUNKS - 3
    # Behind each break only what was under way is sent again.
    assert len(counts.sent) <= len(counts.taken) + 20
    assert not lines.broken()


def test_a_receiver_that_was_restarted_begins_anew_from_the_same_view(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    """R38: what it had is gone; the sender still has its view and sends it from chunk 0."""

    async def scenario() -> None:
        async with rig(tmp_path) as it:
            it.proxy.budgets = [3_000_000]
            it.proxy.refuses_then = True
            await it.start_third()
            await until(lambda: it.proxy.cuts == 1)
            await it.nodes[2].stop()
            await until(lambda: all(one.task is None for one in outgoing(it.leader).values()))
            (kept,) = outgoing(it.leader).values()
            it.proxy.refusing = False
            await it.start_third()
            await until(it.caught_up)
            assert it.nodes[2]._peers is not None
            done = it.nodes[2]._peers.intakes._done
            assert done is not None
            assert done[1] == kept.transfer  # the very same
            await until(it.same_state)

    asyncio.run(scenario())
    assert len(counts.receivers) == 2
    assert counts.taken.count(0) == 2
    assert counts.receivers[1].complete
    assert not lines.broken()


def test_another_leader_begins_anew_and_the_old_one_lets_its_view_and_log_go(
    tmp_path: Path, counts: Counts, lines: Lines
) -> None:
    """R36: the half that arrived from the old leader is thrown away."""

    async def scenario() -> None:
        async with rig(tmp_path) as it:
            it.proxy.budgets = [3_000_000]
            it.proxy.refuses_then = True
            await it.start_third()
            await until(lambda: it.proxy.cuts == 1)
            old = it.leader
            await until(lambda: all(one.task is None for one in outgoing(old).values()))
            (kept,) = outgoing(old).values()
            third = replica_of(it.nodes[2]).member
            assert replica_of(old).housekeeping._in_flight == {third: kept.message.snapshot.index}
            new = next(node for node in it.nodes[:2] if node is not old)
            replica_of(old).core.transfer(replica_of(new).member)
            assert old.driver is not None
            old.driver.wake()
            await until(lambda: replica_of(new).is_leader)
            await until(lambda: not outgoing(old))
            assert not replica_of(old).housekeeping._in_flight
            it.proxy.refusing = False
            await until(it.caught_up)
            await until(it.same_state)

    asyncio.run(scenario())
    assert len(counts.receivers) == 2
    assert not counts.receivers[0].complete
    assert counts.taken.count(0) == 2
    assert not lines.broken()


def test_damage_in_a_chunk_behind_the_break_is_refused_and_all_begins_anew(
    tmp_path: Path, counts: Counts, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R39: a continued transfer is checked like any other."""
    chunks = StateSender.chunks

    def damaging(self: StateSender, start: int = 0) -> Iterator[bytes]:
        for number, chunk in enumerate(chunks(self, start)):
            if start and number == 2:
                yield chunk[:-1] + bytes([chunk[-1] ^ 1])
            else:
                yield chunk

    monkeypatch.setattr(StateSender, "chunks", damaging)

    async def scenario() -> None:
        async with rig(tmp_path) as it:
            it.proxy.budgets = [3_000_000]
            await it.start_third()
            await until(it.caught_up)
            await until(it.same_state)
            directory = it.nodes[2].config.data_dir
            assert len(list(directory.glob("state-*"))) <= 2  # the refused one is gone

    asyncio.run(scenario())
    assert said(lines, "refused a state") == 1
    assert len(counts.receivers) == 2
    assert not counts.receivers[0].complete
    assert counts.taken.count(0) == 2
    assert not lines.broken()


def test_both_ends_keep_a_broken_transfer_for_a_bounded_time(
    tmp_path: Path, counts: Counts, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The view is closed, the log may be truncated again, the half state is removed."""
    monkeypatch.setattr(transfer, "KEPT_SECONDS", 1.0)
    monkeypatch.setattr(intake, "KEPT_SECONDS", 1.0)

    async def scenario() -> None:
        async with rig(tmp_path) as it:
            it.proxy.budgets = [3_000_000]
            it.proxy.refuses_then = True
            await it.start_third()
            await until(lambda: it.proxy.cuts == 1)
            assert it.nodes[2]._peers is not None
            intakes = it.nodes[2]._peers.intakes
            assert replica_of(it.leader).housekeeping._in_flight
            await until(lambda: not outgoing(it.leader) and intakes._current is None)
            assert not replica_of(it.leader).housekeeping._in_flight
            assert len(list(it.nodes[2].config.data_dir.glob("state-*"))) == 1
            it.proxy.refusing = False
            await until(it.caught_up)
            await until(it.same_state)

    asyncio.run(scenario())
    assert counts.taken.count(0) == 2
    assert not lines.broken()


@pytest.mark.parametrize("asked_again", [True, False])
def test_a_receiver_without_progress_is_not_waited_for_and_nothing_is_sent_twice(
    tmp_path: Path,
    counts: Counts,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
    asked_again: bool,
) -> None:
    """The state has arrived but is loaded late: before or after the sender comes again."""
    monkeypatch.setattr(transfer, "STALL_SECONDS", 0.3)
    load = intake.Intakes._load

    async def slow(self: intake.Intakes, one: intake.Intake) -> None:
        await until(lambda: said(lines, "broke: no answer for 0.3 s"))
        if asked_again:
            await until(lambda: one.call is not None)
        await load(self, one)

    monkeypatch.setattr(intake.Intakes, "_load", slow)

    async def scenario() -> None:
        async with rig(tmp_path) as it:
            await it.start_third()
            await until(it.caught_up)
            await until(lambda: not outgoing(it.leader))
            assert not replica_of(it.leader).housekeeping._in_flight
            await until(it.same_state)

    asyncio.run(scenario())
    assert counts.sent == counts.taken == list(range(len(counts.sent)))
    assert not lines.broken()
