"""Watch streams of one member: what is answered to what, and when."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import raftkv.server.node
from raftkv import limits
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.server import watching
from raftkv.server.services import watch_stream
from tests.server.harness import configs, running
from tests.server.test_counting import CountingLoop, count_writes
from tests.server.watching import PATH, Watch, WatchClient, cancel, create, hub, progress, service

Scenario = Callable[[Any, WatchClient], Awaitable[None]]

PREFIX_END = b"l"


def on_one_node(path: Path, scenario: Scenario, **options: Any) -> None:
    """Runs a scenario with a member of its own and a client of it."""

    async def run() -> None:
        async with running(configs(1, path, **options)) as (node,):
            client = await WatchClient.to(node)
            await scenario(node, client)
            client.close()

    asyncio.run(run())


async def transact(client: WatchClient, puts: dict[bytes, bytes]) -> int:
    """Puts in one revision; that revision."""
    operations = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value))
        for key, value in puts.items()
    ]
    request = rpc_pb2.TxnRequest(success=operations)
    answer = await client.call("/etcdserverpb.KV/Txn", request)
    return rpc_pb2.TxnResponse.FromString(answer).header.revision


async def compact(client: WatchClient, revision: int) -> None:
    """Compacts history."""
    await client.call(
        "/etcdserverpb.KV/Compact", rpc_pb2.CompactionRequest(revision=revision, physical=True)
    )


# --- what a response holds -------------------------------------------------------------


def test_a_transaction_of_many_keys_is_one_response(tmp_path: Path) -> None:
    """W08."""

    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        await watch.create(b"k", PREFIX_END)
        revision = await transact(client, {b"k%03d" % one: b"v" for one in range(128)})
        answer = await watch.next()
        assert [event.kv.key for event in answer.events] == [b"k%03d" % one for one in range(128)]
        assert {event.kv.mod_revision for event in answer.events} == {revision}
        assert (answer.header.revision, answer.fragment) == (revision, False)

    on_one_node(tmp_path, scenario)


def test_fragments_are_flagged_and_only_for_who_wants_them(tmp_path: Path) -> None:
    """W08: with prev_kv a revision of 1.3 MiB becomes a response above the limit of 2 MiB."""

    async def scenario(node: Any, client: WatchClient) -> None:
        whole, parts = client.watch(), client.watch()
        for one, fragment in ((whole, False), (parts, True)):
            await one.create(b"k", PREFIX_END, prev_kv=True, fragment=fragment)
        for value in (b"a", b"b"):
            await transact(client, {b"k%03d" % one: value * 13_000 for one in range(100)})
            answer = await whole.next()
            assert len(answer.events) == 100
            assert not answer.fragment
        first = await parts.next()  # without a previous version it is short enough
        assert (len(first.events), first.fragment) == (100, False)
        pieces = [await parts.next()]
        while pieces[-1].fragment:
            pieces.append(await parts.next())
        assert len(pieces) == 2
        limit = limits.MAX_REQUEST_BYTES + limits.GRPC_OVERHEAD_BYTES
        assert all(piece.ByteSize() < limit for piece in pieces)
        assert [event for piece in pieces for event in piece.events] == list(answer.events)
        assert {piece.header.revision for piece in pieces} == {answer.header.revision}

    on_one_node(tmp_path, scenario)


def test_long_history_comes_in_responses_that_end_where_a_revision_ends(tmp_path: Path) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        for one in range(40):
            await transact(client, {b"k%d" % key: b"%d" % one * 20_000 for key in range(5)})
        watch = client.watch()
        await watch.create(b"k", PREFIX_END, start_revision=1)
        found = await watch.events(200)
        assert [event.kv.version for event in found[::5]] == list(range(1, 41))
        last = 0
        for answer in watch.responses[1:]:
            revisions = [event.kv.mod_revision for event in answer.events]
            assert last < revisions[0] <= revisions[-1] <= answer.header.revision
            assert answer.ByteSize() < 2 * limits.WATCH_RESPONSE_BYTES
            last = answer.header.revision

    on_one_node(tmp_path, scenario)


def test_all_events_of_a_burst_come_once_and_in_order(tmp_path: Path) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        for one in (0, 0, 77):
            await watch.create(b"k", PREFIX_END, watch_id=one)
        puts = [
            client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"k%d" % (one % 7)))
            for one in range(500)
        ]
        client.flush()
        await asyncio.gather(*puts)
        await watch.events(1500)
        for watch_id in (0, 1, 77):
            revisions = [
                event.kv.mod_revision
                for answer in watch.responses
                if answer.watch_id == watch_id
                for event in answer.events
            ]
            assert revisions == list(range(2, 502))

    on_one_node(tmp_path, scenario)


def test_a_key_deleted_and_made_again_begins_anew(tmp_path: Path) -> None:
    """W17."""

    async def scenario(node: Any, client: WatchClient) -> None:
        live, past = client.watch(), client.watch()
        await live.create(b"k", prev_kv=True)
        await client.put(b"k", b"1")
        await client.call("/etcdserverpb.KV/DeleteRange", rpc_pb2.DeleteRangeRequest(key=b"k"))
        await client.put(b"k", b"2")
        await past.create(b"k", start_revision=2, prev_kv=True)
        for watch in (live, past):
            put, deletion, again = await watch.events(3)
            assert (put.kv.version, put.kv.create_revision, put.HasField("prev_kv")) == (
                1,
                2,
                False,
            )
            assert (deletion.type, deletion.kv.mod_revision) == (kv_pb2.Event.DELETE, 3)
            assert (deletion.kv.value, deletion.prev_kv.value) == (b"", b"1")
            assert (again.kv.version, again.kv.create_revision) == (1, 4)
            assert not again.HasField("prev_kv")

    on_one_node(tmp_path, scenario)


# --- where a watch begins -------------------------------------------------------------------


def test_a_watch_of_the_future_is_told_nothing_before_it_begins(tmp_path: Path) -> None:
    """W07, W16: no event and no bookmark of its own, also with the greatest revision."""

    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        await watch.create(b"k", start_revision=5, progress_notify=True)
        await watch.create(b"k", start_revision=2**63 - 1, progress_notify=True)
        for _ in range(2):
            await client.put(b"k", b"v")
        await asyncio.sleep(0.3)  # some intervals
        assert len(watch.responses) == 2
        for _ in range(2):
            await client.put(b"k", b"v")
        assert [event.kv.mod_revision for event in await watch.events(1)] == [5]
        bookmark = await watch.next()
        assert (bookmark.watch_id, bookmark.header.revision) == (0, 5)

    on_one_node(tmp_path, scenario, watch_progress_notify_interval_seconds=0.1)


@pytest.mark.parametrize(
    ("start", "expected"), [(0, []), (1, [2, 3]), (2, [2, 3]), (3, [3]), (-1, [])]
)
def test_where_each_start_begins(tmp_path: Path, start: int, expected: list[int]) -> None:
    """W16."""

    async def scenario(node: Any, client: WatchClient) -> None:
        for _ in range(2):
            await client.put(b"k", b"v")
        watch = client.watch()
        await watch.create(b"k", start_revision=start)
        await client.put(b"k", b"v")
        found = await watch.events(len(expected) + 1)
        assert [event.kv.mod_revision for event in found] == [*expected, 4]

    on_one_node(tmp_path, scenario)


def test_a_negative_start_is_refused_with_the_compacted_revision(tmp_path: Path) -> None:
    """W06, W16."""

    async def scenario(node: Any, client: WatchClient) -> None:
        for _ in range(4):
            await client.put(b"k", b"v")
        watch = client.watch()
        await watch.create(b"k", start_revision=-5)
        assert (await watch.next()).compact_revision == -1
        await compact(client, 3)
        for watch_id, start in enumerate((-5, -1, 1, 2), 1):
            assert await watch.create(b"k", start_revision=start) == watch_id
            answer = await watch.next()
            assert (answer.watch_id, answer.canceled) == (watch_id, True)
            assert (answer.compact_revision, answer.header.revision) == (3, 0)
        assert hub(node).count == 0
        # etcd: the id is in use until the client cancels it too.
        watch.send(create(b"k", watch_id=2), cancel(2), cancel(2), create(b"k", watch_id=2))
        answers = [await watch.next() for _ in range(3)]
        assert [(one.watch_id, one.created, one.canceled) for one in answers] == [
            (-1, True, True),
            (2, False, True),
            (2, True, False),
        ]

    on_one_node(tmp_path, scenario)


# --- bookmarks ---------------------------------------------------------------------------------


def test_progress_waits_until_every_watch_of_the_stream_has_caught_up(tmp_path: Path) -> None:
    """W03."""

    async def scenario(node: Any, client: WatchClient) -> None:
        puts = [
            client.start("/etcdserverpb.KV/Put", rpc_pb2.PutRequest(key=b"k", value=b"v" * 500))
            for _ in range(6000)
        ]
        client.flush()
        await asyncio.gather(*puts)
        watch = client.watch()
        watch.send(create(b"k", start_revision=1), create(b"other"), progress(), progress())
        seen = 0
        while True:
            answer = await watch.next()
            if answer.watch_id == -1:
                break
            seen += len(answer.events)
        assert seen == 6000
        assert answer.header.revision == 6001
        assert not answer.events

    on_one_node(tmp_path, scenario)


def test_progress_covers_what_could_be_read_when_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W04: although watchers hear of it later, together with what other turns change."""

    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        await watch.create(b"k")
        await client.put(b"k", b"first")
        await watch.events(1)
        monkeypatch.setattr(watching, "BUSY_SECONDS", 60.0)
        monkeypatch.setattr(watching, "GATHER_SECONDS", 0.5)
        await client.put(b"k", b"gathered")
        watch.send(progress())
        revision = (await client.put(b"k", b"gathered, too")).header.revision
        watch.send(progress())
        seen = 0
        while seen < revision:
            answer = await watch.next()
            if not answer.events:
                seen = answer.header.revision
                assert len([event for each in watch.responses for event in each.events]) == seen - 1

    on_one_node(tmp_path, scenario)


