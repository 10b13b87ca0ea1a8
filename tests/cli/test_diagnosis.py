"""What `raftctl doctor` finds in surveys made by hand, one fault each."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from raftkv.cli.diagnosis import diagnose
from raftkv.cli.surveying import MemberView, Survey
from tests.cli.surveys import changed, healthy, reply_in, silent


def test_nothing_is_found_in_a_healthy_cluster() -> None:
    found = diagnose(healthy())
    assert found.findings == ()
    assert (found.members, found.answered, found.worst) == (3, 3, "")


Spoil = Callable[[Survey], Survey | None]


def _set(position: int, **fields: object) -> Spoil:
    def spoil(survey: Survey) -> None:
        reply = reply_in(survey, position)
        for name, value in fields.items():
            holder, _, inner = name.partition("__")
            target = getattr(reply, holder) if inner else reply
            setattr(target, inner or name, value)

    return spoil


def _no_leader(survey: Survey) -> None:
    for position in range(3):
        reply_in(survey, position).leader = 0


def _loopback(survey: Survey) -> None:
    del reply_in(survey, 1).settings.listen_peer_urls[:]
    reply_in(survey, 1).settings.listen_peer_urls.append("https://127.0.0.1:2380")


def _clients_sent_to_loopback(survey: Survey) -> None:
    del reply_in(survey, 1).settings.advertise_client_urls[:]
    reply_in(survey, 1).settings.advertise_client_urls.append("https://localhost:2379")


def _plain(survey: Survey) -> None:
    del reply_in(survey, 1).settings.listen_client_urls[:]
    reply_in(survey, 1).settings.listen_client_urls.append("http://10.0.0.2:2379")


def _link_down(survey: Survey) -> None:
    reply_in(survey, 1).peers[0].connected = False


def _slow_link(survey: Survey) -> None:
    reply_in(survey, 1).peers[0].round_trip_us = 150_000


def _snapshot(survey: Survey) -> None:
    reply_in(survey, 0).peers[1].state = "snapshot"


def _forgotten_learner(survey: Survey) -> Survey:
    return changed(survey, 2, is_learner=True)


def _never_started(survey: Survey) -> Survey:
    return changed(survey, 2, answer=None, name="", client_urls=(), problem="never started")


def _skewed(survey: Survey) -> Survey:
    answer = survey.members[1].answer
    assert answer is not None
    return changed(survey, 1, answer=replace(answer, clock_offset_seconds=2.5))


def _count(position: int, **counters: int) -> Spoil:
    """What the member counts."""

    def spoil(survey: Survey) -> None:
        for name, value in counters.items():
            reply_in(survey, position).counters[name] = value

    return spoil


def _unlimited(survey: Survey) -> None:
    for position in range(3):
        reply_in(survey, position).quota_bytes = 0
    reply_in(survey, 1).counters["space_used_bytes"] = 1 << 40


def _history(survey: Survey) -> None:
    for position in range(3):
        reply_in(survey, position).settings.auto_compaction_seconds = 0
        reply_in(survey, position).header.revision = 50_000


def _slow_watcher(survey: Survey) -> None:
    reply_in(survey, 1).counters["watch_backlog_revisions"] = 70_000


FAULTS: list[tuple[str, Spoil, str, str, str]] = [
    (
        "two clusters",
        lambda s: replace(s, clusters=frozenset({1, 2})),
        "critical",
        "cluster",
        "1, 2",
    ),
    ("lost endpoint", lambda s: replace(s, unreachable={"h:1": "x"}), "warning", "reach", "h:1"),
    ("one silent", lambda s: silent(s, 1), "warning", "reach", "n2"),
    ("one left", lambda s: silent(s, 1), "warning", "quorum", "2 of 3"),
    ("quorum lost", lambda s: silent(s, 1, 2), "critical", "quorum", "1 of 3 voters answer, 2 are"),
    ("even", lambda s: healthy(4), "warning", "quorum", "4 voters"),
    ("alone", lambda s: healthy(1), "note", "quorum", "one voter"),
    ("no leader", _no_leader, "critical", "leader", "no member"),
    ("one without a leader", _set(2, leader=0), "warning", "leader", "n3 knows no leader"),
    ("two terms", _set(2, header__raft_term=9), "note", "leader", "7, 9"),
    ("never started", _never_started, "warning", "reach", "never started"),
    ("link", _link_down, "warning", "links", "n2 has no connection to n1"),
    ("round trip", _slow_link, "warning", "links", "150 ms"),
    ("behind", _set(0, commit_index=9_000, applied_index=9_000), "warning", "lag", "n2 has 8100"),
    ("snapshot", _snapshot, "note", "lag", "n3 is being sent"),
    ("sync 20 ms", _set(1, log_sync__p99_us=20_000), "note", "disk", "n2: syncing"),
    ("sync 150 ms", _set(1, log_sync__p99_us=150_000), "warning", "disk", "heartbeat"),
    ("sync 600 ms", _set(1, log_sync__p99_us=600_000), "critical", "disk", "election"),
    ("disk 8 %", _set(1, disk_free_bytes=8 << 30), "warning", "disk", "8.0%"),
    ("disk 1 %", _set(1, disk_free_bytes=1 << 30), "critical", "disk", "1.0%"),
    ("quota", _count(1, space_used_bytes=(1 << 31) - 9), "warning", "quota", "100%"),
    ("no space", _count(1, alarms_nospace=1), "critical", "quota", "no space"),
    ("two quotas", _set(1, quota_bytes=5), "warning", "quota", "5, 2147483648 bytes"),
    (
        "wrong state",
        _count(2, out_of_service=1, alarms_corrupt=1),
        "critical",
        "state",
        "n3: its state is not",
    ),
    ("divided", _count(0, alarms_corrupt=1), "critical", "state", "names none of"),
    ("clock", _skewed, "warning", "clock", "n2 is 2.5 s ahead of that of n1"),
    ("version", _set(1, version="1.3.0"), "warning", "version", "1.3.0: n2"),
    ("election timeout", _set(1, settings__election_timeout_ms=2000), "warning", "settings", "n2"),
    ("heartbeat", _set(1, settings__heartbeat_interval_ms=50), "warning", "settings", "heartbeat"),
    ("request size", _set(1, settings__max_request_bytes=9), "warning", "settings", "max-request"),
    ("retention", _set(1, settings__auto_compaction_seconds=9), "warning", "settings", "retention"),
    ("peers on loopback", _loopback, "warning", "settings", "n2 listens for peers"),
    ("clients to loopback", _clients_sent_to_loopback, "warning", "settings", "n2 tells clients"),
    ("no TLS", _plain, "warning", "tls", "n2 serves clients without TLS"),
    (
        "no client certificates",
        _set(1, settings__client_certificates_required=False),
        "note",
        "tls",
        "n2 asks clients for no certificate",
    ),
    (
        "no peer certificates",
        _set(1, settings__peer_certificates_required=False),
        "warning",
        "tls",
        "n2 asks peers for no certificate",
    ),
    ("learner", _forgotten_learner, "warning", "learner", "n3 has been a learner"),
    ("history", _history, "warning", "history", "50000 revisions"),
    ("slow watcher", _slow_watcher, "note", "watch", "70000"),
]


@pytest.mark.parametrize(
    ("spoil", "severity", "check", "text"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS]
)
def test_a_fault_is_found_with_its_severity_and_with_what_to_do(
    spoil: Spoil, severity: str, check: str, text: str
) -> None:
    survey = healthy()
    survey = spoil(survey) or survey
    found = [one for one in diagnose(survey).findings if one.check == check and text in one.text]
    assert [one.severity for one in found] == [severity]
    assert len(found[0].advice) > 20


@pytest.mark.parametrize(
    "spoil",
    [
        _set(1, log_sync__p99_us=600_000, log_sync__count=3),  # no percentile of three
        _set(1, applied_index=800),  # a hundred entries under load are nothing
        _set(1, disk_total_bytes=0, disk_free_bytes=0),  # not known
        _unlimited,  # no limit
    ],
)
def test_what_is_normal_or_not_known_is_no_finding(spoil: Spoil) -> None:
    survey = healthy()
    spoil(survey)
    assert diagnose(survey).findings == ()


def test_a_clock_that_was_read_too_slowly_to_judge_is_no_finding() -> None:
    survey = _skewed(healthy())
    answer = survey.members[1].answer
    assert answer is not None
    vague = changed(survey, 1, answer=replace(answer, clock_error_seconds=3.0))
    assert diagnose(vague).findings == ()


def test_a_young_learner_and_one_that_is_behind_are_left_to_learn() -> None:
    young = _forgotten_learner(healthy())
    reply_in(young, 2).uptime_ms = 60_000
    behind = _forgotten_learner(healthy())
    reply_in(behind, 0).commit_index = 4_000
    for survey in (young, behind):
        assert "learner" not in {one.check for one in diagnose(survey).findings}


def test_members_on_one_machine_are_noted_once_and_need_no_other_addresses() -> None:
    survey = healthy()
    for position in range(3):
        survey = changed(survey, position, peer_urls=(f"http://127.0.0.1:{position + 1}",))
        settings = reply_in(survey, position).settings
        for urls in (settings.listen_client_urls, settings.listen_peer_urls):
            del urls[:]
            urls.append("http://127.0.0.1:1")
    assert [one.severity for one in diagnose(survey).findings] == ["note"]


def test_the_gravest_findings_come_first() -> None:
    survey = silent(healthy(), 1, 2)
    reply_in(survey, 0).log_sync.p99_us = 20_000
    severities = [one.severity for one in diagnose(survey).findings]
    assert severities == sorted(severities, key=["critical", "warning", "note"].index)
    assert diagnose(survey).worst == "critical"
    assert set(severities) == {"critical", "warning", "note"}


def test_a_server_without_inspect_is_judged_by_what_it_says() -> None:
    """etcd answers Status only."""
    survey = healthy()
    views: list[MemberView] = []
    for one in survey.members:
        assert one.answer is not None
        one.answer.reply.ClearField("settings")
        one.answer.reply.ClearField("log_sync")
        views.append(replace(one, answer=replace(one.answer, complete=False)))
    assert diagnose(replace(survey, members=tuple(views))).findings == ()
