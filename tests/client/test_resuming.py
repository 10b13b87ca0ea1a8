"""What is known of a watch: wherever its streams are cut, the user sees one unbroken history."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client.errors import (
    AuthenticationFailed,
    BadRequest,
    Cancelled,
    ClientError,
    ClusterChanged,
    Compacted,
    NoLeader,
    NoSpace,
    NotConnected,
    PermissionDenied,
    ServerError,
    TimedOut,
    TooManyRequests,
    Unavailable,
)
from raftkv.client.keys import Namespace
from raftkv.client.results import Event, Header, WatchBatch
from raftkv.client.resuming import LONGEST_PAUSE_SECONDS, Pacing, Resuming, Wanted, goes_on
from raftkv.errors import Code
from raftkv.pb import kv_pb2, rpc_pb2

CLUSTER = 77


def batch(response: rpc_pb2.WatchResponse) -> WatchBatch:
    events = tuple(Event.read(event, Namespace()) for event in response.events)
    return WatchBatch(Header.read(response.header), events)


def resuming(wanted: Wanted | None = None) -> Resuming:
    return Resuming(wanted or Wanted(b"k"), batch)


def header(revision: int, cluster: int = CLUSTER) -> rpc_pb2.ResponseHeader:
    return rpc_pb2.ResponseHeader(cluster_id=cluster, member_id=1, revision=revision, raft_term=2)


def created(revision: int, cluster: int = CLUSTER) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(header=header(revision, cluster), created=True)


def put(key: bytes, revision: int) -> kv_pb2.Event:
    return kv_pb2.Event(
        kv=kv_pb2.KeyValue(key=key, value=b"%d" % revision, mod_revision=revision, version=1)
    )


def events(
    revision: int, *given: kv_pb2.Event, fragment: bool = False, watch_id: int = 0
) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(
        header=header(revision), events=given, fragment=fragment, watch_id=watch_id
    )


# --- any cut, any place ---------------------------------------------------------------
class Store:
    """A model of a store and of servers that watch it, some of them behind.

    revisions: what each revision wrote; number 0 is revision 1, which is empty.
    """

    def __init__(self) -> None:
        self.revisions: list[list[kv_pb2.Event]] = [[]]

    @property
    def revision(self) -> int:
        return len(self.revisions)

    def write(self, keys: list[bytes]) -> None:
        revision = self.revision + 1
        self.revisions.append([put(key, revision) for key in keys])

    def matching(self, first: int, last: int) -> list[kv_pb2.Event]:
        return [
            event
            for revision in range(max(first, 1), last + 1)
            for event in self.revisions[revision - 1]
            if event.kv.key.startswith(b"k")
        ]

    def stream(
        self, request: rpc_pb2.WatchCreateRequest, behind: int, data: st.DataObject
    ) -> Iterator[rpc_pb2.WatchResponse | None]:
        """What one server sends; None: nothing for the time being.

        behind: how many revisions it lags at first.
        """
        applied = max(self.revision - behind, 1)
        yield created(applied)
        needed = request.start_revision or applied + 1
        while True:
            if needed > applied:
                applied = self.revision
                kind = data.draw(st.sampled_from(["nothing", "notice", "answer"]), "idle")
                if kind == "notice" and needed <= applied + 1:
                    applied = max(applied, needed - 1)
                    if not self.matching(needed, applied):
                        needed = applied + 1
                        yield rpc_pb2.WatchResponse(header=header(applied))
                elif kind == "answer":  # ahead of events still to come, as some releases do
                    yield rpc_pb2.WatchResponse(header=header(self.revision), watch_id=-1)
                else:
                    yield None
                continue
            last = min(applied, needed + data.draw(st.integers(0, 3), "revisions at once"))
            found = self.matching(needed, last)
            needed = last + 1
            if not found:
                continue
            size = len(found)
            if request.fragment:
                size = data.draw(st.integers(1, len(found)), "fragment")
            for place in range(0, len(found), size):
                more = place + size < len(found)
                yield events(applied, *found[place : place + size], fragment=more)


@given(st.data())
def test_any_cut_of_the_streams_gives_each_event_once_in_order_and_whole(
    data: st.DataObject,
) -> None:
    """No event is lost, repeated or reordered, and no revision is handed out in halves."""
    store = Store()
    key_lists = st.lists(st.sampled_from([b"k1", b"k2", b"k3", b"other"]), max_size=4, unique=True)
    for _ in range(data.draw(st.integers(0, 4), "writes before")):
        store.write(data.draw(key_lists))
    start = data.draw(st.sampled_from([0, 0, 1, 2, store.revision, store.revision + 2]), "start")
    wanted = Wanted(
        b"k",
        b"l",
        start_revision=start,
        fragment=data.draw(st.booleans(), "fragment"),
        progress_notify=data.draw(st.booleans(), "progress"),
    )
    state = resuming(wanted)
    got: list[tuple[int, bytes]] = []
    first = start
    first_known = False
    told = 0  # by a notice of progress
    for number in range(data.draw(st.integers(1, 6), "streams") + 1):
        behind = data.draw(st.integers(0, 3), "behind") if number else 0
        stream = store.stream(state.begin().create_request, behind, data)
        for _ in range(data.draw(st.integers(0, 12), "responses until the cut")):
            response = next(stream)
            if response is None:
                store.write(data.draw(key_lists))
                continue
            handed = state.feed(response)
            if response.created and not first_known:
                first, first_known = start or response.header.revision + 1, True
            if state.doubt:
                state.settle(store.revision)
            if handed is None:
                continue
            assert handed.is_progress <= wanted.progress_notify
            if handed.is_progress:
                told = max(told, handed.revision)
            revisions = [event.revision for event in handed.events]
            assert all(revision > told for revision in revisions), "behind a notice of progress"
            got += [(event.revision, event.key) for event in handed.events]
        if first_known:
            shown = store.matching(first, state.next_revision - 1)
            assert got == [(event.kv.mod_revision, event.kv.key) for event in shown]


def test_a_cut_between_two_fragments_brings_the_whole_revision_again() -> None:
    state = resuming(Wanted(b"k", fragment=True))
    state.begin()
    state.feed(created(4))
    assert state.feed(events(5, put(b"k1", 5), fragment=True)) is None
    assert state.begin().create_request.start_revision == 5
    state.feed(created(5))
    assert state.feed(events(5, put(b"k1", 5), fragment=True)) is None
    handed = state.feed(events(5, put(b"k2", 5)))
    assert handed is not None
    assert [event.key for event in handed] == [b"k1", b"k2"]
    assert state.next_revision == 6


def test_from_now_on_becomes_a_revision_with_the_first_confirmation() -> None:
    """What is written between the first stream and the second is not lost."""
    state = resuming()
    assert state.begin().create_request.start_revision == 0
    state.feed(created(9))
    assert state.begin().create_request.start_revision == 10
    state.feed(created(15))
    assert state.next_revision == 10


def test_what_was_asked_for_is_asked_for_again() -> None:
    wanted = Wanted(b"k", b"l", 3, prev_kv=True, no_put=True, no_delete=True, fragment=True)
    state = resuming(wanted)
    first = state.begin().create_request
    assert (first.prev_kv, list(first.filters), first.fragment) == (True, [0, 1], True)
    assert first.progress_notify, "a quiet watch must follow the store"
    state.feed(created(9))
    state.feed(events(9, put(b"k", 7)))
    second = state.begin().create_request
    assert second.start_revision == 8
    second.start_revision = 3
    assert first == second


def test_a_quiet_watch_follows_the_store_and_survives_a_compaction() -> None:
    """Its keys never change; the notices move its place on, though nobody asked for them."""
    state = resuming()
    state.begin()
    state.feed(created(9))
    assert state.feed(rpc_pb2.WatchResponse(header=header(5000))) is None
    assert state.begin().create_request.start_revision == 5001


def test_the_answer_to_a_progress_request_moves_nothing() -> None:
    """Some releases of etcd answer ahead of events that are still to come."""
    state = resuming(Wanted(b"k", progress_notify=True))
    state.begin()
    state.feed(created(9))
    assert state.feed(rpc_pb2.WatchResponse(header=header(12), watch_id=-1)) is None
    assert state.next_revision == 10
    assert state.feed(events(12, put(b"k", 11))) is not None


def test_a_notice_before_the_start_is_not_handed_out() -> None:
    state = resuming(Wanted(b"k", start_revision=100, progress_notify=True))
    state.begin()
    state.feed(created(9))
    assert state.feed(rpc_pb2.WatchResponse(header=header(20))) is None
    assert state.next_revision == 100
    handed = state.feed(rpc_pb2.WatchResponse(header=header(120)))
    assert handed is not None
    assert handed.is_progress
    assert state.next_revision == 121


def test_a_repeated_event_is_not_handed_out_again() -> None:
    state = resuming()
    state.begin()
    state.feed(created(9))
    state.feed(events(10, put(b"k", 10)))
    assert state.feed(events(10, put(b"k", 10))) is None
    handed = state.feed(events(11, put(b"k", 10), put(b"k", 11)))
    assert handed is not None
    assert [event.revision for event in handed] == [11]


# --- how watches end ------------------------------------------------------------------
def ended(response: rpc_pb2.WatchResponse, state: Resuming | None = None) -> ClientError:
    state = state or resuming()
    state.begin()
    with pytest.raises(ClientError) as caught:
        state.feed(response)
    return caught.value


def test_a_compaction_is_told_apart_and_says_from_where_to_go_on() -> None:
    error = ended(rpc_pb2.WatchResponse(canceled=True, compact_revision=50))
    assert isinstance(error, Compacted)
    assert error.compact_revision == 50


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("etcdserver: permission denied", PermissionDenied),
        ("rpc error: code = PermissionDenied desc = etcdserver: permission denied", None),
        ("mvcc: duplicate watch ID provided on the WatchStream", Cancelled),
        ("etcdserver: no leader", NoLeader),
        ("", Cancelled),
    ],
)
def test_a_cancelled_watch_says_why(reason: str, kind: type[ClientError] | None) -> None:
    error = ended(
        rpc_pb2.WatchResponse(
            header=header(5), created=True, canceled=True, watch_id=-1, cancel_reason=reason
        )
    )
    assert type(error) is (kind or PermissionDenied)
    assert error.text


def test_another_cluster_ends_the_watch() -> None:
    """C15."""
    state = resuming()
    state.begin()
    state.feed(created(9))
    error = ended(created(9, cluster=78), state)
    assert isinstance(error, ClusterChanged)
    assert "4d" in error.text


def test_a_store_that_was_put_back_ends_the_watch() -> None:
    """C15: the same cluster id, but even a linearizable read finds less than was seen."""
    state = resuming()
    state.begin()
    state.feed(created(9))
    state.feed(events(30, put(b"k", 30)))
    state.begin()
    state.feed(created(12))
    assert state.doubt == 30
    with pytest.raises(ClusterChanged):
        state.settle(15)


def test_a_member_that_is_behind_does_not_end_the_watch() -> None:
    """It confirms at an old revision, but the store is where it was: it will catch up."""
    state = resuming()
    state.begin()
    state.feed(created(9))
    state.feed(events(30, put(b"k", 30)))
    assert state.begin().create_request.start_revision == 31
    state.feed(created(12))
    state.settle(30)
    assert state.doubt == 0
    assert state.feed(events(31, put(b"k", 31))) is not None


def test_a_start_in_the_future_is_no_doubt() -> None:
    state = resuming(Wanted(b"k", start_revision=100))
    state.begin()
    state.feed(created(9))
    assert state.doubt == 0


# --- which streams are opened again -----------------------------------------------------
@pytest.mark.parametrize(
    "kind", [NoLeader, NotConnected, Unavailable, TimedOut, Cancelled, ServerError, TooManyRequests]
)
def test_what_may_be_better_elsewhere_goes_on(kind: type[ClientError]) -> None:
    assert goes_on(kind("text", code=Code.UNAVAILABLE))


@pytest.mark.parametrize(
    "kind", [PermissionDenied, AuthenticationFailed, BadRequest, Compacted, ClusterChanged, NoSpace]
)
def test_what_is_the_same_everywhere_ends_the_watch(kind: type[ClientError]) -> None:
    assert not goes_on(kind("text", code=Code.UNKNOWN))


def test_every_endpoint_is_tried_at_once_and_then_rounds_slow_down() -> None:
    """No busy loop when all endpoints are down, and never more than two seconds."""
    pacing = Pacing(3)
    pauses = [pacing.pause() for _ in range(40)]
    assert pauses[:3] == [0.0, 0.0, 0.0]
    between = pauses[3::3]
    assert between[0] > 0
    assert between == sorted(between)
    assert between[-1] == LONGEST_PAUSE_SECONDS
    assert not any(pauses[4::3])
    assert not any(pauses[5::3])
    pacing.well()
    assert pacing.pause() == 0.0


def test_a_single_endpoint_is_not_asked_in_a_busy_loop() -> None:
    pacing = Pacing(1)
    assert pacing.pause() == 0.0
    assert all(pacing.pause() > 0 for _ in range(5))
