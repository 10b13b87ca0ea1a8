"""The results as pictures: ratios with their targets, and latencies by percentile."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.report import COLUMNS, ratio
from bench.rows import Samples
from bench.targets import TARGETS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS: Final = ("rate", "p99_ms", "cpu_us", "bytes")
_MINE: Final = "#1f6f8b"


def draw(results: Mapping[str, Samples], label: str, base: str, directory: Path) -> list[Path]:
    """Writes `ratios` and `latency` as SVG and PNG; returns the files.

    Errors: ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    written = []
    rows = [
        row
        for row, samples in results.items()
        if any(one.latency_seconds for taken in samples.values() for one in taken)
    ]
    if not rows:
        return []
    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(15, 1.2 + 0.45 * len(rows)))
    for axis, metric in zip(axes, _PANELS, strict=True):
        for place, row in enumerate(rows):
            found = ratio(results[row], metric, label, base)
            if found is None:
                continue
            axis.barh(place, found.middle, color=_MINE, height=0.6)
            axis.plot([found.low, found.high], [place, place], color="black", linewidth=1)
            for target in TARGETS:
                if target.row == row and target.metric == metric and target.relative:
                    axis.plot([target.must] * 2, [place - 0.4, place + 0.4], color="#c0392b")
        axis.axvline(1.0, color="grey", linewidth=0.8)
        axis.set_yticks(range(len(rows)), rows if metric == _PANELS[0] else [""] * len(rows))
        axis.invert_yaxis()
        axis.set_title(f"{COLUMNS[metric][0]}, {label} / {base}")
    figure.tight_layout()
    written += _save(figure, directory, "ratios")

    columns = min(3, len(rows))
    lines = -(-len(rows) // columns)
    figure, grid = pyplot.subplots(
        lines, columns, figsize=(5 * columns, 3.2 * lines), squeeze=False
    )
    for axis, row in zip(grid.flat, rows, strict=False):
        for system, samples in results[row].items():
            for one in samples:
                points = {float(name): 1e3 * s for name, s in one.latency_seconds.items()}
                color = _MINE if system == label else "#d08c2f"
                axis.plot(list(points), list(points.values()), color=color, linewidth=1)
            axis.plot([], [], color=_MINE if system == label else "#d08c2f", label=system)
        axis.set_yscale("log")
        axis.set_title(row)
        axis.set_xlabel("percentile")
        axis.set_ylabel("ms")
        axis.legend()
    for axis in list(grid.flat)[len(rows) :]:
        axis.axis("off")
    figure.tight_layout()
    return written + _save(figure, directory, "latency")


def _save(figure: "Figure", directory: Path, name: str) -> list[Path]:
    paths = [directory / f"{name}.{suffix}" for suffix in ("svg", "png")]
    for path in paths:
        figure.savefig(path)
    return paths
