"""Watches of every kind beside writes of every kind; each is compared with the store's log."""

from typing import ClassVar

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Generator, each_process, reserve
from jepsen_lite.workload.churn import CaughtUp, Churn
from jepsen_lite.workload.judges import judges


class Watch(Churn):
    """See the module's docstring."""

    name: ClassVar[str] = "watch"
    summary: ClassVar[str] = "watches of random ranges, starts and options beside writes"

    def generator(self) -> Generator:
        """Half of the processes watch, the others write."""
        watchers = max(1, self.options.concurrency // 2)
        return reserve(watchers, each_process(self.watches()), self.writes())

    def final_generator(self) -> Generator:
        """A watch that must reach the present."""
        return self.last_watches()

    def checkers(self) -> dict[str, Checker]:
        """All promises of watches, and the revision witness."""
        return {**judges("watch", "witness"), "caught-up": CaughtUp()}
