"""When the watchers of a member hear of what a turn changed."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raftkv.pb import rpc_pb2
from raftkv.server import watching
from raftkv.server.node import Node
from tests.server.harness import Client, configs, replica_of, running, until
from tests.server.watching import create


class Events:
    """A client that watches one key; how many responses it got."""

    def __init__(self, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
        self.client = client
        self.values: list[bytes] = []
        monkeypatch.setattr(client, "message", self._take)

    @staticmethod
    async def of(node: Node, key: bytes, monkeypatch: pytest.MonkeyPatch) -> "Events":
        """A watch that is created."""
        events = Events(await Client.connect(node), monkeypatch)
        monkeypatch.setattr(events.client, "finished", lambda *_: None)
        stream = events.client.connection.request(b"/etcdserverpb.Watch/Watch")
        events.client.connection.send(stream, create(key))
        events.client.flush()
        assert node.driver is not None
        watches = node.driver.watches.watches
        await until(lambda: watches.count == 1)
        return events

    def _take(self, _: int, message: bytes) -> None:
        response = rpc_pb2.WatchResponse.FromString(message)
        self.values += [event.kv.value for event in response.events]


def test_watchers_hear_of_changes_although_the_disk_stays_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            events = await Events.of(node, b"k", monkeypatch)
            writer = await Client.connect(node)
            _wait_always(node.driver.watches, monkeypatch)
            monkeypatch.setattr(node.driver.replica, "tick", lambda: None)  # no other turns
            for one in range(5):
                await writer.put(b"k", b"%d" % one)
                await until(lambda wanted=one + 1: len(events.values) == wanted)
            assert events.values == [b"0", b"1", b"2", b"3", b"4"]
            writer.close()
            events.client.close()

    asyncio.run(scenario())


def test_changes_that_wait_for_the_disk_are_told_before_the_next_turn_changes_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One publication per turn, whatever the disk does, and nothing is left out."""

    async def scenario() -> None:
        monkeypatch.setattr(watching, "WAIT_SECONDS", 30.0)
        monkeypatch.setattr(watching, "BUSY_SECONDS", 0.0)  # nothing else makes changes wait
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            events = await Events.of(node, b"k", monkeypatch)
            writer = await Client.connect(node)
            _wait_always(node.driver.watches, monkeypatch)
            for one in range(20):
                await writer.put(b"k", b"%d" % one)
                assert len(events.values) <= one
            await until(lambda: len(events.values) == 20)  # the next turn is that of a tick
            assert events.values == [b"%d" % one for one in range(20)]
            writer.close()
            events.client.close()

    asyncio.run(scenario())


def test_a_followers_disk_begins_with_entries_before_its_watchers_hear_of_earlier_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disk thread cannot begin while the event loop serves watchers."""

    async def scenario() -> None:
        monkeypatch.setattr(watching, "WAIT_SECONDS", 30.0)
        # What is gathered behind a publication of a moment ago waits for no disk.
        monkeypatch.setattr(watching, "BUSY_SECONDS", 0.0)
        slow = {"heartbeat_interval_ms": 100, "election_timeout_ms": 1000}
        async with running(configs(3, tmp_path, **slow)) as nodes:
            leader = next(node for node in nodes if replica_of(node).is_leader)
            follower = next(node for node in nodes if not replica_of(node).is_leader)
            assert follower.driver is not None
            events = await Events.of(follower, b"k", monkeypatch)
            writer = await Client.connect(leader)
            order: list[tuple[str, int]] = []
            _note_order(follower.driver, order, monkeypatch)
            for one in range(40):
                await writer.put(b"k", b"%d" % one)
            await until(lambda: len(events.values) == 40)
            assert events.values == [b"%d" % one for one in range(40)]
            waited = [at for at, (what, _) in enumerate(order) if what == "changes wait"]
            assert waited
            for at in waited:  # a turn that comes first publishes, too
                (_, turn), (then, later) = order[at : at + 2]
                assert then == "disk begins" or later > turn
            names = [what for what, _ in order]
            assert any(names[at + 1 : at + 3] == ["disk begins", "published"] for at in waited)
            writer.close()
            events.client.close()

    asyncio.run(scenario())


def _count_told(hub: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each publication from now on, how many changes it tells."""
    told: list[int] = []
    tell = hub.watches.publish

    def count(changes: Any, revision: int) -> None:
        told.append(len(changes))
        tell(changes, revision)

    monkeypatch.setattr(hub.watches, "publish", count)
    return told


def _gather_always(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Whatever comes after a first publication is gathered for so long."""
    monkeypatch.setattr(watching, "BUSY_SECONDS", 60.0)
    monkeypatch.setattr(watching, "GATHER_SECONDS", seconds)


def test_what_turns_in_quick_succession_change_is_told_together_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            hub = node.driver.watches
            events = await Events.of(node, b"k", monkeypatch)
            writer = await Client.connect(node)
            told = _count_told(hub, monkeypatch)
            _gather_always(monkeypatch, 0.3)
            for one in range(20):
                await writer.put(b"k", b"%d" % one)
            await until(lambda: len(events.values) == 20)
            assert events.values == [b"%d" % one for one in range(20)]
            assert sum(told) == 20
            assert len(told) < 20
            writer.close()
            events.client.close()

    asyncio.run(scenario())


def test_what_is_gathered_when_the_state_is_replaced_comes_once_and_from_the_new_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W18"""

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            assert node.driver is not None
            hub = node.driver.watches
            events = await Events.of(node, b"k", monkeypatch)
            writer = await Client.connect(node)
            await writer.put(b"k", b"0")
            await until(lambda: len(events.values) == 1)
            _gather_always(monkeypatch, 60.0)
            for one in (1, 2, 3):
                await writer.put(b"k", b"%d" % one)
            assert events.values == [b"0"]
            hub.replaced(node.driver.replica.machine)
            await until(lambda: len(events.values) == 4)
            _gather_always(monkeypatch, 0.0)
            await writer.put(b"k", b"4")
            await until(lambda: len(events.values) == 5)
            assert events.values == [b"0", b"1", b"2", b"3", b"4"]
            writer.close()
            events.client.close()

    asyncio.run(scenario())


def _wait_always(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every turn gives the disk something, and the disk never begins with it."""
    publish = hub.publish
    monkeypatch.setattr(hub, "publish", lambda changes, **_: publish(changes, waiting=True))
    monkeypatch.setattr(hub, "disk_begins", lambda: None)


def _note_order(driver: Any, order: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Notes what changes wait, what is durable and what is published, each with the turn."""
    hub = driver.watches
    publish, begins, tell = hub.publish, hub.disk_begins, hub.watches.publish

    def note(what: str) -> None:
        order.append((what, driver.turns))

    def note_changes(changes: Any, *, waiting: bool) -> None:
        note("changes wait" if waiting and changes else "changed")
        publish(changes, waiting=waiting)

    def note_begins() -> None:
        note("disk begins")
        begins()

    def note_told(changes: Any, revision: int) -> None:
        note("published")
        tell(changes, revision)

    monkeypatch.setattr(hub, "publish", note_changes)
    monkeypatch.setattr(hub, "disk_begins", note_begins)
    monkeypatch.setattr(hub.watches, "publish", note_told)
