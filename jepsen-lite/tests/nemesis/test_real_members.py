"""Nemeses against three real members, overlapping, while a client writes."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
import uvloop

from jepsen_lite.checker.base import Evidence
from jepsen_lite.checker.membership import Membership
from jepsen_lite.history import NEMESIS, History, Op
from jepsen_lite.nemesis import nemesis_class
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import board_of
from jepsen_lite.target.processes import Processes
from jepsen_lite.target.systems import system_of
from jepsen_lite.workload.options import Options
from raftkv.client.aio import Client
from raftkv.client.errors import ClientError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
FLAGS = {"heartbeat-interval": "50", "election-timeout": "500"}


class Writer:
    """Writes a growing number until it is stopped. acknowledged: the last that was."""

    def __init__(self, target: Processes) -> None:
        self._target = target
        self.acknowledged = 0
        self.task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        number = 0
        async with Client(self._target.endpoints, timeout=2) as client:
            while True:
                number += 1
                with suppress(ClientError):
                    await client.put("number", str(number))
                    self.acknowledged = number

    async def past(self, number: int) -> None:
        """Waits for an acknowledged number above this one."""
        while self.acknowledged <= number:
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Writes no more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


def _run(
    directory: Path, scenario: Callable[[Processes, Writer], Awaitable[None]], *, spare: int = 0
) -> None:
    async def whole() -> None:
        async with asyncio.timeout(100):
            await inside()

    async def inside() -> None:
        target = Processes(system_of("raftkv"), 3, directory / "run", flags=FLAGS, spare=spare)
        try:
            await target.start()
            writer = Writer(target)
            await writer.past(0)
            await scenario(target, writer)
            await target.recover()
            await writer.past(writer.acknowledged)
            await writer.stop()
            async with Client(target.endpoints, timeout=10) as client:
                value = (await client.get("number")).value
                assert value is not None
                assert int(value) >= writer.acknowledged
        finally:
            await target.stop()

    uvloop.run(whole())


async def _set_up(target: Processes, *names: str) -> list[Nemesis]:
    found = [nemesis_class(name)() for name in names]
    for nemesis in found:
        await nemesis.setup(target)
    return found


async def _do(nemesis: Nemesis, f: str, what: str = "", seed: int = 1) -> Any:
    end = await nemesis.invoke(Op(NEMESIS, "invoke", f, {"what": what, "seed": seed}, 0))
    assert end.type == "info"
    return end.value


def test_four_kinds_at_once_each_say_what_they_did_and_heal_by_themselves(tmp_path: Path) -> None:
    async def scenario(target: Processes, writer: Writer) -> None:
        disk, clock, slow, kill = await _set_up(target, "disk", "clock", "slow", "kill")
        assert (await _do(clock, "start-clock", "drift"))["bent"]
        assert (await _do(slow, "start-slow", "all"))["seconds"] > 0
        assert (await _do(disk, "start-disk", "fsync-slow"))["fault"] == "fsync-delay"
        killed = await _do(kill, "start-kill", "one")
        assert len(killed["killed"]) == 1
        with suppress(TimeoutError):  # one down and one with a slow disk may be too much
            await asyncio.wait_for(writer.past(writer.acknowledged), 8)
        assert (await _do(kill, "stop-kill"))["started"] == killed["killed"]
        await _do(slow, "stop-slow")
        struck = (await _do(disk, "stop-disk"))["struck"]
        assert struck
        for nemesis in (disk, clock, slow, kill) * 2:
            await nemesis.heal()
        await target.recover()
        for member in range(3):
            status = await target.control(member).send({"status": True})
            assert status["active"] == []

    _run(tmp_path, scenario)


def test_a_member_whose_disk_failed_or_was_torn_comes_back_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    """D10, D12, D04."""

    async def scenario(target: Processes, writer: Writer) -> None:
        (disk,) = await _set_up(target, "disk")
        board = board_of(target)
        for what in ("fsync-eio-once", "enospc", "torn-write"):
            (member,) = (await _do(disk, "start-disk", what))["members"]
            assert board.damaged == {member}
            while target.running(member):
                await asyncio.sleep(0.02)
            await disk.heal()
            assert board.damaged == frozenset()
        await disk.heal()

    _run(tmp_path, scenario)


@pytest.mark.parametrize("what", ["flip-log", "flip-mark", "wipe", "stale-copy", "cut-tail"])
def test_a_member_with_a_damaged_directory_is_replaced_and_nothing_is_lost(
    tmp_path: Path, what: str
) -> None:
    """D05, D07, R33, R34, D04: it refuses, is removed, added and fetches everything."""

    async def scenario(target: Processes, writer: Writer) -> None:
        files, transfer = await _set_up(target, "files", "transfer")
        done = await _do(files, "start-files", what, Random(what).getrandbits(16))
        assert "nothing" not in done
        member = done["member"]
        assert board_of(target).damaged == {member}
        await writer.past(writer.acknowledged)
        again = await _do(files, "stop-files")
        assert again["member"] == member
        await files.heal()
        await files.heal()
        (back,) = (await _do(files, "stop-files"))["came back before"]
        one_copy_left = what == "flip-mark" and len(done["damage"]) == 1
        assert back["member"] == member
        assert back["came back"] == ("restarted" if one_copy_left else "replaced")
        while "nothing" in (moved := await _do(transfer, "transfer")):
            await asyncio.sleep(0.1)  # no leader yet, or one that was replaced says no address yet
        assert {"from", "to"} <= set(moved)

    _run(tmp_path, scenario)


def test_members_come_and_go_and_every_removed_one_ends(tmp_path: Path) -> None:
    """R24, R30, R31, R33, R34: grow, remove the leader, replace one that is down, lose a disk."""

    async def scenario(target: Processes, writer: Writer) -> None:
        (member,) = await _set_up(target, "member")
        for what in ("grow", "remove-leader", "replace-dead", "rejoin"):
            while "nothing" in (done := await _do(member, "start-member", what)):
                assert done["nothing"] == "no member says that it leads"
                await asyncio.sleep(0.1)
            await member.heal()
            assert done["what"] == what
            await writer.past(writer.acknowledged)
        await target.recover()
        verdict = Membership().check(
            Evidence(History([]), None, Options(), dict(await member.evidence()))
        )
        assert verdict.passed, verdict.anomalies
        assert (verdict.facts["changes"], verdict.facts["removed"]) == (4, 3)
        assert verdict.facts["tables"] == len(target.present) == 3

    _run(tmp_path, scenario, spare=2)
