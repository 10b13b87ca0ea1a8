"""Periodic compaction of etcd and raftkv keeps what a retention promises, and no more for ever."""

import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from raftkv.pb import rpc_pb2 as pb
from tests.conformance.target import Target
from tests.processes import ETCD, RAFTKV, etcd, raftkv

RETENTION_SECONDS = 1.0
GIVE_UP_SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["etcd", "raftkv"])
def test_what_was_newest_within_the_retention_can_be_read(name: str, tmp_path: Path) -> None:
    flags = ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s"]
    with ExitStack() as stack:
        if name == "etcd":
            started = etcd(tmp_path, "--unsafe-no-fsync", *flags)
        else:
            started = raftkv(tmp_path, 1, *flags)
        target = stack.enter_context(Target(stack.enter_context(started).servers[0].endpoint))

        def ask(request: Any) -> Any:
            return target.call(request).message

        asked_at: dict[int, float] = {}  # revision -> before the put that made it
        compacted = 0
        deadline = time.monotonic() + GIVE_UP_SECONDS
        while compacted < 20:
            before = time.monotonic()
            assert before < deadline, "nothing is compacted"
            asked_at[ask(pb.PutRequest(key=b"k", value=b"v")).header.revision] = before
            compacted = ask(pb.HashKVRequest()).compact_revision
            age = time.monotonic() - asked_at.get(compacted, -RETENTION_SECONDS)
            assert age >= RETENTION_SECONDS, "compacted while it may still have been read"


@pytest.mark.parametrize(
    "flags",
    [
        ["--auto-compaction-mode", "bogus"],
        ["--auto-compaction-retention", "x"],
        ["--auto-compaction-retention", "-1"],
        ["--auto-compaction-mode", "revision", "--auto-compaction-retention", "x"],
    ],
)
def test_both_refuse_to_start_with(flags: list[str], tmp_path: Path) -> None:
    for program in ([str(ETCD)], list(RAFTKV)):
        where = [*program, "--data-dir", str(tmp_path / "d"), *flags]
        done = subprocess.run(where, capture_output=True, timeout=60, check=False, text=True)
        assert done.returncode not in (0, -9)
        assert "retention" in done.stderr or "auto-compaction-mode" in done.stderr
