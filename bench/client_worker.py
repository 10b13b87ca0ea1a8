"""One client library under test, in a process of its own that runs it on command.

    python -P bench/client_worker.py LIBRARY ENDPOINT

It imports nothing of the benchmark and nothing of raftkv that its library does not need, for
other people's clients live in environments that have no raftkv. Each line on standard input is
one order, each line on standard output its answer, both JSON:

    {"kind": "put", "seconds": 0.1, "keys": 1000, "value_bytes": 256}
        -> {"operations": n, "seconds": s, "cpu_seconds": s, "p50_seconds": s}
    {"kind": "watch", "prefix": "bench/h/", "revision": r, "events": n} -> the same, p50 NaN

Unary kinds: `put` (one key), `get` (one key, linearizable), `txn` (if the key exists put it,
otherwise get it). One call is under way in a synchronous client, IN_TASKS in an asynchronous one.
`watch` reads that many events of history, from its request to the last one.
"""

import asyncio
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

IN_TASKS: Final = 16
TIMEOUT_SECONDS: Final = 10
Order = dict[str, Any]


def key_of(number: int, order: Order) -> bytes:
    """The key of an operation: all keys in turn."""
    return b"bench/k/%06d" % (number % int(order["keys"]))


def measured(operations: int, wall: float, cpu: float, latencies: list[float]) -> dict[str, float]:
    """An answer. latencies: seconds."""
    latencies.sort()
    middle = latencies[len(latencies) // 2] if latencies else float("nan")
    return {"operations": operations, "seconds": wall, "cpu_seconds": cpu, "p50_seconds": middle}


# --- synchronous libraries --------------------------------------------------------------
class Etcd3:
    """python-etcd3."""

    def __init__(self, endpoint: str) -> None:
        import etcd3

        host, _, port = endpoint.rpartition(":")
        self.client = etcd3.client(host, int(port), timeout=TIMEOUT_SECONDS)

    def put(self, key: bytes, value: bytes) -> None:
        self.client.put(key, value)

    def get(self, key: bytes, value: bytes) -> None:
        self.client.get(key)

    def txn(self, key: bytes, value: bytes) -> None:
        make = self.client.transactions
        self.client.transaction(
            compare=[make.version(key) > 0], success=[make.put(key, value)], failure=[make.get(key)]
        )

    def watch(self, prefix: str, revision: int, events: int) -> None:
        arriving, cancel = self.client.watch_prefix(prefix, start_revision=revision)
        for _ in range(events):
            next(arriving)
        cancel()


class Ours:
    """raftkv.client."""

    def __init__(self, endpoint: str) -> None:
        from raftkv.client import Client, Get, Put, Txn, key

        self.client = Client(endpoint, timeout=TIMEOUT_SECONDS)
        self.make = key, Put, Get, Txn

    def put(self, key: bytes, value: bytes) -> None:
        self.client.put(key, value)

    def get(self, key: bytes, value: bytes) -> None:
        self.client.get(key)

    def txn(self, key: bytes, value: bytes) -> None:
        of, put, get, txn = self.make
        self.client.txn(txn().when(of(key).version > 0).then(put(key, value)).otherwise(get(key)))

    def watch(self, prefix: str, revision: int, events: int) -> None:
        with self.client.watch(prefix, prefix=True, start_revision=revision) as watch:
            arriving = watch.events()
            for _ in range(events):
                next(arriving)


def messages() -> tuple[Any, Any]:
    """raftkv's own message classes and the channel options of its client."""
    from raftkv.client import channels, settings
    from raftkv.pb import rpc_pb2

    return rpc_pb2, channels.options(settings.Settings(endpoints=settings.parsed("x:1", None)))


class Requests:
    """The messages of the bare stubs."""

    def __init__(self, pb: Any) -> None:
        self.pb = pb

    def put(self, key: bytes, value: bytes) -> Any:
        return self.pb.PutRequest(key=key, value=value)

    def get(self, key: bytes, value: bytes) -> Any:
        return self.pb.RangeRequest(key=key)

    def txn(self, key: bytes, value: bytes) -> Any:
        pb = self.pb
        compare = pb.Compare(key=key, target=pb.Compare.VERSION, result=pb.Compare.GREATER)
        compare.version = 0
        return pb.TxnRequest(
            compare=[compare],
            success=[pb.RequestOp(request_put=self.put(key, value))],
            failure=[pb.RequestOp(request_range=self.get(key, value))],
        )

    def watch(self, prefix: str, revision: int) -> Any:
        start = prefix.encode()
        end = start[:-1] + bytes([start[-1] + 1])
        create = self.pb.WatchCreateRequest(key=start, range_end=end, start_revision=revision)
        return self.pb.WatchRequest(create_request=create)


METHODS: Final = {"put": "Put", "get": "Range", "txn": "Txn"}
WATCH: Final = "/etcdserverpb.Watch/Watch"


def unary_stubs(channel: Any, pb: Any) -> dict[str, Any]:
    """Kind -> grpcio's callable, as generated code would make it."""
    return {
        kind: channel.unary_unary(
            f"/etcdserverpb.KV/{method}",
            request_serializer=getattr(pb, f"{method}Request").SerializeToString,
            response_deserializer=getattr(pb, f"{method}Response").FromString,
        )
        for kind, method in METHODS.items()
    }


class Stub:
    """grpcio alone: what any client must at least cost."""

    def __init__(self, endpoint: str) -> None:
        pb, options = messages()
        import grpc

        self.requests = Requests(pb)
        channel = grpc.insecure_channel(endpoint, options)
        stubs = unary_stubs(channel, pb)
        self._put, self._get, self._txn = stubs["put"], stubs["get"], stubs["txn"]
        self._watch = channel.stream_stream(
            WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )

    def put(self, key: bytes, value: bytes) -> None:
        self._put(self.requests.put(key, value), timeout=TIMEOUT_SECONDS)

    def get(self, key: bytes, value: bytes) -> None:
        self._get(self.requests.get(key, value), timeout=TIMEOUT_SECONDS)

    def txn(self, key: bytes, value: bytes) -> None:
        self._txn(self.requests.txn(key, value), timeout=TIMEOUT_SECONDS)

    def watch(self, prefix: str, revision: int, events: int) -> None:
        done = threading.Event()
        create = self.requests.watch(prefix, revision)

        def asking() -> Any:
            yield create
            done.wait()

        call = self._watch(asking())
        for answer in call:
            events -= len(answer.events)
            if events <= 0:
                break
        done.set()
        call.cancel()


def run_unary(library: Any, order: Order) -> dict[str, float]:
    """One call after the other for so many seconds."""
    operation: Callable[[bytes, bytes], None] = getattr(library, order["kind"])
    value = b"v" * int(order["value_bytes"])
    latencies: list[float] = []
    clock = time.perf_counter
    cpu, begun = time.process_time(), clock()
    end = begun + float(order["seconds"])
    before = begun
    number = 0
    while before < end:
        operation(key_of(number, order), value)
        number += 1
        after = clock()
        latencies.append(after - before)
        before = after
    return measured(number, before - begun, time.process_time() - cpu, latencies)


def run_watch(library: Any, order: Order) -> dict[str, float]:
    """The history of a prefix, once."""
    cpu, begun = time.process_time(), time.perf_counter()
    library.watch(order["prefix"], order["revision"], order["events"])
    wall = time.perf_counter() - begun
    return measured(order["events"], wall, time.process_time() - cpu, [])


# --- asynchronous libraries -------------------------------------------------------------
class Aetcd:
    """aetcd."""

    async def connect(self, endpoint: str) -> None:
        import aetcd

        host, _, port = endpoint.rpartition(":")
        self.client = aetcd.Client(host, int(port), timeout=TIMEOUT_SECONDS)
        await self.client.connect()

    async def put(self, key: bytes, value: bytes) -> None:
        await self.client.put(key, value)

    async def get(self, key: bytes, value: bytes) -> None:
        await self.client.get(key)

    async def txn(self, key: bytes, value: bytes) -> None:
        make = self.client.transactions
        await self.client.transaction(
            compare=[make.version(key) > 0], success=[make.put(key, value)], failure=[make.get(key)]
        )

    async def watch(self, prefix: str, revision: int, events: int) -> None:
        watch = await self.client.watch_prefix(prefix.encode(), start_revision=revision)
        async for _ in watch:
            events -= 1
            if events == 0:
                break
        await watch.cancel()


class AioOurs:
    """raftkv.client.aio."""

    async def connect(self, endpoint: str) -> None:
        from raftkv.client.aio import Client, Get, Put, Txn, key

        self.client = Client(endpoint, timeout=TIMEOUT_SECONDS)
        self.make = key, Put, Get, Txn

    async def put(self, key: bytes, value: bytes) -> None:
        await self.client.put(key, value)

    async def get(self, key: bytes, value: bytes) -> None:
        await self.client.get(key)

    async def txn(self, key: bytes, value: bytes) -> None:
        of, put, get, txn = self.make
        await self.client.txn(
            txn().when(of(key).version > 0).then(put(key, value)).otherwise(get(key))
        )

    async def watch(self, prefix: str, revision: int, events: int) -> None:
        async with self.client.watch(prefix, prefix=True, start_revision=revision) as watch:
            async for _ in watch.events():
                events -= 1
                if events == 0:
                    break


class AioStub:
    """grpcio's asynchronous half alone."""

    async def connect(self, endpoint: str) -> None:
        pb, options = messages()
        import grpc.aio

        self.requests = Requests(pb)
        channel = grpc.aio.insecure_channel(endpoint, options)
        stubs = unary_stubs(channel, pb)
        self._put, self._get, self._txn = stubs["put"], stubs["get"], stubs["txn"]
        self._watch = channel.stream_stream(
            WATCH,
            request_serializer=pb.WatchRequest.SerializeToString,
            response_deserializer=pb.WatchResponse.FromString,
        )

    async def put(self, key: bytes, value: bytes) -> None:
        await self._put(self.requests.put(key, value), timeout=TIMEOUT_SECONDS)

    async def get(self, key: bytes, value: bytes) -> None:
        await self._get(self.requests.get(key, value), timeout=TIMEOUT_SECONDS)

    async def txn(self, key: bytes, value: bytes) -> None:
        await self._txn(self.requests.txn(key, value), timeout=TIMEOUT_SECONDS)

    async def watch(self, prefix: str, revision: int, events: int) -> None:
        call = self._watch()
        await call.write(self.requests.watch(prefix, revision))
        while events > 0:
            events -= len((await call.read()).events)
        call.cancel()


async def run_unary_aio(library: Any, order: Order) -> dict[str, float]:
    """IN_TASKS loops of calls for so many seconds."""
    operation: Callable[[bytes, bytes], Awaitable[None]] = getattr(library, order["kind"])
    value = b"v" * int(order["value_bytes"])
    latencies: list[float] = []
    clock = time.perf_counter
    cpu, begun = time.process_time(), clock()
    end = begun + float(order["seconds"])

    async def loop(number: int) -> None:
        before = clock()
        while before < end:
            await operation(key_of(number, order), value)
            number += IN_TASKS
            after = clock()
            latencies.append(after - before)
            before = after

    await asyncio.gather(*(loop(number) for number in range(IN_TASKS)))
    return measured(len(latencies), clock() - begun, time.process_time() - cpu, latencies)


async def run_watch_aio(library: Any, order: Order) -> dict[str, float]:
    """The history of a prefix, once."""
    cpu, begun = time.process_time(), time.perf_counter()
    await library.watch(order["prefix"], order["revision"], order["events"])
    wall = time.perf_counter() - begun
    return measured(order["events"], wall, time.process_time() - cpu, [])


# --- orders -----------------------------------------------------------------------------
LIBRARIES: Final[dict[str, Callable[[str], Any]]] = {"stub": Stub, "etcd3": Etcd3, "client": Ours}
AIO_LIBRARIES: Final[dict[str, Callable[[], Any]]] = {
    "aio-stub": AioStub,
    "aetcd": Aetcd,
    "client.aio": AioOurs,
}


def answer(content: object) -> None:
    """One line for the benchmark."""
    print(json.dumps(content), flush=True)


def obey(name: str, endpoint: str) -> None:
    """Obeys orders with a synchronous library until there are no more."""
    library = LIBRARIES[name](endpoint)
    answer("ready")
    for line in sys.stdin:
        order = json.loads(line)
        answer((run_watch if order["kind"] == "watch" else run_unary)(library, order))


async def obey_aio(name: str, endpoint: str) -> None:
    """Obeys orders with an asynchronous library until there are no more.

    The loop stands while it waits for an order: nothing of the library costs others time.
    """
    library = AIO_LIBRARIES[name]()
    await library.connect(endpoint)
    answer("ready")
    for line in sys.stdin:
        order = json.loads(line)
        run = run_watch_aio if order["kind"] == "watch" else run_unary_aio
        answer(await run(library, order))


def main() -> None:
    """Runs until standard input ends."""
    name, endpoint = sys.argv[1:]
    if name in LIBRARIES:
        obey(name, endpoint)
    else:
        asyncio.run(obey_aio(name, endpoint))


if __name__ == "__main__":
    main()
