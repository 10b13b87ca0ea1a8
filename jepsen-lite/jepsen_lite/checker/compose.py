"""Several checkers over one run.

A checker that breaks down is a failure of the run like any other: it names the error and proves
nothing.
"""

import gc
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jepsen_lite.checker.base import Anomaly, Checker, Evidence, Fact, Verdict


def check_all(checkers: Mapping[str, Checker], run: Evidence) -> dict[str, Verdict]:
    """The verdict of each, by its name, in their order."""
    with _without_collections():
        return {name: _verdict(checker, run) for name, checker in checkers.items()}


class Compose:
    """Several checkers as one. Facts have the checker's name in front of them."""

    def __init__(self, checkers: Mapping[str, Checker]) -> None:
        self._checkers = dict(checkers)

    def check(self, run: Evidence) -> Verdict:
        """Valid if all are; undecided if one is."""
        verdicts = check_all(self._checkers, run)
        facts: dict[str, Fact] = {}
        anomalies: list[Anomaly] = []
        for name, verdict in verdicts.items():
            facts.update({f"{name}: {fact}": value for fact, value in verdict.facts.items()})
            anomalies += verdict.anomalies
        valid = all(verdict.valid for verdict in verdicts.values())
        undecided = any(verdict.undecided for verdict in verdicts.values())
        return Verdict(valid, undecided, facts, anomalies)


def _verdict(checker: Checker, run: Evidence) -> Verdict:
    try:
        return checker.check(run)
    except Exception as error:  # noqa: BLE001 - whatever it was, the run is not proved
        where = traceback.format_exc(limit=-3)
        text = f"The checker broke down: {type(error).__name__}: {error}\n{where}"
        return Verdict(False, True, {}, [Anomaly("checker-broken", text)])


@contextmanager
def _without_collections() -> Iterator[None]:
    """Histories are millions of objects without cycles; looking through them takes longer than
    checking them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
