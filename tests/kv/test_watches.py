"""The hub of watches, promise by promise."""

from itertools import pairwise
from random import Random
from time import thread_time

import pytest

from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event
from raftkv.kv.watches import Watcher, normal_range
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import Driver, machine
from tests.kv.leasing import expire
from tests.kv.watching import Recorder, Town, compact, delete, put, txn

ALL = (b"\0", b"\0")


def test_a_watcher_gets_the_events_of_its_key_and_no_other() -> None:
    town = Town()
    watcher = town.watch(b"a")
    town.turn(put(b"a"), put(b"b"), put(b"aa"), delete(b"a"))
    assert town.sink.short(watcher) == [(b"a", 2, False), (b"a", 5, True)]


def test_a_put_event_is_the_whole_key_value_and_a_deletion_only_key_and_revision() -> None:
    town = Town()
    watcher = town.watch(b"a")
    town.turn(put(b"a", b"1"), put(b"a", b"2"), delete(b"a"))
    first, second, third = town.sink.events(watcher)
    assert first == Event(False, KeyValue(b"a", 2, 2, 1, b"1", 0), None)
    assert second == Event(False, KeyValue(b"a", 2, 3, 2, b"2", 0), None)
    assert third == Event(True, KeyValue(b"a", 0, 4, 0, b"", 0), None)


def test_events_are_the_bytes_that_protobuf_makes() -> None:
    town = Town()
    town.watch(b"a", prev_kv=True)
    town.turn(put(b"a", b"x" * 5000), put(b"a", b"2"), delete(b"a"))
    town.watch(b"a", start=2, prev_kv=True)
    town.settle()
    live, history = town.sink.batches
    assert live == history
    response = pb.WatchResponse.FromString(live.joined())
    assert response.SerializeToString(deterministic=True) == live.joined()
    put_1, put_2, gone = response.events
    assert not put_1.HasField("prev_kv")
    assert put_2.prev_kv == put_1.kv
    assert gone.type == 1
    assert gone.prev_kv == put_2.kv


@pytest.mark.parametrize("start", [0, 2])
def test_operations_of_one_revision_keep_their_order(start: int) -> None:
    """W17"""
    town = Town()
    town.turn(put(b"b"))
    live = town.watch(*ALL)
    town.turn(txn(put(b"z"), delete(b"b"), put(b"a")))
    watcher = town.watch(*ALL, start=3) if start else live
    town.settle()
    assert town.sink.short(watcher) == [(b"z", 3, False), (b"b", 3, True), (b"a", 3, False)]


def test_members_of_a_group_share_one_batch() -> None:
    town = Town()
    for _ in range(100):
        town.watch(b"a")
    town.turn(put(b"a"), put(b"a"))
    assert len(town.sink.batches) == 100
    assert len({id(batch) for batch in town.sink.batches}) == 1


@pytest.mark.parametrize("history", [False, True])
def test_filters_leave_out_puts_or_deletions(history: bool) -> None:
    town = Town()
    start = 2 if history else 0
    if history:
        town.turn(put(b"a"), delete(b"a"))
    no_put = town.watch(b"a", start=start, no_put=True)
    no_delete = town.watch(b"a", start=start, no_delete=True)
    neither = town.watch(b"a", start=start, no_delete=True, no_put=True)
    if not history:
        town.turn(put(b"a"), delete(b"a"))
    town.settle()
    assert town.sink.short(no_put) == [(b"a", 3, True)]
    assert town.sink.short(no_delete) == [(b"a", 2, False)]
    assert town.sink.short(neither) == []


@pytest.mark.parametrize(
    ("key", "end", "expected"),
    [
        (b"", b"", (b"\0", b"")),
        (b"", b"\0", (b"\0", b"\0")),
        (b"b", b"\0", (b"b", b"\0")),
        (b"a", b"a", None),
        (b"b", b"a", None),
        (b"", b"a", (b"\0", b"a")),
    ],
)
def test_ranges_are_read_as_etcd_reads_them(
    key: bytes, end: bytes, expected: tuple[bytes, bytes] | None
) -> None:
    assert normal_range(key, end) == expected