def test_a_watch_without_events_gets_progress_too(tmp_path: Path) -> None:
    """W04."""

    async def scenario(node: Any, client: WatchClient) -> None:
        for _ in range(50):
            await client.put(b"other", b"v")
        watch = client.watch()
        await watch.create(b"k", start_revision=2)
        watch.send(progress())
        assert (await watch.next()).header.revision == 51

    on_one_node(tmp_path, scenario)


def test_only_quiet_watches_are_sent_bookmarks(tmp_path: Path) -> None:
    """W03: a watch that had events since the last ones needs none; exact revisions."""

    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        await watch.create(b"quiet", progress_notify=True)
        await watch.create(b"k", progress_notify=True)
        await watch.create(b"quiet")
        (stream,) = node.clients.routes._calls[next(iter(node.clients.routes._calls))].values()
        for round_number in range(1, 4):  # however long a put takes: the intervals end here
            for _ in range(round_number):
                await client.put(b"k", b"v")
            events = await watch.events(round_number)
            assert {answer.watch_id for answer in watch.responses if answer.events} == {1}
            stream._notify(3600.0)
            node.driver.wake()
            bookmark = await watch.next()
            assert (bookmark.watch_id, list(bookmark.events)) == (0, [])
            assert bookmark.header.revision == events[-1].kv.mod_revision
        stream._notify(3600.0)
        node.driver.wake()
        ids = {(await watch.next()).watch_id for _ in range(2)}
        assert ids == {0, 1}, "now both are quiet"

    on_one_node(tmp_path, scenario, watch_progress_notify_interval_seconds=3600.0)


