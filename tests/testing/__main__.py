"""How long a start takes: `python -m tests.testing [REPEATS]`. Seconds until all members answer.

"threads" of a program that has imported the server before; "processes" always import it anew.
"""

import statistics
import sys
import time

from raftkv.testing import Cluster

WANTED_SECONDS = {1: 0.5, 3: 1.5}


def measure(nodes: int, processes: bool, repeats: int) -> list[float]:
    """The time of each of so many starts, in seconds."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        with Cluster(nodes, processes=processes):
            taken.append(time.perf_counter() - began)
    return taken


def main(repeats: int) -> None:
    """Prints one line per kind and number of nodes."""
    measure(1, processes=False, repeats=1)
    for nodes, wanted in WANTED_SECONDS.items():
        for kind in ("threads", "processes"):
            taken = measure(nodes, kind == "processes", repeats)
            print(
                f"{nodes} node{'s' if nodes > 1 else ' '} {kind:<10}"
                f"min {min(taken):.3f} s  median {statistics.median(taken):.3f} s"
                f"  (wanted: under {wanted} s)"
            )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
