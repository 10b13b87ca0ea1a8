"""From what a user asks for to the parts of a run, or to a sentence that says what is wrong."""

import os
from collections.abc import Sequence
from random import Random

from jepsen_lite.nemesis import NEMESES, compose, nemesis_class
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.target.base import Target, TargetError
from jepsen_lite.workload import workload_class
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.options import Options
from raftkv.errors import RaftkvError


class BadPlan(RaftkvError):
    """What was asked for does not go together; the text says why, and what does."""


def workload_for(options: Options) -> Workload:
    """Errors: UnknownName; BadPlan, if it cannot run there."""
    found = workload_class(options.workload)
    if options.world not in found.worlds:
        places = ", ".join(sorted(found.worlds))
        raise BadPlan(
            f"the workload {options.workload!r} cannot run in the world {options.world!r}; "
            f"it can in: {places}"
        )
    if found.needs and options.system != "unknown" and options.system not in found.needs:
        raise BadPlan(
            f"the workload {options.workload!r} needs {', '.join(sorted(found.needs))}; "
            f"this cluster is {options.system}"
        )
    return found(options)


def nemeses_for(names: Sequence[str], target: Target, random: Random) -> list[Nemesis]:
    """Errors: UnknownName; BadPlan, if the target cannot be broken so from here."""
    for name in names:
        wanted = nemesis_class(name)
        missing = wanted.needs - target.abilities
        if "root" in missing and os.geteuid() != 0:
            rootless = getattr(wanted, "rootless", "")
            offer = f"; without root there is: {rootless}" if rootless else ""
            raise BadPlan(f"the nemesis {name!r} needs root, which you are not{offer}")
        if missing:
            reasons = "".join(f": {target.lacking[one]}" for one in missing & {*target.lacking})
            raise BadPlan(
                f"the nemesis {name!r} needs {', '.join(sorted(missing))}, which nobody may do to "
                f"this cluster from here ({target.system}, {target.world}){reasons}; "
                f"possible here: {', '.join(possible(target)) or 'none'}"
            )
    if "member" in names and (others := {"files", "disk"}.intersection(names)):
        raise BadPlan(
            f"member and {', '.join(sorted(others))} both replace members: choose one of them"
        )
    if len(set(names)) != len(names):
        raise BadPlan("every nemesis can be named once")
    return compose(names, random)


def possible(target: Target) -> list[str]:
    """The nemeses that this target allows."""
    return [name for name in sorted(NEMESES) if nemesis_class(name).needs <= target.abilities]


__all__ = ["BadPlan", "TargetError", "nemeses_for", "possible", "workload_for"]
