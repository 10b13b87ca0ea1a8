"""The store at every revision, from its log; and what transactions must have answered."""

from dataclasses import replace
from typing import Any

import pytest

from checker.histories import Script, Store, names, only
from jepsen_lite.checker.base import LogEvent
from jepsen_lite.checker.replay import UNKNOWN, Replay, difference
from jepsen_lite.checker.transactions import Transaction, Unsaid
from jepsen_lite.checker.witness import Witness


def a_store() -> Store:
    """a: written twice, deleted, written again; b: once."""
    store = Store()
    store.put("a", "1")  # 2
    store.put("b", "2")  # 3
    store.put("a", "3")  # 4
    store.delete("a")  # 5
    store.put("a", "4")  # 6
    return store


def test_a_key_is_what_it_was_at_every_revision() -> None:
    replay = Replay(a_store().log())
    found = [replay.at("a", revision) for revision in range(1, 7)]
    assert [one and one.value for one in found] == [None, "1", "1", "3", None, "4"]
    assert replay.on("a", 4) == LogEvent(4, "a", "3", 2, 2)
    assert replay.on("a", 3) is None


def test_a_range_has_the_keys_that_there_were() -> None:
    replay = Replay(a_store().log())
    for revision, keys in ((1, ""), (3, "ab"), (5, "b"), (6, "ab")):
        within = replay.within("a", "z", revision)
        assert within is not None
        assert "".join(event.key for event in within) == keys
    assert replay.within("b", "\0", 6) == [replay.at("b", 6)]


def test_what_was_compacted_away_is_unknown_and_not_absent() -> None:
    log = a_store().log()
    replay = Replay(replace(log, events=log.events[2:], compacted_revision=3))
    assert replay.at("b", 6) is UNKNOWN
    assert replay.within("a", "z", 3) is None
    assert replay.at("a", 4) is not UNKNOWN


@pytest.mark.parametrize(
    "event",
    [
        LogEvent(7, "a", "5", 3, 6),  # a version was left out
        LogEvent(7, "a", "5", 2, 2),  # another generation's create_revision
        LogEvent(7, "c", None, 0, 0),  # nothing to delete
        LogEvent(5, "b", "5", 2, 3),  # behind what came later
    ],
)
def test_a_log_that_contradicts_itself_is_found(event: LogEvent) -> None:
    log = a_store().log()
    assert list(Replay(log).faults()) == []
    broken = replace(log, events=[*log.events, event], last_revision=7)
    assert len(list(Replay(broken).faults())) == 1
    assert "log-broken" in names(Witness().check(Script().evidence(broken)))


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"value": "3", "mod_revision": 4, "version": 2, "create_revision": 2}, ""),
        ({"value": "3"}, ""),
        ({"value": "3", "version": 1}, "version 1 instead of 2"),
        ({"value": "1"}, "'1' instead of '3'"),
        ({"value": None}, "no key instead of '3'"),
        ({"value": "3", "lease": 7}, "lease 7 instead of 0"),
    ],
)
def test_a_difference_is_told_in_words(said: dict[str, Any], wrong: str) -> None:
    assert difference(said, Replay(a_store().log()).at("a", 4)) == wrong


def txn(revision: int, **value: Any) -> Transaction:
    """At revision 4 of `a_store`, a: 1 -> 3, with b: 2 in sight."""
    return Transaction(Replay(a_store().log()), {"revision": revision, **value})


def test_a_transaction_that_was_answered_rightly() -> None:
    done = txn(
        4,
        compares=[["a", "value", "=", "1"], ["b", "version", "<", 2], ["c", "lease", "=", 0]],
        success=[["get", "a"], ["put", "a", "3"], ["get", "a"], ["range", "a", "z"]],
        responses=[
            {"value": "1", "mod_revision": 2},
            None,
            {"value": "3", "mod_revision": 4},
            [{"key": "a", "value": "3"}, {"key": "b", "value": "2"}],
        ],
    )
    assert (done.wrong, done.changed) == ("", True)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ({"compares": [["a", "value", "=", "3"]], "success": [["put", "a", "3"]]}, "was false"),
        (
            {"compares": [["a", "version", ">", 0]], "failure": [], "succeeded": False},
            "were true",
        ),
        ({"success": [["put", "a", "9"]]}, "no such write"),
        ({"success": [["put", "b", "9"]]}, "no such write"),
        ({"success": [["put", "a", "3"], ["get", "a"]], "responses": [None, None]}, "no key"),
        ({"success": [["delete", "b"]], "responses": [1]}, "was not deleted"),
        ({"compares": [["none", "value", "!=", "x"]]}, "was false"),
    ],
)
def test_a_transaction_that_was_not(value: dict[str, Any], word: str) -> None:
    assert word in txn(4, **value).wrong


def test_a_deletion_of_nothing_changes_nothing() -> None:
    assert not txn(6, success=[["delete", "c"]], responses=[0]).changed
    assert not txn(6, success=[["delete", "c"]]).changed
    assert txn(5, success=[["delete", "a"]]).changed
    assert "2 keys deleted" in txn(5, success=[["delete", "a"]], responses=[2]).wrong


def test_a_transaction_before_the_log_begins_is_not_judged() -> None:
    log = a_store().log()
    replay = Replay(replace(log, events=log.events[2:], compacted_revision=3))
    with pytest.raises(Unsaid):
        Transaction(replay, {"revision": 6, "success": [["get", "b"]], "responses": [None]})


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ({"count": 2, "more": False}, True),
        ({"count": 3}, False),
        ({"more": True}, False),
        ({"limit": 1, "more": True, "count": 2, "kvs": [{"key": "a", "value": "4"}]}, True),
        ({"limit": 1, "more": False, "kvs": [{"key": "a", "value": "4"}]}, False),
        ({"kvs": [{"key": "b", "value": "2"}, {"key": "a", "value": "4"}]}, False),
    ],
)
def test_a_range_has_its_count_and_its_order(answer: dict[str, Any], right: bool) -> None:
    script = Script()
    script.store = a_store()
    all_keys = [{"key": "a", "value": "4"}, {"key": "b", "value": "2"}]
    value = {"revision": 6, "kvs": all_keys, **answer}
    # Who wrote the keys is not in this history.
    script.call(0, "other")
    end = script.call(1, "range", {"key": "a", "end": "z"}, **value)
    verdict = Witness().check(script.evidence())
    if right:
        assert verdict.passed, verdict
    else:
        assert only(verdict, "wrong-read") == (end,)
