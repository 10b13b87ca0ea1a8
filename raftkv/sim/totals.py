"""Sums over many runs, and how far a series of them has come.

The sums go to a file after every run if there is one, so a series that takes hours can be stopped
and continued, and what it did until then can be told.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Final

from raftkv.sim.floors import faults_missing, swarm_missing, watching_missing
from raftkv.sim.replay import EPISODIC
from raftkv.sim.run import Summary
from raftkv.sim.world import SECOND

_SUMS: Final = (
    "virtual_us",
    "cpu_us",
    "events",
    "operations",
    "acknowledged",
    "elections",
    "snapshots",
    "restarts",
    "changes",
    "minorities",
)
_MINORITY_RUNS: Final = 5  # so many have had a liveness phase with a broken minority
_COUNTERS: Final = (
    "faults",
    "struck",
    "frames",
    "watching",
    "viewing",
    "checked",
    "leasing",
    "sessions",
)
_KEPT: Final = ("sums", "chosen", "swarm", *_COUNTERS)  # of a file


class Totals:
    """Sums over all runs. chosen: kinds of faults, by run. failed: seed -> what broke.

    swarm: how many runs had each number of kinds, members, ...
    """

    def __init__(self) -> None:
        self.seeds: set[int] = set()
        self.failed: dict[int, str] = {}
        self.sums: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.frames: Counter[str] = Counter()
        self.watching: Counter[str] = Counter()
        self.leasing: Counter[str] = Counter()
        self.sessions: Counter[str] = Counter()
        self.chosen: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.viewing: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.swarm: Counter[str] = Counter()
        self.longest_pause = 0.0
        self.slowest_recovery_us = 0

    @property
    def runs(self) -> int:
        """How many."""
        return len(self.seeds)

    def add(self, summary: Summary) -> None:
        """One more run."""
        self.seeds.add(summary.seed)
        if summary.failure:
            self.failed[summary.seed] = summary.failure
        for name in _SUMS:
            self.sums[name] += getattr(summary, name)
        for name in _COUNTERS:
            getattr(self, name).update(getattr(summary, name))
        self.chosen.update(summary.kinds)
        self.swarm.update((f"{summary.nodes} members", f"{len(summary.kinds)} kinds"))
        self.longest_pause = max(self.longest_pause, summary.longest_pause)
        self.slowest_recovery_us = max(self.slowest_recovery_us, summary.slowest_recovery_us)

    def missing(
        self, load: str, seconds: float, least_events: int, least_faults: int = 0
    ) -> list[str]:
        """What all runs together should have done and did not."""
        watch = load == "watch"
        found = faults_missing(self.chosen, self.struck, self.runs, even=watch)
        if watch:
            found += watching_missing(self.viewing, self.runs, seconds)
        if load in EPISODIC and self.runs >= _MINORITY_RUNS and not self.sums["minorities"]:
            found.append("no minority was broken in any liveness phase")
        faults = sum(self.struck.values())
        if load == "swarm":
            found += swarm_missing(faults, self.runs, seconds)
        events = self.checked["reliable"]
        if events < least_events:
            found.append(f"checked events of watches: {events} of at least {least_events}")
        if faults < least_faults:
            found.append(f"faults that struck: {faults} of at least {least_faults}")
        return found

    def lines(self, wall_seconds: float) -> list[str]:
        """The summary as text. wall_seconds: of this process; the sums may be of several."""
        sums = self.sums
        virtual_seconds = sums["virtual_us"] / SECOND
        cpu_seconds = max(sums["cpu_us"] / SECOND, 1e-9)
        return [
            f"{self.runs} runs, {len(self.failed)} failed; {virtual_seconds / 3600:.2f} simulated "
            f"hours in {cpu_seconds:.0f} s of one core ({virtual_seconds / cpu_seconds:.0f} x), "
            f"{wall_seconds:.0f} s passed",
            f"operations {sums['operations']} ({sums['operations'] / max(virtual_seconds, 1):.1f} "
            f"per virtual second), acknowledged {sums['acknowledged']}, events {sums['events']}",
            f"faults begun {sum(self.faults.values())}, struck {sum(self.struck.values())}",
            f"liveness phases with a broken minority {sums['minorities']}, longest pause of a well "
            f"majority {self.longest_pause:.1f} election timeouts, slowest recovery "
            f"{self.slowest_recovery_us / SECOND:.1f} virtual s",
            f"elections {sums['elections']}, snapshots installed {sums['snapshots']}, "
            f"restarts {sums['restarts']}, configurations {sums['changes']}",
            _line("faults begun", self.faults),
            _line("faults that struck", self.struck),
            _line("runs with", self.swarm),
            _line("watches", self.watching),
            _line("load for watches", self.viewing),
            _line("checked", self.checked),
            _line("leases", self.leasing),
            _line("sessions", self.sessions),
            _line("frames", self.frames),
        ]

    # --- a file -------------------------------------------------------------------

    def save(self, path: Path, what: dict[str, Any]) -> None:
        """Write everything. what: the settings of the series, which `load` compares."""
        rows: dict[str, Any] = {name: dict(getattr(self, name)) for name in _KEPT}
        rows["what"] = what
        rows["seeds"] = sorted(self.seeds)
        rows["failed"] = {str(seed): text for seed, text in self.failed.items()}
        rows["longest_pause"] = self.longest_pause
        rows["slowest_recovery_us"] = self.slowest_recovery_us
        draft = path.with_name(f"{path.name}.new")
        draft.write_text(json.dumps(rows, indent=1, sort_keys=True))
        os.replace(draft, path)

    @classmethod
    def load(cls, path: Path, what: dict[str, Any]) -> "Totals":
        """What `save` wrote; nothing if there is no file.

        Raises ValueError if it is of a series with other settings.
        """
        totals = cls()
        if not path.exists():
            return totals
        rows = json.loads(path.read_text())
        if rows["what"] != what:
            raise ValueError(f"{path} is of {rows['what']}, not of {what}")
        for name in _KEPT:
            getattr(totals, name).update(rows[name])
        totals.seeds = set(rows["seeds"])
        totals.failed = {int(seed): text for seed, text in rows["failed"].items()}
        totals.longest_pause = rows["longest_pause"]
        totals.slowest_recovery_us = rows["slowest_recovery_us"]
        return totals


def _line(name: str, counts: Counter[str]) -> str:
    return f"{name}: " + ", ".join(f"{kind} {n}" for kind, n in sorted(counts.items()))
