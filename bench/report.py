"""From samples to medians, ratios, verdicts and tables.

A ratio is the median of the ratios of each round: a round's measurements are neighbours in
time, so that a machine that is slow for a minute slows both sides of a ratio.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from bench.rows import Sample, Samples
from bench.table import ROWS
from bench.targets import TARGETS, Target, Verdict

# metric -> (heading, format)
COLUMNS: Final = {
    "rate": ("ops/s", ",.0f"),
    "p50_ms": ("p50 ms", ".2f"),
    "p99_ms": ("p99 ms", ".2f"),
    "cpu_us": ("CPU us/op", ".1f"),
    "rss_mib": ("RSS MiB", ".0f"),
    "anon_mib": ("anon MiB", ".0f"),
    "bytes": ("disk B/op", ",.0f"),
    "generator_us": ("gen us/op", ".1f"),
    "generator_share": ("gen core", ".2f"),
    "errors": ("errors", ",.0f"),
    "kept": ("kept", ".2f"),
    "watcher_kib": ("KiB/watcher", ".2f"),
    "longest_ms": ("longest ms", ".1f"),
    "cpu_share": ("core", ".3f"),
    "idle_share": ("core before", ".3f"),
    "gap_s": ("gap s", ".3f"),
    "stop_s": ("stop s", ".2f"),
    "restart_s": ("restart s", ".2f"),
    "restarted_rss_mib": ("RSS again", ".0f"),
    "idle_s": ("save s", ".2f"),
    "busy_s": ("save beside s", ".2f"),
    "file_mib": ("file MiB", ".0f"),
    "scrape_p50_ms": ("scrape p50 ms", ".1f"),
    "scrape_max_ms": ("scrape max ms", ".1f"),
    "scrapes": ("scrapes", ",.0f"),
    "joined_s": ("joined s", ".2f"),
    "elections": ("elections", ",.0f"),
    "unanswered": ("unanswered", ",.0f"),
    "added_us": ("added us", ".1f"),
    "added_cpu_us": ("added CPU us", ".1f"),
    "import_ms": ("import ms", ".0f"),
}
# Ratios of these say nothing about the systems.
_NO_RATIO: Final = frozenset(
    {
        "errors",
        "generator_us",
        "generator_share",
        "scrapes",
        "elections",
        "unanswered",
        "added_us",
        "added_cpu_us",
    }
)
_PAIRS: Final = {row.name: row.pairs for row in ROWS if row.pairs}


@dataclass(frozen=True, slots=True)
class Ratio:
    """middle: the median of the rounds' ratios. low, high: the extremes."""

    middle: float
    low: float
    high: float


def middle(samples: Sequence[Sample], metric: str) -> float | None:
    """The median of a metric; None if no sample has it."""
    values = [one.metrics[metric] for one in samples if metric in one.metrics]
    known = [value for value in values if not math.isnan(value)]
    return median(known) if known else None


def ratio(samples: Samples, metric: str, label: str, base: str) -> Ratio | None:
    """label's metric as a multiple of base's; None if either was not measured, or base is 0."""
    found = []
    for mine, theirs in zip(samples.get(label, []), samples.get(base, []), strict=False):
        above, below = mine.metrics.get(metric), theirs.metrics.get(metric)
        if above is None or not below or math.isnan(above) or math.isnan(below):
            continue
        found.append(above / below)
    return Ratio(median(found), min(found), max(found)) if found else None


@dataclass(frozen=True, slots=True)
class Finding:
    """A target next to what was measured."""

    target: Target
    value: float | None
    verdict: Verdict


def findings(results: Mapping[str, Samples], label: str, base: str) -> list[Finding]:
    """Every target of the rows that were measured.

    Those of the systems only if it was raftkv against etcd.
    """
    found: list[Finding] = []
    order = list(results)
    for target in sorted(
        (target for target in TARGETS if target.row in results),
        key=lambda target: order.index(target.row),
    ):
        if target.row not in _PAIRS and (label, base) != (target.label, target.base):
            continue
        samples = results[target.row]
        value: float | None
        if target.relative:
            both = ratio(samples, target.metric, target.label, target.base)
            value = None if both is None else both.middle
        else:
            value = middle(samples.get(target.label, []), target.metric)
        found.append(Finding(target, value, target.judge(value)))
    return found


