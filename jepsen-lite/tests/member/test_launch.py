"""A real member, in a process of its own, whose disk and clocks fail when they are told to."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop

from jepsen_lite.target.base import TargetError
from member.starting import OneMember, environment, one_member
from raftkv.client.errors import ClientError
from raftkv.errors import DiskFailure

Scenario = Callable[[OneMember], Awaitable[None]]


def _run(directory: Path, scenario: Scenario, **options: tuple[str, ...]) -> None:
    async def whole() -> None:
        async with one_member(directory, **options) as member, asyncio.timeout(100):
            await scenario(member)

    uvloop.run(whole())


@pytest.mark.slow
def test_a_failed_sync_ends_the_member_and_it_comes_back_with_all_that_was_acknowledged(
    tmp_path: Path,
) -> None:
    """D10: nothing is acknowledged after the first failed sync."""

    async def scenario(member: OneMember) -> None:
        async with await member.serving() as client:
            await client.put("kept", "1")
            answer = await member.control.send({"fault": "fsync-eio", "times": 1})
            assert answer["active"] == ["fsync-eio"]
            with pytest.raises(ClientError):
                await client.put("lost", "2", timeout=5)
        assert await member.ended() == DiskFailure.exit_code
        assert "Input/output error" in member.said()
        member.start()
        async with await member.serving() as client:
            found = await client.get("kept")
            assert found.value == b"1"

    _run(tmp_path, scenario)


@pytest.mark.slow
def test_a_full_disk_ends_the_member_until_there_is_room(tmp_path: Path) -> None:
    """D12: no acknowledgement without room."""

    async def scenario(member: OneMember) -> None:
        async with await member.serving() as client:
            await member.control.send({"fault": "enospc"})
            with pytest.raises(ClientError):
                await client.put("lost", "1", timeout=5)
        assert await member.ended() == DiskFailure.exit_code
        assert "No space left" in member.said()
        member.start()
        async with await member.serving() as client:
            await client.put("fits", "2")

    _run(tmp_path, scenario)


def test_syncs_wait_while_they_hang_and_go_on_when_healed(tmp_path: Path) -> None:
    """D15: a write is not acknowledged before its sync returns."""

    async def scenario(member: OneMember) -> None:
        async with await member.serving() as client:
            await member.control.send({"fault": "fsync-hang"})
            put = asyncio.ensure_future(client.put("waits", "1", timeout=30))
            while not (await member.control.status())["struck"].get("fsync-hang"):
                await asyncio.sleep(0.01)
            assert not put.done()
            await member.control.heal()
            await put

    _run(tmp_path, scenario)


@pytest.mark.slow
def test_slow_syncs_make_writes_slow_and_healing_makes_them_fast(tmp_path: Path) -> None:
    async def scenario(member: OneMember) -> None:
        loop = asyncio.get_running_loop()
        async with await member.serving() as client:
            await member.control.send({"fault": "fsync-delay", "seconds": 0.4})
            began = loop.time()
            await client.put("slow", "1", timeout=30)
            assert loop.time() - began >= 0.4
            status = await member.control.status()
            assert status["struck"]["fsync-delay"] >= 1
            await member.control.heal()
            assert (await member.control.status())["active"] == []

    _run(tmp_path, scenario)


@pytest.mark.slow
def test_after_torn_writes_all_that_was_acknowledged_is_there(tmp_path: Path) -> None:
    """D01, D04: the process is gone in the middle of its last write."""

    async def scenario(member: OneMember) -> None:
        kept = 0
        for turn in range(4):
            async with await member.serving() as client:
                for _ in range(3):
                    await client.put("count", str(kept + 1))
                    kept += 1
                found = await client.get("count")
                assert found.value is not None
                assert int(found.value) == kept
                await member.control.send({"fault": "torn-write"})
                with suppress(ClientError):
                    await client.put(f"torn-{turn}", "x" * (100 + 9_000 * turn), timeout=5)
            assert await member.ended() == -signal.SIGKILL
            member.start()

    _run(tmp_path, scenario)


@pytest.mark.slow
def test_leases_follow_the_monotonic_clocks_rate_but_no_jump_of_any_clock(tmp_path: Path) -> None:
    """R20, M10: a gap in the leader's time is added to every lease; the wall clock is not asked."""

    async def scenario(member: OneMember) -> None:
        loop = asyncio.get_running_loop()
        async with await member.serving() as client:
            lease = await client.lease(600, keep_alive=False)
            await client.put("held", "1", lease=lease)
            for which in ("wall", "monotonic"):
                jump = {"clock": "jump", "seconds": 3600, "which": which}
                clocks = (await member.control.send(jump))["clocks"]
                assert 3599 < clocks[which]["offset"] < 3601
            await asyncio.sleep(0.3)
            await member.control.send({"clock": "rate", "rate": 10})
            began = loop.time()
            await client.put("brief", "1", lease=await client.lease(30, keep_alive=False))
            while (await client.get("brief")).exists:
                await asyncio.sleep(0.02)
            assert 2.7 < loop.time() - began < 29
            assert (await client.get("held")).exists

    _run(tmp_path, scenario)


@pytest.mark.slow
def test_a_command_that_makes_no_sense_is_refused_with_the_reason(tmp_path: Path) -> None:
    async def scenario(member: OneMember) -> None:
        await (await member.serving()).close()
        for command, reason in (
            ({"fault": "earthquake"}, "no fault 'earthquake'"),
            ({"fault": "fsync-delay"}, "`seconds`"),
            ({"clock": "jump", "seconds": -1}, "never goes back"),
            ({"clock": "rate", "rate": 0}, "rate"),
            ({"clock": "stop"}, "jump or rate"),
            ({"clock": "jump", "which": "sun"}, "no clock 'sun'"),
            ({}, "one of fault, clock, heal, status"),
        ):
            with pytest.raises(TargetError, match=reason):
                await member.control.send(command)

    _run(tmp_path, scenario)


def test_nobody_at_the_socket_is_an_error_that_says_so(tmp_path: Path) -> None:
    member = OneMember(tmp_path)
    try:
        with pytest.raises(TargetError, match="cannot be told"):
            uvloop.run(member.control.heal())
    finally:
        member.stop()


@pytest.mark.slow
def test_an_unknown_mutant_and_wrong_flags_are_refused(tmp_path: Path) -> None:
    for arguments, reason in (
        (["--control", str(tmp_path / "c"), "--mutant", "no-such", "--"], "no mutant 'no-such'"),
        (["--mutant", "forget-the-vote"], "--control"),
        (["--control", str(tmp_path / "c"), "--", "--nonsense=1"], "--nonsense"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "jepsen_lite.member", *arguments],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2
        assert reason in done.stderr


@pytest.mark.slow
def test_a_mutant_is_applied_in_the_members_process(tmp_path: Path) -> None:
    """Every answer to what is left of a lease is then what was granted."""

    async def scenario(member: OneMember) -> None:
        async with await member.serving() as client:
            lease = await client.lease(60, keep_alive=False)
            await member.control.send({"clock": "jump", "seconds": 30})
            await asyncio.sleep(0.3)
            assert (await client.time_to_live(lease)).ttl >= 59

    _run(tmp_path, scenario, mutants=("say-that-all-of-a-lease-is-left",))