# --- many ----------------------------------------------------------------------------------------


def test_a_storm_of_creations_and_cancellations_leaves_nothing(tmp_path: Path) -> None:
    """W12: every id once, every request answered in order, nothing kept."""
    pairs = 20_000

    async def scenario(node: Any, client: WatchClient) -> None:
        await client.put(b"k", b"v")
        watch = client.watch()
        for first in range(0, pairs, 500):
            ids = range(first, first + 500)
            requests = ((create(b"k%d" % one, start_revision=one % 3), cancel(one)) for one in ids)
            watch.send(*(request for pair in requests for request in pair))
            for one in ids:
                answers = [await watch.next(), await watch.next()]
                assert [answer.watch_id for answer in answers] == [one, one]
                assert [answer.created for answer in answers] == [True, False]
            watch.responses.clear()
            watch._taken = 0
        assert hub(node).count == hub(node).behind == 0
        assert not hub(node)._synced._groups
        (stream,) = node.clients.routes._calls.popitem()[1].values()
        assert not stream._watchers
        assert not node.driver.watches._retired

    on_one_node(tmp_path, scenario)


def test_watches_of_one_connection_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WATCHES_PER_CONNECTION", 10)

    async def scenario(node: Any, client: WatchClient) -> None:
        one, other = client.watch(), client.watch()
        for _ in range(5):
            await one.create(b"k")
            await other.create(b"k")
        one.send(create(b"k"))
        answer = await one.next()
        assert (answer.created, answer.canceled, answer.watch_id) == (True, True, -1)
        assert answer.cancel_reason == watch_stream.TOO_MANY
        other.send(cancel(0))
        assert (await other.next()).canceled
        await one.create(b"k")
        second = await WatchClient.to(node)
        await second.watch().create(b"k")
        second.close()

    on_one_node(tmp_path, scenario)


