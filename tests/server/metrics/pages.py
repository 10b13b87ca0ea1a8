"""Pages of metrics, read by prometheus-client's own parser, and asked for over HTTP."""

import re
import urllib.request
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families


class Seen(NamedTuple):
    """A metric of a page. labels: the names of its labels, without `le`. buckets: upper ends."""

    kind: str
    labels: frozenset[str]
    buckets: tuple[str, ...]


def fetch(port: int, path: str = "/metrics") -> str:
    """A page of a server on the loopback."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        text: str = answer.read().decode()
        return text


@cache
def families(text: str) -> dict[str, Seen]:
    """The metrics of a page, by the names in their TYPE lines."""
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    found: dict[str, Seen] = {}
    for name, kind in kinds.items():
        suffix = "_bucket" if kind == "histogram" else ""
        lines = re.findall(rf"^{name}{suffix}(?:\{{(.*)\}})? \S+$", text, re.MULTILINE)
        labels: set[str] = set()
        buckets: dict[str, None] = {}
        for line in lines:
            for label, value in re.findall(r'(\w+)="([^"]*)"', line):
                if label == "le":
                    buckets[value] = None
                else:
                    labels.add(label)
        found[name] = Seen(kind, frozenset(labels), tuple(buckets))
    return found


@cache
def samples(text: str) -> dict[str, float]:
    """Every sample of a page, by its name and its labels in braces, sorted."""
    return {
        _key(sample.name, sample.labels): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _key(name: str, labels: Mapping[str, str]) -> str:
    inside = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    return f"{name}{{{inside}}}" if inside else name
