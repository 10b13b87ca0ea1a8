"""Watch streams: every fact is true of etcd first, and then of every kind of raftkv node.

W01, W02, W04, W06 to W12 of the failure catalogue as far as one client can see them.
"""

from contextlib import ExitStack
from pathlib import Path

import pytest

from raftkv.pb import rpc_pb2
from tests import processes
from tests.conformance.conftest import SUBJECTS, Open, Subjects, opener
from tests.conformance.store import Store
from tests.conformance.streams import Ended, WatchStream, kinds, revision_of, skip_unless_offered
from tests.conformance.target import Target

NOPUT = rpc_pb2.WatchCreateRequest.NOPUT
NODELETE = rpc_pb2.WatchCreateRequest.NODELETE
EMPTY_RANGE = "mvcc: watcher range is empty"
DUPLICATE_ID = "mvcc: duplicate watch ID provided on the WatchStream"


# --- created --------------------------------------------------------------------


def test_created_comes_first_and_has_the_current_revision(
    store: Store, stream: WatchStream
) -> None:
    store.put("a")
    current = revision_of(store)
    created = stream.create(store.key("a"))
    assert (created.watch_id, created.canceled, created.compact_revision) == (0, False, 0)
    assert created.header.revision == current
    assert min(created.header.cluster_id, created.header.member_id, created.header.raft_term) > 0


def test_watch_ids_count_from_zero_and_skip_what_was_chosen(
    store: Store, stream: WatchStream
) -> None:
    ids = [stream.create(store.key(), watch_id=asked).watch_id for asked in (0, 0, 2, 7, 0, 0)]
    assert ids == [0, 1, 2, 7, 3, 4]


def test_a_chosen_negative_id_is_taken_literally(store: Store, stream: WatchStream) -> None:
    assert stream.create(store.key("a"), watch_id=-1).watch_id == -1
    assert stream.create(store.key("a"), watch_id=-9).watch_id == -9
    store.put("a")
    assert {stream.next().watch_id, stream.next().watch_id} == {-1, -9}


def test_an_id_in_use_is_refused_and_the_first_watch_lives_on(
    store: Store, stream: WatchStream
) -> None:
    assert stream.create(store.key("a"), watch_id=5).watch_id == 5
    second = stream.create(store.key("b"), watch_id=5)
    assert (second.watch_id, second.canceled, second.cancel_reason) == (-1, True, DUPLICATE_ID)
    store.put("b")
    store.put("a")
    assert kinds(store, stream.events(1, watch_id=5)) == [("PUT", "a")]


def test_an_id_is_free_again_after_its_watch_was_cancelled(
    store: Store, stream: WatchStream
) -> None:
    stream.create(store.key("a"), watch_id=5)
    stream.cancel(5)
    assert stream.next().canceled
    assert stream.create(store.key("a"), watch_id=5).canceled is False


def test_ids_are_those_of_one_stream(store: Store, open_stream: Open) -> None:
    one, other = open_stream(), open_stream()
    assert one.create(store.key("a")).watch_id == other.create(store.key("a")).watch_id == 0


@pytest.mark.parametrize("end", ["a", "b"])
def test_an_empty_range_is_created_and_cancelled(
    store: Store, stream: WatchStream, end: str
) -> None:
    answer = stream.create(store.key("b"), store.key(end))
    assert (answer.watch_id, answer.canceled, answer.cancel_reason) == (-1, True, EMPTY_RANGE)
    assert stream.create(store.key("b")).watch_id == 0


def test_an_empty_key_means_the_key_zero(store: Store, stream: WatchStream) -> None:
    stream.create(b"")
    store.put("a")
    store.call(rpc_pb2.PutRequest(key=b"\0"), rpc_pb2.PutResponse)
    (event,) = stream.events(1)
    assert event.kv.key == b"\0"


def test_an_empty_key_with_an_end_begins_at_the_first_key(
    store: Store, stream: WatchStream
) -> None:
    stream.create(b"", store.key("b"))
    store.put("b")
    store.put("a")
    assert kinds(store, stream.events(1)) == [("PUT", "a")]


def test_a_range_ends_before_its_end(store: Store, stream: WatchStream) -> None:
    stream.create(store.key("b"), store.key("d"))
    for name in "abcdb":
        store.put(name)
    assert kinds(store, stream.events(3)) == [("PUT", "b"), ("PUT", "c"), ("PUT", "b")]


def test_from_key_has_no_end(store: Store, stream: WatchStream) -> None:
    stream.create(store.key("b"), b"\0")
    for name in "abz":
        store.put(name)
    assert kinds(store, stream.events(2)) == [("PUT", "b"), ("PUT", "z")]


