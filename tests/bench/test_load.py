"""The load generator counts what really succeeded, and only that."""

import asyncio
from collections.abc import Iterator

import pytest

from bench import requests
from bench.generator import Run, measure, percentiles
from bench.load import Load
from bench.requests import Operation
from raftkv.errors import Code
from raftkv.pb import rpc_pb2
from tests.bench.fake import FakeServer, Script, serving


def operations(count: int) -> Iterator[Operation]:
    return requests.fill(keys=count, value_bytes=16, seed=1)


async def drained(server: FakeServer, count: int, connections: int, outstanding: int) -> Load:
    """A load of `count` puts that is over."""
    load = Load([server.endpoint] * connections, operations(count), outstanding)
    try:
        await load.connect()
        load.start()
        await asyncio.wait_for(load.drained.wait(), 20)
    finally:
        load.close()
    return load


def run_against(script: Script, count: int, connections: int = 2, outstanding: int = 5) -> Load:
    async def run() -> Load:
        async with serving(script) as server:
            return await drained(server, count, connections, outstanding)

    return asyncio.run(run())


def test_every_success_is_counted_with_its_latency() -> None:
    load = run_against(lambda *_: b"ok", 200)
    assert len(load.tally.latencies) == 200
    assert not load.tally.errors
    assert all(latency > 0 for latency in load.tally.latencies)


def test_an_error_status_is_no_success() -> None:
    def script(number: int, path: bytes, message: bytes) -> bytes | tuple[int, str]:
        return (Code.UNAVAILABLE, "etcdserver: no leader") if number % 10 == 0 else b"ok"

    load = run_against(script, 100)
    assert len(load.tally.latencies) == 90
    assert dict(load.tally.errors) == {"14 etcdserver: no leader": 10}


def test_a_reply_without_the_result_is_no_success() -> None:
    """A get that does not find its value is as short as a header."""

    async def run() -> Load:
        pool = requests.endless("get", keys=1000, value_bytes=256, seed=1)
        few = (next(pool) for _ in range(50))
        async with serving(lambda number, *_: b"v" * 256 if number % 2 else b"h") as server:
            load = Load([server.endpoint], few, 5)
            await load.connect()
            load.start()
            await asyncio.wait_for(load.drained.wait(), 20)
            load.close()
            return load

    load = asyncio.run(run())
    assert len(load.tally.latencies) == 25
    assert dict(load.tally.errors) == {"OK, but the result is missing": 25}


def test_no_connection_has_more_calls_under_way_than_asked_for() -> None:
    async def run() -> tuple[int, int]:
        async with serving(lambda *_: None) as server:
            load = Load([server.endpoint] * 3, operations(100), 4)
            await load.connect()
            load.start()
            while len(server.seen) < 12:
                await asyncio.sleep(0)
            for _ in range(20):
                await asyncio.sleep(0)
            outstanding = load.outstanding
            load.close()
            return len(server.seen), outstanding

    assert asyncio.run(run()) == (12, 12)


def test_calls_of_a_lost_connection_are_errors_and_the_load_goes_on() -> None:
    async def run() -> tuple[Load, int]:
        async with serving(lambda number, *_: None if number < 10 else b"ok") as server:
            load = Load([server.endpoint] * 2, operations(60), 5)
            await load.connect()
            load.start()
            while len(server.seen) < 10:
                await asyncio.sleep(0)
            server.drop_connections()
            await asyncio.wait_for(load.drained.wait(), 20)
            load.close()
            return load, len(server.seen)

    load, seen = asyncio.run(run())
    assert sum(load.tally.errors.values()) == 10
    assert all(text.startswith("connection lost") for text in load.tally.errors)
    assert len(load.tally.latencies) == 50
    assert seen == 60


def test_an_open_loop_keeps_sending_when_nothing_is_answered() -> None:
    async def run() -> tuple[int, Load]:
        async with serving(lambda *_: None) as server:
            load = Load([server.endpoint] * 2, operations(10_000), 0)
            await load.connect()
            pacing = asyncio.create_task(load.pace(2000.0))
            while len(server.seen) < 100:
                await asyncio.sleep(0.001)
            pacing.cancel()
            outstanding = load.outstanding
            load.close()
            return outstanding, load

    outstanding, load = asyncio.run(run())
    assert outstanding >= 100
    assert not load.tally.latencies


def test_the_latency_of_an_open_loop_starts_when_the_request_was_due() -> None:
    """A stall is charged to every request that was due meanwhile, not to one."""

    async def run() -> list[float]:
        async with serving(lambda number, *_: None) as server:
            load = Load([server.endpoint], operations(10_000), 0)
            await load.connect()
            pacing = asyncio.create_task(load.pace(1000.0))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            server.script = lambda *_: b"ok"
            stop = asyncio.get_running_loop().time() + 0.1
            while asyncio.get_running_loop().time() < stop:
                pass  # neither the generator nor the server gets to run
            while len(load.tally.latencies) < 80:
                await asyncio.sleep(0.001)
            pacing.cancel()
            load.close()
            return load.tally.latencies[:80]

    # The stall ends 0.1 s after the first request was due, request i is due at i ms: only
    # lower bounds, which a slow machine cannot break.
    latencies = asyncio.run(run())
    assert all(latency >= 0.098 - 0.001 * place for place, latency in enumerate(latencies))


def test_a_run_reports_its_window(capsys: pytest.CaptureFixture[str]) -> None:
    async def run() -> tuple[int, object]:
        async with serving(lambda *_: b"v" * 300) as server:
            result = await measure(
                Run([server.endpoint], kind="mixed", outstanding=3, seconds=0.2, warmup_seconds=0.1)
            )
            return len(server.seen), result

    seen, result = asyncio.run(run())
    from bench.generator import Measured

    assert isinstance(result, Measured)
    assert 0 < result.successes < seen  # the warm-up is not in it
    assert result.failures == 0
    assert result.rate == pytest.approx(result.successes / result.seconds)
    assert result.latency_seconds["0"] <= result.latency_seconds["99"]
    assert result.generator_cpu_seconds > 0
    assert capsys.readouterr().out == "measuring\n"


def test_a_fill_writes_every_key_once() -> None:
    async def run() -> list[bytes]:
        async with serving(lambda *_: b"ok") as server:
            await drained(server, 500, 3, 7)
            return [message for _, message in server.seen]

    written = sorted(rpc_pb2.PutRequest.FromString(message).key for message in asyncio.run(run()))
    assert written == [requests.key(number) for number in range(500)]


def test_percentiles_are_ranks() -> None:
    result = percentiles([float(value) for value in range(1000, 0, -1)])
    assert result["0"] == 1.0
    assert result["50"] == 501.0
    assert result["99"] == 991.0
    assert result["100"] == 1000.0
    assert percentiles([]) == {}
