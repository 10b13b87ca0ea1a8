"""Faults of the kernel: refused with the way out where they cannot be made, and undone whole."""

import asyncio
import os
import shutil

import pytest

from jepsen_lite.history import NEMESIS, Op
from jepsen_lite.nemesis import root
from jepsen_lite.nemesis.root import Command, Iptables, Netem, Rooted
from jepsen_lite.target.base import TargetError
from nemesis.fake import FakeTarget


class Kernel:
    """Remembers commands. fails: the word in a command that the kernel refuses."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.done: list[str] = []

    def __call__(self, command: Command) -> str:
        self.done.append(" ".join(command))
        return "not supported" if self.fails and self.fails in command else ""


def _op(f: str, what: str) -> Op:
    return Op(NEMESIS, "invoke", f, {"what": what, "seed": 4}, 0)


@pytest.fixture(autouse=True)
def _allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/sbin/{name}")


@pytest.mark.parametrize(
    ("kind", "offered"), [(Netem, "loss or slow does nearly"), (Iptables, "partition does nearly")]
)
def test_who_may_not_is_told_why_and_what_works_without_root(
    monkeypatch: pytest.MonkeyPatch, kind: type[Rooted], offered: str
) -> None:
    target = FakeTarget(3)
    refusing = kind(Kernel(fails="add" if kind is Netem else "-N"))
    with pytest.raises(TargetError, match=f"says: not supported; without root, {offered}"):
        asyncio.run(refusing.setup(target))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(TargetError, match=rf"no program {kind.tool}; .*{offered}"):
        asyncio.run(kind().setup(target))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TargetError, match=f"it needs root; without root, {offered}"):
        asyncio.run(kind().setup(target))


def test_the_emulator_gets_the_packets_of_the_members_peer_ports_and_nothing_is_left() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        netem = Netem(kernel)
        await netem.setup(FakeTarget(3, leads=1))
        assert kernel.done[-1] == kernel.done[0] == "tc qdisc del dev lo root handle 7e57:"
        kernel.done.clear()
        end = await netem.invoke(_op("start-netem", "loss"))
        assert end.value["what"].startswith("loss ")
        filters = [line for line in kernel.done if line.startswith("tc filter add dev lo")]
        assert len(filters) == 2 * len(end.value["ports"])
        for port in end.value["ports"]:
            assert sum(f"port {port} 0xffff" in line for line in filters) == 2
        kernel.done.clear()
        await netem.heal()
        await netem.heal()
        assert kernel.done == ["tc qdisc del dev lo root handle 7e57:"]

    asyncio.run(scenario())


def test_a_fault_that_was_made_in_part_is_taken_back_and_said_to_be_nothing() -> None:
    async def scenario() -> None:
        kernel = Kernel()
        drop = Iptables(kernel)
        await drop.setup(FakeTarget(3))
        kernel.fails = "DROP"
        end = await drop.invoke(_op("start-iptables", "drop"))
        assert end.value == {"nothing": "not supported"}
        assert kernel.done[-1] == "iptables -w -X JEPSEN-LITE"

    asyncio.run(scenario())


def test_a_command_that_fails_says_why() -> None:
    assert root.run(["false"]) == "exit code 1"
    assert root.run(["true"]) == ""
    assert "no-such-program" in root.run(["no-such-program"])
