"""Watches and caches against the store's log (catalogue 3.5)."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from checker.histories import Script, Store, changed, names, only
from jepsen_lite.checker.base import Evidence, LogEvent, StoreLog, Verdict
from jepsen_lite.checker.cache import Cache
from jepsen_lite.checker.watch import Watch
from jepsen_lite.history import History, Op
from jepsen_lite.workload.options import Options

Entry = list[Any]


def told(event: LogEvent, previous: LogEvent | None = None) -> dict[str, Any]:
    """An event as a watch's recording has it."""
    found = {
        "key": event.key,
        "value": event.value,
        "mod_revision": event.revision,
        "version": event.version,
        "create_revision": event.create_revision,
    }
    return {**found, "prev": told(previous)} if previous else found


def watch(script: Script, received: list[Entry], name: str = "w", **asked: Any) -> int:
    kind = {"key": "k", "end": "l", "start_revision": 2, **asked}
    return script.call(9, "watch", {"name": name, "asked": kind}, received=received)


def three_puts() -> tuple[Script, list[dict[str, Any]]]:
    script = Script()
    for number in range(3):
        script.store.put(f"k{number}", str(number))
    return script, [told(event) for event in script.store.events]


def test_a_watch_that_was_told_everything_in_order_is_right() -> None:
    script, events = three_puts()
    watch(script, [["created", 1], ["events", events[:2]], ["progress", 3], ["events", events[2:]]])
    verdict = Watch().check(script.evidence())
    assert verdict.passed, verdict
    assert verdict.facts["events checked"] == 3


def test_an_event_that_was_left_out_is_found() -> None:
    """W01, W06."""
    script, events = three_puts()
    wrong = watch(script, [["created", 1], ["events", [events[0], events[2]]]])
    witness = only(Watch().check(script.evidence()), "watch-reliable")
    assert witness == (wrong - 1, wrong)


def test_a_bookmark_that_is_ahead_of_its_events_is_found() -> None:
    """W03."""
    script, events = three_puts()
    watch(script, [["created", 1], ["progress", 4], ["events", events]])
    assert "watch-bookmarkable" in names(Watch().check(script.evidence()))


def test_a_resumption_that_skips_an_event_is_found_over_both_parts() -> None:
    """W01: each part is right by itself; what is lost lies between them."""
    script, events = three_puts()
    watch(script, [["created", 1], ["events", events[:1]]])
    watch(script, [["created", 4], ["events", events[2:]]], start_revision=4)
    verdict = Watch().check(script.evidence())
    assert names(verdict) == {"watch-reliable"}
    assert verdict.anomalies[0].ops == (1, 3)
    assert verdict.facts["resumed"] == 1


def test_a_resumption_from_behind_the_last_revision_is_right() -> None:
    script, events = three_puts()
    watch(script, [["created", 1], ["events", events[:1]]])
    watch(script, [["created", 4], ["events", events[1:]]], start_revision=3)
    assert Watch().check(script.evidence()).passed


def test_a_cancel_for_a_compaction_is_right_if_there_was_one() -> None:
    """W06, M16."""
    script, _ = three_puts()
    watch(script, [["created", 4], ["cancelled", 4, "compacted"]])
    assert names(Watch().check(script.evidence())) == {"watch-closed"}
    script.call(0, "compact", {"at": 4}, revision=4)
    assert Watch().check(script.evidence()).passed


def test_a_wrong_prev_kv_is_found() -> None:
    """W09."""
    script = Script()
    script.store.put("k", "1")
    script.store.put("k", "2")
    one, two = script.store.events
    watch(script, [["created", 1], ["events", [told(one), told(two, one)]]], prev_kv=True)
    assert Watch().check(script.evidence()).passed
    watch(script, [["created", 1], ["events", [told(one), told(two, two)]]], "v", prev_kv=True)
    assert names(Watch().check(script.evidence())) == {"watch-prev_kv"}


def test_what_was_compacted_before_the_log_was_read_is_not_judged() -> None:
    script, events = three_puts()
    watch(script, [["created", 1], ["events", events]])
    watch(script, [["created", 4], ["events", events[2:]]], "v", start_revision=4)
    log = script.store.log()
    short = replace(log, events=log.events[2:], revisions=[4], compacted_revision=3)
    verdict = Watch().check(script.evidence(short))
    assert verdict.passed, verdict
    assert verdict.facts["not checkable after compaction"] == 1
    assert verdict.facts["events checked"] == 1


# --- random watches ------------------------------------------------------------------------


