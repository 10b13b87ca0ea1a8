"""Faults that the kernel makes: packets that are truly lost, for runs as root.

`netem` gives the packets of some members' peer ports to tc's network emulator: loss, delay with
jitter (which reorders), duplicates. `iptables` drops what is sent to a member's peer ports, without
a word, so that it hears nobody. Both work on the loopback's packets by port, for members that are
processes of this machine. `setup` finds out whether the kernel lets us, and otherwise says what the
rootless ones are called, which do nearly the same in user-space proxies.

What is added has a handle, or a chain, of this program's own; whatever an earlier run left behind
when it was killed is taken away first, and nobody else's rules are touched.
"""

import asyncio
import os
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Callable, Sequence
from random import Random
from typing import ClassVar, Final

from jepsen_lite.generator import Generator
from jepsen_lite.history import Op
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.episodes import LEADER, MINORITY, ONE, drawn, episodes, nothing, victims
from jepsen_lite.nemesis.process import NO_LEADER
from jepsen_lite.target.base import Target, TargetError

Command = list[str]
HANDLE: Final = "7e57"
CHAIN: Final = "JEPSEN-LITE"
COMMAND_SECONDS: Final = 10
LOSS, DELAY, DUPLICATE = "loss", "delay", "duplicate"
_EMULATED: Final = {
    LOSS: ("loss 1%", "loss 5%", "loss 20%"),
    DELAY: ("delay 50ms 20ms", "delay 200ms 150ms"),
    DUPLICATE: ("duplicate 10%",),
}


def run(command: Command) -> str:
    """Runs a command; what went wrong, or nothing."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return "" if done.returncode == 0 else (done.stderr.strip() or f"exit code {done.returncode}")


class Rooted(Nemesis):
    """What both have in common. tool: the program. rootless: who does it without root."""

    needs = frozenset({"network", "loopback"})
    tool: ClassVar[str] = ""
    rootless: ClassVar[str] = ""
    variants: ClassVar[Sequence[str]] = ()

    def __init__(self, run: Callable[[Command], str] = run) -> None:
        self._run = run
        self._active = False

    async def setup(self, target: Target) -> None:
        """Errors: TargetError, if this process may not do that, or the members are elsewhere."""
        await super().setup(target)
        target.peer_ports(0)
        reason = await asyncio.to_thread(self._refusal)
        if reason:
            raise TargetError(
                f"the nemesis {self.name} cannot work here: {reason}; without root, "
                f"{self.rootless} does nearly the same in user-space proxies"
            )

    def _refusal(self) -> str:
        """Why it cannot work; empty if it can. Tries it, and leaves nothing behind."""
        if os.geteuid() != 0:
            return "it needs root"
        if shutil.which(self.tool) is None:
            return f"there is no program {self.tool}"
        self._undo()
        reason = self._do([])
        self._undo()
        return f"{self.tool} says: {reason}" if reason else ""

    def _do(self, ports: Sequence[int], how: str = "") -> str:
        for command in self.commands(ports, how):
            reason = self._run(command)
            if reason:
                self._undo()
                return reason
        return ""

    def _undo(self) -> None:
        for command in self.undoing():
            self._run(command)  # what is not there cannot be taken away

    @abstractmethod
    def commands(self, ports: Sequence[int], how: str) -> list[Command]:
        """What makes the fault for the packets to and from these ports."""

    @abstractmethod
    def undoing(self) -> list[Command]:
        """What takes everything of ours away; each may fail."""

    def draw(self, what: str, random: Random) -> str:
        """How the fault of this variant is made this time."""
        return what

    def generator(self, random: Random) -> Generator:
        return episodes(self.name, self.variants, random)

    async def invoke(self, op: Op) -> Op:
        if op.f == f"stop-{self.name}":
            await self.heal()
            return op.done("info", {"healed": self.name})
        await self.heal()
        what, random = drawn(op.value)
        members = await victims(self.target, random.choice((ONE, LEADER, MINORITY)), random)
        if not members:
            return op.done("info", nothing(NO_LEADER))
        ports = [port for member in members for port in self.target.peer_ports(member)]
        how = self.draw(what, random)
        self._active = True
        reason = await asyncio.to_thread(self._do, ports, how)
        if reason:
            return op.done("info", nothing(reason))
        return op.done("info", {"what": how, "members": members, "ports": ports})

    async def heal(self) -> None:
        if self._active:
            self._active = False
            await asyncio.to_thread(self._undo)


class Netem(Rooted):
    """tc's emulator on the loopback, for the packets of some members' peer ports."""

    name = "netem"
    summary = "true loss, jitter and duplicates of packets by tc netem (root)"
    fs = frozenset({"start-netem", "stop-netem"})
    tool = "tc"
    rootless = "loss or slow"
    variants = (LOSS, DELAY, DUPLICATE)

    def draw(self, what: str, random: Random) -> str:
        return random.choice(_EMULATED[what])

    def commands(self, ports: Sequence[int], how: str) -> list[Command]:
        to_first_band = ["0"] * 16
        emulate = (how or "delay 0ms").split()
        found: list[Command] = [
            f"tc qdisc add dev lo root handle {HANDLE}: prio bands 4 priomap".split()
            + to_first_band,
            f"tc qdisc add dev lo parent {HANDLE}:4 netem".split() + emulate,
        ]
        found += [
            (
                f"tc filter add dev lo parent {HANDLE}: protocol ip prio 1 "
                f"u32 match ip {side} {port} 0xffff flowid {HANDLE}:4"
            ).split()
            for port in ports
            for side in ("dport", "sport")
        ]
        return found

    def undoing(self) -> list[Command]:
        return [f"tc qdisc del dev lo root handle {HANDLE}:".split()]


class Iptables(Rooted):
    """Packets to some members' peer ports are dropped: they hear nobody who dials them."""

    name = "iptables"
    summary = "members whose peer ports drop every packet, by iptables (root)"
    fs = frozenset({"start-iptables", "stop-iptables"})
    tool = "iptables"
    rootless = "partition"
    variants = ("drop",)

    def commands(self, ports: Sequence[int], how: str) -> list[Command]:
        found: list[Command] = [
            f"iptables -w -N {CHAIN}".split(),
            f"iptables -w -I INPUT -i lo -j {CHAIN}".split(),
        ]
        found += [f"iptables -w -A {CHAIN} -p tcp --dport {port} -j DROP".split() for port in ports]
        return found

    def undoing(self) -> list[Command]:
        return [
            f"iptables -w -D INPUT -i lo -j {CHAIN}".split(),
            f"iptables -w -F {CHAIN}".split(),
            f"iptables -w -X {CHAIN}".split(),
        ]