# --- where a watch begins ---------------------------------------------------------


def test_a_watch_from_the_past_gives_all_of_it_and_goes_on(
    store: Store, stream: WatchStream
) -> None:
    """W01, W04: nothing is missed or repeated where history ends and the present begins."""
    first = store.put("a", b"0").header.revision
    for number in range(1, 40):
        store.put("a", b"%d" % number)
    assert stream.create(store.key("a"), start_revision=first).watch_id == 0
    for number in range(40, 60):
        store.put("a", b"%d" % number)
    events = stream.events(60)
    assert [event.kv.value for event in events] == [b"%d" % n for n in range(60)]
    assert [event.kv.version for event in events] == list(range(1, 61))


def test_a_watch_from_the_future_begins_there(store: Store, stream: WatchStream) -> None:
    current = store.put("a").header.revision
    assert stream.create(store.key("a"), start_revision=current + 3).header.revision == current
    for _ in range(4):
        store.put("a")
    events = stream.events(2)
    assert [event.kv.mod_revision for event in events] == [current + 3, current + 4]


def test_the_next_revision_is_the_present(store: Store, stream: WatchStream) -> None:
    current = store.put("a").header.revision
    stream.create(store.key("a"), start_revision=current + 1)
    store.put("a")
    assert [event.kv.mod_revision for event in stream.events(1)] == [current + 1]


def test_a_start_below_the_compacted_revision_is_cancelled_with_it(
    store: Store, stream: WatchStream
) -> None:
    """W06."""
    first = store.put("a").header.revision
    last = store.put("a").header.revision
    store.compact(last)
    for start in (first, 1, -1):
        assert not stream.create(store.key("a"), start_revision=start).canceled
        cancelled = stream.next()
        assert (cancelled.canceled, cancelled.compact_revision) == (True, last)
        assert (cancelled.cancel_reason, cancelled.created) == ("", False)
        assert cancelled.header.revision == 0


def test_an_id_that_the_server_cancelled_is_in_use_until_the_client_cancels_it(
    store: Store, stream: WatchStream
) -> None:
    """W06."""
    first = store.put("a").header.revision
    store.compact(store.put("a").header.revision)
    stream.create(store.key("a"), start_revision=first, watch_id=3)
    assert stream.next().canceled
    assert stream.create(store.key("a"), watch_id=3).cancel_reason == DUPLICATE_ID
    stream.cancel(3)
    answer = stream.next()
    assert (answer.watch_id, answer.canceled, answer.compact_revision) == (3, True, 0)
    stream.cancel(3)
    assert stream.create(store.key("a"), watch_id=3).watch_id == 3


def test_a_start_at_the_compacted_revision_works(store: Store, stream: WatchStream) -> None:
    store.put("a", b"1")
    last = store.put("a", b"2").header.revision
    store.compact(last)
    stream.create(store.key("a"), start_revision=last)
    assert [event.kv.value for event in stream.events(1)] == [b"2"]


def test_a_compacted_deletion_is_gone_and_later_events_come(
    store: Store, stream: WatchStream
) -> None:
    store.put("a")
    deleted = store.delete("a").header.revision
    last = store.put("b").header.revision
    store.compact(last)
    stream.create(store.key(), store.end, start_revision=last)
    store.put("a", b"again")
    assert deleted < last
    events = stream.events(2)
    assert kinds(store, events) == [("PUT", "b"), ("PUT", "a")]
    assert events[1].kv.version == 1


def test_a_live_watch_outlives_a_compaction(store: Store, stream: WatchStream) -> None:
    stream.create(store.key("a"))
    store.put("a", b"1")
    store.compact(store.put("a", b"2").header.revision)
    store.put("a", b"3")
    assert [event.kv.value for event in stream.events(3)] == [b"1", b"2", b"3"]


def test_negative_starts_of_a_store_never_compacted(fresh_store: Store, stack: ExitStack) -> None:
    """Nothing compacted counts as revision -1: a start there is the present, below it is gone.

    The present is etcd's, which begins such a watch up to 0.1 s later.
    """
    stream = opener(fresh_store.target, stack)()
    fresh_store.put("a")
    stream.create(fresh_store.key("a"), start_revision=-1)
    answers: list[rpc_pb2.WatchResponse | Ended] = []
    while not answers:
        fresh_store.put("a")
        answers = stream.come()
    assert isinstance(answers[0], rpc_pb2.WatchResponse)
    assert answers[0].events[0].kv.version > 1
    stream.close()
    stream = opener(fresh_store.target, stack)()
    for watch_id, start in enumerate((-2, -100)):
        assert stream.create(fresh_store.key("b"), start_revision=start).watch_id == watch_id
        cancelled = stream.next()
        assert (cancelled.watch_id, cancelled.canceled) == (watch_id, True)
        assert (cancelled.compact_revision, cancelled.header.revision) == (-1, 0)