# --- text -----------------------------------------------------------------------


def grid(lines: Sequence[Sequence[str]]) -> str:
    """Cells in columns: the first two to the left, numbers to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cell(value: float | None, metric: str) -> str:
    return "-" if value is None else format(value, COLUMNS[metric][1])


def _ratio_cell(found: Ratio | None) -> str:
    return "-" if found is None else f"{found.middle:.2f}"


def _spread(found: Ratio | None) -> str:
    return "" if found is None or found.low == found.high else f"{found.low:.2f}-{found.high:.2f}"


def results_table(results: Mapping[str, Samples], label: str, base: str) -> str:
    """Medians per row and system, and a line of ratios below them."""
    metrics = [
        metric
        for metric in COLUMNS
        if any(metric in one.metrics for row in results.values() for s in row.values() for one in s)
    ]
    heading = ["row", "", *(COLUMNS[metric][0] for metric in metrics), "rate spread"]
    lines = [heading, ["-" * len(cell) for cell in heading]]
    for name, samples in results.items():
        for place, (system, taken) in enumerate(samples.items()):
            cells = [_cell(middle(taken, metric), metric) for metric in metrics]
            lines.append([name if place == 0 else "", system, *cells, ""])
        for one, other in _PAIRS.get(name, ((label, base),)):
            ratios = {
                metric: None if metric in _NO_RATIO else ratio(samples, metric, one, other)
                for metric in metrics
            }
            cells = [_ratio_cell(ratios[metric]) for metric in metrics]
            lines.append(["", f"{one}/{other}", *cells, _spread(ratios.get("rate"))])
    return grid(lines)


def _judged(target: Target) -> str:
    return f"{target.label}/{target.base}" if target.relative else target.label


def targets_table(found: Sequence[Finding]) -> str:
    """One line per target."""
    lines = [["row", "metric", "measured", "must", "aim", "verdict"]]
    lines.append(["-" * len(cell) for cell in lines[0]])
    for one in found:
        target = one.target
        sign = ">=" if target.higher_is_better else "<"
        unit = "x" if target.relative else target.unit
        lines.append(
            [
                target.row if target.row not in _PAIRS else f"{target.row}: {_judged(target)}",
                COLUMNS[target.metric][0] + (" ratio" if target.relative else ""),
                "-" if one.value is None else f"{one.value:.2f}{unit}",
                f"{sign} {target.must:g}",
                "" if target.aim is None else f"{sign} {target.aim:g}",
                one.verdict.value,
            ]
        )
    return grid(lines)


def text(
    results: Mapping[str, Samples], label: str, base: str, environment: Mapping[str, str]
) -> str:
    """The whole report."""
    found = findings(results, label, base)
    met = sum(one.verdict in (Verdict.MET, Verdict.AIM_MET) for one in found)
    parts = [
        ", ".join(f"{name} {value}" for name, value in environment.items()),
        results_table(results, label, base),
    ]
    errors = [
        f"{row} {system}: {count} x {error}"
        for row, samples in results.items()
        for system, taken in samples.items()
        for one in taken
        for error, count in one.errors.items()
    ]
    if errors:
        parts.append("errors:\n" + "\n".join(errors))
    if found:
        parts.append(targets_table(found))
        parts.append(f"{met} of {len(found)} targets met ({label} as a multiple of {base})")
    return "\n\n".join(parts)


def save(
    path: Path,
    results: Mapping[str, Samples],
    label: str,
    base: str,
    environment: Mapping[str, str],
) -> None:
    """Everything that was measured, as JSON."""
    content = {
        "environment": dict(environment),
        "label": label,
        "base": base,
        "rows": {
            row: {system: [asdict(one) for one in taken] for system, taken in samples.items()}
            for row, samples in results.items()
        },
        "targets": [
            {**asdict(one.target), "value": one.value, "verdict": one.verdict.value}
            for one in findings(results, label, base)
        ],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
