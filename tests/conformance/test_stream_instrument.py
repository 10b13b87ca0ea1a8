"""The stream comparison itself: what it lets pass, and what it does not."""

import pytest

from raftkv.pb import kv_pb2, rpc_pb2
from tests.conformance.stream_differential import Script


def response(
    *events: tuple[bytes, int], revision: int = 100, watch_id: int = 0
) -> rpc_pb2.WatchResponse:
    return rpc_pb2.WatchResponse(
        header=rpc_pb2.ResponseHeader(revision=revision),
        watch_id=watch_id,
        events=[kv_pb2.Event(kv=kv_pb2.KeyValue(key=key, mod_revision=mod)) for key, mod in events],
    )


def script(*responses: rpc_pb2.WatchResponse) -> Script:
    told = Script()
    for one in responses:
        told.take(one)
    return told


def test_how_events_are_dealt_out_to_responses_does_not_count() -> None:
    together = script(response((b"a", 5), (b"b", 6)))
    apart = script(response((b"a", 5)), response((b"b", 6), revision=101))
    assert together == apart


@pytest.mark.parametrize(
    "wrong",
    [
        [response((b"b", 6), (b"a", 5))],
        [response((b"a", 6)), response((b"b", 5))],
        [response((b"a", 5)), response((b"b", 5))],
        [response((b"a", 5)), response((b"a", 5))],
        [response((b"a", 5), revision=4)],
    ],
    ids=["order", "older", "split", "repeated", "future"],
)
def test_what_no_server_may_tell_is_refused(wrong: list[rpc_pb2.WatchResponse]) -> None:
    with pytest.raises(AssertionError):
        script(*wrong)


def test_a_missing_event_and_another_reason_are_differences() -> None:
    assert script(response((b"a", 5))) != script(response((b"a", 5), (b"b", 6)))
    cancelled = rpc_pb2.WatchResponse(canceled=True, compact_revision=7)
    other = rpc_pb2.WatchResponse(canceled=True, compact_revision=8)
    assert script(cancelled) != script(other)


def test_watches_of_one_stream_are_told_apart() -> None:
    told = script(response((b"a", 5)), response((b"a", 5), watch_id=1))
    assert set(told.events) == {0, 1}