# --- start revisions ------------------------------------------------------------
def test_history_comes_first_and_then_what_is_new() -> None:
    """W16: start 1 is the beginning of history."""
    town = Town()
    town.turn(*[put(b"a") for _ in range(5)])
    watcher = town.watch(b"a", start=1)
    town.turn(put(b"a"))
    assert town.sink.short(watcher) == []
    town.settle()
    town.turn(put(b"a"))
    assert [revision for _, revision, _ in town.sink.short(watcher)] == [2, 3, 4, 5, 6, 7, 8]


def test_a_start_in_the_future_gets_nothing_before_it() -> None:
    """W07"""
    town = Town()
    watcher = town.watch(b"a", start=5)
    for revision in range(2, 8):
        assert town.hub.seen(watcher) == (town.revision if town.revision >= 5 else 0)
        town.turn(put(b"a"))
        assert town.revision == revision
    town.turn(put(b"a"), put(b"a"))
    assert [one[1] for one in town.sink.short(watcher)] == [5, 6, 7, 8, 9]


def test_a_start_in_the_middle_of_a_turn_is_cut_exactly() -> None:
    """W07"""
    town = Town()
    watchers = [town.watch(b"a", start=start) for start in (3, 4, 9)]
    town.turn(*[put(b"a") for _ in range(4)])
    assert [len(town.sink.events(one)) for one in watchers] == [3, 2, 0]
    assert town.hub.seen(watchers[2]) == 0


def test_a_future_start_stays_in_the_future_when_a_state_is_installed() -> None:
    """W07"""
    town = Town()
    watcher = town.watch(b"a", start=6)
    other = Driver()
    other.machine.collect_changes(False)
    for _ in range(3):
        other.submit(put(b"a"))
    town.driver = other
    town.hub.replaced(other.machine)
    town.settle()
    assert town.hub.seen(watcher) == 0
    town.turn(put(b"a"), put(b"a"))
    assert [one[1] for one in town.sink.short(watcher)] == [6]


@pytest.mark.parametrize(
    ("start", "expected"),
    [(0, [4]), (-1, [2, 3, 4]), (1, [2, 3, 4]), (3, [3, 4]), (4, [4]), (2**63 - 1, [])],
)
def test_every_start_revision_has_a_meaning(start: int, expected: list[int]) -> None:
    """W16"""
    town = Town()
    town.turn(put(b"a"), put(b"a"))
    watcher = town.watch(b"a", start=start)
    town.settle()
    town.turn(put(b"a"))
    assert [one[1] for one in town.sink.short(watcher)] == expected


def test_a_negative_start_is_refused_once_something_was_compacted() -> None:
    """W16"""
    town = Town()
    town.turn(put(b"a"), compact(0))
    watcher = town.watch(b"a", start=-1)
    town.settle()
    assert town.sink.cancels == {watcher: 0}


def test_a_watcher_added_between_a_turn_and_its_publish_gets_nothing_twice() -> None:
    town = Town()
    early = town.watch(b"a")
    town.apply([put(b"a")])
    now = town.watch(b"a")
    past = town.watch(b"a", start=2)
    town.publish()
    town.settle()
    town.turn(put(b"a"))
    assert [one[1] for one in town.sink.short(early)] == [2, 3]
    assert [one[1] for one in town.sink.short(past)] == [2, 3]
    assert [one[1] for one in town.sink.short(now)] == [3]


def test_changes_of_before_the_first_watcher_are_not_its_own() -> None:
    town = Town()
    gone = town.watch(b"a")
    town.apply([put(b"a")])
    changes = town.driver.machine.take_changes()
    town.hub.remove(gone)
    watcher = town.watch(b"a")
    town.hub.publish(changes, 2)
    town.turn(put(b"a"))
    assert [one[1] for one in town.sink.short(watcher)] == [3]


