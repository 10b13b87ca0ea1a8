"""A member whose bounds are nearly zero finds everything slow, and says why of each."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from raftkv.pb import rpc_pb2
from tests import processes
from tests.server.harness import Client, configs, replica_of, running

SECRET = b"hidden"
NEARLY_ZERO = {"warning_apply_seconds": 1e-9, "warning_request_seconds": 1e-9}


def fields(record: logging.LogRecord) -> dict[str, Any]:
    return {"msg": record.getMessage(), **vars(record)}


def test_members_say_what_writes_and_reads_have_waited_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("raftkv"), "propagate", True)
    caplog.set_level(logging.WARNING, "raftkv.server")

    async def scenario() -> list[int]:
        async with running(configs(3, tmp_path, **NEARLY_ZERO)) as nodes:
            leader = next(node for node in nodes if replica_of(node).is_leader)
            follower = next(node for node in nodes if not replica_of(node).is_leader)
            for node in (leader, follower):
                client = await Client.connect(node)
                await client.put(b"key", SECRET)
                await client.get(b"key")
                client.close()
            return [node.driver.timings.slow_applies for node in nodes]  # type: ignore[union-attr]

    slow = asyncio.run(scenario())
    assert all(slow), "every member has applied entries"
    lines = [fields(record) for record in caplog.records]
    reasons = {line["waited-for"] for line in lines if line["msg"] == "slow request"}
    assert "cluster" in reasons, "the follower's put"
    assert "read-index" in reasons
    assert reasons & {"leader", "log-sync", "quorum", "apply"}, "the leader's put"
    applies = [line for line in lines if line["msg"] == "apply request took too long"]
    assert applies
    assert SECRET.decode() not in caplog.text
    assert not any(SECRET.decode() in str(line) for line in lines)


def test_the_line_about_slow_applying_has_the_fields_of_etcds(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("raftkv"), "propagate", True)
    caplog.set_level(logging.WARNING, "raftkv.server")
    flags = ("--unsafe-no-fsync", "--experimental-warning-apply-duration", "1ns")
    with processes.etcd(tmp_path / "etcd", *flags) as cluster:
        text = cluster.servers[0].log_end(200)
    lines = [json.loads(line) for line in text.splitlines() if "took too long" in line]
    assert lines

    async def scenario() -> None:
        async with running(configs(1, tmp_path, **NEARLY_ZERO)) as (node,):
            client = await Client.connect(node)
            request = rpc_pb2.PutRequest(key=b"abc", value=SECRET)
            await client.call("/etcdserverpb.KV/Put", request)
            client.close()

    asyncio.run(scenario())
    ours = [fields(one) for one in caplog.records if "took too long" in one.getMessage()]
    for line in lines:
        assert line["msg"] == ours[0]["msg"]
        assert line["level"] == "warn"
        assert set(line) - {"level", "ts", "caller", "msg"} <= set(ours[0])
