"""The byte codec against protobuf, and the order of rows against the order of keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import ProtocolError
from raftkv.kv import commands, encoding, loading, members, runs
from raftkv.kv.encoding import KeyValue
from raftkv.kv.store import row_key
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.raft.types import Configuration, SnapshotMeta

INT64 = st.integers(-(2**63), 2**63 - 1)
COUNT = st.integers(0, 2**63 - 1)
# Keys full of the bytes that escaping is about.
KEYS = st.lists(st.sampled_from([b"\0", b"\xff", b"\x01", b"\xfe", b"a"]), max_size=8).map(b"".join)
IDS = st.integers(1, 2**95)


@given(st.binary(max_size=300), COUNT, COUNT, COUNT, st.binary(max_size=300), INT64)
def test_a_key_value_has_the_bytes_that_protobuf_gives_it(
    key: bytes, create: int, mod: int, version: int, value: bytes, lease: int
) -> None:
    kv = KeyValue(key, create, mod, version, value, lease)
    message = kv_pb2.KeyValue(
        key=key, create_revision=create, mod_revision=mod, version=version, value=value, lease=lease
    )
    framed = encoding.encode_kv(kv)
    assert framed == encoding.frame(message.SerializeToString(deterministic=True))
    assert rpc_pb2.RangeResponse.FromString(framed).kvs[0] == message
    assert encoding.decode_kv(framed) == kv
    assert encoding.framed_value(framed) == value
    if key:
        assert row_key(encoding.NO_ID + b"\0" + framed) == key


@given(st.one_of(INT64, st.integers(0, 2**21), st.sampled_from([2**n for n in range(63)])))
def test_varints_are_protobufs(number: int) -> None:
    wire = encoding.varint(number)
    assert wire == rpc_pb2.PutRequest(lease=number).SerializeToString()[1:] or number == 0
    value, end = encoding.read_varint(wire, 0)
    assert (encoding.signed(value), end) == (number, len(wire))


@given(COUNT, COUNT, st.integers(0, 2**63 - 1), COUNT)
def test_a_header_is_protobufs(cluster: int, member: int, revision: int, term: int) -> None:
    header = rpc_pb2.ResponseHeader(
        cluster_id=cluster, member_id=member, revision=revision, raft_term=term
    )
    expected = rpc_pb2.PutResponse(header=header).SerializeToString(deterministic=True)
    assert encoding.header(cluster, member, revision, term) == expected


@given(KEYS, IDS, KEYS, IDS)
def test_pointer_rows_come_in_key_order_newest_version_first(
    one: bytes, one_id: int, other: bytes, other_id: int
) -> None:
    rows = encoding.key_row(one, one_id), encoding.key_row(other, other_id)
    assert (rows[0] < rows[1]) == ((one, -one_id) < (other, -other_id))
    assert encoding.parse_key_row(rows[0]) == (one, one_id)
    inside = encoding.key_row_start(one) <= rows[1] < encoding.key_row_stop(one)
    assert inside == (one == other)


@given(KEYS)
def test_escaping_can_be_undone(key: bytes) -> None:
    assert encoding.unescape(encoding.escape(key)) == key


@given(INT64.filter(bool))
def test_a_pointer_row_remembers_the_lease(lease: int) -> None:
    assert encoding.marked_lease(encoding.lease_mark(lease)) == lease
    assert encoding.marked_lease(b"") == encoding.marked_lease(encoding.DELETION_MARK) == 0


@given(
    st.binary(max_size=140),
    st.one_of(st.binary(max_size=140), st.integers(0, 17000).map(bytes)),
    st.integers(-1, 1),
    st.booleans(),
)
def test_the_short_cut_for_puts_is_taken_only_where_it_reads_what_protobuf_reads(
    key: bytes, value: bytes, lease: int, prev_kv: bool
) -> None:
    request = rpc_pb2.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv)
    head = commands.encode(commands.PUT, b"", origin=(1, 2, 3))
    wire = request.SerializeToString(deterministic=True)
    place = runs.plain_put(head + wire, len(head), len(head + wire))
    simple = 0 < len(key) < 128 and 0 < len(value) < 16384 and not lease and not prev_kv
    assert bool(place) == simple
    if place:
        assert (head + wire)[len(head) : place] == encoding.key_field(key)
        assert b"\x2a" + (head + wire)[place + 1 :] == encoding.value_field(value)


@given(st.binary(max_size=40))
def test_the_short_cut_never_reads_garbage_as_a_put(wire: bytes) -> None:
    if runs.plain_put(wire, 0, len(wire)):
        request = rpc_pb2.PutRequest.FromString(wire)
        plain = rpc_pb2.PutRequest(key=request.key, value=request.value)
        assert plain.SerializeToString(deterministic=True) == wire


# --- envelopes and members --------------------------------------------------------
U64 = st.integers(0, 2**64 - 1)
ORIGINS = st.one_of(st.none(), st.tuples(U64, U64, U64))
SESSIONS = st.tuples(INT64, U64, U64)


@given(st.integers(0, 255), st.binary(max_size=50), ORIGINS, st.one_of(st.none(), SESSIONS))
def test_an_envelope_is_read_as_it_was_written(
    command: int,
    request: bytes,
    origin: tuple[int, int, int] | None,
    session: tuple[int, int, int] | None,
) -> None:
    payload = commands.encode(command, request, origin, session)
    assert commands.decode(payload) == (command, request, origin, session)
    assert commands.origin(payload) == origin
    assert payload[commands.request_at(payload) :] == request


@given(st.integers(0, 255), st.binary(max_size=50), ORIGINS, SESSIONS)
def test_a_session_in_front_of_a_request_is_the_same_envelope(
    command: int,
    request: bytes,
    origin: tuple[int, int, int] | None,
    session: tuple[int, int, int],
) -> None:
    """C01: what proposes and forwards commands need not know of sessions."""
    packed = commands.session_bytes(*session) + request
    payload = commands.encode(command + commands.IN_SESSION, packed, origin)
    assert payload == commands.encode(command, request, origin, session)
    assert commands.session(payload, commands.request_at(payload)) == session


@pytest.mark.parametrize("payload", [b"", b"\0", b"\x04\x01", b"\x01\x01" + bytes(23), b"\xff\xff"])
def test_what_is_no_envelope_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        commands.decode(payload)
    assert commands.origin(payload) is None


MEMBERS = st.builds(
    members.Member,
    id=U64,
    name=st.text(max_size=10),
    peer_urls=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    client_urls=st.lists(st.text(max_size=9), max_size=3).map(tuple),
    incarnation=U64,
)


@given(MEMBERS, st.integers(1, 30))
def test_a_member_is_read_as_it_was_written_and_never_cut_short(
    member: members.Member, cut: int
) -> None:
    encoded = members.encode_member(member)
    assert members.decode_member(encoded) == member
    for damaged in (encoded[:-cut], encoded + b"\0"):
        with pytest.raises(ProtocolError):
            members.decode_member(damaged)


def test_what_a_snapshot_stands_for_survives_the_way() -> None:
    configuration = Configuration((1, 2, 3), (1, 2), (4,), ())
    meta = loading.encode_meta(9, 2, configuration)
    assert loading.decode_meta(meta) == SnapshotMeta(9, 2, configuration)
    for size in range(len(meta)):
        with pytest.raises(ProtocolError):
            loading.decode_meta(meta[:size])
