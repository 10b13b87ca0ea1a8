"""What watches deliver: every fact is true of etcd first, and then of every raftkv node.

W08 and the whole content of events: order, filters, prev_kv, fragments.
"""

import pytest

from raftkv.pb import rpc_pb2
from tests.conformance.conftest import Open
from tests.conformance.store import Store
from tests.conformance.streams import (
    WatchStream,
    event_tuple,
    grant,
    kinds,
    revision_of,
    skip_unless_offered,
)

NOPUT = rpc_pb2.WatchCreateRequest.NOPUT
NODELETE = rpc_pb2.WatchCreateRequest.NODELETE


def test_the_events_of_a_txn_come_in_one_response_in_the_order_of_its_operations(
    store: Store, stream: WatchStream
) -> None:
    """W08."""
    for name in "xyz":
        store.put(name)
    stream.create(store.key(), store.end)
    revision = store.txn(
        store.op_put("d"),
        store.op_put("b"),
        store.op_delete("z"),
        store.op_put("c"),
        store.op_delete("x"),
    ).header.revision
    answer = stream.next()
    assert kinds(store, list(answer.events)) == [
        ("PUT", "d"),
        ("PUT", "b"),
        ("DELETE", "z"),
        ("PUT", "c"),
        ("DELETE", "x"),
    ]
    assert {event.kv.mod_revision for event in answer.events} == {revision}
    assert answer.header.revision == revision


def test_history_has_the_events_of_a_txn_in_the_same_order(
    store: Store, stream: WatchStream
) -> None:
    store.put("z")
    revision = store.txn(store.op_put("d"), store.op_delete("z"), store.op_put("b")).header.revision
    stream.create(store.key(), store.end, start_revision=revision)
    assert kinds(store, stream.events(3)) == [("PUT", "d"), ("DELETE", "z"), ("PUT", "b")]


def test_a_key_deleted_and_put_in_one_txn_has_both_events(
    store: Store, stream: WatchStream
) -> None:
    store.put("a", b"old")
    stream.create(store.key(), store.end, prev_kv=True)
    revision = store.txn(
        store.op_delete("a"), store.op_range("a"), store.op_put("b")
    ).header.revision
    store.txn(store.op_put("a", b"new"))
    events = stream.events(3)
    assert kinds(store, events) == [("DELETE", "a"), ("PUT", "b"), ("PUT", "a")]
    assert events[0].kv.mod_revision == revision
    assert not events[2].HasField("prev_kv")


def test_a_range_delete_gives_its_events_in_key_order(store: Store, stream: WatchStream) -> None:
    for name in "cab":
        store.put(name, b"v")
    stream.create(store.key(), store.end)
    revision = store.delete().header.revision
    answer = stream.next()
    assert [event_tuple(event) for event in answer.events] == [
        ("DELETE", store.key(name), b"", 0, revision, 0, 0) for name in "abc"
    ]


def test_a_revoked_lease_deletes_its_keys_in_one_revision_in_key_order(
    store: Store, stream: WatchStream
) -> None:
    skip_unless_offered(store.target, "Lease.LeaseLeases")
    lease = grant(store)
    for name in "cab":
        store.put(name, b"v", lease=lease)
    current = store.put("other").header.revision
    stream.create(store.key(), store.end, prev_kv=True)
    store.call(rpc_pb2.LeaseRevokeRequest(ID=lease), rpc_pb2.LeaseRevokeResponse)
    answer = stream.next()
    assert [event_tuple(event) for event in answer.events] == [
        ("DELETE", store.key(name), b"", 0, current + 1, 0, 0) for name in "abc"
    ]
    assert {event.prev_kv.lease for event in answer.events} == {lease}


def test_a_put_event_is_the_whole_pair(store: Store, stream: WatchStream) -> None:
    stream.create(store.key("a"))
    first = store.put("a", b"1").header.revision
    second = store.put("a", b"2").header.revision
    assert [event_tuple(event) for event in stream.events(2)] == [
        ("PUT", store.key("a"), b"1", first, first, 1, 0),
        ("PUT", store.key("a"), b"2", first, second, 2, 0),
    ]


@pytest.mark.parametrize(
    ("filters", "seen"),
    [
        ([NOPUT], ["DELETE", "DELETE"]),
        ([NODELETE], ["PUT", "PUT"]),
        ([NOPUT, NOPUT], ["DELETE", "DELETE"]),
    ],
)
@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
def test_filters(
    store: Store,
    stream: WatchStream,
    filters: list[rpc_pb2.WatchCreateRequest.FilterType],
    seen: list[str],
    past: bool,
) -> None:
    start = revision_of(store) + 1
    if not past:
        stream.create(store.key(), store.end, filters=filters)
    for _ in range(2):
        store.put("a")
        store.delete("a")
    if past:
        stream.create(store.key(), store.end, filters=filters, start_revision=start)
    assert [kind for kind, _ in kinds(store, stream.events(2))] == seen


