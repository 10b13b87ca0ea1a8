"""Very many watchers of what is written now: told in slices, others having turns in between."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raftkv.kv import watches
from raftkv.server.watching import Watching
from tests.server.harness import configs, running, until
from tests.server.watching import Watch, WatchClient, create, progress

WATCHERS = 60
PUTS = 120


async def watching(client: WatchClient, keys: list[bytes]) -> Watch:
    """A stream with a watch for each key."""
    watch = client.watch()
    watch.send(*[create(key) for key in keys])
    for number in range(len(keys)):
        assert (await watch.next()).watch_id == number
    return watch


def check(watch: Watch, keys: list[bytes], revisions: list[int]) -> int:
    """Every watch of the stream has had its events in order, and no bookmark was untrue; how many
    bookmarks there were.
    """
    got: dict[int, list[int]] = {number: [] for number in range(len(keys))}
    bookmarks = 0
    highest = told = 0
    for answer in watch.responses[len(keys) :]:
        revision = answer.header.revision
        if answer.watch_id == -1:
            assert highest <= revision, "a bookmark behind events that were sent"
            expected = [one for one in revisions if one <= revision]
            for number, key in enumerate(keys):
                assert got[number] == (expected if key == b"k" else []), (
                    "a bookmark ahead of events"
                )
            bookmarks, told = bookmarks + 1, revision
            continue
        mods = [event.kv.mod_revision for event in answer.events]
        assert mods[0] > told, "an event behind its bookmark"
        highest = max(highest, mods[-1])
        got[answer.watch_id] += mods
    assert got == {number: revisions if key == b"k" else [] for number, key in enumerate(keys)}
    return bookmarks


def test_many_watchers_are_told_in_slices_while_puts_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W14, W03, W05: events in order at every watch, bookmarks exact and never starved."""
    monkeypatch.setattr(watches.Watches.__init__, "__defaults__", (7,))
    slices: list[int] = []
    tell_more = Watching._tell_more

    def counted(self: Watching) -> None:
        before = self.watches.delivered_events
        tell_more(self)
        slices.append(self.watches.delivered_events - before)

    monkeypatch.setattr(Watching, "_tell_more", counted)

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            clients = [await WatchClient.to(node) for _ in range(3)]
            keys = [b"k"] * WATCHERS + [b"quiet"]
            streams = [await watching(client, keys) for client in clients]
            writer = await WatchClient.to(node)
            revisions = []
            for number in range(PUTS):
                put = await writer.put(b"k", b"%d" % number)
                revisions.append(put.header.revision)
                if number % 10 == 0:
                    for stream in streams:
                        stream.send(progress())
            asked = PUTS // 10
            hub = hub_of(node)  # which is told behind the answer to a put
            await until(lambda: hub.revision == revisions[-1] and not hub.unfinished)
            for stream in streams:
                stream.send(progress())
                await until(lambda s=stream: bookmarks(s) and settled(s, revisions[-1]))
                # Requests that wait together are answered together.
                assert 3 <= check(stream, keys, revisions) <= asked + 1
            assert len(slices) > PUTS
            for client in (*clients, writer):
                client.close()

    asyncio.run(scenario())


def hub_of(node: Any) -> watches.Watches:
    found = node.driver.watches.watches
    assert isinstance(found, watches.Watches)
    return found


def bookmarks(stream: Watch) -> int:
    return sum(answer.watch_id == -1 for answer in stream.responses)


def settled(stream: Watch, revision: int) -> bool:
    """Has the stream had a bookmark of this revision?"""
    return any(
        answer.watch_id == -1 and answer.header.revision >= revision for answer in stream.responses
    )


def test_a_member_that_stops_tells_all_that_it_has_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches.Watches.__init__, "__defaults__", (2,))

    async def scenario() -> None:
        async with running(configs(1, tmp_path)) as (node,):
            client = await WatchClient.to(node)
            stream = await watching(client, [b"k"] * WATCHERS)
            writer = await WatchClient.to(node)
            await writer.put(b"k", b"v")
            assert node.driver is not None
            node.driver.watches.stop()
            assert not hub_of(node).unfinished
            await until(lambda: len(stream.responses) == 2 * WATCHERS)
            client.close()
            writer.close()

    asyncio.run(scenario())
