"""Comparing the members' states while they serve (M19, M20).

The leader puts a CHECK entry into the log now and then. Behind it every member reports to the
leader what its state is: the rolling hash over all it has applied, which costs nothing, or a hash
over all its rows (HashKV at the revision of the entry), which a driver computes in slices. The
entry is a place in the log, so reports of equal states are equal, whenever they are made.

The leader judges what it has been told, itself included, without trusting any member more:

    a majority of the voters says the same   whoever says something else is wrong
    no report can become such a majority     somebody is wrong, and nobody can tell who

and puts the judgement into the log as a CORRUPT alarm. Only reports about the same thing are
compared: who has not reported, or whose HashKV covered other revisions because its history was
compacted meanwhile, is neither right nor wrong. The next check comes.

A rolling hash is of what was applied and answered. It finds members that went different ways, also
when a wrong row was read and used; a row that is wrong and was never used shows only in HashKV.
"""

from typing import Final, NamedTuple

from raftkv.kv.alarms import CORRUPT, raise_request
from raftkv.kv.machine import StateMachine
from raftkv.kv.upkeep import ROLLING, ROWS
from raftkv.raft.messages import StateReport
from raftkv.raft.types import Configuration

WHOLE_CLUSTER: Final = 0  # the member that an alarm names if nobody knows who is wrong
_KEPT_CHECKS: Final = 8

Said = tuple[int, int, int]  # revision, compacted revision, hash


class Verdict(NamedTuple):
    """wrong: members whose state is not that of the majority, ascending. divided: there are
    different states, and none is or can become that of a majority.
    """

    wrong: list[int]
    divided: bool = False


_NOTHING: Final = Verdict([])


def judge(reports: dict[int, Said], configuration: Configuration) -> Verdict:
    """What the reports about one check, by member, say about the members of a configuration."""
    voters = configuration.voters
    if configuration.joint:
        return _NOTHING
    quorum = len(voters) // 2 + 1
    votes: dict[Said, int] = {}
    for member in voters:
        if member in reports:
            said = reports[member]
            votes[said] = votes.get(said, 0) + 1
    if not votes:
        return _NOTHING
    leading = max(votes, key=lambda said: votes[said])
    if votes[leading] >= quorum:
        members = configuration.members()
        differing = [
            member
            for member, said in reports.items()
            if member in members and said[:2] == leading[:2] and said != leading
        ]
        return Verdict(sorted(differing))
    silent = sum(member not in reports for member in voters)
    comparable = {said[:2] for said in votes}
    divided = len(comparable) == 1 and votes[leading] + silent < quorum
    return Verdict([], divided)


class Audit:
    """The leader's side: collects reports and judges them. Any member may hold some."""

    __slots__ = ("_accused", "_reports", "newest")

    def __init__(self) -> None:
        # Index of the newest CHECK entry applied here that asked for such a comparison.
        self.newest = {ROLLING: 0, ROWS: 0}
        self._reports: dict[tuple[int, int], dict[int, Said]] = {}  # by (index, kind)
        # Member -> term and index of the check for which an alarm was proposed.
        self._accused: dict[int, tuple[int, int]] = {}

    def note(self, report: StateReport) -> None:
        """A member reports; those about entries before the newest check come too late.

        One that was applied earlier there than here waits.
        """
        if report.index < self.newest.get(report.kind, report.index + 1):
            return
        said = report.revision, report.compacted_revision, report.hash
        self._reports.setdefault((report.index, report.kind), {})[report.sender] = said
        while len(self._reports) > _KEPT_CHECKS:
            del self._reports[min(self._reports)]

    def began(self, index: int, kind: int) -> None:
        """A CHECK entry was applied here. One that asks for ROWS asks for the rolling hash too."""
        newest = self.newest
        newest[ROLLING] = index
        if kind == ROWS:
            newest[ROWS] = index
        reports = self._reports.items()
        self._reports = {key: told for key, told in reports if key[0] >= newest[key[1]]}

    def accusations(
        self, machine: StateMachine, configuration: Configuration, term: int
    ) -> list[bytes]:
        """On the leader: requests of the ALARM commands to propose now, each once per check."""
        found = []
        for key, reports in self._reports.items():
            if key[0] != self.newest[key[1]]:
                continue  # not applied here yet
            verdict = judge(reports, configuration)
            for member in [WHOLE_CLUSTER] if verdict.divided else verdict.wrong:
                because = term, key[0]
                if not machine.alarms.names(member) and self._accused.get(member) != because:
                    self._accused[member] = because
                    found.append(raise_request(CORRUPT, member))
        return found
