"""Lines of an export: every pair survives them, and a wrong line says what is wrong."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.cli.pairlines import BadLine, Header, Pair, header_line, pair_line, parse_line
from raftkv.pb import kv_pb2


@given(st.binary(min_size=1), st.binary(), st.integers(0, 2**63 - 1))
def test_every_pair_comes_back_as_it_was(key: bytes, value: bytes, lease: int) -> None:
    pair = kv_pb2.KeyValue(key=key, value=value, lease=lease, mod_revision=7)
    line = pair_line(pair)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert parse_line(line, may_be_header=True) == Pair(key, value, lease != 0)


@given(st.text(min_size=1), st.text())
def test_what_is_text_stays_readable(key: str, value: str) -> None:
    line = pair_line(kv_pb2.KeyValue(key=key.encode(), value=value.encode()))
    assert b"base64" not in line


def test_the_first_line_promises_revision_and_count() -> None:
    assert parse_line(header_line(57, 2), may_be_header=True) == Header(57, 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[1]", "not a JSON object"),
        (b'"a"', "not a JSON object"),
        (b'{"key":"a"}', "needs either 'value' or"),
        (b'{"value":"a"}', "needs either 'key' or"),
        (b'{"key":"a","key_base64":"YQ==","value":""}', "needs either 'key' or"),
        (b'{"key":"","value":""}', "the key is empty"),
        (b'{"key":1,"value":""}', "'key' is not text"),
        (b'{"key":"a","value":null}', "'value' is not text"),
        (b'{"key":"a","value_base64":"&"}', "'value_base64' is not base64"),
        (b'{"key":"\\ud800","value":""}', "half of a character"),
        (b'{"key":"a","value":"","ttl":5}', "unknown field 'ttl'"),
        (b'{"format":"other","version":1}', "format 'other' 1 is not known"),
        (b'{"format":"raftkv-export","version":2}', "is not known"),
        (b'{"format":"raftkv-export","version":1,"revision":1}', "no count"),
        (b"[" * 100_000, "not "),
    ],
)
def test_a_wrong_line_says_what_is_wrong(line: bytes, reason: str) -> None:
    with pytest.raises(BadLine, match=reason.replace("(", r"\(")):
        parse_line(line, may_be_header=True)


def test_a_header_in_the_middle_is_refused() -> None:
    with pytest.raises(BadLine, match="second header"):
        parse_line(header_line(1, 1), may_be_header=False)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_pair_a_header_or_a_bad_line(line: bytes) -> None:
    with contextlib.suppress(BadLine):
        assert isinstance(parse_line(line, may_be_header=True), Pair | Header)