def test_both_filters_leave_nothing(store: Store, stream: WatchStream) -> None:
    stream.create(store.key(), store.end, filters=[NOPUT, NODELETE])
    stream.create(store.key("b"))
    store.put("a")
    store.delete("a")
    store.put("b")
    assert kinds(store, stream.events(1, watch_id=1)) == [("PUT", "b")]


@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
def test_prev_kv_is_what_the_event_replaced(store: Store, stream: WatchStream, past: bool) -> None:
    start = revision_of(store) + 1
    if not past:
        stream.create(store.key("a"), prev_kv=True)
    first = store.put("a", b"1").header.revision
    store.put("a", b"2")
    store.delete("a")
    store.put("a", b"3")
    if past:
        stream.create(store.key("a"), prev_kv=True, start_revision=start)
    events = stream.events(4)
    assert [event.HasField("prev_kv") for event in events] == [False, True, True, False]
    assert (events[1].prev_kv.value, events[1].prev_kv.mod_revision) == (b"1", first)
    assert (events[2].prev_kv.value, events[2].prev_kv.version) == (b"2", 2)


def test_prev_kv_is_left_out_when_it_was_not_asked_for(store: Store, stream: WatchStream) -> None:
    stream.create(store.key("a"))
    store.put("a")
    store.put("a")
    assert not any(event.HasField("prev_kv") for event in stream.events(2))


def test_prev_kv_is_left_out_when_its_revision_is_compacted(
    store: Store, stream: WatchStream
) -> None:
    store.put("a", b"1")
    last = store.put("a", b"2").header.revision
    store.compact(last)
    stream.create(store.key("a"), prev_kv=True, start_revision=last)
    (event,) = stream.events(1)
    assert not event.HasField("prev_kv")


def test_every_watch_of_a_stream_gets_every_event(store: Store, stream: WatchStream) -> None:
    for _ in range(5):
        stream.create(store.key(), store.end)
    for _ in range(10):
        store.put("a")
    values: dict[int, list[int]] = {number: [] for number in range(5)}
    while sum(map(len, values.values())) < 50:
        answer = stream.next()
        values[answer.watch_id].extend(event.kv.version for event in answer.events)
    assert all(versions == list(range(1, 11)) for versions in values.values())


# --- large revisions ----------------------------------------------------------------


def _large(store: Store, keys: int = 128, value_bytes: int = 50_000) -> int:
    for number in range(keys):
        store.put(f"{number:03}", b"v" * value_bytes)
    return store.delete().header.revision


@pytest.mark.parametrize("past", [False, True], ids=["live", "history"])
def test_a_large_revision_is_cut_only_for_those_who_ask(
    store: Store, open_stream: Open, past: bool
) -> None:
    """A range delete of 6 MiB with prev_kv, whole on one stream and in fragments on another."""
    whole, cut = open_stream(), open_stream()
    start = revision_of(store) + 129
    if not past:
        whole.create(store.key(), store.end, prev_kv=True, filters=[NOPUT])
        cut.create(store.key(), store.end, prev_kv=True, filters=[NOPUT], fragment=True)
    revision = _large(store)
    assert revision == start
    if past:
        whole.create(store.key(), store.end, prev_kv=True, start_revision=start)
        cut.create(store.key(), store.end, prev_kv=True, start_revision=start, fragment=True)
    answer = whole.next()
    assert (len(answer.events), answer.fragment) == (128, False)
    pieces = [cut.next()]
    while pieces[-1].fragment:
        pieces.append(cut.next())
    assert len(pieces) > 2
    assert all(piece.ByteSize() <= 2 * 1024 * 1024 for piece in pieces)
    assert [event for piece in pieces for event in piece.events] == list(answer.events)
    assert {piece.header.revision for piece in pieces} == {answer.header.revision}


def test_a_small_revision_is_one_response_also_with_fragments(
    store: Store, stream: WatchStream
) -> None:
    stream.create(store.key(), store.end, fragment=True)
    store.txn(*(store.op_put(f"{number:03}", b"v" * 10_000) for number in range(128)))
    answer = stream.next()
    assert (len(answer.events), answer.fragment) == (128, False)
