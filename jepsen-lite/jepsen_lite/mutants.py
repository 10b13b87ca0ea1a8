"""Known-wrong variants of the server: which there are, and what must find each of them.

A variant is a set of patches (`raftkv.sim.hunting.Mutant`), applied in the process that runs the
server's code: the simulator's, or a member's (`jepsen_lite.member --mutant`). The packages under
test have no switch for them. `teeth` runs what must find each within its budget.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from jepsen_lite.member import etcd_bugs, own_bugs
from jepsen_lite.registry import UnknownName
from raftkv.sim.hunting import Mutant
from raftkv.sim.mutants import MUTANTS

SIMULATOR, PROCESS, RUN, SIMULATED = "simulator", "process", "run", "simulated run"
BUDGET_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class Tooth:
    """One variant that must be found.

    catalogue: what it breaks, by the failure catalogue's ids. etcd: the bug of etcd's that it
    rebuilds; empty if none. found_by: SIMULATOR; PROCESS for a scenario with a real member; RUN for
    whole runs with real members, of `workload` under `nemeses`, as `jepsen-lite run` has them;
    SIMULATED for the same in the simulated world.
    """

    mutant: Mutant
    catalogue: str
    etcd: str = ""
    found_by: str = SIMULATOR
    workload: str = ""
    nemeses: str = ""

    @property
    def name(self) -> str:
        """In the command line: words joined by "-"."""
        return named(self.mutant)


def named(mutant: Mutant) -> str:
    """A variant's name in one word."""
    return mutant.name.replace("'", "").replace(" ", "-")


# name of the simulator's variant -> (catalogue, etcd's bug)
_KNOWN: Final[Mapping[str, tuple[str, str]]] = {
    "acknowledge before durable": ("R42 D02", "#14370"),
    "a disk that does not sync": ("D03", "#14143"),
    "forget the vote": ("R03", ""),
    "never write the mark": ("R04 D07", ""),
    "own log counts at once": ("R42", "#14370"),
    "rows and applied index apart": ("D16", "#13766"),
    "drop the log before the checkpoint ends": ("D17", "#14497"),
    "commit without a majority": ("R01", ""),
    "commit by counting old terms": ("R01", ""),
    "vote twice in a term": ("R03", ""),
    "vote for any log": ("R02", ""),
    "append without a check": ("R02", ""),
    "truncate on a stale append": ("R13", ""),
    "commit what was not compared": ("R15", "#3504"),
    "read without a round": ("R07 R18", "#741"),
    "read joins the open round": ("R17", ""),
    "read before the own term commits": ("R16", "#7331"),
    "read before applied": ("R21", "#13464"),
    "keep forwarded duplicates": ("R12", ""),
    "repeat undecided writes": ("C01", "#18424"),
    "answer before commit": ("R42", ""),
    "call a late write undone": ("C01", ""),
    "own entries by index": ("R14", ""),
    "a checkpoint that syncs nothing": ("D17", "#6368"),
    "listen to a wiped member": ("R33", "#2907"),
    "a state without one row": ("R39", ""),
    "expire without the term fence": ("M09", "#15247"),
    "renew without clearing the checkpoint": ("M07", ""),
    "count a lease as silent since an old change of the leader": ("M07", ""),
    "let what was decided for a lease meet a later one of its id": ("M08", ""),
    "forget sessions at a restart": ("C01", ""),
    "a state without answers": ("C01 R37", ""),
    "carry out every repetition": ("C01 C02", "jetcd"),
    "lose events at a full sink": ("W05", "#17529"),
    "repeat after catch-up": ("W01", ""),
    "split a revision": ("W08", ""),
    "bookmark ahead of events": ("W03", "#15220"),
    "miss the cancel after a compaction": ("W06 D20", "#18667"),
    "start to scan too late": ("W01", ""),
    "go on behind a received state": ("W18", "#9775"),
    "cancel one revision too many": ("M16", "#19179"),
    "lose prev_kv in a scan": ("W09", ""),
    "fragments without a flag": ("W08", ""),
    "fragments backwards": ("W08", ""),
    "cut a long batch anywhere": ("W08", ""),
    "lose an event in a long scan": ("W01", ""),
    "forget who waits for a publication": ("W14", ""),
    "cancel with a wrong revision": ("W06", ""),
    "groups without regard to filters": ("W01", ""),
    "write in a session that is over": ("C01", ""),
    "carry out what is closed": ("C01", ""),
    "forget answers too early": ("C01", ""),
    "runs without sessions": ("C01", ""),
    "grant a put with a TTL less": ("M07", ""),
    "leave the lease of a replaced put": ("M11", ""),
    "say that all of a lease is left": ("M07", ""),
    "say that half a lease is none": ("M07", ""),
    "forget leases that are due": ("M07", ""),
}

