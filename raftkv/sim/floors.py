"""What many runs together must have done: a test that does nothing is green.

Every kind of fault that some run has chosen must have struck, that is done its harm: a leader that
there is not cannot be isolated. Runs of the load for watches must besides have met all that can
happen to a watch, and often enough on the average of the runs.
"""

from collections import Counter
from typing import Final

ALL_STRUCK_RUNS: Final = 50  # so many runs of the mixed load must have met every chosen fault
STRUCK_SHARE: Final = 0.5  # of the runs that chose a fault, when each has its turn
SECONDS: Final = 6.0  # of faults, that `WATCHED` is for

SWARM_FAULTS: Final = 3.0  # that struck, per virtual second of faults, in `ALL_STRUCK_RUNS` or more

# On the average of runs of the load for watches with SECONDS of faults.
WATCHED: Final[dict[str, int]] = {
    "events checked": 50_000,
    "events of long scans": 500,
    "fragments": 50,
    "bookmarks": 200,
    "created": 100,
    "resumes": 50,
    "stalled viewers": 8,
    "overtaken by a compaction": 20,
    "cancelled": 5,
    "compactions": 20,
    "full sinks met": 100,
    "states received under watches": 1,
}


def faults_missing(
    chosen: Counter[str], struck: Counter[str], runs: int, *, even: bool
) -> list[str]:
    """What is wrong with how often faults struck.

    chosen: by kind, how many of the `runs` had it. struck: how often it did its harm. even: in
        these runs every kind has its turn (`faults.Nemesis`).
    """
    if not even and runs < ALL_STRUCK_RUNS:
        return []
    found = []
    for kind, number in sorted(chosen.items()):
        least = max(1, int(number * STRUCK_SHARE)) if even else 1
        if struck[kind] < least:
            found.append(f"{kind!r} was chosen {number} times and struck {struck[kind]} times")
    return found


def swarm_missing(struck: int, runs: int, seconds: float) -> list[str]:
    """What is wrong with the number of faults that struck in runs of the swarm."""
    least = int(SWARM_FAULTS * runs * seconds)
    if runs < ALL_STRUCK_RUNS or struck >= least:
        return []
    return [f"faults that struck: {struck} of at least {least}"]


def watching_missing(counts: Counter[str], runs: int, seconds: float) -> list[str]:
    """What is below its floor after `runs` runs with so many virtual seconds of faults each."""
    share = min(seconds / SECONDS, 1.0)
    found = []
    for name, average in WATCHED.items():
        least = int(average * runs * share)
        if counts[name] < least:
            found.append(f"{name}: {counts[name]} of at least {least}")
    return found
