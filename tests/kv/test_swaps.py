"""Compare-and-put read from its bytes says and leaves what the general way does."""

from typing import Final

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv import limits
from raftkv.errors import ApiError
from raftkv.kv.leases import Lease
from raftkv.kv.machine import StateMachine
from raftkv.kv.swaps import carry_out, read_swap
from raftkv.kv.txn import validate_txn
from raftkv.kv.writes import Writer, is_read_only
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import machine
from tests.kv.memory import MemoryBackend

Compare = pb.Compare
_TARGETS: Final = (Compare.VERSION, Compare.CREATE, Compare.MOD, Compare.VALUE, Compare.LEASE)
_FIELDS: Final = ("version", "create_revision", "mod_revision", "value", "lease")
_KEYS: Final = (b"a", b"a", b"a", b"a\0", b"x", b"bench/00000042", b"k" * 127, b"k" * 128)


def _put(key: bytes = b"a", value: bytes = b"new") -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def _get(key: bytes = b"a") -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


NUMBERS: Final = st.one_of(
    st.integers(0, 12), st.sampled_from([-1, 127, 128, 16384, 1 << 40, 2**63 - 1])
)
VALUES: Final = st.sampled_from(
    [b"0", b"1", b"1", b"2", b"v" * 127, b"v" * 128, b"v" * 300, b"", b"w" * 20000]
)


@st.composite
def compares(draw: st.DrawFn) -> pb.Compare:
    """Of every target and result, sometimes without the field to compare with."""
    one = Compare(key=draw(st.sampled_from(_KEYS)))
    one.result = draw(
        st.sampled_from([Compare.EQUAL, Compare.GREATER, Compare.LESS, Compare.NOT_EQUAL])
    )
    one.target = draw(st.sampled_from(_TARGETS[:4] * 4 + _TARGETS[4:]))
    field = draw(st.sampled_from([*[_FIELDS[one.target]] * 20, "version", None]))
    if field is not None:
        setattr(one, field, draw(VALUES if field == "value" else NUMBERS))
    if draw(st.integers(0, 15)) == 0:
        one.range_end = b"b"
    return one


@st.composite
def requests(draw: st.DrawFn) -> pb.TxnRequest:
    """Mostly swaps, and what looks much like one."""
    keys, rarely = st.sampled_from(_KEYS), st.integers(0, 15)
    put = _put(draw(keys), draw(VALUES))
    if draw(rarely) == 0:
        put.request_put.prev_kv = True
    request = pb.TxnRequest(compare=draw(st.lists(compares(), max_size=2)), success=[put])
    if draw(rarely) == 0:
        request.success.append(_get())
    if draw(st.booleans()):
        request.failure.append(_get(draw(keys)))
        if draw(rarely) == 0:
            request.failure[0].request_range.serializable = True
    elif draw(rarely) == 0:
        request.failure.append(_put())
    return request


def _subjects() -> list[StateMachine]:
    """Two equal machines; one key has a lease, some have left the cache."""
    subjects = [machine(MemoryBackend(), cache_bytes=700) for _ in range(2)]
    for subject in subjects:
        subject.leases.by_id[7] = Lease(7, 60_000)
        writer = subject._writer
        for number, key in enumerate([b"a", b"a", b"a\0", b"k" * 127, b"a", b"x", b"y"]):
            lease = 7 if key == b"a\0" else 0
            put = pb.PutRequest(key=key, value=b"%d" % (number % 3), lease=lease)
            writer.put_request(put)
            subject.store.close_entry()
        subject.flush()
    return subjects


def _same_state(one: StateMachine, other: StateMachine) -> None:
    for subject in (one, other):
        subject.store.close_entry()
        subject.applied_index += 1
        subject.flush()
    assert one.state_hash == other.state_hash
    assert isinstance(one.backend, MemoryBackend)
    assert isinstance(other.backend, MemoryBackend)
    assert one.backend.rows == other.backend.rows
    assert one.lease_keys(7) == other.lease_keys(7)