# --- progress -------------------------------------------------------------------
def test_a_watcher_without_events_has_seen_every_published_revision() -> None:
    """W04"""
    town = Town()
    watcher = town.watch(b"quiet")
    for _ in range(3):
        town.turn(put(b"a"))
        assert town.hub.seen(watcher) == town.revision


def test_what_was_seen_is_never_ahead_of_what_was_delivered() -> None:
    """W03"""
    town = Town()
    watcher = town.watch(b"a")
    town.apply([put(b"a")])
    assert town.hub.seen(watcher) == 1
    town.publish()
    assert town.hub.seen(watcher) == 2
    town.sink.closed = True
    town.turn(put(b"a"))
    town.turn(put(b"b"))
    assert town.hub.seen(watcher) == 2
    assert not town.hub.is_synced(watcher)
    town.sink.closed = False
    town.hub.wake([watcher])
    town.settle()
    assert town.hub.seen(watcher) == 4


def test_seen_grows_with_the_slices_of_a_scan() -> None:
    """W03"""
    town = Town()
    town.turn(*[put(b"a") for _ in range(300)])
    watcher = town.watch(b"a", start=1)
    seen = []
    while town.hub.catch_up(100):
        got = town.sink.short(watcher)
        seen.append(town.hub.seen(watcher))
        assert seen[-1] == (got[-1][1] if got else 0)
    assert len(set(seen)) > 5
    assert town.hub.seen(watcher) == 301


# --- slow sinks -----------------------------------------------------------------
def test_a_full_sink_holds_up_nobody_else() -> None:
    """W05"""
    town = Town()
    slow = Recorder(closed=True)
    stuck = [town.watch(b"a", sink=slow) for _ in range(3)]
    late = [town.watch(b"a", start=1, sink=slow) for _ in range(3)]
    watcher = town.watch(b"a")
    for _ in range(50):
        town.turn(put(b"a"))
        town.hub.catch_up()
        assert town.hub.seen(watcher) == town.revision
    assert len(town.sink.events(watcher)) == 50
    assert slow.deliveries == {}
    assert town.hub.behind == 6
    assert town.hub.backlog == 51
    assert town.hub.stalls == 6
    slow.closed = False
    town.settle()
    assert all(slow.events(one) == town.sink.events(watcher) for one in stuck + late)
    assert (town.hub.behind, town.hub.backlog) == (0, 0)


def test_a_long_history_does_not_delay_a_watcher_that_is_just_behind() -> None:
    """W05"""
    town = Town()
    town.turn(*[put(b"a") for _ in range(3000)])
    for _ in range(5):
        town.watch(b"a", start=1)
        town.hub.catch_up(100)
    near = town.watch(b"a", start=3000)
    town.hub.catch_up(200)
    assert town.hub.is_synced(near)
    assert town.hub.behind == 5


def test_a_revision_is_never_split_even_if_it_is_longer_than_a_slice() -> None:
    """W08"""
    town = Town()
    town.turn(*[put(b"%04d" % number) for number in range(500)])
    town.turn(delete(*ALL))
    watcher = town.watch(*ALL, start=1)
    slices = 0
    while town.hub.catch_up(100):
        slices += 1
        town.turn(put(b"x"))
    deliveries = town.sink.deliveries[watcher]
    assert slices > 10
    whole = [[e for e in one.events if e.kv.mod_revision == 502] for one in deliveries]
    assert sorted(map(len, whole))[-2:] == [0, 500]
    spans = [(one.first, one.last) for one in deliveries]
    assert all(last < first for (_, last), (first, _) in pairwise(spans))


def test_a_transaction_of_128_keys_is_one_delivery() -> None:
    """W08"""
    town = Town()
    watcher = town.watch(b"k", b"l")
    town.turn(txn(*[put(b"k%03d" % number) for number in range(128)]))
    (delivery,) = town.sink.deliveries[watcher]
    assert len(delivery.events) == 128
    assert (delivery.first, delivery.last) == (2, 2)


