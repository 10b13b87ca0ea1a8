"""Text as Go writes it: quoting, durations, sizes, numbers, JSON and tables."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.cli import gotext, table
from raftkv.pb import rpc_pb2


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"", '""'),
        (b"plain", '"plain"'),
        (b'a"b\\', '"a\\"b\\\\"'),
        (b"\a\b\f\n\r\t\v", '"\\a\\b\\f\\n\\r\\t\\v"'),
        (b"\x00\x1b\x7f", '"\\x00\\x1b\\x7f"'),
        (b"\xff\xc3\xa9", '"\\xffé"'),
        ("\u2028\u00ad\u00a0".encode(), '"\\u2028\\u00ad\\u00a0"'),
        ("\U0001f600\U000e0001".encode(), '"😀\\U000e0001"'),
        ("\ufffd".encode(), '"\ufffd"'),
    ],
)
def test_quote_escapes_what_go_escapes(raw: bytes, text: str) -> None:
    assert gotext.quote(raw) == text


@given(st.binary())
def test_unquote_undoes_quote(raw: bytes) -> None:
    assert gotext.unquote(gotext.quote(raw)) == raw


def test_unquote_reads_raw_strings_and_every_escape() -> None:
    assert gotext.unquote("`a\\n`") == b"a\\n"
    assert gotext.unquote('"\\x41\\101\\u00e9\\U0001f600"') == "AAé😀".encode()


@pytest.mark.parametrize("text", ["", '"', "a", '"a', "'a'", '"\\q"', '"\\x4"', '"\\777"'])
def test_unquote_refuses_what_is_no_literal(text: str) -> None:
    with pytest.raises(ValueError, match="invalid syntax"):
        gotext.unquote(text)


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (999, "999ns"),
        (1_000, "1µs"),
        (985_434, "985.434µs"),
        (1_878_320, "1.87832ms"),
        (2_000_446_164, "2.000446164s"),
        (60 * 10**9, "1m0s"),
        (3_661_500_000_000, "1h1m1.5s"),
        (-1_500_000_000, "-1.5s"),
    ],
)
def test_durations_are_written_as_go_does(nanoseconds: int, text: str) -> None:
    assert gotext.duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (99, "99 B"),
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (1_536, "1.5 kB"),
        (20_480, "20 kB"),
        (999_949, "1000 kB"),
        (2_147_483_648, "2.1 GB"),
    ],
)
def test_sizes_have_two_digits_and_si_units(count: int, text: str) -> None:
    assert gotext.byte_size(count) == text


@pytest.mark.parametrize(
    ("text", "base", "number"),
    [
        ("10", 10, 10),
        ("-1", 10, -1),
        ("+5", 10, 5),
        ("ff", 16, 255),
        ("0x1F", 0, 31),
        ("010", 0, 8),
    ],
)
def test_numbers_are_read_as_strconv_does(text: str, base: int, number: int) -> None:
    assert gotext.parse_int(text, base) == number


@pytest.mark.parametrize(
    ("text", "base", "signed", "error"),
    [
        ("x", 10, True, 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("", 10, True, 'strconv.ParseInt: parsing "": invalid syntax'),
        ("1_0", 10, True, 'strconv.ParseInt: parsing "1_0": invalid syntax'),
        (" 1", 10, True, 'strconv.ParseInt: parsing " 1": invalid syntax'),
        ("089", 0, True, 'strconv.ParseInt: parsing "089": invalid syntax'),
        ("-1", 16, False, 'strconv.ParseUint: parsing "-1": invalid syntax'),
        (str(2**63), 10, True, f'strconv.ParseInt: parsing "{2**63}": value out of range'),
        (
            "1" + "0" * 16,
            16,
            False,
            f'strconv.ParseUint: parsing "1{"0" * 16}": value out of range',
        ),
    ],
)
def test_a_bad_number_is_refused_in_strconvs_words(
    text: str, base: int, signed: bool, error: str
) -> None:
    with pytest.raises(ValueError) as raised:
        gotext.parse_int(text, base, signed=signed)
    assert str(raised.value) == error


def test_json_leaves_out_zeros_and_escapes_html() -> None:
    reply = rpc_pb2.MemberListResponse(
        header=rpc_pb2.ResponseHeader(cluster_id=2**64 - 1),
        members=[rpc_pb2.Member(ID=1, name="<a&b>"), rpc_pb2.Member()],
    )
    assert gotext.json_text(gotext.message_tree(reply)) == (
        '{"header":{"cluster_id":18446744073709551615},'
        '"members":[{"ID":1,"name":"\\u003ca\\u0026b\\u003e"},{}]}'
    )


def test_json_keeps_an_empty_message_that_is_set_and_drops_one_that_is_not() -> None:
    assert gotext.message_tree(rpc_pb2.TxnResponse(header=rpc_pb2.ResponseHeader())) == {
        "header": {}
    }
    assert gotext.message_tree(rpc_pb2.TxnResponse()) == {}


def test_a_table_centres_headings_and_sets_cells_right() -> None:
    assert table.render(["ID", "HASH"], [["1234567", "8"]]) == (
        "+---------+------+\n"
        "|   ID    | HASH |\n"
        "+---------+------+\n"
        "| 1234567 |    8 |\n"
        "+---------+------+\n"
    )


def test_a_long_cell_is_broken_at_blanks() -> None:
    text = table.render(
        ["ERROR"], [["etcdserver: request timed out, possibly due to a lost leader"]]
    )
    lines = text.splitlines()[3:-1]
    assert len(lines) == 2
    assert all(len(line) <= len("| ") + table.WRAP_COLUMNS + len(" |") for line in lines)


def test_a_wide_character_takes_two_columns() -> None:
    lines = table.render(["N"], [["日本"], ["abcd"]]).splitlines()
    assert lines[3] == "| 日本 |"
    assert lines[4] == "| abcd |"
