"""The process: `process_*` and `python_*` as prometheus-client knows them, `os_fd_*` as etcd's."""

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from raftkv.server.metrics.text import GAUGE, head, labels, sample

# What etcd calls the same figures as well.
_OTHER_NAMES: Final = {"process_open_fds": "os_fd_used", "process_max_fds": "os_fd_limit"}


class Process:
    """The families of this process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def render(self) -> Iterator[str]:
        """All of them."""
        for family in self._registry.collect():
            # prometheus-client takes the suffix of a counter off its name.
            counter = family.type == "counter"
            name = family.name + "_total" if counter else family.name
            lines = [
                sample(one.name, labels(**one.labels), one.value)
                for one in family.samples
                if one.name == name
            ]
            yield head(name, family.type, family.documentation) + "".join(lines)
            other = _OTHER_NAMES.get(name)
            if other is not None:
                yield head(other, GAUGE, family.documentation)
                yield from (sample(other, "", one.value) for one in family.samples)
