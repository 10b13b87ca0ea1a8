"""How members reach each other: what lies between them, so that links can be broken.

`Proxied` needs no rights: members share this machine's loopback and dial each other at user-space
proxies, which are their advertised peer URLs. `namespaces.Namespaced` needs root: each member has a
network of its own, and the kernel drops what is cut.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, NamedTuple

from jepsen_lite.target.base import NetworkFaults, TargetError
from jepsen_lite.target.links import Links
from jepsen_lite.target.systems import Identify
from raftkv.testing.ports import HOST, Ports

NETWORK, ISOLATION, LATENCY, LOOPBACK = "network", "isolation", "latency", "loopback"
LINK_ABILITIES: Final = frozenset({NETWORK, ISOLATION, LATENCY, LOOPBACK})


class Spot(NamedTuple):
    """Where a member listens, and where others dial its peer side.

    host: an address of IPv4. door: the port that other members dial.
    """

    host: str
    client_port: int
    peer_port: int
    door: int


class Wiring(ABC):
    """The links of one cluster. abilities: a subset of LINK_ABILITIES.

    lacking: why an ability is not there, for people.
    """

    name: ClassVar[str] = ""
    abilities: frozenset[str] = LINK_ABILITIES
    lacking: Mapping[str, str] = {}

    @abstractmethod
    def spots(self, members: int) -> list[Spot]:
        """Where so many members will be. Errors: TargetError."""

    @abstractmethod
    def open(self, spots: Sequence[Spot], identify: Identify) -> None:
        """Makes the links. identify: which member dials. Errors: TargetError."""

    @abstractmethod
    async def close(self) -> None:
        """Gives everything back. A second call does nothing."""

    def within(self, member: int) -> list[str]:
        """Words in front of a member's command, so that it runs in its place."""
        return []

    def learn(self, number: int, member: int) -> None:  # noqa: B027
        """The member at this index has another id now."""

    @abstractmethod
    def network(self) -> NetworkFaults:
        """Faults of the links. Errors: TargetError, where there are none."""

    async def heal(self) -> None:  # noqa: B027
        """Ends every fault of the links, where there are links."""

    def peer_ports(self, spot: Spot) -> list[int]:
        """Ports of the loopback that packets to this member's peer side go to.

        Errors: TargetError.
        """
        raise TargetError(f"--network {self.name}: members do not meet on the loopback")


class Proxied(Wiring):
    """Proxies on the loopback. seed: of the links' losses."""

    name: ClassVar[str] = "proxies"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._ports = Ports()
        self._links: Links | None = None
        self._identify: Identify | None = None

    def spots(self, members: int) -> list[Spot]:
        """Each has ports of its own, and one of a proxy if there are others."""
        take, found = self._ports.take, []
        for _ in range(members):
            peer = take()
            found.append(Spot(HOST, take(), peer, take() if members > 1 else peer))
        return found

    def open(self, spots: Sequence[Spot], identify: Identify) -> None:
        """Begins to listen for members' calls. Errors: OSError."""
        self._ports.release_unheld()
        if len(spots) < 2:
            return
        self._identify = identify
        self._links = Links(self._seed)
        for index, spot in enumerate(spots):
            self._links.add(index, spot.door, spot.peer_port, identify)

    async def close(self) -> None:
        """Ends the proxies and gives the ports back."""
        if self._links is not None:
            await asyncio.to_thread(self._links.close)
        self._ports.close()

    def learn(self, number: int, member: int) -> None:
        """Calls of this id are this member's from now on."""
        if self._identify is not None:
            self._identify.learn(number, member)

    def network(self) -> Links:
        """Errors: TargetError, for a cluster of one."""
        if self._links is None:
            raise TargetError("a cluster of one member has no links")
        return self._links

    async def heal(self) -> None:
        """All links are open and quick."""
        if self._links is not None:
            await asyncio.to_thread(self._links.heal)

    def peer_ports(self, spot: Spot) -> list[int]:
        """Its proxy's and its own."""
        return sorted({spot.door, spot.peer_port})
