"""Workloads by name."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from jepsen_lite import registry

if TYPE_CHECKING:
    from jepsen_lite.workload.base import Workload

WORKLOADS: Final[Mapping[str, str]] = {
    "register": "jepsen_lite.workload.register:Register",
}


def workload_class(name: str) -> "type[Workload]":
    """The class of this name. Errors: UnknownName."""
    found: type[Workload] = registry.find("workload", WORKLOADS, name)
    return found
