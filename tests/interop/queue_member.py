"""A place in a queue, held with one client library, on command.

    python -P queue_member.py LIBRARY ENDPOINT KIND NAME VALUE

LIBRARY: etcd3, aetcd, client, client.aio. KIND: lock or election. Prints the key once it holds
the lock or leads, waits for a line on standard input, gives it up, prints "released".

python-etcd3 and aetcd have no such queue of their own. What is written here with their verbs is
what etcd's Go package does, and what anybody would write who has one of them. The script runs
where there may be no raftkv, so it imports none of it but for raftkv's own client.
"""

import asyncio
import sys
from typing import Any

TTL_SECONDS = 60


def told() -> None:
    """Waits for the line that says to give up the place."""
    assert sys.stdin.readline(), "the test went away"


def queued_with_etcd3(endpoint: str, name: str, value: str) -> None:
    """Go's Mutex and Election, in python-etcd3's words."""
    import etcd3

    host, _, port = endpoint.rpartition(":")
    client = etcd3.client(host, int(port), timeout=10)
    lease = client.lease(TTL_SECONDS)
    key = f"{name}/{lease.id:x}"
    make = client.transactions
    entered, _ = client.transaction(
        compare=[make.create(key) == 0], success=[make.put(key, value, lease=lease)], failure=[]
    )
    assert entered
    _, mine = client.get(key)
    while True:
        queue = [kv for _, kv in client.get_prefix(f"{name}/", sort_target="create")]
        older = [kv for kv in queue if kv.create_revision < mine.create_revision]
        if not older:
            break
        last = max(older, key=lambda kv: kv.create_revision)
        events, cancel = client.watch(last.key, start_revision=mine.create_revision + 1)
        for event in events:
            if isinstance(event, etcd3.events.DeleteEvent):
                break
        cancel()
    print(key, flush=True)
    told()
    lease.revoke()
    print("released", flush=True)
    client.close()


async def queued_with_aetcd(endpoint: str, name: str, value: str) -> None:
    """Go's Mutex and Election, in aetcd's words."""
    import aetcd

    host, _, port = endpoint.rpartition(":")
    async with aetcd.Client(host, int(port), timeout=10) as client:
        lease = await client.lease(TTL_SECONDS)
        key = f"{name}/{lease.id:x}".encode()
        make = client.transactions
        entered, _ = await client.transaction(
            compare=[make.create(key) == 0],
            success=[make.put(key, value.encode(), lease=lease)],
            failure=[],
        )
        assert entered
        mine = await client.get(key)
        while True:
            queue = [kv async for kv in prefixed(client, f"{name}/".encode())]
            older = [kv for kv in queue if kv.create_revision < mine.create_revision]
            if not older:
                break
            last = max(older, key=lambda kv: kv.create_revision)
            watch = await client.watch(last.key, start_revision=mine.create_revision + 1)
            async for event in watch:
                if event.kind == aetcd.EventKind.DELETE:
                    break
            await watch.cancel()
        print(key.decode(), flush=True)
        await asyncio.to_thread(told)
        await lease.revoke()
        print("released", flush=True)


async def prefixed(client: Any, prefix: bytes) -> Any:
    """The keys below a prefix."""
    for kv in await client.get_prefix(prefix):
        yield kv


def queued_with_ours(endpoint: str, kind: str, name: str, value: str) -> None:
    """raftkv.client."""
    from raftkv.client import Client

    with Client(endpoint) as client:
        if kind == "lock":
            held = client.lock(name, ttl=TTL_SECONDS, identity=value).acquire()
        else:
            held = client.election(name, ttl=TTL_SECONDS).campaign(value)
        with held:
            print(held.key.decode(), flush=True)
            told()
    print("released", flush=True)


async def queued_with_aio(endpoint: str, kind: str, name: str, value: str) -> None:
    """raftkv.client.aio."""
    from raftkv.client.aio import Client

    async with Client(endpoint) as client:
        if kind == "lock":
            held = await client.lock(name, ttl=TTL_SECONDS, identity=value).acquire()
        else:
            held = await client.election(name, ttl=TTL_SECONDS).campaign(value)
        async with held:
            print(held.key.decode(), flush=True)
            await asyncio.to_thread(told)
    print("released", flush=True)


def main() -> None:
    """Runs until told to give up the place."""
    library, endpoint, kind, name, value = sys.argv[1:]
    if library == "etcd3":
        queued_with_etcd3(endpoint, name, value)
    elif library == "aetcd":
        asyncio.run(queued_with_aetcd(endpoint, name, value))
    elif library == "client":
        queued_with_ours(endpoint, kind, name, value)
    else:
        assert library == "client.aio", library
        asyncio.run(queued_with_aio(endpoint, kind, name, value))


if __name__ == "__main__":
    main()