def a_watch_run(seed: int) -> tuple[list[Op], StoreLog]:
    """A hundred writes of several keys at a time, and ten right watches of ranges of them."""
    random, script = Random(seed), Script()
    store = script.store
    before: dict[tuple[int, str], LogEvent | None] = {}
    for number in range(100):
        past = dict(store.live)
        key = f"k{random.randrange(5)}"
        if random.random() < 0.7:
            store.put(key, str(number))
        else:
            store.delete(key, f"k{random.randrange(5)}")
        for event in store.events:
            if event.revision == store.revision:
                before.setdefault((event.revision, event.key), past.get(event.key))
    for number in range(10):
        first = random.randrange(4)
        asked: dict[str, Any] = {"key": f"k{first}", "end": "l"}
        asked["start_revision"] = random.randrange(2, 60)
        asked["prev_kv"] = random.random() < 0.5
        received: list[Entry] = [["created", random.randrange(1, 90)]]
        for revision in store.log().revisions:
            if revision < asked["start_revision"]:
                continue
            events = [
                told(event, before[revision, event.key] if asked["prev_kv"] else None)
                for event in store.events
                if event.revision == revision and event.key >= asked["key"]
            ]
            if events:
                received.append(["events", events])
            if random.random() < 0.1:
                received.append(["progress", revision])
        value = {"name": f"w{number}", "asked": asked}
        script.call(number, "watch", value, received=received)
    return script.ops, store.log()


def check(ops: list[Op], log: StoreLog) -> Verdict:
    return Watch().check(Evidence(History(ops), log, Options()))


def _places(received: list[Entry]) -> list[int]:
    return [place for place, one in enumerate(received) if one[0] == "events"]


def loses(random: Random, received: list[Entry]) -> None:
    place = random.choice(_places(received)[:-1])
    received[place][1].pop()
    if not received[place][1]:
        del received[place]


def repeats(random: Random, received: list[Entry]) -> None:
    place = random.choice(_places(received))
    received.insert(place, deepcopy(received[place]))


def swaps(random: Random, received: list[Entry]) -> None:
    places = _places(received)
    one = random.randrange(len(places) - 1)
    a, b = places[one], places[one + 1]
    received[a], received[b] = received[b], received[a]


def forges(random: Random, received: list[Entry]) -> None:
    field, value = random.choice((("version", 99), ("create_revision", 1), ("value", "never")))
    received[random.choice(_places(received))][1][0][field] = value


def promises_too_much(random: Random, received: list[Entry]) -> None:
    place = random.choice(_places(received))
    received.insert(place, ["progress", received[place][1][0]["mod_revision"]])


def goes_on_after_its_end(random: Random, received: list[Entry]) -> None:
    received.insert(random.choice(_places(received)), ["cancelled", 0, "no leader"])


@pytest.mark.parametrize(
    "breaking", [loses, repeats, swaps, forges, promises_too_much, goes_on_after_its_end]
)
def test_one_thing_broken_in_a_watch_is_found_every_time(
    breaking: Callable[[Random, list[Entry]], None],
) -> None:
    """Kill rate: 30 of 30."""
    found = 0
    for seed in range(30):
        random = Random(seed)
        ops, log = a_watch_run(seed)
        right = check(ops, log)
        assert right.passed, right
        op = random.choice(
            [op for op in ops if op.type == "ok" and len(_places(op.value["received"])) > 2]
        )
        received = deepcopy(op.value["received"])
        breaking(random, received)
        verdict = check(changed(ops, op.index, value={"received": received}), log)
        found += not verdict.passed and (op.index - 1, op.index) in [
            anomaly.ops for anomaly in verdict.anomalies
        ]
    assert found == 30


# --- caches ----------------------------------------------------------------------------------


def cached(script: Script, store: Store, **more: Any) -> int:
    kvs = [{"key": key, **store.item(key)} for key in sorted(store.live)]
    for item in kvs:
        del item["revision"]
    asked = {"prefix": "k", **more}
    return script.call(3, "cache", asked, revision=store.revision, kvs=kvs)


def test_a_cache_that_holds_what_the_store_held_is_right() -> None:
    script, _ = three_puts()
    cached(script, script.store)
    script.store.delete("k1")
    cached(script, script.store)
    verdict = Cache().check(script.evidence())
    assert verdict.passed, verdict
    assert verdict.facts["keys compared"] == 5


def test_a_cache_that_still_has_a_deleted_key_is_found() -> None:
    """C15: Kubernetes' informers after a missed deletion."""
    script, _ = three_puts()
    old = deepcopy(script.store)
    script.store.delete("k1")
    old.revision = script.store.revision
    wrong = cached(script, old)
    assert only(Cache().check(script.evidence()), "cache-differs") == (wrong,)


def test_a_cache_that_goes_back_in_time_is_found() -> None:
    """C15, M17."""
    script, _ = three_puts()
    old = deepcopy(script.store)
    script.store.put("k3", "3")
    one, two = cached(script, script.store), cached(script, old)
    assert only(Cache().check(script.evidence()), "cache-went-back") == (one, two)


def test_a_cache_that_was_to_catch_up_and_did_not_is_found() -> None:
    script, _ = three_puts()
    old = deepcopy(script.store)
    put = {"key": "k3", "value": "3"}
    written = script.call(0, "put", put, revision=script.store.put("k3", "3"))
    cached(script, old)
    assert Cache().check(script.evidence()).passed
    wrong = cached(script, old, catch_up=True)
    assert only(Cache().check(script.evidence()), "cache-behind") == (written, wrong)


@pytest.mark.parametrize("checker", [Watch(), Cache()])
def test_without_a_log_nothing_is_called_right(checker: Watch | Cache) -> None:
    assert not checker.check(Evidence(History([]), None, Options())).passed
