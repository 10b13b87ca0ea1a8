"""What the stream client counts is what came, wherever the bytes were cut."""

from collections.abc import Iterator
from itertools import islice
from random import Random

import pytest

from bench import requests
from bench.streaming import FANOUT_KEY, STAMP, STAMP_DIGITS, Fanout, Stamped
from bench.streams import Call, Matches, Messages, message_frame
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.wire import frames


def pieces(data: bytes, rng: Random, longest: int = 40) -> Iterator[bytes]:
    """The data, cut at random places."""
    place = 0
    while place < len(data):
        size = rng.randint(1, longest)
        yield data[place : place + size]
        place += size


def event_message(stamp: int, value_bytes: int = 40) -> bytes:
    """A gRPC message with one event of a stamped put."""
    value = STAMP + b"%0*d" % (STAMP_DIGITS, stamp)
    kv = kv_pb2.KeyValue(key=FANOUT_KEY, value=value.ljust(value_bytes, b"."))
    response = rpc_pb2.WatchResponse(events=[kv_pb2.Event(kv=kv)]).SerializeToString()
    return frames.PREFIX.pack(0, len(response)) + response


@pytest.mark.parametrize("seed", range(20))
def test_messages_are_counted_once_wherever_they_are_cut(seed: int) -> None:
    rng = Random(seed)
    data = b"".join(event_message(number, rng.randint(12, 300)) for number in range(100))
    messages = Messages()
    for piece in pieces(data, rng):
        messages.feed(piece)
    assert messages.count == 100


@pytest.mark.parametrize("seed", range(20))
def test_matches_are_found_once_wherever_they_are_cut(seed: int) -> None:
    rng = Random(seed)
    data = b"".join(event_message(number // 3, rng.randint(12, 60)) for number in range(300))
    matches = Matches(STAMP + rb"(\d{%d})" % STAMP_DIGITS, len(STAMP) + STAMP_DIGITS)
    found = [int(stamp) for piece in pieces(data, rng) for stamp in matches.feed(piece)]
    assert found == [number // 3 for number in range(300)]


@pytest.mark.parametrize("seed", range(10))
def test_a_call_takes_payloads_out_of_frames_that_are_cut_anywhere(seed: int) -> None:
    rng = Random(seed)
    got: list[bytes] = []
    call = Call("h:1", b"/p", lambda _, payload, now: got.append(payload))
    wanted = b"".join(event_message(number) for number in range(50))
    stream = frames.HEADER.pack(0 << 8 | frames.SETTINGS, 0, 0)
    for piece in pieces(wanted, rng, 100):
        stream += frames.HEADER.pack(len(piece) << 8 | frames.DATA, 0, 1) + piece
    for piece in pieces(stream, rng):
        call.data_received(piece)
    assert b"".join(got) == wanted
    assert not call.failure


def test_trailers_end_a_call_and_say_why() -> None:
    call = Call("h:1", b"/p", lambda *_: None)
    block = b"\x00\x0bgrpc-status\x0212\x00\x0cgrpc-message\x04none"
    call.data_received(frames.HEADER.pack(len(block) << 8 | frames.HEADERS, 5, 1) + block)
    assert call.failure == "the call ended with status 12: none"


def test_every_event_counts_with_the_time_since_its_put() -> None:
    stamped = Stamped(FANOUT_KEY, 64)
    puts = [rpc_pb2.PutRequest.FromString(operation.message) for operation in islice(stamped, 3)]
    assert {len(put.value) for put in puts} == {64}
    call = Call("h:1", b"/p", lambda *_: None)
    fanout = Fanout([call], stamped.sent)
    stamped.sent.update({b"00000000": 1.0, b"00000001": 2.0})
    call.on_payload(call, event_message(0) + event_message(0) + event_message(1), 5.0)
    assert sorted(fanout.new_tally().latencies) == [3.0, 4.0, 4.0]
    assert fanout.tally.latencies == []


def test_a_frame_holds_one_message() -> None:
    frame = message_frame(b"abc")
    assert frames.MESSAGE.unpack_from(frame) == (8 << 8 | frames.DATA, 0, 1, 0, 3)
    assert frame[14:] == b"abc"


def test_a_lease_is_revoked_long_after_it_was_granted_and_before_it_is_granted_again() -> None:
    granted: dict[int, int] = {}
    for place, operation in enumerate(islice(requests.lease_pairs(3), 40_000)):
        if operation.path == requests.LEASE_GRANT:
            grant = rpc_pb2.LeaseGrantRequest.FromString(operation.message)
            assert grant.ID not in granted
            assert grant.TTL == requests.LEASE_SECONDS
            granted[grant.ID] = place
        else:
            revoked = rpc_pb2.LeaseRevokeRequest.FromString(operation.message).ID
            assert place - granted.pop(revoked) >= requests.PAIR_DISTANCE


def test_pairs_of_different_seeds_do_not_meet() -> None:
    one, other = (
        {operation.message for operation in islice(requests.lease_pairs(seed), 1000)}
        for seed in (1, 2)
    )
    assert not one & other