def test_the_smallest_slice_gets_on() -> None:
    town = Town()
    town.turn(*[put(b"a") for _ in range(20)], txn(*[put(b"%d" % n) for n in range(9)]))
    watcher = town.watch(*ALL, start=1)
    town.settle(units=1)
    assert len(town.sink.events(watcher)) == 29
    assert len(town.sink.deliveries[watcher]) > 10


# --- compaction -----------------------------------------------------------------
def test_a_watcher_that_falls_behind_compaction_is_cancelled_with_its_revision() -> None:
    """W06"""
    town = Town()
    watcher = town.watch(b"a")
    quiet = town.watch(b"b")
    town.sink.closed = True
    town.turn(put(b"a"), put(b"a"), put(b"a"))
    town.turn(compact(3))
    town.settle()
    assert town.sink.cancels == {watcher: 3}
    assert town.hub.count == 1
    assert town.hub.seen(quiet) == town.revision


def test_a_scan_under_way_is_overtaken_by_compaction() -> None:
    """W06"""
    town = Town()
    town.turn(*[put(b"a") for _ in range(300)])
    watcher = town.watch(b"a", start=1)
    later = town.watch(b"a", start=250)
    town.hub.catch_up(100)
    before = town.sink.short(watcher)
    assert 0 < len(before) < 200
    town.turn(compact(240))
    while town.driver.machine.compact_slice():
        pass
    town.settle()
    assert town.sink.cancels == {watcher: 240}
    assert town.sink.short(watcher) == before
    assert [one[1] for one in town.sink.short(later)] == list(range(250, 302))


def test_a_start_below_the_compacted_revision_is_cancelled_and_one_at_it_is_served() -> None:
    """M16, W06"""
    town = Town()
    town.turn(put(b"a"), delete(b"a"), put(b"b"), compact(3))
    below = town.watch(b"a", start=2)
    at = town.watch(b"a", start=3)
    assert town.sink.cancels == {}
    while town.driver.machine.compact_slice():
        pass
    town.settle()
    assert town.sink.cancels == {below: 3}
    assert town.sink.short(at) == [(b"a", 3, True)]


@pytest.mark.parametrize("live", [False, True])
def test_prev_kv_is_right_or_absent_after_compaction(live: bool) -> None:
    """W09: absent from the compacted revision on downwards, because it is read one before."""
    town = Town()
    watcher = town.watch(b"a", prev_kv=True) if live else None
    requests = [put(b"a", b"1"), put(b"a", b"2"), put(b"a", b"3"), compact(3)]
    town.turn(*requests)
    while town.driver.machine.compact_slice():
        pass
    watcher = watcher or town.watch(b"a", start=3, prev_kv=True)
    town.settle()
    previous = {one.kv.value: one.previous for one in town.sink.events(watcher)}
    assert previous[b"2"] is None
    assert previous[b"3"] is not None
    assert previous[b"3"].value == b"2"


def test_prev_kv_of_a_version_that_is_no_longer_in_memory() -> None:
    """W09"""
    town = Town(machine(cache_bytes=1000))
    town.turn(*[put(b"%03d" % number, b"x" * 50) for number in range(50)])
    town.driver.machine.flush()
    assert b"000" not in town.driver.machine.store.cache
    watcher = town.watch(b"000", prev_kv=True)
    town.turn(put(b"000", b"new"))
    (event,) = town.sink.events(watcher)
    assert event.previous is not None
    assert event.previous.value == b"x" * 50


@pytest.mark.parametrize("live", [False, True])
def test_delete_and_recreate_are_one_event_each_with_their_own_create_revision(live: bool) -> None:
    """W17"""
    town = Town()
    town.turn(put(b"a", b"old"))
    watcher = town.watch(b"a", prev_kv=True) if live else None
    town.turn(delete(b"a"), put(b"a", b"new"))
    watcher = watcher or town.watch(b"a", start=3, prev_kv=True)
    town.settle()
    gone, made = town.sink.events(watcher)
    assert gone.deleted
    assert gone.previous is not None
    assert gone.previous.value == b"old"
    assert (made.kv.create_revision, made.kv.version, made.previous) == (4, 1, None)


