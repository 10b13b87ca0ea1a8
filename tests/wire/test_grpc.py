"""Values of gRPC header fields."""

import base64
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import SESSION_MISPLACED, ProtocolError
from raftkv.wire import grpc
from raftkv.wire.grpc import SESSION_METADATA, RequestHead
from raftkv.wire.requests import Refusal, parse_request


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"3S", 3.0),
        (b"250m", 0.25),
        (b"99999999u", 99.999999),
        (b"5n", 5e-9),
    ],
)
def test_timeouts_are_seconds(value: bytes, seconds: float) -> None:
    assert grpc.decode_timeout(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [b"", b"5", b"S", b"123456789S", b"-1S", b"1.5S", b"5 S", b"5s"])
def test_malformed_timeouts_are_refused(value: bytes) -> None:
    with pytest.raises(ProtocolError):
        grpc.decode_timeout(value)


@given(st.floats(1e-6, 1e9))
@settings(max_examples=200, derandomize=True)
def test_a_timeout_is_told_to_three_digits_and_never_shortened(seconds: float) -> None:
    told = grpc.decode_timeout(grpc.encode_timeout(seconds))
    assert seconds * (1 - 1e-9) <= told <= seconds * 1.001 + 1e-6


@pytest.mark.parametrize("seconds", [0.0, -5.0, 1e-12])
def test_a_timeout_that_is_over_is_still_a_valid_field(seconds: float) -> None:
    assert grpc.encode_timeout(seconds) == b"1u"


@given(st.text())
@settings(max_examples=200, derandomize=True)
def test_a_text_survives_its_escapes_and_is_printable_on_the_wire(text: str) -> None:
    encoded = grpc.encode_text(text)
    assert all(0x20 <= byte <= 0x7E for byte in encoded)
    assert grpc.decode_text(encoded) == text


def test_etcds_texts_travel_unescaped() -> None:
    text = "etcdserver: mvcc: required revision has been compacted"
    assert grpc.encode_text(text) == text.encode()


@pytest.mark.parametrize(("value", "text"), [(b"100%", "100%"), (b"%zz%41", "%zzA"), (b"%ff", "�")])
def test_broken_escapes_are_shown_as_they_are(value: bytes, text: str) -> None:
    assert grpc.decode_text(value) == text


@given(st.binary())
@settings(max_examples=200, derandomize=True)
def test_binary_values_survive_with_and_without_padding(value: bytes) -> None:
    assert grpc.decode_binary(grpc.encode_binary(value)) == value
    assert grpc.decode_binary(base64.b64encode(value)) == value


def test_several_binary_values_in_one_field_are_joined() -> None:
    assert grpc.decode_binary(b"AA==, AQ") == b"\x00,\x01"


@pytest.mark.parametrize("value", [b"!", b"A", b"AA=A", b"AAAAA"])
def test_what_is_not_base64_is_refused(value: bytes) -> None:
    with pytest.raises(ProtocolError):
        grpc.decode_binary(value)


def test_gunzip_stops_at_its_limit() -> None:
    """O14."""
    assert grpc.gunzip(gzip.compress(bytes(1000)), 1000) == bytes(1000)
    assert grpc.gunzip(gzip.compress(bytes(1001)), 1000) is None
    assert grpc.gunzip(gzip.compress(bytes(600)) * 2, 1000) is None
    assert grpc.gunzip(gzip.compress(b""), 0) == b""


def _fields(path: bytes, *metadata: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b"content-type", b"application/grpc"),
        *metadata,
    ]


@pytest.mark.parametrize("name", sorted(SESSION_METADATA))
def test_metadata_of_sessions_is_noticed_once_per_header_block(name: bytes) -> None:
    """Also where a head is made from another one; elsewhere it is refused."""
    fields = _fields(b"/a/b", (b"x-other", b"1"), (name, b"7"))
    head = parse_request(fields, (b"/a/b",), (b"/a/b",))
    assert isinstance(head, RequestHead)
    assert head.in_session
    assert head.with_timeout(1.0).in_session
    plain = parse_request(fields[:-1], (b"/a/b",), (b"/a/b",))
    assert isinstance(plain, RequestHead)
    assert not plain.in_session
    assert not plain.with_timeout(1.0).in_session
    refused = parse_request(fields, (b"/a/b",), (b"/a/c",))
    assert refused == Refusal(200, SESSION_MISPLACED.code, SESSION_MISPLACED.text)
