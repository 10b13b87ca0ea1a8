"""Known-wrong variants of the server by name."""

from jepsen_lite.registry import UnknownName
from raftkv.sim.hunting import Mutant
from raftkv.sim.mutants import MUTANTS


def mutant_of(name: str) -> Mutant:
    """The mutant of this name; words may be joined by "-". Errors: UnknownName."""
    for mutant in MUTANTS:
        if name in (mutant.name, mutant.name.replace(" ", "-")):
            return mutant
    raise UnknownName(f"there is no mutant {name!r}")