@pytest.mark.parametrize("live", [False, True])
def test_the_keys_of_an_expired_lease_are_deleted_in_one_delivery(live: bool) -> None:
    """W17"""
    town = Town()
    town.driver.grant(7, 5000)
    town.turn(put(b"b", b"1", lease=7), put(b"a", b"2", lease=7), put(b"c"))
    watcher = town.watch(*ALL, prev_kv=True) if live else None
    expire(town.driver, 7)
    town.publish()
    watcher = watcher or town.watch(*ALL, start=5, prev_kv=True)
    town.settle()
    town.turn(put(b"a", b"3"))
    gone, again = town.sink.deliveries[watcher]
    assert [(one.kv.key, one.kv.mod_revision, one.deleted) for one in gone.events] == [
        (b"a", 5, True),
        (b"b", 5, True),
    ]
    assert [one.previous.lease for one in gone.events if one.previous] == [7, 7]
    assert (again.events[0].kv.version, again.events[0].kv.lease) == (1, 0)


# --- coming and going -------------------------------------------------------------
def test_a_storm_of_watchers_leaves_nothing_behind() -> None:
    """W12"""
    town = Town()
    random = Random(5)
    town.turn(*[put(b"a") for _ in range(100)])
    alive: list[Watcher] = []
    for number in range(5000):
        ends = [b"", b"\0", b"k%d" % (random.randrange(50) + 1), b"l"]
        key = b"k%d" % random.randrange(50)
        end = random.choice(ends)
        if normal_range(key, end) is not None:
            alive.append(town.watch(key, end, random.choice([0, 1, 90, 10**6])))
        if random.randrange(2):
            town.hub.remove(alive.pop(random.randrange(len(alive))))
        if not number % 100:
            town.hub.catch_up()
            town.turn(put(b"k1"))
    for watcher in alive:
        town.hub.remove(watcher)
        town.hub.remove(watcher)
    hub = town.hub
    town.settle()
    assert (hub.count, hub.behind, hub.backlog) == (0, 0, 0)
    index = hub._synced.index
    assert (index._keys, index._prefixes, index._tails, index.ranged) == ({}, {}, ([], []), 0)
    assert index._intervals.count == 0
    assert len(index._intervals._items) <= 1
    assert town.driver.machine.store.changes is None


def test_nothing_comes_after_a_watcher_was_removed_by_another_ones_delivery() -> None:
    town = Town()

    class Jealous(Recorder):
        def deliver(self, watcher: Watcher, first: int, last: int, events) -> None:  # type: ignore[no-untyped-def]
            super().deliver(watcher, first, last, events)
            for one in watchers:
                if one is not watcher:
                    town.hub.remove(one)

    sink = Jealous()
    watchers = [town.watch(b"a", sink=sink) for _ in range(3)]
    watchers.append(town.watch(b"a", b"b", sink=sink))
    town.turn(put(b"a"))
    town.turn(put(b"a"))
    assert len(sink.deliveries) == 1
    assert town.hub.count == 1


def test_ten_thousand_watchers_of_one_key_cost_one_encoding() -> None:
    """W14"""
    town = Town()
    watchers = [town.watch(b"a", prev_kv=True) for _ in range(10_000)]
    town.turn(put(b"a"), put(b"a"))
    assert len({id(batch) for batch in town.sink.batches}) == 1
    assert all(len(town.sink.deliveries[one]) == 1 for one in watchers)


