"""What members have and say: hashes and logs; and what a run was like: statistics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from checker.histories import Script, names
from jepsen_lite.checker.base import Anomaly, Evidence, Verdict, Window
from jepsen_lite.checker.compose import Compose, check_all
from jepsen_lite.checker.hashes import Hashes
from jepsen_lite.checker.logs import Logs
from jepsen_lite.checker.stats import Stats, percentile, unavailable
from jepsen_lite.checker.unique import Unique
from jepsen_lite.history import History
from jepsen_lite.workload.options import Options


def hashed(**members: Mapping[Any, object]) -> Verdict:
    final = {"members": {name: {"hashes": hashes} for name, hashes in members.items()}}
    return Hashes().check(Evidence(History([]), None, Options(), final))


# --- hashes --------------------------------------------------------------------------------


def test_members_with_the_same_hash_at_the_same_revision_are_equal() -> None:
    verdict = hashed(a={9: 5}, b={9: 5, 8: 1}, c={8: 1})
    assert verdict.passed, verdict
    assert verdict.facts["revisions compared"] == 2


def test_a_member_that_differs_is_named_by_the_majority() -> None:
    """M19."""
    verdict = hashed(a={9: 5}, b={9: 6}, c={9: 5})
    assert names(verdict) == {"members-differ"}
    assert "it is b." in verdict.anomalies[0].text


def test_of_two_that_differ_nobody_is_named() -> None:
    verdict = hashed(a={9: 5}, b={9: 6})
    assert names(verdict) == {"members-differ"}
    assert "majority" not in verdict.anomalies[0].text


@pytest.mark.parametrize(
    "members",
    [
        {"a": {9: 5}, "b": {8: 5}, "c": {9: 5}},
        {"a": {9: 5}, "b": {9: None}, "c": {9: 5}},
        {"a": {9: 5}, "b": {}, "c": {9: 5}},
        {"a": {9: {"hash": 5, "compact_revision": 3}}, "b": {9: {"hash": 5}}},
        {"a": {9: 5}},
        {},
    ],
)
def test_what_cannot_be_compared_is_not_equal(members: dict[str, dict[int | str, object]]) -> None:
    """M20."""
    verdict = hashed(**members)
    assert verdict.undecided
    assert not verdict.passed


def test_a_user_who_may_not_ask_for_hashes_is_told_that_nothing_was_compared() -> None:
    """Only if no member lets it ask: one that answers has nobody to be compared with (M20)."""
    denied = {"hashes": {}, "not_permitted": "auth: permission denied"}
    options = Options(members=2)

    def judged(**members: dict[str, Any]) -> Verdict:
        return Hashes().check(Evidence(History([]), None, options, {"members": members}))

    verdict = judged(a=denied, b=denied)
    assert verdict.passed
    assert verdict.facts == {"members": 2, "not permitted to compare": 2}
    assert not judged(a=denied, b={"hashes": {"9": 5}}).passed


def test_hashes_of_what_was_compacted_alike_are_compared() -> None:
    one = {"9": {"hash": 5, "compact_revision": 3}}
    assert hashed(a=one, b=one).passed
    assert names(hashed(a=one, b={"9": {"hash": 6, "compact_revision": 3}})) == {"members-differ"}


# --- logs ------------------------------------------------------------------------------------


def logged(path: Path, text: str, *allowed: str, nemeses: tuple[str, ...] = ()) -> Verdict:
    log = path / "member.log"
    log.write_text(text)
    options = Options(nemeses=nemeses)
    return Logs(allowed).check(Evidence(History([]), None, options, member_logs={"member0": log}))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("panic", "panic: runtime error: index out of range"),
        ("panic", '{"level":"panic","msg":"tocommit(10) is out of range [lastIndex(3)]"}'),
        ("traceback", "Traceback (most recent call last):"),
        ("assertion", "AssertionError: commit index 7 before 9"),
        ("corruption", "error data corruption detected at 19"),
        ("corruption", "raftkv.errors.CorruptionError: entry 7"),
        ("corruption", "WAL: walpb: crc or checksum mismatch"),
        ("never-awaited", "RuntimeWarning: coroutine 'call' was never awaited"),
    ],
)
def test_what_no_fault_excuses_is_found_in_a_log(tmp_path: Path, name: str, line: str) -> None:
    verdict = logged(tmp_path, f"all is well\n{line}\n")
    assert names(verdict) == {name}
    assert "line 2" in verdict.anomalies[0].text


def test_usual_lines_are_all_right(tmp_path: Path) -> None:
    text = 'raftkv: member 1 leads in term 3\n{"initial-corrupt-check":false,"msg":"starting"}\n'
    verdict = logged(tmp_path, text)
    assert verdict.passed
    assert verdict.facts["lines"] == 2


def test_allowed_lines_are_all_right(tmp_path: Path) -> None:
    assert logged(tmp_path, "assertion failed: on purpose\n", "on purpose").passed


def test_who_damages_files_excuses_that_members_speak_of_corruption(tmp_path: Path) -> None:
    text = "the log is corrupt: stopping\n"
    assert not logged(tmp_path, text).passed
    assert logged(tmp_path, text, nemeses=("files",)).passed
    assert not logged(tmp_path, "panic: " + text, nemeses=("files",)).passed


def test_a_log_that_cannot_be_read_proves_nothing(tmp_path: Path) -> None:
    run = Evidence(History([]), None, Options(), member_logs={"m": tmp_path / "none"})
    assert not Logs().check(run).passed


# --- statistics --------------------------------------------------------------------------------


def test_statistics_count_outcomes_and_tell_latencies() -> None:
    script = Script()
    for _ in range(3):
        script.call(0, "get", {"key": "k"})
    script.invoke(0, "put", {})
    script.fail(0)
    script.invoke(0, "put", {})
    script.info(0)
    facts = Stats().check(script.evidence()).facts
    assert (facts["ok"], facts["fail"], facts["info"]) == (3, 1, 1)
    assert facts["get p50 ms"] == 1.0
    assert facts["put"] == "ok 0 fail 1 info 1"


def test_a_time_in_which_nothing_was_answered_is_a_window() -> None:
    script = Script()
    script.call(0, "get", {})
    script.invoke(0, "get", {}, at_s=2.0)
    script.invoke(1, "get", {}, at_s=3.0)
    script.ok(0, at_s=5.0)
    script.invoke(2, "get", {}, at_s=6.0)
    script.info(1)
    script.invoke(3, "get", {}, at_s=8.0)
    found = unavailable(History(script.ops).calls(), int(1e9))
    assert found == [(int(2e9), int(5e9)), (int(6e9), int(8e9))]
    script.windows.append(Window("kill", 0, 1))
    assert Stats().check(script.evidence()).facts["unavailable seconds"] == 5.0


def test_percentiles_are_values_that_were_measured() -> None:
    assert percentile([1, 2, 3, 4], 50) == 2
    assert percentile([1, 2, 3, 4], 99) == 4
    assert percentile([7], 50) == 7


# --- several checkers --------------------------------------------------------------------------


class Broken:
    """A checker with a bug."""

    def check(self, run: Evidence) -> Verdict:
        raise KeyError("lost")


def test_several_checkers_are_one() -> None:
    script = Script()
    script.call(0, "generate", {}, id=1)
    run = script.evidence()
    assert Compose({"unique": Unique(), "stats": Stats()}).check(run).passed
    script.call(0, "generate", {}, id=1)
    verdict = Compose({"unique": Unique(), "stats": Stats()}).check(script.evidence())
    assert names(verdict) == {"duplicate-id"}
    assert verdict.facts["unique: asked"] == 2


def test_a_checker_that_breaks_down_fails_the_run_and_not_the_others() -> None:
    verdicts = check_all({"broken": Broken(), "stats": Stats()}, Script().evidence())
    assert not verdicts["broken"].passed
    assert verdicts["stats"].passed
    anomaly: Anomaly = verdicts["broken"].anomalies[0]
    assert "KeyError" in anomaly.text
