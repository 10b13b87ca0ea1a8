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
