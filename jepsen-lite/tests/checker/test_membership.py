"""Who is a member at the end, and what became of those who were one."""

from typing import Any

import pytest

from checker.histories import names
from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.membership import Membership
from jepsen_lite.history import History
from jepsen_lite.workload.options import Options

TABLE = [["1", "a", ["http://a"], False], ["4", "d", ["http://d"], False]]


def told(**changed: Any) -> dict[str, Any]:
    return {
        "tables": {"a": TABLE, "d": TABLE},
        "current": ["1", "4"],
        "numbers": ["1", "2", "3", "4"],
        "removed": [
            {"number": "2", "name": "b", "code": 16, "disk lost": False},
            {"number": "3", "name": "c", "code": None, "disk lost": True},
        ],
        "exit code": 16,
        "begun": {"replace": 2},
        "done": {"replace": 1},
        **changed,
    }


def judged(**changed: Any) -> Verdict:
    final = {"membership": told(**changed)}
    return Membership().check(Evidence(History([]), None, Options(), final))


def test_members_that_agree_and_removed_ones_that_ended_are_all_right() -> None:
    verdict = judged()
    assert verdict.passed
    assert verdict.facts["changes"] == 1
    assert verdict.facts["removed"] == 2


def learner(number: str) -> list[Any]:
    return [number, "x", ["http://x"], True]


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"tables": {"a": TABLE, "d": TABLE[:1]}}, {"tables-differ"}),
        ({"current": ["1", "5"]}, {"wrong-members"}),
        (
            {"tables": {"a": [*TABLE, learner("9")]}, "current": ["1", "4", "9"]},
            {"learner-left"},
        ),
        (
            {"tables": {"a": [*TABLE, ["2", "b", [], False]]}, "current": ["1", "2", "4"]},
            {"removed-is-back"},
        ),
        ({"numbers": ["1", "2", "2"]}, {"id-twice"}),
        ({"done": {}}, {"not-done"}),
    ],
)
def test_what_must_not_be_is_found(changed: dict[str, Any], found: set[str]) -> None:
    """R24, R34."""
    assert names(judged(**changed)) == found


@pytest.mark.parametrize("code", [None, 0, -9])
def test_a_removed_member_that_does_not_end_as_it_should_is_found(code: int | None) -> None:
    """R31; etcd promises no exit code."""
    removed = [{"number": "2", "name": "b", "code": code, "disk lost": False}]
    assert names(judged(removed=removed)) == {"removed-goes-on"}
    assert judged(removed=removed, **{"exit code": None}).passed


def test_without_evidence_nothing_is_decided() -> None:
    verdict = Membership().check(Evidence(History([]), None, Options(), {}))
    assert verdict.undecided
    assert not verdict.passed