def test_the_first_revisions_are_the_beginning_of_a_store_never_compacted(
    fresh_store: Store, stack: ExitStack
) -> None:
    stream = opener(fresh_store.target, stack)()
    fresh_store.put("a", b"1")
    fresh_store.put("a", b"2")
    for watch_id, start in enumerate((1, 2)):
        stream.create(fresh_store.key("a"), start_revision=start)
        values = [event.kv.value for event in stream.events(2, watch_id)]
        assert values == [b"1", b"2"]


# --- progress, cancel and what is ignored ---------------------------------------------


def test_progress_is_answered_without_any_watch(store: Store, stream: WatchStream) -> None:
    store.put("a")
    current = revision_of(store)
    assert stream.progress().header.revision == current


def test_progress_is_answered_at_once_with_the_current_revision(
    store: Store, stream: WatchStream
) -> None:
    """W02: the bookmark is not ahead of what was delivered."""
    stream.create(store.key("a"))
    stream.create(store.key("b"))
    store.put("a")
    assert kinds(store, stream.events(1)) == [("PUT", "a")]
    current = revision_of(store)
    answer = stream.progress()
    assert (answer.header.revision, answer.compact_revision) == (current, 0)


def test_cancel_of_a_known_watch_says_so_and_ends_its_events(
    store: Store, stream: WatchStream
) -> None:
    """W07, W12."""
    stream.create(store.key("a"))
    stream.create(store.key("a"))
    stream.cancel(0)
    answer = stream.next()
    assert (answer.watch_id, answer.canceled, answer.created) == (0, True, False)
    assert (answer.cancel_reason, answer.compact_revision) == ("", 0)
    assert answer.header.revision == revision_of(store)
    for _ in range(3):
        store.put("a")
    assert len(stream.events(3, watch_id=1)) == 3


def test_what_means_nothing_is_not_answered(store: Store, stream: WatchStream) -> None:
    """Cancel of an unknown id, cancel twice, an empty request."""
    stream.create(store.key("a"))
    stream.cancel(77)
    stream.cancel(-1)
    stream.send(rpc_pb2.WatchRequest())
    stream.progress()
    stream.cancel(0)
    assert stream.next().canceled
    stream.cancel(0)
    stream.send(rpc_pb2.WatchRequest())
    stream.progress()


def test_many_watches_come_and_go_on_one_stream(store: Store, stream: WatchStream) -> None:
    """W12: a storm of creates and cancels; each is answered once, in order."""
    for number in range(200):
        stream.ask(store.key("a"))
        stream.cancel(number)
    expected = [(number, flag) for number in range(200) for flag in ("created", "canceled")]
    seen = []
    for _ in expected:
        answer = stream.next()
        seen.append((answer.watch_id, "created" if answer.created else "canceled"))
    assert seen == expected


def test_a_half_closed_stream_still_delivers(store: Store, stream: WatchStream) -> None:
    stream.create(store.key("a"))
    stream.half_close()
    store.put("a")
    assert kinds(store, stream.events(1)) == [("PUT", "a")]


def test_watches_of_a_closed_stream_are_gone(store: Store, open_stream: Open) -> None:
    one, other = open_stream(), open_stream()
    one.create(store.key("a"))
    one.close()
    end = one.end()
    assert end.code == "CANCELLED"
    other.create(store.key("a"))
    store.put("a")
    assert len(other.events(1)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("subject", SUBJECTS[:2])
def test_a_quiet_watch_hears_of_progress_at_the_interval(
    subject: str, subjects: Subjects, tmp_path: Path, stack: ExitStack
) -> None:
    """W02: the notification names a revision below which nothing can follow."""
    skip_unless_offered(subjects.target(subject), "Watch.Watch")
    if subject == "etcd":
        flag = "--experimental-watch-progress-notify-interval"
        cluster = processes.etcd(tmp_path, flag, "200ms")
    else:
        cluster = processes.raftkv(tmp_path, 1, "--watch-progress-notify-interval", "200ms")
    (server,) = stack.enter_context(cluster).servers
    store = Store(stack.enter_context(Target(server.endpoint)), b"p/")
    stream = opener(store.target, stack)()
    current = store.put("a").header.revision
    stream.create(store.key("a"))  # first: a notification may come before the next answer
    stream.create(store.key("a"), progress_notify=True)
    for _ in range(2):
        notification = stream.next()
        assert (notification.watch_id, notification.header.revision) == (1, current)
        assert list(notification.events) == []
        assert (notification.created, notification.canceled) == (False, False)
