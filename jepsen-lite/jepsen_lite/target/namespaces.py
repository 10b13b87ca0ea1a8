"""Members that live in network namespaces of their own, for runs as root.

    this machine --- jepsenPID | host             member0 | eth0   198.18.S.1
       198.18.S.254            |   the hub, a router      |
                               | 198.18.S.253     member1 | eth0   198.18.S.2

Every member is alone in a namespace with one address and one link, to the hub: a namespace that
forwards. Clients are this machine's end of another link to it. So a packet between members passes
the hub's rules (`routes`), which is where links are cut, and nothing else on this machine can meet
it. The addresses are of 198.18.0.0/15, which is set aside for such tests (RFC 2544); of its 512
parts of 256 addresses a run takes one that this machine has no route to.

What a dead runner has left behind is removed when the next one begins (`netns`).
"""

import asyncio
import os
from collections.abc import Sequence
from typing import ClassVar, Final

from jepsen_lite.target import netns
from jepsen_lite.target.base import NetworkFaults, TargetError
from jepsen_lite.target.netns import Kernel
from jepsen_lite.target.routes import MOST_EMULATED, Routes, device
from jepsen_lite.target.systems import Identify
from jepsen_lite.target.wiring import LATENCY, LINK_ABILITIES, LOOPBACK, Spot, Wiring

PARTS: Final = 512
MOST_MEMBERS: Final = 250
HOST_END, HUB_END = 254, 253
CLIENT_PORT, PEER_PORT = 2379, 2380
ROOTLESS: Final = (
    "without root, --network proxies (which is the default) breaks links in user-space proxies"
)


class Namespaced(Wiring):
    """See the module's docstring. Errors of making one: TargetError, if it is not permitted."""

    name: ClassVar[str] = "namespaces"
    abilities = LINK_ABILITIES - {LOOPBACK}

    def __init__(self, kernel: Kernel | None = None) -> None:
        self._kernel = kernel or Kernel()
        reason = netns.refusal(self._kernel)
        if reason:
            raise TargetError(f"--network namespaces cannot work here: {reason}; {ROOTLESS}")
        netns.remove_leftovers(self._kernel)
        self._stem = netns.own_stem()
        self._part = _free_part(self._kernel)
        self._made: list[str] = []
        self._routes: Routes | None = None
        self._open = False
        self.lacking = {LOOPBACK: "partition and flap break the links of namespaces"}
        if missing := self._no_emulator():
            self._do_without_latency(
                f"this kernel does not emulate networks ({missing}); "
                "--network proxies slows links and loses chunks without it"
            )

    def _do_without_latency(self, why: str) -> None:
        self.abilities -= {LATENCY}
        self.lacking = {**self.lacking, LATENCY: why}

    def _no_emulator(self) -> str:
        """Why links cannot be slow or lossy; "" if they can."""
        name = self._name("probe")
        kernel = self._kernel
        try:
            kernel.do("ip", "netns", "add", name)
            routes = Routes(kernel, name, ["198.18.0.1", "198.18.0.2"])
            kernel.batch(name, [f"link add {device(1)} type veth peer name other"])
            routes.delay([0], [1], 0.001)
        except TargetError as error:
            said = str(error).partition("Error: ")[2] or str(error)
            return said.splitlines()[0].rstrip(".")
        finally:
            kernel.attempt("ip", "netns", "delete", name)
        return ""

    def _name(self, part: str | int) -> str:
        return f"{self._stem}{part}"

    def _address(self, number: int) -> str:
        first, second = divmod(self._part, 256)
        return f"198.{18 + first}.{second}.{number}"

    def spots(self, members: int) -> list[Spot]:
        """Errors: TargetError, if they are too many."""
        if members > MOST_MEMBERS:
            raise TargetError(f"--network namespaces has room for {MOST_MEMBERS} members")
        if members > MOST_EMULATED and LATENCY in self.abilities:
            self._do_without_latency(f"that is for {MOST_EMULATED} members at most")
        return [
            Spot(self._address(number + 1), CLIENT_PORT, PEER_PORT, PEER_PORT)
            for number in range(members)
        ]

    def open(self, spots: Sequence[Spot], identify: Identify) -> None:
        """Makes the namespaces and the links. Errors: TargetError."""
        self._open = True
        hub = self._namespace("hub")
        kernel = self._kernel
        device_here, gateway = netns.host_device(os.getpid()), self._address(HUB_END)
        here = self._address(HOST_END)
        kernel.batch(hub, ["link set lo up"])
        kernel.do("ip", "netns", "exec", hub, *_FORWARDING)
        kernel.do(*f"ip link add {device_here} type veth peer name host netns {hub}".split())
        kernel.batch(hub, _hub_end("host", gateway, here))
        for line in (
            f"link set {device_here} up",
            f"addr add {here}/32 dev {device_here}",
            f"route add {gateway} dev {device_here} src {here}",
            f"route add {self._address(0)}/24 via {gateway} dev {device_here} src {here}",
        ):
            kernel.do("ip", *line.split())
        for number, spot in enumerate(spots):
            name = self._namespace(number)
            kernel.batch(
                hub,
                [
                    f"link add {device(number)} type veth peer name eth0 netns {name}",
                    *_hub_end(device(number), gateway, spot.host),
                ],
            )
            kernel.batch(
                name,
                [
                    "link set lo up",
                    "link set eth0 up",
                    f"addr add {spot.host}/32 dev eth0",
                    f"route add {gateway} dev eth0 src {spot.host}",
                    f"route add default via {gateway} dev eth0 src {spot.host}",
                ],
            )
        self._routes = Routes(kernel, hub, [spot.host for spot in spots])

    def _namespace(self, part: str | int) -> str:
        name = self._name(part)
        self._made.append(name)  # before it is there: what may be there is removed
        self._kernel.do("ip", "netns", "add", name)
        return name

    async def close(self) -> None:
        """Removes everything again. Members must have ended."""
        if self._open:
            self._open = False
            netns.remove(self._kernel, self._made, os.getpid())

    def within(self, member: int) -> list[str]:
        """`ip` becomes the member: it keeps its pid, and the tie to who started it."""
        return ["ip", "netns", "exec", self._name(member)]

    def network(self) -> NetworkFaults:
        """Errors: TargetError, before `open`."""
        if self._routes is None:
            raise TargetError("the members have no links yet")
        return self._routes

    async def heal(self) -> None:
        """All links are open and quick."""
        if self._routes is not None:
            await asyncio.to_thread(self._routes.heal)


_FORWARDING: Final = ("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _hub_end(name: str, gateway: str, other: str) -> list[str]:
    """The hub's end of a link to `other`."""
    return [
        f"link set {name} up",
        f"addr add {gateway}/32 dev {name}",
        f"route add {other} dev {name} src {gateway}",
    ]


def _free_part(kernel: Kernel) -> int:
    """One that no route of this machine leads to, by this process's number. Errors: TargetError."""
    taken = kernel.do("ip", "-4", "-o", "route", "show", "table", "all")
    for step in range(PARTS):
        part = (os.getpid() + step) % PARTS
        first, second = divmod(part, 256)
        if f"198.{18 + first}.{second}." not in taken:
            return part
    raise TargetError("this machine has routes to all of 198.18.0.0/15")
