"""Medians, ratios and verdicts."""

import json
import math
from pathlib import Path

import pytest

from bench import counters
from bench.generator import Measured
from bench.profiling import weigh
from bench.report import COLUMNS, findings, grid, middle, ratio, save, text
from bench.rows import LOAD_ROWS, Sample, Samples, sample, select
from bench.special import longest_gap
from bench.table import ROWS
from bench.targets import TARGETS, Target, Verdict
from bench.watching import STREAM_ROWS


def samples(etcd: list[float], raftkv: list[float], metric: str = "rate") -> Samples:
    return {
        "etcd": [Sample({metric: value}) for value in etcd],
        "raftkv": [Sample({metric: value}) for value in raftkv],
    }


def test_every_target_is_of_a_row_and_of_a_metric_that_the_tables_know() -> None:
    assert {target.row for target in TARGETS} <= {row.name for row in ROWS}
    assert {target.metric for target in TARGETS} <= set(COLUMNS)


def test_a_ratio_is_the_median_of_the_rounds_and_not_the_ratio_of_medians() -> None:
    """Round 2 was slow for both: it must not count against anyone."""
    found = ratio(samples([100, 10, 100], [150, 15, 200]), "rate", "raftkv", "etcd")
    assert found is not None
    assert (found.middle, found.low, found.high) == (1.5, 1.5, 2.0)


def test_nothing_to_divide_by_is_no_ratio() -> None:
    assert ratio(samples([0.0], [5.0]), "rate", "raftkv", "etcd") is None
    assert ratio(samples([math.nan], [5.0]), "rate", "raftkv", "etcd") is None
    assert ratio(samples([1.0], [5.0]), "bytes", "raftkv", "etcd") is None
    assert middle([], "rate") is None


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (1.69, Verdict.NOT_MET),
        (1.7, Verdict.MET),
        (2.2, Verdict.AIM_MET),
        (None, Verdict.NOT_MEASURED),
        (math.nan, Verdict.NOT_MEASURED),
    ],
)
def test_a_rate_must_reach_its_bound(value: float | None, verdict: Verdict) -> None:
    target = Target("put-10x10", "rate", 1.7, 2.2, higher_is_better=True)
    assert target.judge(value) is verdict


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(0.6, Verdict.NOT_MET), (0.59, Verdict.MET), (0.49, Verdict.AIM_MET)],
)
def test_a_cost_must_stay_below_its_bound(value: float, verdict: Verdict) -> None:
    assert Target("put-10x10", "cpu_us", 0.6, 0.5).judge(value) is verdict


def test_every_target_names_a_row_that_exists() -> None:
    assert {target.row for target in TARGETS} <= {row.name for row in ROWS}


def test_every_closed_loop_row_and_fanout_is_judged_by_its_p99() -> None:
    judged = {target.row for target in TARGETS if target.metric == "p99_ms"}
    fanouts = {row.name for row in STREAM_ROWS if row.kind == "watch-fanout"}
    assert judged == {row.name for row in LOAD_ROWS} | fanouts


def test_the_failover_gap_is_judged_in_seconds_not_as_a_ratio() -> None:
    results = {"failover-kill": samples([1.5, 1.2, 1.9], [0.2, 0.4, 0.9], "gap_s")}
    (finding,) = findings(results, "raftkv", "etcd")
    assert finding.value == 0.4
    assert finding.verdict is Verdict.MET


def test_a_missed_target_is_said_plainly() -> None:
    results = {"put-10x10": samples([100.0], [90.0])}
    report = text(results, "raftkv", "etcd", {"cpus": "2"})
    line = next(line for line in report.splitlines() if "ops/s ratio" in line)
    assert line.split() == [
        *("put-10x10", "ops/s", "ratio", "0.90x", ">=", "1.7", ">=", "2.2", "NOT", "MET")
    ]
    assert "0 of 4 targets met" in report
    assert report.count("not measured") == 3


