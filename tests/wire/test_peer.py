"""The codec of messages between members."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import ProtocolError
from raftkv.raft import messages as m
from raftkv.raft.types import ENTRY_KINDS, Configuration, Entry, SnapshotMeta
from raftkv.wire import peer
from raftkv.wire.peer import decode_messages, encode_messages, pack, unpack
from raftkv.wire.record import encode_entry

i64 = st.integers(-(2**63), 2**63 - 1)
u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)
ids = st.lists(u64, max_size=4).map(tuple)
entries = st.lists(
    st.builds(Entry, u64, u64, st.sampled_from(ENTRY_KINDS), st.binary(max_size=40)), max_size=5
)
meta = st.builds(SnapshotMeta, u64, u64, st.builds(Configuration, ids, ids, ids, ids))
proposals = st.lists(st.tuples(u64, st.binary(max_size=40)), unique_by=lambda p: p[0]).map(sorted)
MESSAGES = {
    m.AppendEntries: st.builds(m.AppendEntries, u64, u64, u64, u64, u64, entries, u64, u64),
    m.AppendReply: st.builds(m.AppendReply, u64, u64, u64, st.booleans(), u64, u64, u64, u64),
    m.Heartbeat: st.builds(m.Heartbeat, u64, u64, u64, u64, u64),
    m.HeartbeatReply: st.builds(m.HeartbeatReply, u64, u64, u64, u64),
    m.VoteRequest: st.builds(
        m.VoteRequest, u64, u64, u64, u64, u64, st.booleans(), st.booleans(), st.booleans()
    ),
    m.VoteReply: st.builds(m.VoteReply, u64, u64, u64, st.booleans(), st.booleans()),
    m.InstallSnapshot: st.builds(m.InstallSnapshot, u64, u64, u64, meta),
    m.TimeoutNow: st.builds(m.TimeoutNow, u64, u64, u64),
    m.ReadIndexRequest: st.builds(m.ReadIndexRequest, u64, u64, u64, u64),
    m.ReadIndexReply: st.builds(m.ReadIndexReply, u64, u64, u64, u64, u64),
    m.Forward: st.builds(m.Forward, u64, u64, u64, u64, proposals),
    m.ForwardReply: st.builds(
        m.ForwardReply, u64, u64, u64, u64, st.lists(u64, max_size=4), u32, st.text(max_size=20)
    ),
    m.LeaseAsk: st.builds(
        m.LeaseAsk,
        u64,
        u64,
        u64,
        u64,
        st.lists(st.tuples(u64, st.sampled_from([m.RENEW, m.REMAINING]), i64), max_size=4),
    ),
    m.LeaseTold: st.builds(
        m.LeaseTold, u64, u64, u64, u64, st.lists(st.tuples(u64, i64, u64), max_size=4)
    ),
    m.StateReport: st.builds(m.StateReport, *[u64] * 8),
}
any_messages = st.lists(st.one_of(*MESSAGES.values()), max_size=5)
HEARTBEAT = m.Heartbeat(1, 2, 3, 4, 5)


def test_every_kind_of_message_has_a_code() -> None:
    assert set(MESSAGES) == set(m.Message.__args__)
    assert set(peer._ENCODERS) == set(MESSAGES)
    assert len(peer._DECODERS) == len(MESSAGES)


@given(any_messages)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_what_was_encoded_is_decoded(found: list[m.Message]) -> None:
    assert decode_messages(unpack(pack(encode_messages(found)))) == found


@given(any_messages.filter(bool), st.data())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_a_body_cut_anywhere_is_refused_or_ends_at_a_message(
    found: list[m.Message], draw: st.DataObject
) -> None:
    """O12."""
    body = encode_messages(found)
    cut = draw.draw(st.integers(0, len(body) - 1))
    try:
        decoded = decode_messages(body[:cut])
    except ProtocolError:
        return
    assert decoded == found[: len(decoded)]
    assert encode_messages(decoded) == body[:cut]


@given(any_messages.filter(bool), st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_damaged_body_raises_protocol_error_or_is_another_message(
    found: list[m.Message], draw: st.DataObject
) -> None:
    """O12, O13."""
    body = bytearray(encode_messages(found))
    where = draw.draw(st.integers(0, len(body) - 1))
    body[where] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        decoded = decode_messages(bytes(body))
    except ProtocolError:
        return
    assert decode_messages(encode_messages(decoded)) == decoded


@given(st.binary(max_size=120))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_noise_raises_nothing_but_protocol_error(data: bytes) -> None:
    """O12."""
    for decode in (decode_messages, unpack):
        try:
            decode(data)
        except ProtocolError:
            continue


def test_an_unknown_kind_names_the_version_as_the_problem() -> None:
    with pytest.raises(ProtocolError, match=r"unknown kind 99 .* version"):
        decode_messages(b"\x63" + bytes(4))


def test_an_unknown_kind_of_entry_is_refused() -> None:
    body = bytearray(encode_messages([m.AppendEntries(1, 2, 3, 4, 5, [Entry(1, 1, 0, b"")], 6)]))
    body[-1] = 77
    with pytest.raises(ProtocolError, match="unknown kind 77"):
        decode_messages(bytes(body))


@pytest.mark.parametrize("count", [2**32 - 1, 2**31, 1000])
def test_huge_counts_are_refused_before_anything_is_allocated(count: int) -> None:
    """O13: forged sizes."""
    append = bytearray(encode_messages([m.AppendEntries(1, 2, 3, 4, 5, [], 6)]))
    append[-4:] = struct.pack(">I", count)
    forward = bytearray(encode_messages([m.Forward(1, 2, 3, 4, [])]))
    forward[-4:] = struct.pack(">I", count)
    snapshot = bytearray(
        encode_messages([m.InstallSnapshot(1, 2, 3, SnapshotMeta(1, 1, Configuration()))])
    )
    snapshot[-4:] = struct.pack(">I", count)
    for body in (append, forward, snapshot):
        with pytest.raises(ProtocolError, match="more than fit"):
            decode_messages(bytes(body))


def test_a_length_cannot_reach_into_the_next_message() -> None:
    """O13."""
    entry = Entry(1, 1, 0, b"abc")
    body = bytearray(encode_messages([m.AppendEntries(1, 2, 3, 4, 5, [entry], 6), HEARTBEAT]))
    at = body.index(struct.pack(">I", 20))
    body[at : at + 4] = struct.pack(">I", 21)
    with pytest.raises(ProtocolError):
        decode_messages(bytes(body))


def test_forwarded_numbers_must_grow() -> None:
    """O13."""
    with pytest.raises(ProtocolError, match="do not grow"):
        decode_messages(encode_messages([m.Forward(1, 2, 3, 4, [(2, b""), (2, b"")])]))


def test_entries_travel_as_the_record_codec_writes_them() -> None:
    entry = Entry(7, 3, 1, b"payload")
    body = encode_messages([m.AppendEntries(1, 2, 3, 6, 3, [entry], 6)])
    assert body.endswith(struct.pack(">I", 24) + encode_entry(entry))


def test_a_list_for_two_followers_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = [Entry(1, 1, 0, b"x" * 100)]
    first = encode_messages([m.AppendEntries(1, 2, 3, 0, 0, shared, 0)])

    def fail(*_: object) -> bytes:
        raise AssertionError("encoded again")

    class Packer:
        pack = fail

    monkeypatch.setattr(peer, "_entry", Packer())
    second = encode_messages([m.AppendEntries(9, 2, 3, 0, 0, shared, 0)])
    assert first[21:] == second[21:]


def test_a_list_that_grew_or_changed_its_end_is_encoded_again() -> None:
    shared = [Entry(1, 1, 0, b"a")]
    append = m.AppendEntries(1, 2, 3, 0, 0, shared, 0)
    encode_messages([append])
    shared.append(Entry(2, 1, 0, b"b"))
    assert decode_messages(encode_messages([append])) == [append]
    shared[-1] = Entry(2, 2, 0, b"c")
    assert decode_messages(encode_messages([append])) == [append]


# --- Packet ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 2_100_000])
def test_packet_is_what_protobuf_writes(size: int) -> None:
    from google.protobuf.wrappers_pb2 import BytesValue  # also { bytes value = 1; }

    body = b"x" * size
    assert BytesValue.FromString(pack(body)).value == body
    assert unpack(BytesValue(value=body).SerializeToString()) == body


@pytest.mark.parametrize(
    "packet", [b"\x0b\x00", b"\x0a", b"\x0a\x01", b"\x0a\x00x", b"\x0a" + b"\xff" * 9 + b"\x01"]
)
def test_a_broken_packet_is_refused(packet: bytes) -> None:
    """O12."""
    with pytest.raises(ProtocolError):
        unpack(packet)