def test_one_burst_costs_each_connection_one_write_per_turn_and_no_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        watchers = await WatchClient.to(node)
        watches = [watchers.watch() for _ in range(5)]
        for watch in watches:
            for _ in range(20):
                await watch.create(b"k")
        (connection,) = (
            one for one in node.clients.connections if one.connection.open_streams == 5
        )
        writes = [0]
        count_writes(connection, writes)
        done = [0]
        client.finished = lambda *_: done.__setitem__(0, done[0] + 1)  # type: ignore[method-assign]
        counting = CountingLoop(asyncio.get_running_loop(), monkeypatch)
        turns = node.driver.turns
        for _ in range(100):
            request = rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString()
            client.connection.request(b"/etcdserverpb.KV/Put", request, end=True)
        client.flush()
        while done[0] < 100:
            await asyncio.sleep(0)
        assert counting.tasks == counting.futures == 0
        assert 0 < writes[0] <= node.driver.turns - turns
        monkeypatch.undo()
        for watch in watches:
            await watch.events(20 * 100)
        watchers.close()

    on_one_node(tmp_path, scenario)


# --- ends -----------------------------------------------------------------------------------


def test_a_stream_that_the_client_half_closed_goes_on(tmp_path: Path) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        await watch.create(b"k")
        client.connection.half_close(watch.stream)
        client.flush()
        await client.put(b"k", b"v")
        assert len(await watch.events(1)) == 1
        assert watch.ended is None

    on_one_node(tmp_path, scenario)


def test_nothing_is_left_of_a_client_that_goes(tmp_path: Path) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        other = await WatchClient.to(node)
        first, second = other.watch(), other.watch()
        for _ in range(1200):
            first.send(create(b"k", progress_notify=True))
        await second.create(b"k", start_revision=100, progress_notify=True)
        await until_count(node, 1201)
        assert node.driver.watches.streams == 2
        other.connection.reset(second.stream)
        other.flush()
        await until_count(node, 1200)
        other.close()
        await until_count(node, 0)
        assert node.driver.watches.streams == 0
        assert not service(node)._shares
        await client.put(b"k", b"v")

    on_one_node(tmp_path, scenario)


async def until_count(node: Any, count: int) -> None:
    """Waits until there are so many watchers."""
    async with asyncio.timeout(60):
        while hub(node).count != count:
            await asyncio.sleep(0.005)


def test_a_stream_ends_at_its_deadline(tmp_path: Path) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        stream = client.connection.request(PATH, create(b"k"), timeout=0.1)
        watch = client.watches[stream] = Watch(client, stream)
        client.flush()
        assert (await watch.end())[0] == 4
        await until_count(node, 0)

    on_one_node(tmp_path, scenario)


def test_a_request_that_cannot_be_decoded_ends_the_stream(tmp_path: Path) -> None:
    async def scenario(node: Any, client: WatchClient) -> None:
        watch = client.watch()
        await watch.create(b"k")
        watch.send(b"\x0a\xff\xff")
        assert await watch.end() == (13, "grpc: error unmarshalling request")
        await until_count(node, 0)

    on_one_node(tmp_path, scenario)


def test_a_member_that_stops_says_so_on_its_streams_and_does_not_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(raftkv.server.node, "DRAIN_SECONDS", 3600.0)

    async def scenario(node: Any, client: WatchClient) -> None:
        watches: list[Watch] = [client.watch() for _ in range(3)]
        for watch in watches:
            await watch.create(b"k")
        await client.put(b"k", b"v")
        async with asyncio.timeout(60):
            await node.stop()
        for watch in watches:
            assert await watch.end() == (14, "etcdserver: server stopped")
            assert len(watch.responses) == 2

    on_one_node(tmp_path, scenario)