def test_a_publication_to_many_takes_slices_and_each_watcher_gets_all_of_it_or_nothing() -> None:
    """W14, W03: what turns change meanwhile is published together, behind it."""
    town = Town(published=10)
    watchers = [town.watch(b"a") for _ in range(25)]
    town.apply([put(b"a"), txn(put(b"a\0"), put(b"a")), put(b"a")])
    town.begin_to_publish()
    assert town.hub.revision == 4
    assert [len(town.sink.events(one)) for one in watchers] == [3] * 6 + [0] * 19
    assert [town.hub.seen(one) for one in watchers] == [4] * 6 + [1] * 19
    for _ in range(2):
        town.apply([put(b"a")])
        town.begin_to_publish()  # waits
    late = town.watch(b"a")
    early = town.watch(b"a", start=6)
    gone = watchers[20]
    town.hub.remove(gone)
    slices = 0
    while town.hub.unfinished:
        town.hub.go_on()
        slices += 1
        for one in watchers:
            got = [revision for _, revision, _ in town.sink.short(one)]
            assert got in ([], [2, 3, 4], [2, 3, 4, 5, 6])
            if one is not gone:
                assert town.hub.seen(one) == (got[-1] if got else 1)
    assert slices == 2 + 3
    assert [len(town.sink.events(one)) for one in watchers] == [5] * 20 + [0] + [5] * 4
    assert len(town.sink.deliveries[watchers[0]]) == 2
    assert town.sink.short(early) == [(b"a", 6, False)]
    assert town.sink.events(late) == []
    assert town.hub.seen(late) == town.hub.seen(watchers[0]) == 6
    assert town.hub.behind == 0


def test_however_much_is_published_there_is_a_moment_in_which_all_have_seen_the_same() -> None:
    """W04, W05: who asks for progress must not wait until the changes end."""
    town = Town(published=10)
    watchers = [town.watch(b"a") for _ in range(25)] + [town.watch(b"b")]
    together = []
    for _ in range(40):
        town.apply([put(b"a")])
        town.begin_to_publish()
        town.hub.go_on()
        assert town.hub.unfinished
        if not town.hub.amid_publication:
            together.append({town.hub.seen(one) for one in watchers})
            assert together[-1] == {town.hub.revision}
    assert len(together) >= 10


def test_many_changes_are_looked_at_in_slices_and_a_revision_stays_whole() -> None:
    town = Town(published=10)
    watcher, other = town.watch(b"k", b"l"), town.watch(b"x")
    town.turn(*[put(b"k%02d" % number) for number in range(45)])
    assert len(town.sink.events(watcher)) == 45
    town.apply([delete(b"k", b"l")])
    town.begin_to_publish()
    slices = 0
    while town.hub.unfinished:
        assert len(town.sink.events(watcher)) == 45
        town.hub.go_on()
        slices += 1
    assert slices == 4
    assert town.sink.deliveries[watcher][-1].first == town.revision
    assert len(town.sink.deliveries[watcher][-1].events) == 45
    assert other not in town.sink.deliveries
    assert town.hub.seen(watcher) == town.hub.seen(other) == town.revision


@pytest.mark.parametrize("stopped", [1, 3])
def test_a_state_that_comes_amid_a_publication_loses_nothing(stopped: int) -> None:
    """W18"""
    town = Town(published=10)
    ahead = Driver()
    watchers = [town.watch(b"a") for _ in range(15)] + [town.watch(b"b") for _ in range(15)]
    sent = [put(b"a"), put(b"b"), put(b"a")]
    for request in [*sent, put(b"b"), put(b"a"), put(b"b")]:
        ahead.submit(request)
    town.apply(sent)
    town.begin_to_publish()
    for _ in range(stopped):
        town.apply([put(b"b")] if _ == 0 else [])
        town.begin_to_publish()
    for _ in range(stopped - 1):
        town.hub.go_on()
    town.driver = ahead
    town.hub.replaced(ahead.machine)
    assert not town.hub.unfinished
    assert town.hub.behind == 30
    town.settle()
    assert town.hub.behind == 0
    for watcher in watchers:
        revisions = [2, 4, 6] if watcher.key == b"a" else [3, 5, 7]
        assert [one[1] for one in town.sink.short(watcher)] == revisions


