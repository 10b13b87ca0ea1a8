"""Names to classes, imported when they are asked for.

A table has "module:Class" by name. So listing names imports nothing, and a broken module breaks
only its own name.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from raftkv.errors import RaftkvError


class UnknownName(RaftkvError):
    """There is nothing of this name; the text has those that there are."""


def find(kind: str, table: Mapping[str, str], name: str) -> Any:
    """The class of this name. kind: what it is, for people. Errors: UnknownName."""
    place = table.get(name)
    if place is None:
        known = ", ".join(sorted(table))
        raise UnknownName(f"there is no {kind} {name!r}; there are: {known}")
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