@settings(max_examples=400)
@given(requests())
def test_a_swap_answers_and_writes_what_the_general_way_does(request: pb.TxnRequest) -> None:
    wire = b"\0\3" + request.SerializeToString(deterministic=True)
    swap = read_swap(wire, 2)
    if swap is None:
        return
    assert validate_txn(request, limits.MAX_TXN_OPS) is None
    assert not is_read_only(request)
    quick, general = _subjects()
    body = carry_out(quick.store, wire, swap)
    wanted = Writer(general.store, general.leases.__contains__).txn(
        request, lambda: general.backend
    )
    assert not isinstance(wanted, ApiError)
    assert body == wanted
    _same_state(quick, general)


@settings(max_examples=600)
@given(
    requests(), st.integers(0, 120), st.one_of(st.none(), st.integers(0, 255)), st.integers(0, 1)
)
def test_damaged_requests_are_never_read_otherwise_than_by_protobuf(
    request: pb.TxnRequest, place: int, byte: int | None, fill: int
) -> None:
    """One byte is changed, added or taken away, or the rest is cut off."""
    wire = request.SerializeToString(deterministic=True)
    place = min(place, len(wire))
    broken = wire[:place] if byte is None else wire[:place] + bytes([byte]) + wire[place + fill :]
    _check_reading(broken)


def _check_reading(wire: bytes) -> None:
    """If these bytes are read as a swap, it is the message that protobuf reads, and no other."""
    swap = read_swap(wire, 0)
    if swap is None:
        return
    try:
        read = pb.TxnRequest.FromString(wire)
    except DecodeError:
        pytest.fail("bytes that protobuf refuses were read as a swap")
    found, at, value_at, end, read_key = swap
    again = pb.TxnRequest(success=[_put()], failure=[_get(read_key)] if read_key else [])
    for target, result, key, number_or_value in found:
        one = again.compare.add(key=key, target=target, result=result)
        setattr(one, _FIELDS[target], number_or_value)
    again.success[0].request_put.Clear()
    again.success[0].request_put.ParseFromString(wire[at:end])
    assert again.success[0].request_put.key == wire[at + 2 : value_at]
    assert again == read


@pytest.mark.parametrize("value_bytes", [1, 130])
@pytest.mark.parametrize("target", range(4))
def test_every_other_value_of_every_byte_is_read_as_protobuf_reads_it(
    value_bytes: int, target: int
) -> None:
    one = Compare(key=b"k1", target=_TARGETS[target], result=Compare.LESS)
    setattr(one, _FIELDS[target], b"v" * value_bytes if target == 3 else 300)
    put = _put(b"k2", b"v" * value_bytes)
    wire = pb.TxnRequest(compare=[one], success=[put], failure=[_get(b"k3")]).SerializeToString()
    assert read_swap(wire, 0) is not None
    for place in range(len(wire)):
        if wire[place : place + 1] != b"v":
            for byte in range(256):
                _check_reading(wire[:place] + bytes((byte,)) + wire[place + 1 :])


@pytest.mark.parametrize("target", range(4))
@pytest.mark.parametrize("failure", [[], [_get()]], ids=["put or nothing", "put or get"])
def test_what_clients_send_is_recognised(target: int, failure: list[pb.RequestOp]) -> None:
    one = Compare(key=b"bench/00000042", result=Compare.GREATER)
    one.target = _TARGETS[target]
    setattr(one, _FIELDS[target], b"" if one.target == Compare.VALUE else 0)
    for value in (b"v", b"v" * 128, b"v" * 16000):
        request = pb.TxnRequest(compare=[one, one], success=[_put(value=value)], failure=failure)
        swap = read_swap(request.SerializeToString(deterministic=True), 0)
        assert swap is not None
        assert len(swap[0]) == 2
        assert swap[4] == (b"a" if failure else b"")


def test_an_endless_number_is_refused_at_once() -> None:
    """A megabyte of one continued varint would take seconds to add up."""
    wire = b"\x0a\xff\x7f\x10\x02\x1a\x01a\x30" + b"\xff" * (1 << 20)
    assert read_swap(wire, 0) is None
