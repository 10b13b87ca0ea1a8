"""RangeStream (etcd 3.7): its pieces, merged in order, are what Range answers.

The etcd at hand has no RangeStream, so Range of the same server is the judge, and that one
is compared with etcd elsewhere.
"""

from random import Random

import grpc
import pytest

from raftkv.pb import rpc_pb2, rpc_pb2_grpc
from tests.conformance.conftest import SUBJECTS, Subjects
from tests.conformance.generate import Requests
from tests.conformance.store import COMPACTED, FUTURE, NO_KEY, Range, Store
from tests.conformance.target import Answer, Target


@pytest.fixture(params=SUBJECTS[1:])
def node(request: pytest.FixtureRequest, subjects: Subjects) -> Target:
    return subjects.target(request.param)


def _stream(node: Target, request: rpc_pb2.RangeRequest) -> list[rpc_pb2.RangeResponse]:
    stub = rpc_pb2_grpc.KVStub(node.channel)
    return [piece.range_response for piece in stub.RangeStream(request, timeout=20)]


def _merged(pieces: list[rpc_pb2.RangeResponse]) -> rpc_pb2.RangeResponse:
    whole = rpc_pb2.RangeResponse()
    for piece in pieces:
        whole.MergeFrom(piece)
    return whole


def _answer(node: Target, request: rpc_pb2.RangeRequest) -> Answer:
    """What the stream as a whole says, as if it were a unary call."""
    try:
        return Answer("OK", message=_merged(_stream(node, request)))
    except grpc.RpcError as error:
        return Answer(error.code().name, error.details() or "")


def _supported(request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeRequest:
    return Range(
        key=request.key,
        range_end=request.range_end,
        limit=request.limit,
        revision=request.revision,
        keys_only=request.keys_only,
        count_only=request.count_only,
    )


def test_merged_pieces_are_what_range_answers(node: Target) -> None:
    requests = Requests(Random(7))
    compared = 0
    while compared < 150:
        request = requests.next()
        answer = node.call(request)
        if answer.message is not None and hasattr(answer.message, "header"):
            requests.revision = max(requests.revision, answer.message.header.revision)
        if not isinstance(request, rpc_pb2.RangeRequest):
            continue
        request = _supported(request)
        assert _answer(node, request) == node.call(request), request
        compared += 1


def test_a_long_range_comes_in_pieces_and_its_count_at_the_end(node: Target) -> None:
    store = Store(node, b"stream/")
    for number in range(60):
        store.put(f"{number:03}", b"x" * 100_000)
    request = Range(key=store.key(), range_end=store.end)
    pieces = _stream(node, request)
    assert len(pieces) > 3
    assert _merged(pieces) == node.call(request).message
    assert [piece.count for piece in pieces if piece.count] == [60]
    assert pieces[-1].count == 60
    store.delete()


def test_errors_are_those_of_range(node: Target) -> None:
    store = Store(node, b"stream/")
    first = store.put("a").header.revision
    last = store.put("a").header.revision
    store.compact(last)
    for request, expected in (
        (Range(), NO_KEY),
        (store.range_of("a", revision=last + 1), FUTURE),
        (store.range_of("a", revision=first), COMPACTED),
    ):
        answer = _answer(node, request)
        assert (answer.code, answer.text) == expected


@pytest.mark.parametrize(
    "request_",
    [
        Range(key=b"a", sort_order=Range.DESCEND),
        Range(key=b"a", sort_target=Range.MOD),
        Range(key=b"a", min_mod_revision=2),
        Range(key=b"a", max_create_revision=2),
    ],
    ids=["order", "target", "min", "max"],
)
def test_what_cannot_be_streamed_is_unimplemented(
    node: Target, request_: rpc_pb2.RangeRequest
) -> None:
    """Clients fall back to Range then, as they do with a server that has no RangeStream."""
    assert _answer(node, request_).code == "UNIMPLEMENTED"
