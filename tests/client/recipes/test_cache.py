"""Cache: one revision at a time, changes, resumption, compaction, C15, staleness."""

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from raftkv.client import (
    ClientClosed,
    ClientError,
    Delete,
    Misused,
    NotAcquired,
    NotConnected,
    PermissionDenied,
    Put,
    TimedOut,
    Txn,
    aio,
)
from raftkv.client.mirror import LONGEST_BACKLOG
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.gate import Gate
from tests.client.recipes.contention import Beside, wait_until
from tests.client.test_watch_restored import Etcd
from tests.processes import free_ports


def test_what_was_there_and_what_comes_is_read_without_asking(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    with Client(server.endpoints) as other:
        other.put(prefix + "a", "1")
        with client.cache(prefix) as cache:
            assert cache.get(prefix + "a").text == "1"
            assert cache.get(prefix + "b") is None
            assert (len(cache.snapshot()), cache.loads) == (1, 1)
            revision = other.put(prefix + "b", "2").revision
            assert cache.wait_for(revision, timeout=30) >= revision
            assert cache.snapshot()[prefix + "b"].text == "2"
            revision = other.delete(prefix + "a").revision
            cache.wait_for(revision, timeout=30)
            assert list(cache.snapshot()) == [(prefix + "b").encode()]
        with pytest.raises(ClientClosed):
            cache.wait_for(revision + 1, timeout=1)
        assert not [each for each in threading.enumerate() if each.name == "raftkv _run"]
        assert cache.get(prefix + "b").text == "2"


def test_many_keys_are_loaded_in_pages_as_of_one_revision(
    server: Served, connect: Faces, prefix: str
) -> None:
    with Client(server.endpoints) as other:
        for page in range(23):
            puts = [Put(f"{prefix}{page * 100 + n:05}", str(n)) for n in range(100)]
            last = other.txn(Txn().then(*puts)).revision
        with connect(server.endpoints).cache(prefix) as cache:
            assert (len(cache.snapshot()), cache.loads) == (2300, 1)
            assert cache.revision >= last
            elsewhere = other.put("elsewhere", "").revision
            assert cache.wait_for(elsewhere, timeout=20) >= elsewhere
            assert cache.loads == 1


def test_a_transaction_is_seen_whole_or_not_at_all(server: Served, prefix: str) -> None:
    """Two keys that are always written together are never seen apart."""
    a, b = prefix + "a", prefix + "b"
    apart: list[object] = []
    over = threading.Event()
    with Client(server.endpoints) as writer, Client(server.endpoints) as client:
        writer.txn(Txn().then(Put(a, "0"), Put(b, "0")))
        with client.cache(prefix) as cache:

            def look() -> None:
                while not over.wait(0.0002):
                    seen = cache.snapshot()
                    if seen[a].value != seen[b].value or seen[a].mod_revision > seen.revision:
                        apart.append(seen)

            looking = Beside(look)
            for number in range(300):
                last = writer.txn(Txn().then(Put(a, str(number)), Put(b, str(number)))).revision
            cache.wait_for(last, timeout=30)
            over.set()
            looking.result()
            assert not apart
            assert cache.get(a).text == "299"  # type: ignore[union-attr]


def test_waiting_for_a_revision_that_concerns_other_keys_is_short(
    server: Served, connect: Faces, prefix: str
) -> None:
    """The watch says nothing about what happens elsewhere, for minutes."""
    client = connect(server.endpoints)
    with Client(server.endpoints) as other, client.cache(prefix + "x/") as cache:
        other.put(prefix + "x/a", "1")
        for number in range(3):
            revision = other.put(prefix + "elsewhere", str(number)).revision
            began = time.monotonic()
            assert cache.wait_for(revision, timeout=30) >= revision
            assert time.monotonic() - began < 15
        assert cache.catch_up(10) >= revision
        assert cache.loads == 1, "nothing is read again for that"
        revision = other.put(prefix + "x/b", "2").revision
        cache.wait_for(revision, timeout=30)
        assert cache.get(prefix + "x/b").text == "2", "and the watch goes on"
        with pytest.raises(NotAcquired):
            cache.wait_for(revision + 1000, timeout=0.3)


def test_changes_come_in_order_with_the_pair_before(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    with Client(server.endpoints) as other:
        other.put(prefix + "a", "1")
        with client.cache(prefix) as cache, cache.changes() as changes:
            called: list[Any] = []
            cache.on_change(called.append)
            cache.on_change(lambda _: 1 // 0)  # an error of the user's ends nothing
            with pytest.raises(TimedOut):
                changes.next(0.05)
            other.put(prefix + "a", "2")
            last = other.txn(Txn().then(Put(prefix + "b", "3"), Delete(prefix + "a"))).revision
            events: list[Any] = []
            while not events or events[-1].revision < last:
                got = changes.next(10)
                assert not got.is_merged
                events += got
            told = [
                (each.key, each.value, each.previous.text if each.previous else None)
                for each in events
            ]
            a, b = (prefix + "a").encode(), (prefix + "b").encode()
            assert told[0] == (a, b"2", "1")
            assert set(told[1:]) == {(b, b"3", None), (a, b"", "2")}
            assert [event for batch in called for event in batch] == events
            iterating = Beside(lambda: list(changes))
            changes.close()
            assert iterating.result() == []


def test_a_slow_reader_gets_the_difference(server: Served, prefix: str) -> None:
    with (
        Client(server.endpoints) as other,
        Client(server.endpoints) as client,
        client.cache(prefix) as cache,
        cache.changes() as changes,
    ):
        for number in range(700):
            last = other.put(f"{prefix}{number % 5}", str(number)).revision
        cache.wait_for(last, timeout=20)
        assert len(changes._backlog) <= LONGEST_BACKLOG
        seen: dict[bytes, bytes] = {}
        while len(seen) < 5 or max(map(int, seen.values())) < 699:
            got = changes.next(10)
            seen.update({event.key: event.value for event in got})
        assert seen == {name: kv.value for name, kv in cache.snapshot().items()}


def test_it_goes_on_behind_a_broken_connection_and_says_how_stale_it_is(
    raftkv_served: Served, connect: Faces, prefix: str
) -> None:
    """C07, C10"""
    with Client(raftkv_served.endpoints) as other, Gate(raftkv_served.endpoints) as gate:
        client = connect(gate.endpoint, keepalive_time=0.3, keepalive_timeout=0.3, timeout=1.0)
        with client.cache(prefix, check_seconds=0.2) as cache:
            other.put(prefix + "a", "1")
            wait_until(lambda: cache.get(prefix + "a") is not None)
            wait_until(lambda: cache.stale_for < 1.0)
            gate.silence()
            gate.cut()
            last = other.put(prefix + "a", "2").revision
            wait_until(lambda: cache.stale_for > 2.0)
            assert cache.get(prefix + "a").text == "1"
            with pytest.raises(NotAcquired):
                cache.wait_for(last, timeout=0.3)
            gate.open()
            assert cache.wait_for(last, timeout=20) >= last
            assert cache.get(prefix + "a").text == "2"
            wait_until(lambda: cache.stale_for < 1.0)
            assert cache.loads == 1


def test_behind_a_compaction_it_is_loaded_again_and_tells_what_changed(
    server: Served, connect: Faces, prefix: str
) -> None:
    with Client(server.endpoints) as other, Gate(server.endpoints) as gate:
        client = connect(gate.endpoint, keepalive_time=0.3, keepalive_timeout=0.3, timeout=1.0)
        other.put(prefix + "kept", "1")
        other.put(prefix + "changed", "1")
        other.put(prefix + "gone", "1")
        with client.cache(prefix) as cache, cache.changes() as changes:
            gate.silence()
            gate.cut()
            other.put(prefix + "changed", "2")
            other.put(prefix + "changed", "3")
            other.delete(prefix + "gone")
            last = other.put(prefix + "new", "1").revision
            other.compact(last)
            gate.open()
            got = changes.next(20)
            assert got.is_merged
            assert {(each.type.name, each.key.decode()) for each in got} == {
                ("DELETE", prefix + "gone"),
                ("PUT", prefix + "changed"),
                ("PUT", prefix + "new"),
            }
            assert cache.loads == 2
            assert cache.revision >= last
            assert cache.get(prefix + "changed").text == "3"
            last = other.put(prefix + "new", "2").revision
            cache.wait_for(last, timeout=30)
            assert cache.get(prefix + "new").text == "2"


def test_a_store_that_was_put_back_is_loaded_again(tmp_path: Path, connect: Faces) -> None:
    """C15: the same cluster at a lower revision; what is only in the cache is told as deleted."""
    etcd = Etcd(tmp_path)
    client = connect(etcd.endpoint)
    cache = client.cache("k/", check_seconds=0.2)
    with etcd.running("before"), Client(etcd.endpoint) as other:
        other.put("k/a", "in the backup")
        etcd.save()
        cache.start()
        changes = cache.changes()
        last = max(other.put(f"k/{n}", "later").revision for n in range(10))
        cache.wait_for(last, timeout=30)
    etcd.restore("after")
    with etcd.running("after"):
        wait_until(lambda: cache.loads == 2, 20)
        assert cache.revision < last
        assert list(cache.snapshot()) == [b"k/a"]
        gone: set[bytes] = set()
        while len(gone) < 10:
            gone |= {event.key for event in changes.next(10) if event.is_delete}
        assert gone == {b"k/%d" % n for n in range(10)}
        with Client(etcd.endpoint) as other:
            cache.wait_for(other.put("k/b", "new").revision, timeout=30)
            assert cache.get("k/b").text == "new"
        cache.close()


def test_another_cluster_at_the_same_address_is_loaded(tmp_path: Path, connect: Faces) -> None:
    """C15: another cluster id."""
    etcd = Etcd(tmp_path)
    cache = connect(etcd.endpoint).cache("k/", check_seconds=0.2)
    with etcd.running("one"), Client(etcd.endpoint) as other:
        other.put("k/a", "1")
        cache.start()
    with etcd.running("two", token="two"), Client(etcd.endpoint) as other:
        other.put("k/b", "1")
        wait_until(lambda: cache.get("k/b") is not None, 20)
        assert cache.get("k/a") is None
        cache.close()


def test_a_cache_in_a_namespace_knows_the_keys_as_its_client_does(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints, namespace=prefix)
    with Client(server.endpoints) as other, client.cache("") as cache:
        last = other.put(prefix + "a", "1").revision
        cache.wait_for(last, timeout=30)
        assert list(cache.snapshot()) == [b"a"]
        cache.catch_up(10)


def test_an_error_that_does_not_pass_ends_it_and_is_told(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client, client.cache(prefix) as cache:
        failing = client.watch

        def refuse(*args: Any, **options: Any) -> Any:
            raise PermissionDenied("etcdserver: permission denied")

        client.watch = refuse  # type: ignore[method-assign]
        watch = cache._watch
        assert watch is not None
        cache._must_load = True
        watch.close()
        with pytest.raises(PermissionDenied):
            cache.wait_for(10**15, timeout=20)
        assert isinstance(cache.error, PermissionDenied)
        client.watch = failing  # type: ignore[method-assign]


def test_a_start_without_a_server_fails_in_time_and_leaves_nothing(connect: Faces) -> None:
    (port,) = free_ports(1)
    cache = connect(f"127.0.0.1:{port}", timeout=60, dial_timeout=0.3).cache("k/")
    began = time.monotonic()
    with pytest.raises(NotConnected):
        cache.start(timeout=1)
    assert time.monotonic() - began < 15
    cache.close()
    assert not [each for each in threading.enumerate() if each.name == "raftkv _run"]


def test_a_cache_whose_thread_fails_tells_its_readers(raftkv_served: Served, prefix: str) -> None:
    """Instead of letting them wait for a change that nobody will tell."""

    def no_more_threads(*args: object, **options: object) -> Any:
        raise RuntimeError("no more threads")

    with Client(raftkv_served.endpoints) as client:
        client.watch = no_more_threads  # type: ignore[method-assign]
        with client.cache(prefix) as cache:
            revision = client.put(prefix + "a", "1").revision
            with pytest.raises(ClientError, match="no more threads"):
                cache.wait_for(revision, timeout=20)
            with pytest.raises(ClientError, match="no more threads"):
                cache.changes().next(timeout=20)


def test_a_cache_is_started_once(raftkv_served: Served, prefix: str) -> None:
    """Two tasks would feed one copy; one that could not be started may be tried again."""

    async def scenario() -> None:
        async with aio.Client(raftkv_served.endpoints) as client:
            cache = client.cache(prefix)
            met = await asyncio.gather(cache.start(), cache.start(), return_exceptions=True)
            assert [type(each) for each in met] == [type(None), Misused]
            await cache.close()
        nowhere = aio.Client(f"127.0.0.1:{free_ports(1)[0]}", dial_timeout=0.1)
        async with nowhere:
            cache = nowhere.cache(prefix)
            for _ in range(2):
                with pytest.raises(NotConnected):
                    await cache.start()

    asyncio.run(scenario())