def test_targets_are_only_for_raftkv_against_etcd() -> None:
    results = {"put-10x10": {"etcd": [Sample({"rate": 1.0})], "etcd-2": [Sample({"rate": 1.0})]}}
    assert findings(results, "etcd-2", "etcd") == []


def test_errors_are_listed() -> None:
    broken = {
        "etcd": [Sample({"rate": 1.0, "errors": 0.0})],
        "raftkv": [Sample({"rate": 1.0, "errors": 3.0}, errors={"14 no leader": 3})],
    }
    assert "put-1x1 raftkv: 3 x 14 no leader" in text({"put-1x1": broken}, "raftkv", "etcd", {})


def test_costs_are_per_success_and_memory_per_node() -> None:
    one = sample(
        Measured(
            seconds=2.0,
            successes=1000,
            errors={"14 x": 7},
            latency_seconds={"50": 0.002, "99": 0.009},
            generator_cpu_seconds=0.5,
            server_cpu_seconds=0.1,
            write_bytes=512_000,
            rss_bytes=[2**20, 2**20, 4 * 2**20],
            anon_bytes=[2**20, 2**20, 2**20],
            unanswered=0,
        )
    )
    expected = {
        "rate": 500.0,
        "p50_ms": 2.0,
        "p99_ms": 9.0,
        "cpu_us": 100.0,
        "rss_mib": 2.0,
        "anon_mib": 1.0,
        "bytes": 512.0,
        "generator_us": 500.0,
        "generator_share": 0.25,
        "errors": 7.0,
    }
    assert one.metrics == pytest.approx(expected)


def test_the_longest_gap_is_the_one_after_the_loss() -> None:
    times = [0.0, 3.0, 3.1, 3.5, 4.0]
    assert longest_gap(times, since=3.05, until=4.1) == pytest.approx(0.5)


def test_a_gap_that_began_before_the_loss_counts_whole() -> None:
    assert longest_gap([0.0, 1.0, 2.5], since=1.2, until=2.6) == pytest.approx(1.5)


def test_a_gap_that_never_ends_counts_up_to_the_end_of_the_watch() -> None:
    assert longest_gap([0.0, 1.0], since=1.2, until=9.2) == pytest.approx(8.2)
    assert longest_gap([], since=1.2, until=9.2) == pytest.approx(8.0)


def test_rows_are_selected_by_the_start_of_their_name() -> None:
    assert [row.name for row in select(ROWS, "get,million")] == ["get-10x10", "million"]
    assert [row.name for row in select(ROWS, "put-10x1")] == ["put-10x1"]
    assert len(select(ROWS, "")) == len(ROWS)
    with pytest.raises(ValueError, match="no row 'nothing'"):
        select(ROWS, "put,nothing")


def test_cells_are_in_columns() -> None:
    assert grid([["a", "b", "1"], ["long", "b", "100"]]) == "a     b    1\nlong  b  100"


def test_everything_measured_is_saved(tmp_path: Path) -> None:
    save(tmp_path / "r.json", {"put-1x1": samples([1.0], [2.0])}, "raftkv", "etcd", {"cpus": "2"})
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["rows"]["put-1x1"]["raftkv"][0]["metrics"] == {"rate": 2.0}
    assert saved["targets"][0]["verdict"] == "met, aim too"


def test_cpu_time_includes_that_of_ended_children() -> None:
    fields = ["S"] + ["0"] * 10 + ["100", "50", "30", "20"] + ["0"] * 30
    assert (
        counters.cpu_seconds(f"7 (a (b) c) {' '.join(fields)}") == 200 / counters._TICKS_PER_SECOND
    )


def test_a_process_that_is_gone_has_used_nothing() -> None:
    assert counters.usage(2**22 + 1) == counters.Usage(0.0, 0, 0, 0)


def test_self_time_is_that_of_the_innermost_frame() -> None:
    own, below, total = weigh(["a;b;c 3", "a;b 2", "a;b;a 1", "broken"])
    assert total == 6
    assert dict(own) == {"c": 3, "b": 2, "a": 1}
    assert dict(below) == {"a": 6, "b": 6, "c": 3}
