"""What is wrong with a cluster, judged from one survey: findings, each with what to do.

Pure: a survey goes in, findings come out, the gravest first. Every check is a function of its
own; a check that lacks what it needs (a member that did not answer, a server without Inspect)
finds nothing and does not guess.

Severities: `critical`, the cluster does not serve or is about to stop doing so; `warning`, it
serves but something must be done; `note`, worth knowing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from raftkv.cli import settings_checks as settings
from raftkv.cli.findings import CRITICAL, NOTE, SEVERITIES, WARNING, Finding
from raftkv.cli.surveying import MemberView, Survey

LAG_ENTRIES: Final = 5_000  # what a member keeps of its log behind a checkpoint
SYNC_NOTE_US: Final = 10_000  # etcd's advice for the 99th percentile
SYNC_SAMPLES: Final = 20  # fewer make no percentile
SKEW_SECONDS: Final = 0.5
LEARNER_MS: Final = 10 * 60 * 1000
LEARNER_LAG_ENTRIES: Final = 1_000
KEPT_REVISIONS: Final = 10_000
DISK_CRITICAL: Final = 0.03
DISK_WARNING: Final = 0.10
QUOTA_WARNING: Final = 0.80


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """findings: the gravest first. members, answered: how many there are and how many spoke."""

    findings: tuple[Finding, ...]
    members: int
    answered: int

    @property
    def worst(self) -> str:
        """The gravest severity; "" if there is no finding."""
        return self.findings[0].severity if self.findings else ""


def diagnose(survey: Survey) -> Diagnosis:
    """All checks of one survey."""
    found = [finding for check in CHECKS for finding in check(survey)]
    found.sort(key=lambda one: SEVERITIES.index(one.severity))  # stable: else in order of checks
    return Diagnosis(tuple(found), len(survey.members), len(survey.answers))


# --- who is there ---------------------------------------------------------------


def _reached(survey: Survey) -> Iterator[Finding]:
    if len(survey.clusters) > 1:
        listed = ", ".join(f"{one:x}" for one in sorted(survey.clusters))
        yield Finding(
            CRITICAL,
            "cluster",
            f"the endpoints belong to different clusters: {listed}",
            "Name endpoints of one cluster; if all should be one, a member was started with "
            "another --initial-cluster-token or a data directory of another cluster.",
        )
    for endpoint, reason in survey.unreachable.items():
        grave = CRITICAL if not survey.members else WARNING
        yield Finding(
            grave,
            "reach",
            f"endpoint {endpoint} cannot be reached: {reason}",
            "Check that the server runs there, and its --listen-client-urls and the firewall.",
        )


def _members_reached(survey: Survey) -> Iterator[Finding]:
    for member in survey.members:
        if member.answer is not None:
            continue
        if not member.client_urls:
            yield Finding(
                WARNING,
                "reach",
                f"member {member.label} was added and has never started",
                "Start it with --initial-cluster-state=existing, or remove it: it counts for "
                "the quorum if it is a voter.",
            )
            continue
        yield Finding(
            WARNING,
            "reach",
            f"member {member.label} cannot be reached at {', '.join(member.client_urls)}: "
            f"{member.problem}",
            "Check that its process runs and answers; if its machine is lost for good, "
            "see `raftctl member replace`.",
        )


def _quorum(survey: Survey) -> Iterator[Finding]:
    voters = [one for one in survey.members if not one.is_learner]
    up = [one for one in voters if one.answer is not None]
    needed = len(voters) // 2 + 1
    if not voters:
        return
    if len(up) < needed:
        yield Finding(
            CRITICAL,
            "quorum",
            f"{len(up)} of {len(voters)} voters answer, {needed} are needed: no writes and no "
            "linearizable reads",
            "Bring voters back; their data directories must be kept.",
        )
    elif len(up) < len(voters) and len(up) == needed:
        yield Finding(
            WARNING,
            "quorum",
            f"{len(up)} of {len(voters)} voters answer: the loss of one more stops the cluster",
            "Bring the others back before any maintenance.",
        )
    if len(voters) == 1:
        yield Finding(
            NOTE,
            "quorum",
            "the cluster has one voter: its loss stops everything",
            "Add two members to survive the loss of one.",
        )
    elif len(voters) % 2 == 0:
        yield Finding(
            WARNING,
            "quorum",
            f"{len(voters)} voters survive the loss of {len(voters) - needed}, no more than "
            f"{len(voters) - 1} would",
            "Add or remove one voter: odd numbers cost less for the same safety.",
        )


def _leader(survey: Survey) -> Iterator[Finding]:
    if not survey.answers:
        return
    leaderless = [one.label for one in survey.members if one.answer and not one.answer.reply.leader]
    if len(leaderless) == len(survey.answers):
        yield Finding(
            CRITICAL,
            "leader",
            "no member that answers knows a leader",
            "Wait for an election (some election timeouts); if none comes, see the quorum and "
            "the connections between members.",
        )
    else:
        for label in leaderless:
            yield Finding(
                WARNING,
                "leader",
                f"{label} knows no leader while others do",
                "Check its connections to the other members (--listen-peer-urls, firewall).",
            )
    named: dict[int, set[int]] = {}
    for answer in survey.answers:
        if answer.reply.leader:
            named.setdefault(answer.reply.header.raft_term, set()).add(answer.reply.leader)
    if len(named) > 1:
        yield Finding(
            NOTE,
            "leader",
            f"members are in different terms: {', '.join(map(str, sorted(named)))}",
            "Normal during an election; run doctor again. If it stays, look at the round trips.",
        )


def _links(survey: Survey) -> Iterator[Finding]:
    up = {one.id: one for one in survey.members if one.answer is not None}
    for member in up.values():
        assert member.answer is not None
        for peer in member.answer.reply.peers:
            if peer.id in up and not peer.connected:
                yield Finding(
                    WARNING,
                    "links",
                    f"{member.label} has no connection to {up[peer.id].label}",
                    f"Check that {' or '.join(up[peer.id].peer_urls) or 'its peer URL'} can be "
                    f"reached from {member.label}.",
                )


# --- how it goes ----------------------------------------------------------------


def _lag(survey: Survey) -> Iterator[Finding]:
    commit = max((one.reply.commit_index for one in survey.answers), default=0)
    for member in survey.members:
        if member.answer is None:
            continue
        lag = commit - member.answer.reply.applied_index
        if lag > LAG_ENTRIES:
            yield Finding(
                WARNING,
                "lag",
                f"{member.label} has {lag} committed entries still to apply",
                "Look at its disk and processor; it catches up by itself or is sent the state.",
            )
        for peer in member.answer.reply.peers:
            if peer.state == "snapshot":
                name = peer.name or f"{peer.id:x}"
                yield Finding(
                    NOTE,
                    "lag",
                    f"{name} is being sent the whole state",
                    "Wait until it is there; do no maintenance on other members meanwhile.",
                )


def _disk_speed(survey: Survey) -> Iterator[Finding]:
    for member, reply in _complete(survey):
        sync, given = reply.log_sync, reply.settings
        if sync.count < SYNC_SAMPLES:
            continue
        text = f"{member.label}: syncing the log takes {sync.p99_us / 1000:.1f} ms (p99)"
        if sync.p99_us >= given.election_timeout_ms * 500:
            yield Finding(
                CRITICAL,
                "disk",
                f"{text}, half an election timeout or more",
                "Give the data directory a faster disk of its own; until then raise "
                "--election-timeout on all members.",
            )
        elif sync.p99_us >= given.heartbeat_interval_ms * 1000:
            yield Finding(
                WARNING,
                "disk",
                f"{text}, longer than a heartbeat interval",
                "Find who else writes to this disk, or give the data directory one of its own.",
            )
        elif sync.p99_us > SYNC_NOTE_US:
            yield Finding(
                NOTE,
                "disk",
                f"{text}; below 10 ms is healthy",
                "Writes wait for it; a faster disk makes them faster.",
            )


def _disk_space(survey: Survey) -> Iterator[Finding]:
    for member, reply in _complete(survey):
        if not reply.disk_total_bytes:
            continue
        free = reply.disk_free_bytes / reply.disk_total_bytes
        if free < DISK_WARNING:
            yield Finding(
                CRITICAL if free < DISK_CRITICAL else WARNING,
                "disk",
                f"{member.label}: {free:.1%} of the data directory's file system is free "
                f"({reply.disk_free_bytes >> 20} MiB)",
                "Free space or enlarge the disk: a member whose disk is full stops.",
            )


def _space(survey: Survey) -> Iterator[Finding]:
    quotas = sorted({reply.quota_bytes for _, reply in _complete(survey)})
    if len(quotas) > 1:
        yield Finding(
            WARNING,
            "quota",
            f"members have different quotas: {', '.join(map(str, quotas))} bytes",
            "The newest leader's counts for all: give every member the same --quota-backend-bytes.",
        )
    remedy = "Compact the history, delete keys and compact, or raise the quota on all members"
    for member, reply in _complete(survey):
        used, quota = reply.counters["space_used_bytes"], reply.quota_bytes
        full = f"{used / quota:.0%} of --quota-backend-bytes" if quota else "all of its space"
        if reply.counters["alarms_nospace"]:
            yield Finding(
                CRITICAL,
                "quota",
                f"no space: keys and history fill {full}; what grows the store is refused",
                f"{remedy}; the alarm then goes by itself, unless an operator has raised it.",
            )
            return  # it is the whole cluster's
        if quota and used > QUOTA_WARNING * quota:
            yield Finding(
                WARNING, "quota", f"{member.label}: keys and history fill {full}", f"{remedy}."
            )


def _wrong_states(survey: Survey) -> Iterator[Finding]:
    wrong = [member for member, reply in _complete(survey) if reply.counters["out_of_service"]]
    for member in wrong:
        yield Finding(
            CRITICAL,
            "state",
            f"{member.label}: its state is not what the other members have; it serves nobody",
            "Rebuild it: stop it, move its data directory away, and start it with --rejoin.",
        )
    raised = max((reply.counters["alarms_corrupt"] for _, reply in _complete(survey)), default=0)
    if raised > len(wrong):
        yield Finding(
            CRITICAL,
            "state",
            "a CORRUPT alarm is raised that names none of the members that answered",
            "See `raftctl alarm list` and `raftctl endpoint hashkv --cluster`.",
        )


def _round_trips(survey: Survey) -> Iterator[Finding]:
    for member, reply in _complete(survey):
        for peer in reply.peers:
            beat_us = reply.settings.heartbeat_interval_ms * 1000
            if peer.connected and peer.round_trip_us > beat_us:
                name = peer.name or f"{peer.id:x}"
                yield Finding(
                    WARNING,
                    "links",
                    f"the round trip from {member.label} to {name} takes "
                    f"{peer.round_trip_us / 1000:.0f} ms, longer than a heartbeat interval",
                    "Raise --heartbeat-interval to the round trip, and --election-timeout to "
                    "ten of them, on all members.",
                )


def _clocks(survey: Survey) -> Iterator[Finding]:
    told = [(one, one.answer) for one in survey.members if one.answer and one.answer.complete]
    if len(told) < 2:
        return
    low = min(told, key=lambda one: one[1].clock_offset_seconds)
    high = max(told, key=lambda one: one[1].clock_offset_seconds)
    apart = high[1].clock_offset_seconds - low[1].clock_offset_seconds
    known_to = high[1].clock_error_seconds + low[1].clock_error_seconds
    if apart - known_to > SKEW_SECONDS:
        yield Finding(
            WARNING,
            "clock",
            f"the clock of {high[0].label} is {apart:.1f} s ahead of that of {low[0].label}",
            "Run a time service on all machines. Leases and elections do not depend on it, "
            "but certificates, logs and automatic compaction by age do.",
        )


def _learners(survey: Survey) -> Iterator[Finding]:
    commit = max((one.reply.commit_index for one in survey.answers), default=0)
    for member, reply in _complete(survey):
        ready = commit - reply.applied_index <= LEARNER_LAG_ENTRIES
        if member.is_learner and ready and reply.uptime_ms > LEARNER_MS:
            yield Finding(
                WARNING,
                "learner",
                f"{member.label} has been a learner for {reply.uptime_ms // 60_000} minutes "
                "and has caught up",
                f"Promote it: raftctl member promote {member.id:x}. Or remove it.",
            )


def _history(survey: Survey) -> Iterator[Finding]:
    for member, reply in _complete(survey):
        given = reply.settings
        kept = reply.header.revision - reply.compacted_revision
        automatic = given.auto_compaction_seconds or given.auto_compaction_revisions
        if reply.role == "leader" and not automatic and kept > KEPT_REVISIONS:
            yield Finding(
                WARNING,
                "history",
                f"{kept} revisions are kept and {member.label} compacts nothing by itself",
                "Start members with --auto-compaction-retention, or run raftctl compaction.",
            )


def _watchers(survey: Survey) -> Iterator[Finding]:
    for member, reply in _complete(survey):
        behind = reply.counters["watch_backlog_revisions"]
        if behind > LAG_ENTRIES:
            yield Finding(
                NOTE,
                "watch",
                f"{member.label}: the slowest watcher has {behind} revisions still to get",
                "Look for a client that reads too slowly; compaction will cancel its watch.",
            )


def _complete(survey: Survey) -> Iterator[tuple[MemberView, settings.Inspected]]:
    """Members that answered Inspect."""
    for member in survey.members:
        if member.answer is not None and member.answer.complete:
            yield member, member.answer.reply


CHECKS: Final[tuple[Callable[[Survey], Iterator[Finding]], ...]] = (
    _reached,
    _quorum,
    _leader,
    _members_reached,
    _links,
    _lag,
    _disk_speed,
    _disk_space,
    _space,
    _wrong_states,
    _round_trips,
    _clocks,
    *settings.CHECKS,
    _learners,
    _history,
    _watchers,
)
