"""What surrounds the checkers: fault windows, floors, the store's files, planning."""

import json
from pathlib import Path
from random import Random

import pytest

from jepsen_lite.checker.base import Evidence, LogEvent, StoreLog, Verdict, Window
from jepsen_lite.checker.compose import check_all
from jepsen_lite.checker.floors import Floors, outside, unseen
from jepsen_lite.history import NEMESIS, History, HistoryError, Op
from jepsen_lite.judging import judge
from jepsen_lite.planning import BadPlan, nemeses_for, workload_for
from jepsen_lite.registry import UnknownName
from jepsen_lite.store import Store, verdict_json
from jepsen_lite.storelog import read_store_log
from jepsen_lite.target.attach import Attached
from jepsen_lite.target.base import TargetError
from jepsen_lite.target.systems import EtcdNames, system_of
from jepsen_lite.windows import windows_of
from jepsen_lite.workload import WORKLOADS
from jepsen_lite.workload.options import Options

S = 1_000_000_000


def history(*steps: tuple[float, int, str, str]) -> History:
    """(seconds, process, type, f)."""
    return History(
        Op(process, type, f, {"did": f} if type == "info" else None, int(at * S), index)
        for index, (at, process, type, f) in enumerate(steps)
    )


def test_windows_go_from_a_fault_that_struck_to_its_end() -> None:
    found = windows_of(
        history(
            (1.0, NEMESIS, "invoke", "start-kill"),
            (1.5, NEMESIS, "info", "start-kill"),
            (2.0, NEMESIS, "invoke", "start-net"),
            (2.5, NEMESIS, "info", "start-net"),
            (3.0, NEMESIS, "invoke", "stop-kill"),
            (4.0, NEMESIS, "info", "stop-kill"),
            (5.0, NEMESIS, "invoke", "transfer"),
            (5.5, NEMESIS, "info", "transfer"),
            (6.0, 0, "invoke", "read"),
        ),
        {"start-net": "partition", "stop-net": "partition"},
    )
    assert [(one.kind, one.start_ns / S, one.end_ns / S) for one in found] == [
        ("kill", 1.0, 4.0),
        ("partition", 2.0, 6.0),
        ("transfer", 5.0, 5.5),
    ]
    assert found[0].detail == "did start-kill"


def test_a_fault_that_did_nothing_is_no_window() -> None:
    ops = [
        Op(NEMESIS, "invoke", "start-kill", None, 1, 0),
        Op(NEMESIS, "info", "start-kill", {"nothing": "no leader"}, 2, 1),
        Op(NEMESIS, "invoke", "start-kill", None, 3, 2),
        Op(NEMESIS, "info", "start-kill", "nothing", 4, 3),
        Op(NEMESIS, "invoke", "start-kill", None, 5, 4),
    ]
    assert windows_of(History(ops), {}) == []


def many(ok: int, failed: int, from_s: float = 0.0) -> History:
    ops: list[Op] = []
    for number in range(ok + failed):
        at = int(from_s * S) + number
        ops.append(Op(0, "invoke", "read", None, at, len(ops)))
        ops.append(Op(0, "ok" if number < ok else "fail", "read", None, at, len(ops)))
    return History(ops)


def floors(run: Evidence) -> Verdict:
    return Floors(0.5).check(run)


EVENTS = StoreLog([2], [LogEvent(2, "a", "b", 1, 2)] * 9)


def names(verdict: Verdict) -> list[str]:
    return [one.name for one in verdict.anomalies]


def test_a_run_that_did_enough_is_above_its_floors() -> None:
    options = Options(nemeses=("kill",), seconds=10.0)
    window = Window("kill", 50 * S, 51 * S)
    verdict = floors(Evidence(many(90, 10), EVENTS, options, windows=[window]))
    assert verdict.passed
    assert verdict.facts["faults: kill"] == 1


