"""Nemeses by name, and several of them as one (`compose`)."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from jepsen_lite import registry

if TYPE_CHECKING:
    from jepsen_lite.nemesis.base import Nemesis

NEMESES: Final[Mapping[str, str]] = {
    "clock": "jepsen_lite.nemesis.clock:Clock",
    "disk": "jepsen_lite.nemesis.disk:Disk",
    "files": "jepsen_lite.nemesis.files:Files",
    "flap": "jepsen_lite.nemesis.partition:Flap",
    "iptables": "jepsen_lite.nemesis.root:Iptables",
    "kill": "jepsen_lite.nemesis.process:Kill",
    "kill-all": "jepsen_lite.nemesis.process:KillAll",
    "loss": "jepsen_lite.nemesis.link:Loss",
    "member": "jepsen_lite.nemesis.member:Member",
    "netem": "jepsen_lite.nemesis.root:Netem",
    "partition": "jepsen_lite.nemesis.partition:Partition",
    "pause": "jepsen_lite.nemesis.process:Pause",
    "slow": "jepsen_lite.nemesis.link:Slow",
    "transfer": "jepsen_lite.nemesis.transfer:Transfer",
}


def nemesis_class(name: str) -> "type[Nemesis]":
    """The class of this name. Errors: UnknownName."""
    found: type[Nemesis] = registry.find("nemesis", NEMESES, name)
    return found


def compose(names: Sequence[str], random: Random) -> "list[Nemesis]":
    """One nemesis of each name; each runs by itself, so their faults overlap.

    Errors: UnknownName.
    """
    return [nemesis_class(name)() for name in names]
