"""raftkv.v1.KV: a key with a TTL of its own, as its clients and etcd's see it."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.server.services import extras
from tests.server.harness import configs, replica_of, running, until
from tests.server.leasing import followers, leader, lease_client, lease_on


def test_the_key_goes_when_its_time_is_over_and_not_before(tmp_path: Path) -> None:
    """Its lease goes with it, so that nothing is left behind."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            started = loop.time()
            answer = await client.put_with_ttl(b"k", 1350, value=b"v")
            assert lease_on(node, answer.lease).ttl_ms == 1350
            pair = await client.get(b"k")
            assert (pair.value, pair.lease, pair.version) == (b"v", answer.lease, 1)
            assert answer.header.revision == pair.mod_revision
            await until(lambda: lease_on(node, answer.lease) is None)
            assert loop.time() - started >= 1.35
            assert await client.get(b"k") is None

    asyncio.run(scenario())


def test_etcd_clients_see_an_ordinary_lease(tmp_path: Path) -> None:
    """They find it by the key, and can list, look at, renew and revoke it, at any member."""

    async def scenario() -> None:
        async with (
            running(configs(3, tmp_path)) as nodes,
            lease_client(leader(nodes)) as writer,
            lease_client(followers(nodes)[0]) as other,
        ):
            lease = (await writer.put_with_ttl(b"k", 60_000)).lease
            assert (await other.get(b"k")).lease == lease > 0
            assert await other.listed() == [lease]
            left = await other.left(lease, keys=True)
            assert (left.grantedTTL, list(left.keys)) == (60, [b"k"])
            assert await other.stream().renew(lease) == (lease, 60)
            await other.revoke(lease)
            assert await other.get(b"k") is None

    asyncio.run(scenario())


@pytest.mark.parametrize(("ttl_ms", "seconds"), [(700, 1), (1000, 1), (1500, 2), (90_001, 91)])
def test_etcd_clients_see_whole_seconds_rounded_up(
    tmp_path: Path, ttl_ms: int, seconds: int
) -> None:
    """A TTL of 0 would tell them that there is no lease."""

    async def scenario() -> None:
        async with running(configs(3, tmp_path)) as nodes:
            for node in (leader(nodes), followers(nodes)[0]):
                async with lease_client(node) as client:
                    lease = (await client.put_with_ttl(b"k", ttl_ms)).lease
                    assert await client.stream().renew(lease) == (lease, seconds)
                    left = await client.left(lease)
                    assert left.grantedTTL == seconds
                    assert 0 <= left.TTL <= seconds

    asyncio.run(scenario())


def test_putting_again_replaces_the_lease(tmp_path: Path) -> None:
    """A key that is refreshed for ever has one lease, and the old one's end does not touch it."""

    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            for number in range(20):
                answer = await client.put_with_ttl(b"k", 60_000, value=b"%d" % number, prev_kv=True)
                assert answer.HasField("prev_kv") == (number > 0)
                assert answer.prev_kv.value == (b"%d" % (number - 1) if number else b"")
            assert list(replica_of(node).machine.leases.by_id) == [answer.lease]
            assert (await client.get(b"k")).version == 20
            await client.put(b"k", 0)
            assert (await client.get(b"k")).lease == 0

    asyncio.run(scenario())


def test_a_clash_of_ids_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            ids = iter([await client.grant(60, 4711), 815])
            monkeypatch.setattr(extras, "choose_id", lambda _: next(ids))
            assert (await client.put_with_ttl(b"k", 60_000)).lease == 815
            assert (await client.get(b"k")).version == 1

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("key", "ttl_ms", "fields", "code", "text"),
    [
        (b"", 1, {}, "INVALID_ARGUMENT", "key is not provided"),
        (b"k", 0, {}, "INVALID_ARGUMENT", "ttl_ms must be at least 1"),
        (b"k", -5, {}, "INVALID_ARGUMENT", "ttl_ms must be at least 1"),
        (b"k", 9_000_000_000_001, {}, "OUT_OF_RANGE", "too large lease TTL"),
        (b"k", 5, {"value": bytes(1600 * 1024)}, "INVALID_ARGUMENT", "request is too large"),
    ],
)
def test_a_request_that_makes_no_sense_says_why(
    tmp_path: Path, key: bytes, ttl_ms: int, fields: dict[str, Any], code: str, text: str
) -> None:
    async def scenario() -> None:
        async with (
            running(configs(1, tmp_path)) as (node,),
            lease_client(node) as client,
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await client.put_with_ttl(key, ttl_ms, **fields)
            assert caught.value.code().name == code
            assert caught.value.details() == f"etcdserver: {text}"
            assert not len(replica_of(node).machine.leases)

    asyncio.run(scenario())