@pytest.mark.parametrize(
    ("run", "found"),
    [
        (Evidence(many(10, 0), EVENTS, Options(seconds=60.0)), "few-operations"),
        (Evidence(many(300, 0), EVENTS, Options(seconds=60.0, rate=100.0)), "few-operations"),
        (Evidence(many(40, 60), EVENTS, Options(seconds=1.0)), "little-success"),
        (Evidence(many(99, 0), None, Options(seconds=1.0)), "few-events"),
        (Evidence(many(99, 0), StoreLog(), Options(seconds=1.0)), "few-events"),
        (Evidence(many(99, 0), EVENTS, Options(seconds=1.0, nemeses=("kill",))), "no-fault"),
        (
            Evidence(many(99, 0), EVENTS, Options(seconds=1.0), final={"unrecovered": "x"}),
            "not-recovered",
        ),
        (
            Evidence(History(many(99, 0)[1:]), EVENTS, Options(seconds=1.0)),
            "incomplete-history",
        ),
    ],
)
def test_a_run_under_a_floor_fails(run: Evidence, found: str) -> None:
    verdict = floors(run)
    assert not verdict.valid
    assert names(verdict) == [found]


def test_a_checker_that_had_nothing_to_judge_is_under_a_floor() -> None:
    lease = Verdict(True, facts={"lower bounds checked": 3, "upper bounds checked": 0})
    unsure = Verdict(False, undecided=True)
    to_be_seen = workload_for(Options(workload="lease")).to_be_seen()
    (missing,) = unseen({"lease": lease, "witness": unsure}, to_be_seen)
    assert "the checker lease saw none of: upper bounds checked" in missing.text


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_workload_names_facts_that_its_checkers_count(name: str) -> None:
    workload = workload_for(Options(workload=name))
    to_be_seen = workload.to_be_seen()
    assert to_be_seen
    evidence = Evidence(History([]), StoreLog(), workload.options)
    verdicts = check_all(workload.checkers(), evidence)
    assert all(fact in verdicts[one].facts for one, facts in to_be_seen.items() for fact in facts)
    assert unseen(verdicts, to_be_seen)


def test_bookmarks_are_to_be_seen_unless_nobody_asks_for_them() -> None:
    asking = workload_for(Options(workload="watch")).to_be_seen()["watch"]
    assert "bookmarks" in asking
    silent = Options(workload="watch", extra={"progress": "off"})
    quiet = workload_for(silent).to_be_seen()["watch"]
    assert quiet == ["watches", "events checked"]


def test_failures_within_faults_do_not_count_but_not_all_may_fail() -> None:
    window = Window("kill", 0, 10 * S)
    options = Options(seconds=1.0)
    assert floors(Evidence(many(20, 80), EVENTS, options, windows=[window])).passed
    nothing = floors(Evidence(many(5, 95), EVENTS, options, windows=[window]))
    assert names(nothing) == ["little-success"]


def test_an_interrupted_run_is_undecided() -> None:
    run = Evidence(many(1, 0), None, Options(), final={"interrupted": True})
    assert floors(run).undecided


def test_calls_outside_faults_are_those_that_touch_none() -> None:
    ops = history(
        (0.0, 0, "invoke", "a"),
        (0.5, 0, "ok", "a"),
        (0.9, 1, "invoke", "b"),
        (1.2, 1, "ok", "b"),
        (7.5, 0, "invoke", "c"),
        (7.6, 0, "ok", "c"),
        (12.5, 0, "invoke", "d"),
        (12.6, 0, "ok", "d"),
    )
    windows = [Window("x", S, 2 * S), Window("y", int(1.5 * S), 3 * S), Window("z", 9 * S, 10 * S)]
    assert [call.invoke.f for call in outside(ops.calls(), windows)] == ["a"]
    windows.pop()
    assert [call.invoke.f for call in outside(ops.calls(), windows)] == ["a", "d"]


# --- files ----------------------------------------------------------------------------------