_ETCD: Final[Mapping[str, tuple[str, str]]] = {
    "read by a quorum that was checked before": ("R18", "#20418"),
    "take a read's answer after the leader changed": ("R17", "PR 21387"),
    "skip an entry that is unknown": ("R41 M05", "#11689"),
    "take the revision from the rows that are left": ("D19", "#17780"),
    "renew a lease that is gone": ("M08", "PR 20615"),
}

_OWN: Final[Mapping[str, str]] = {
    "count learners as voters": "R22",
}


def _teeth() -> tuple[Tooth, ...]:
    known = [Tooth(one, *_KNOWN.get(one.name, ("", ""))) for one in MUTANTS]
    etcd = [Tooth(one, *_ETCD[one.name]) for one in etcd_bugs.MUTANTS]
    lock = Tooth(etcd_bugs.LOCK_WITHOUT_A_SECOND_LOOK, "C04", "Jepsen 3.4.3", PROCESS)
    own = [Tooth(one, _OWN[one.name]) for one in own_bugs.MUTANTS]
    guard = Tooth(
        own_bugs.GUARD_BY_A_KEY_THAT_IS_GONE, "C03", "", SIMULATED, "lock", "partition,kill,pause"
    )
    removed = Tooth(own_bugs.FORGET_THE_REMOVED, "R31 R34", "", RUN, "register", "member")
    return (*known, *etcd, lock, *own, guard, removed)


TEETH: Final = _teeth()


def _found_as_well(found_by: str, runs: Mapping[str, tuple[str, str]]) -> tuple[Tooth, ...]:
    """The teeth of these mutants' names, in that order, for another way of finding them."""
    return tuple(
        replace(tooth, found_by=found_by, workload=workload, nemeses=nemeses)
        for name, (workload, nemeses) in runs.items()
        for tooth in TEETH
        if tooth.mutant.name == name
    )


# Whole runs with real members find these as well: (workload, nemeses).
_REAL: Final[Mapping[str, tuple[str, str]]] = {
    "answer before commit": ("register", "kill,partition"),
    "commit without a majority": ("register", "partition,kill"),
    "skip an entry that is unknown": ("watch", "kill"),
    "take the revision from the rows that are left": ("queue", "kill-all,kill"),
    "split a revision": ("watch", "kill"),
}

REAL: Final = _found_as_well(RUN, _REAL)

# Simulated runs find these as well, one at least for each kind of what clients use: (workload,
# nemeses).
_SIMULATED: Final[Mapping[str, tuple[str, str]]] = {
    "split a revision": ("watch", "partition,kill,pause"),
    "repeat after catch-up": ("watch", "partition,kill,pause"),
    "start to scan too late": ("election", "partition,kill,pause"),
    "renew a lease that is gone": ("lease", "partition,kill,pause"),
    "renew without clearing the checkpoint": ("lease", "partition,kill,pause"),
    "lose events at a full sink": ("cache", "partition,kill,pause"),
    "count learners as voters": ("register", "member,kill,partition"),
    "commit without a majority": ("election", "partition,kill,pause"),
}

IN_SIMULATED_RUNS: Final = _found_as_well(SIMULATED, _SIMULATED)


def tooth_of(name: str) -> Tooth:
    """The tooth of this name; words may be joined by "-". Errors: UnknownName."""
    for tooth in TEETH:
        if name in (tooth.mutant.name, tooth.name):
            return tooth
    raise UnknownName(f"there is no mutant {name!r}; `jepsen-lite teeth --list` names all")


def mutant_of(name: str) -> Mutant:
    """The variant of this name, as `tooth_of`. Errors: UnknownName."""
    return tooth_of(name).mutant
