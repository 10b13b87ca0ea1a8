"""What a monitoring system is told of a cluster: one status, one line, and numbers.

Pure: a survey, a timed read and the alarms go in, a Report comes out. What is wrong is what
`raftctl doctor` finds (`raftkv.cli.diagnosis`): its critical findings are CRITICAL, its warnings
WARNING, its notes nothing. Besides: a linearizable read must succeed, an alarm is CRITICAL, and
three numbers may have levels of their own. Of etcd, which has no Inspect, less is known: alarms,
the read, the leader, the quorum and the lag.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from raftkv.cli import findings, thresholds
from raftkv.cli.diagnosis import diagnose
from raftkv.cli.findings import Finding
from raftkv.cli.surveying import MemberView, Survey
from raftkv.cli.thresholds import CRITICAL, NO_LEVELS, OK, STATUS_NAMES, WARNING, Levels, Measure

SERVICE: Final = "RAFTKV"
CRITICAL_FINDING: Final = findings.CRITICAL
STATUS_OF: Final = {CRITICAL_FINDING: CRITICAL, findings.WARNING: WARNING, findings.NOTE: OK}
ALARM_CHECKS: Final = {"NOSPACE": "quota", "CORRUPT": "state"}  # where the doctor tells of them
SHOWN: Final = 3  # problems in the first line, which goes to pagers


@dataclass(frozen=True, slots=True)
class Limits:
    """read_seconds: of the read. lag_entries: committed entries that a member has not applied.
    db_bytes: of the largest store. ignored: checks of the doctor that count for nothing.
    """

    read_seconds: Levels = NO_LEVELS
    lag_entries: Levels = NO_LEVELS
    db_bytes: Levels = NO_LEVELS
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Reading:
    """A linearizable read and what came with it.

    seconds: it took; None: it failed for `problem`, or was not tried (`problem` empty).
    alarms: raised ones; None: they could not be asked for.
    """

    seconds: float | None
    problem: str = ""
    alarms: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """status: WARNING or CRITICAL. advice: what to do, or empty."""

    status: int
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """status: the exit code. text: without name and status. measures: the performance data."""

    status: int
    text: str
    problems: tuple[Problem, ...] = ()
    measures: tuple[Measure, ...] = ()

    def lines(self, verbose: bool = False) -> list[str]:
        """The plugin's output. verbose: every problem with what to do, a line each."""
        first = f"{SERVICE} {STATUS_NAMES[self.status]} - {_safe(self.text)}"
        if self.measures:
            first += " | " + " ".join(map(str, self.measures))
        if not verbose:
            return [first]
        return [first, *(_safe(_long(problem)) for problem in self.problems)]


def judge(survey: Survey, reading: Reading, limits: Limits, *, local: bool = False) -> Report:
    """The report on one survey and one read.

    local: only members that were asked are judged, and not whether the others are there.
    """
    if not survey.answers:
        return _silence(survey)
    if local:
        asked = tuple(one for one in survey.members if one.answer is not None)
        survey = replace(survey, members=asked)
        limits = replace(limits, ignored=limits.ignored | {"quorum"})
    measures = tuple(_measures(survey, reading, limits))
    found = tuple(one for one in diagnose(survey).findings if one.check not in limits.ignored)
    problems = [*_of_findings(found, limits), *_of_read(reading, found, limits)]
    problems += _beyond(measures)
    problems.sort(key=lambda one: -one.status)  # stable: else in the order of the checks
    if not problems:
        return Report(OK, _all_well(survey, reading), (), measures)
    return Report(problems[0].status, _headline(problems), tuple(problems), measures)


def _silence(survey: Survey) -> Report:
    """Nobody said anything about itself."""
    reasons = dict(survey.unreachable)
    for one in survey.members:
        reasons.setdefault(one.label, one.problem)
    listed = ", ".join(f"{where}: {reason}" for where, reason in reasons.items())
    problem = Problem(CRITICAL, f"no member answers ({listed})", "Check that the servers run.")
    return Report(CRITICAL, problem.text, (problem,))