def test_a_store_log_is_read_back_and_one_without_an_end_is_none(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    rows = [[5, "a", "1", 1, 5, 0], [5, "b", None, 0, 0, 0], [7, "a", "2", 2, 5, 9]]
    lines = [json.dumps(one) for one in ({"first": 4}, *rows, {"last": 8, "compacted": 0})]
    path.write_text("\n".join(lines) + "\n")
    log = read_store_log(path)
    assert log is not None
    assert (log.first_revision, log.last_revision, log.revisions) == (4, 8, [5, 7])
    assert log.events[2] == LogEvent(7, "a", "2", 2, 5, 9)
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert read_store_log(path) is None
    path.write_text("nonsense\n")
    with pytest.raises(HistoryError, match="line 1"):
        read_store_log(path)
    assert read_store_log(tmp_path / "none") is None


def test_runs_of_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    stores = [Store.create(tmp_path, "set") for _ in range(3)]
    assert len({store.path for store in stores}) == 3


def test_a_stored_run_can_be_judged_again_and_a_cut_one_in_part(tmp_path: Path) -> None:
    store = Store.create(tmp_path, "unique")
    options = Options(workload="unique", seconds=1.0, members=1)
    store.write_run({"options": options.to_json(), "final": {}, "kinds": {}})
    many(30, 0).write(store.history)
    verdicts = judge(store)
    assert verdicts["stats"].facts["operations"] == 30
    run = store.read_run()
    assert run["verdicts"]["floors"] == verdict_json(verdicts["floors"])
    assert "30" in store.report.read_text()
    whole = store.history.read_bytes()
    store.history.write_bytes(whole[:-10])
    with pytest.raises(HistoryError, match="--partial"):
        judge(store)
    assert judge(store, partial=True)["stats"].facts["operations"] == 30


def test_a_directory_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"no run\.json"):
        judge(Store(tmp_path))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(HistoryError, match="damaged"):
        judge(Store(tmp_path))
    (tmp_path / "run.json").write_text('{"options": {"colour": 1}}')
    with pytest.raises(HistoryError, match="other options"):
        judge(Store(tmp_path))


# --- plans ----------------------------------------------------------------------------------


def test_unknown_names_are_answered_with_those_that_there_are() -> None:
    with pytest.raises(UnknownName, match="no workload 'x'; there are: append, bank"):
        workload_for(Options(workload="x"))
    target = Attached(["127.0.0.1:1"])
    with pytest.raises(UnknownName, match="no nemesis 'x'; there are: clock"):
        nemeses_for(["x"], target, Random(1))


def test_a_nemesis_that_nobody_may_do_here_names_those_that_are_possible() -> None:
    target = Attached(["127.0.0.1:1"])
    with pytest.raises(BadPlan, match=r"needs isolation.*possible here: none"):
        nemeses_for(["partition"], target, Random(1))
    target.abilities = frozenset({"network", "isolation", "kill"})
    with pytest.raises(BadPlan, match=r"needs pause.*possible here: .*kill.*partition"):
        nemeses_for(["pause"], target, Random(1))
    assert [one.name for one in nemeses_for(["kill", "partition"], target, Random(1))] == [
        "kill",
        "partition",
    ]
    with pytest.raises(BadPlan, match="once"):
        nemeses_for(["kill", "kill"], target, Random(1))


def test_systems_are_known_by_name_and_mutants_are_not_etcds() -> None:
    assert "disk" in system_of("raftkv").abilities
    assert "disk" not in system_of("etcd").abilities
    with pytest.raises(TargetError, match="there are: etcd, raftkv"):
        system_of("zookeeper")
    with pytest.raises(TargetError, match="as it is"):
        system_of("etcd", ["vote-twice-in-a-term"])


def test_members_of_etcd_are_known_by_what_they_say_first() -> None:
    names = EtcdNames([0xA1, 0xB2])
    head = b"GET /raft/stream/msgapp/b2 HTTP/1.1\r\nHost: x\r\nX-Server-From: a1\r\n"
    assert names(head) == 0
    assert names(head.replace(b"a1", b"b2") + b"\r\n") == 1
    assert names(b"GET /version HTTP/1.1\r\nHost: x\r\n") is None
    assert names(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n") == -1
    assert names(head.replace(b"a1", b"c3")) == -1