def test_a_publication_ends_with_its_last_watcher() -> None:
    town = Town(published=3)
    watchers = [town.watch(b"a") for _ in range(9)]
    town.apply([put(b"a")])
    town.begin_to_publish()
    town.apply([put(b"a")])
    town.begin_to_publish()
    for watcher in watchers:
        town.hub.remove(watcher)
    assert not town.hub.unfinished
    again = town.watch(b"a")
    town.turn(put(b"a"))
    assert [one[1] for one in town.sink.short(again)] == [4]


def test_an_installed_state_moves_its_watchers_in_slices() -> None:
    """W14, W18: however many there are, the turn that installs it does not wait for them."""
    town = Town()
    ahead = Driver()
    watchers = [town.watch(b"k%d" % (number % 3)) for number in range(5000)]
    for request in [put(b"k0"), put(b"k1"), put(b"k2"), put(b"k0")]:
        ahead.submit(request)
    town.driver = ahead
    began = thread_time()
    town.hub.replaced(ahead.machine)
    assert thread_time() - began < 0.01
    assert town.hub.behind == 5000
    assert town.hub.backlog == 4
    assert not any(town.hub.is_synced(one) for one in watchers)
    gone = watchers[77]
    town.hub.remove(gone)
    moved = town.hub.behind
    town.turn(put(b"k0"))  # those that are still to be moved hear of it as well
    while town.hub.catch_up(1000):
        assert moved - town.hub.behind <= 1500
        moved = town.hub.behind
    assert town.hub.behind == 0
    expected = {b"k0": [2, 5, 6], b"k1": [3], b"k2": [4]}
    for watcher in watchers:
        wanted = [] if watcher is gone else expected[watcher.key]
        assert [one[1] for one in town.sink.short(watcher)] == wanted
        assert watcher is gone or town.hub.seen(watcher) == 6


def test_changes_are_kept_only_while_somebody_watches() -> None:
    town = Town()
    town.turn(put(b"a"))
    assert town.driver.machine.store.changes is None
    watcher = town.watch(b"a")
    town.turn(put(b"a"))
    town.hub.remove(watcher)
    town.turn(put(b"a"))
    assert town.driver.machine.store.changes is None


# --- a state from another member ----------------------------------------------------
def test_an_installed_state_makes_everybody_behind_and_loses_nothing() -> None:
    """W18"""
    town = Town()
    ahead = Driver()
    sent = [put(b"a", b"%d" % number) for number in range(40)]
    for request in sent:
        ahead.submit(request)
    watcher = town.watch(b"a")
    stuck = town.watch(b"a", start=2, sink=Recorder(closed=True))
    town.turn(*sent[:10])
    town.hub.catch_up(60)
    scanned = town.watch(b"a", start=3)
    town.hub.catch_up(40)
    town.driver = ahead
    town.hub.replaced(ahead.machine)
    assert town.hub.behind == 3
    assert town.hub.seen(watcher) == 11
    town.turn(put(b"a"))
    town.settle()
    stuck.sink.closed = False  # type: ignore[attr-defined]
    town.settle()
    expected = list(range(2, 43))
    assert [one[1] for one in town.sink.short(watcher)] == expected
    assert [one[1] for one in town.sink.short(scanned)] == expected[1:]
    assert [one[1] for one in stuck.sink.short(stuck)] == expected  # type: ignore[attr-defined]


def test_an_installed_state_that_is_compacted_further_cancels() -> None:
    """W06, W18"""
    town = Town()
    ahead = Driver()
    for request in [*[put(b"a") for _ in range(9)], compact(8)]:
        ahead.submit(request)
    watcher = town.watch(b"a")
    future = town.watch(b"a", start=10)
    town.driver = ahead
    town.hub.replaced(ahead.machine)
    town.settle()
    assert town.sink.cancels == {watcher: 8}
    assert [one[1] for one in town.sink.short(future)] == [10]