def _of_findings(found: Iterable[Finding], limits: Limits) -> Iterator[Problem]:
    """Levels of one's own for the lag take the place of the doctor's."""
    for one in found:
        own = one.check == "lag" and bool(limits.lag_entries)
        if not own and STATUS_OF[one.severity] != OK:
            yield Problem(STATUS_OF[one.severity], one.text, one.advice)


def _of_read(reading: Reading, found: Iterable[Finding], limits: Limits) -> Iterator[Problem]:
    if reading.problem:
        yield Problem(CRITICAL, f"no linearizable read: {reading.problem}")
    told = {one.check for one in found if one.severity == CRITICAL_FINDING}
    for name in reading.alarms or ():
        if "alarm" not in limits.ignored and ALARM_CHECKS.get(name) not in told:
            yield Problem(CRITICAL, f"alarm {name} is raised", "See `raftctl alarm list`.")


def _beyond(measures: Iterable[Measure]) -> Iterator[Problem]:
    for one in measures:
        status = OK if one.value is None else one.levels.status(one.value)
        if status:
            shown = str(replace(one, levels=NO_LEVELS, least=None, most=None))
            level = one.levels.critical if status == CRITICAL else one.levels.warning
            assert level is not None, "a level was passed"
            yield Problem(status, f"{shown} is beyond {level.text}")


def _measures(survey: Survey, reading: Reading, limits: Limits) -> Iterator[Measure]:
    replies = [one.reply for one in survey.answers]
    yield Measure("time", reading.seconds, "s", limits.read_seconds)
    yield Measure("members", len(survey.members))
    yield Measure("answered", len(replies), most=len(survey.members))
    alarms = None if reading.alarms is None else len(reading.alarms)
    yield Measure("alarms", alarms)
    if not replies:
        return
    commit = max(one.commit_index for one in replies)
    lag = max(commit - one.applied_index for one in replies)
    yield Measure("lag", max(lag, 0), "", limits.lag_entries)
    yield Measure("db", max(one.db_bytes for one in replies), "B", limits.db_bytes)
    yield Measure("db_in_use", max(one.db_in_use_bytes for one in replies), "B")
    spaces = [one.reply for one in survey.answers if one.complete]
    if spaces:  # what the quota goes by, which is not the files' size
        used = max(one.counters["space_used_bytes"] for one in spaces)
        quota = min((one.quota_bytes for one in spaces if one.quota_bytes), default=None)
        yield Measure("space", used, "B", most=quota)
    yield Measure("revision", max(one.header.revision for one in replies), "c")
    yield Measure("term", max(one.header.raft_term for one in replies), "c")


def _headline(problems: list[Problem]) -> str:
    shown = "; ".join(one.text for one in problems[:SHOWN])
    more = len(problems) - SHOWN
    return f"{shown}; and {more} more" if more > 0 else shown


def _all_well(survey: Survey, reading: Reading) -> str:
    members, answered = len(survey.members), len(survey.answers)
    said = f"{answered} of {members} member{'' if members == 1 else 's'} answered"
    leader = _leader(survey)
    took = "" if reading.seconds is None else f", read in {reading.seconds * 1000:.1f} ms"
    return f"{said}, leader {leader}{took}"


def _leader(survey: Survey) -> str:
    """Its name, or its id when it is not among those that were asked."""
    newest = max(survey.answers, key=lambda one: one.reply.header.raft_term)
    by_id: dict[int, MemberView] = {one.id: one for one in survey.members}
    leader = newest.reply.leader
    return by_id[leader].label if leader in by_id else f"{leader:x}"


def _long(problem: Problem) -> str:
    text = f"{STATUS_NAMES[problem.status]}: {problem.text}"
    return f"{text}. {problem.advice}" if problem.advice else text


def _safe(text: str) -> str:
    """Without what begins performance data or ends the line."""
    return " ".join(text.replace("|", "/").split())


def failed(status: int, text: str) -> Report:
    """A check that came to no survey."""
    assert status in (CRITICAL, thresholds.UNKNOWN), "success has a survey"
    return Report(status, text)
