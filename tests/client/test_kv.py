"""The verbs of keys and values, in both faces, against raftkv and etcd."""

import asyncio
import threading
import time
from typing import Any

import pytest

from raftkv.client import aio, sync
from raftkv.client.errors import EmptyKey, FutureRevision, Unavailable, Unsupported
from raftkv.client.results import KeyValue
from raftkv.client.txn import (
    Delete,
    DeletePrefix,
    DeleteRange,
    Get,
    GetPrefix,
    GetRange,
    Put,
    SortBy,
    Txn,
    key,
)
from tests.client.conftest import Face, Served
from tests.client.gate import Gate


def test_what_was_put_is_read_back(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        missing = await client.get(prefix + "a")
        assert not missing.exists
        assert (missing.value, missing.text, missing.mod_revision) == (None, None, 0)
        first = await client.put(prefix + "a", "grün")
        again = await client.put(prefix + "a", b"\x00\xff", prev_kv=True)
        assert again.previous.text == "grün"
        assert again.revision == first.revision + 1
        got = await client.get((prefix + "a").encode())
        assert got.value == b"\x00\xff"
        assert got.kv == KeyValue(
            (prefix + "a").encode(), b"\x00\xff", first.revision, again.revision, 2, 0
        )
        assert got.header.revision >= again.revision
        assert got.header.cluster_id
        assert (await client.get(prefix + "a", revision=first.revision)).text == "grün"
        with pytest.raises(FutureRevision):
            await client.get(prefix + "a", revision=got.revision + 1000)
        assert client.revision >= again.revision

    face.run(scenario, server.endpoints)


def test_put_can_keep_the_value_or_the_lease(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        lease = await client.grant(60)
        await client.put(prefix + "a", "1", lease=lease)
        await client.put(prefix + "a", "2", ignore_lease=True)
        assert (await client.get(prefix + "a")).kv.lease == lease.id
        await client.put(prefix + "a", "", ignore_value=True)
        kept = (await client.get(prefix + "a")).kv
        assert (kept.text, kept.lease) == ("2", 0)
        await client.revoke(lease)

    face.run(scenario, server.endpoints)


def test_ranges_come_sorted_limited_and_bounded(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        for name, value in (("b", "2"), ("a", "3"), ("c", "1")):
            last = await client.put(prefix + name, value)
        found = await client.get_prefix(prefix)
        assert [kv.key_text[-1] for kv in found] == ["a", "b", "c"]
        assert (len(found), found.count, found.more, found[0].text) == (3, 3, False, "3")
        assert [kv.text for kv in found[1:]] == ["2", "1"]
        by_value = await client.get_prefix(prefix, sort_by=SortBy.VALUE)
        assert [kv.text for kv in by_value] == ["1", "2", "3"]
        newest = await client.get_prefix(
            prefix, sort_by=SortBy.MOD_REVISION, descending=True, limit=1
        )
        assert (newest[0].mod_revision, newest.more, newest.count) == (last.revision, True, 3)
        bounded = await client.get_prefix(prefix, max_mod_revision=last.revision - 1)
        assert len(bounded) == 2
        keys = await client.get_range(prefix + "a", prefix + "c", keys_only=True)
        assert [(kv.key_text[-1], kv.value) for kv in keys] == [("a", b""), ("b", b"")]
        assert await client.count(prefix) == 3
        counted = await client.get_prefix(prefix, count_only=True)
        assert (len(counted), counted.count) == (0, 3)
        descending = await client.get_prefix(prefix, descending=True)
        assert [kv.key_text[-1] for kv in descending] == ["c", "b", "a"]

    face.run(scenario, server.endpoints)


def test_pages_all_belong_to_one_revision(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        for number in range(25):
            await client.put(f"{prefix}{number:02}", "old")
        seen = []
        async for kv in client.iterate(prefix, page_size=10):
            seen.append(kv)
            if len(seen) == 5:
                await client.put(prefix + "24", "new")
                await client.put(prefix + "25", "new")
                await client.delete(prefix + "12")
        assert [kv.key_text for kv in seen] == [f"{prefix}{number:02}" for number in range(25)]
        assert {kv.text for kv in seen} == {"old"}
        part = [kv async for kv in client.iterate(prefix + "05", end=prefix + "08")]
        assert [kv.key_text[-2:] for kv in part] == ["05", "06", "07"]

    face.run(scenario, server.endpoints)


def test_deletions_tell_what_was_there(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        for name in "abcd":
            await client.put(prefix + name, name)
        assert (await client.delete(prefix + "none")).deleted == 0
        one = await client.delete(prefix + "a", prev_kv=True)
        assert (one.deleted, [kv.text for kv in one.previous]) == (1, ["a"])
        assert (await client.delete_range(prefix + "b", prefix + "c")).deleted == 1
        rest = await client.delete_prefix(prefix, prev_kv=True)
        assert [kv.text for kv in rest.previous] == ["c", "d"]

    face.run(scenario, server.endpoints)


def test_transactions_take_one_branch_at_one_revision(
    server: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        a, b = prefix + "a", prefix + "b"
        create = Txn().when(key(a).missing()).then(Put(a, "1"), Put(b, "1")).otherwise(Get(a))
        done = await client.txn(create)
        assert done
        assert done.succeeded
        assert (await client.get(a)).mod_revision == (await client.get(b)).mod_revision
        refused = await client.txn(create)
        assert not refused
        assert refused.results[0][0].text == "1"
        revision = done.revision
        holds = (
            key(a).exists(),
            key(a).version == 1,
            key(a).version != 2,
            key(a).version < 2,
            key(a).version > 0,
            key(a).create_revision == revision,
            key(a).mod_revision == revision,
            key(a).value == "1",
            key(a).value < b"2",
            key(a).value > b"0",
            key(a).value != b"2",
            key(a).lease == 0,
            key(prefix).prefix().mod_revision == revision,
            key(a).range(prefix + "c").version == 1,
            key(prefix + "none").prefix().missing(),
        )
        for compare in holds:
            assert await client.txn(Txn().when(compare)), compare
        assert await client.txn(Txn().when(*holds))
        for compare in (
            key(a).missing(),
            key(a).value == "2",
            key(prefix).prefix().version > 1,
            key(prefix + "none").value == b"",
        ):
            assert not await client.txn(Txn().when(compare)), compare

    face.run(scenario, server.endpoints)


def test_transactions_hold_every_operation_and_other_transactions(
    server: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        a = prefix + "a"
        await client.put(a, "0")
        inner = Txn().when(key(a).value == "0").then(Get(a)).otherwise(Put(prefix + "wrong"))
        done = await client.txn(
            Txn()
            .then(Put(a, "1", prev_kv=True))
            .then(inner, GetPrefix(prefix, limit=5), GetRange(prefix, prefix + "b"))
            .then(Put(prefix + "x/1", "1"), Put(prefix + "y/1", "1"), Put(prefix + "z", "1"))
        )
        put, nested, by_prefix, by_range, *_ = done.results
        assert put.previous.text == "0"
        assert nested, "all compares, nested ones too, are decided before the first write"
        assert nested.results[0][0].text == "1"
        assert [kv.text for kv in by_prefix] == ["1"]
        assert len(by_range) == 1
        gone = await client.txn(
            Txn().then(
                DeletePrefix(prefix + "x/", prev_kv=True),
                DeleteRange(prefix + "y", prefix + "z"),
                Delete(prefix + "z"),
            )
        )
        assert [result.deleted for result in gone.results] == [1, 1, 1]
        assert gone.results[0].previous[0].key_text == prefix + "x/1"

    face.run(scenario, server.endpoints)


def test_a_transaction_can_be_read_aloud(server: Served, prefix: str) -> None:
    a = prefix + "a"
    with sync.Client(server.endpoints) as client:
        begun = client.transaction().when(key(a).missing())
        assert begun.then(Put(a, "1")).commit()
        assert not begun.then(Put(a, "2")).otherwise(Get(a)).commit()

    async def same() -> None:
        async with aio.Client(server.endpoints) as client:
            answer: Any = await client.transaction().when(key(a).exists()).then(Delete(a)).commit()
            assert answer.results[0].deleted == 1

    asyncio.run(same())


def test_serializable_reads_say_that_they_may_be_stale(
    server: Served, face: Face, prefix: str
) -> None:
    """C11: marked, with the revision they are of."""

    async def scenario(client: Any) -> None:
        put = await client.put(prefix + "a", "1")
        got = await client.get(prefix + "a", serializable=True)
        assert got.may_be_stale
        assert got.revision >= put.revision
        assert (await client.get_prefix(prefix, serializable=True)).may_be_stale
        assert not (await client.get(prefix + "a")).may_be_stale

    face.run(scenario, server.endpoints)


def test_a_read_with_a_least_revision_is_never_older(
    server: Served, face: Face, prefix: str
) -> None:
    """C12: an answer that is too old is not taken."""

    async def scenario(client: Any) -> None:
        put = await client.put(prefix + "a", "1")
        read = await client.get(prefix + "a", serializable=True, min_revision=put.revision)
        assert read.text == "1"
        with pytest.raises(Unavailable):
            await client.get(prefix + "a", serializable=True, min_revision=put.revision + 1000)

    face.run(scenario, server.endpoints)


def test_history_can_be_compacted(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        await client.put(prefix + "a", "1")
        last = await client.put(prefix + "a", "2")
        compacted = await client.compact(last.revision, physical=True)
        assert compacted.header.revision >= last.revision
        assert (await client.get(prefix + "a", revision=last.revision)).text == "2"

    face.run(scenario, server.endpoints)


def test_a_put_with_a_ttl_is_gone_by_itself_or_refused_clearly(
    server: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        if server.is_etcd:
            with pytest.raises(Unsupported):
                await client.put_with_ttl(prefix + "a", "1", 60)
            return
        await client.put(prefix + "a", "0")
        put = await client.put_with_ttl(prefix + "a", "1", 60.5, prev_kv=True)
        assert put.previous.text == "0"
        assert (await client.get(prefix + "a")).kv.lease == put.lease
        left = await client.time_to_live(put.lease, keys=True)
        assert 0 < left.ttl <= 61
        assert left.keys == ((prefix + "a").encode(),)
        await client.revoke(put.lease)
        assert not (await client.get(prefix + "a")).exists

    face.run(scenario, server.endpoints)


def test_leases_without_a_keeper(server: Served, face: Face, prefix: str) -> None:
    async def scenario(client: Any) -> None:
        granted = await client.grant(60)
        await client.put(prefix + "a", "1", lease=granted.id)
        left = await client.time_to_live(granted, keys=True)
        assert left.exists
        assert (left.granted_ttl, left.keys) == (60, ((prefix + "a").encode(),))
        assert granted.id in await client.leases()
        await client.revoke(granted)
        assert not (await client.get(prefix + "a")).exists
        assert not (await client.time_to_live(granted)).exists

    face.run(scenario, server.endpoints)


def test_members_and_status_are_told(server: Served, face: Face) -> None:
    async def scenario(client: Any) -> None:
        members = await client.members()
        assert len(members) == 1
        (member,) = members
        assert member.client_urls == (f"http://{server.endpoints}",)
        status = await client.status(server.endpoints)
        assert status.is_leader
        assert status.leader == member.id
        assert status.db_size > 0
        assert await client.alarms() == ()
        assert await client.disarm() == ()

    face.run(scenario, server.endpoints)


# --- namespaces -------------------------------------------------------------------------
def test_a_namespace_is_put_before_keys_and_cut_off_results(
    server: Served, face: Face, prefix: str
) -> None:
    async def inside(client: Any) -> None:
        await client.put("a", "1")
        await client.txn(
            Txn()
            .when(key("a").exists(), key("").prefix().version > 0)
            .then(Put("b", "2"), Put("c", "3"))
        )
        assert [kv.key for kv in await client.get_prefix("")] == [b"a", b"b", b"c"]
        assert [kv.key for kv in await client.get_range("b", b"\0")] == [b"b", b"c"]
        assert [kv.key async for kv in client.iterate()] == [b"a", b"b", b"c"]
        got = await client.txn(Txn().then(Get("a"), Get("", b"\0")))
        assert got.results[0][0].key == b"a"
        assert len(got.results[1]) == 3
        assert (await client.delete("c", prev_kv=True)).previous[0].key == b"c"
        lease = await client.grant(60)
        await client.put("l", "", lease=lease)
        assert (await client.time_to_live(lease, keys=True)).keys == (b"l",)
        await client.revoke(lease)
        with pytest.raises(EmptyKey):
            await client.put("", "")

    async def outside(client: Any) -> None:
        await client.put(prefix + "ns0", "beyond the end of the namespace")
        found = await client.get_prefix(prefix + "ns/")
        assert [kv.key_text for kv in found] == [prefix + "ns/a", prefix + "ns/b"]

    face.run(inside, server.endpoints, namespace=prefix + "ns/")
    face.run(outside, server.endpoints)


def test_deleting_everything_in_a_namespace_spares_what_lies_outside(
    server: Served, face: Face, prefix: str
) -> None:
    async def outside(client: Any) -> None:
        await client.put(prefix, "at its edge")
        await client.put(prefix + "m", "before")
        await client.put(prefix + "o", "behind")

    async def inside(client: Any) -> None:
        await client.put("a", "1")
        await client.put(b"\xff\xff", "1")
        assert (await client.delete_prefix("")).deleted == 2
        await client.put("a", "1")
        assert (await client.delete_range(b"\0", b"\0")).deleted == 1

    async def left(client: Any) -> None:
        assert await client.count(prefix) == 3

    face.run(outside, server.endpoints)
    face.run(inside, server.endpoints, namespace=prefix + "n")
    face.run(left, server.endpoints)


def test_a_large_range_comes_as_a_stream_where_that_is_offered(
    server: Served, face: Face, prefix: str
) -> None:
    async def scenario(client: Any) -> None:
        for start in range(0, 1000, 100):
            puts = [
                Put(f"{prefix}{number:04}", b"x" * 1000) for number in range(start, start + 100)
            ]
            await client.txn(Txn().then(*puts))
        for _ in range(2):
            seen = []
            async for kv in client.iterate(prefix, page_size=10):
                seen.append(kv.key_text)
                if len(seen) == 15:
                    await client.put(prefix + "9999", "too new")
                    await client.delete(prefix + "0500")
            assert seen[:100] == [f"{prefix}{number:04}" for number in range(100)]
            assert len(seen) == len(set(seen))
            assert client._pages.offered != server.is_etcd
            await client.delete(prefix + "9999")
            await client.put(prefix + "0500", "")
        assert len(seen) == 1000

    face.run(scenario, server.endpoints)


def test_a_stream_of_a_range_that_breaks_is_gone_on_with(
    raftkv_served: Served, face: Face, prefix: str
) -> None:
    """Nothing is lost, repeated, or of another revision."""
    with Gate(raftkv_served.endpoints) as gate:

        async def scenario(client: Any) -> None:
            for start in range(0, 3000, 100):
                puts = [
                    Put(f"{prefix}{number:04}", b"x" * 3000) for number in range(start, start + 100)
                ]
                await client.txn(Txn().then(*puts))
            seen = []
            async for kv in client.iterate(prefix, page_size=10):
                seen.append(kv.key_text)
                if len(seen) in (20, 500, 2000):
                    gate.cut()
            assert seen == [f"{prefix}{number:04}" for number in range(3000)]
            assert client._pages.offered

        face.run(scenario, gate.endpoint)


def test_a_reader_of_a_range_may_stop_early(raftkv_served: Served, prefix: str) -> None:
    before = threading.active_count()
    with sync.Client(raftkv_served.endpoints) as client:
        for number in range(50):
            client.put(f"{prefix}{number:02}", "x")
        for _ in client.iterate(prefix, page_size=5):
            if client.count(prefix) == 50:
                break
        reading = client.iterate(prefix, page_size=5)
        assert [next(reading).key_text[-2:] for _ in range(12)][-1] == "11"
        reading.close()  # type: ignore[attr-defined]
    deadline = time.monotonic() + 60.0
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before
