"""Prometheus' text format 0.0.4.

    # HELP name what it is
    # TYPE name counter
    name{label="value"} 1

It and not OpenMetrics, whatever a scraper would rather have: OpenMetrics forbids names that etcd
has (gauges that end in `_total`, counters that do not), and dashboards know etcd's.

A label text is the inside of the braces, `To="2b"`; `labels` makes one.
"""

from collections.abc import Callable, Sequence
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from raftkv.histogram import Histogram

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"

Number: TypeAlias = int | float
# One value without labels, or any number of them with their label texts.
Value: TypeAlias = Number | Histogram | Sequence[tuple[str, Number | Histogram]]

Source = TypeVar("Source")


class Family(NamedTuple, Generic[Source]):
    """A metric. read: its values now."""

    name: str
    kind: str
    help: str
    read: Callable[[Source], Value]


def labels(**values: str) -> str:
    """A label text."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in values.items())


def escape(value: str) -> str:
    """A label's value, quoted but for the quotes themselves."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def number(value: Number) -> str:
    """A number as Prometheus reads it."""
    if isinstance(value, int):  # True counts as 1
        return str(int(value))
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def head(name: str, kind: str, help_text: str) -> str:
    """The two lines before a family's samples."""
    return f"# HELP {name} {help_text}\n# TYPE {name} {kind}\n"


def sample(name: str, label_text: str, value: Number) -> str:
    """One line."""
    return (
        f"{name}{{{label_text}}} {number(value)}\n" if label_text else f"{name} {number(value)}\n"
    )


def histogram(name: str, label_text: str, value: Histogram) -> str:
    """The lines of one histogram. It may be counted on meanwhile."""
    counts, total = value.counts.copy(), value.sum
    before = f"{name}_bucket{{{label_text}," if label_text else f"{name}_bucket{{"
    lines = []
    count = 0
    for bound, here in zip(value.bounds, counts, strict=False):
        count += here
        lines.append(f'{before}le="{number(bound)}"}} {count}\n')
    count += counts[-1]
    lines.append(f'{before}le="+Inf"}} {count}\n')
    lines.append(sample(f"{name}_sum", label_text, total))
    lines.append(sample(f"{name}_count", label_text, count))
    return "".join(lines)


def render(family: Family[Source], source: Source) -> str:
    """A family with its values now; nothing if it has none."""
    found = family.read(source)
    values = [("", found)] if isinstance(found, (int, float, Histogram)) else found
    lines = [
        histogram(family.name, label_text, value)
        if isinstance(value, Histogram)
        else sample(family.name, label_text, value)
        for label_text, value in values
    ]
    return head(family.name, family.kind, family.help) + "".join(lines) if lines else ""
