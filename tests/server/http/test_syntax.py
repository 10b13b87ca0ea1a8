"""The words of Go's decoder about text that is no JSON. The real one is asked in tests/interop."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.server.http import syntax
from raftkv.server.http.fromjson import BadJson, first_value
from raftkv.server.http.objects import Objects

BEGIN = "looking for beginning of value"
KEY = "looking for beginning of object key string"

FAULTS = [
    ("x", f"invalid character 'x' {BEGIN}"),
    ("'", f"invalid character '\\'' {BEGIN}"),
    ("\x01", f"invalid character '\\x01' {BEGIN}"),
    ("\n\v", f"invalid character '\\v' {BEGIN}"),
    ("é", f"invalid character 'Ã' {BEGIN}"),
    ("\xc2\x80", f"invalid character 'Ã' {BEGIN}"),
    ("{", syntax.UNEXPECTED_EOF),
    ('{"a"', syntax.UNEXPECTED_EOF),
    ('{"a":tru', syntax.UNEXPECTED_EOF),
    ("{a", f"invalid character 'a' {KEY}"),
    ('{"a":1,}', f"invalid character '}}' {KEY}"),
    ('{"a" 1}', "invalid character '1' after object key"),
    ('{"a":1 "b"', "invalid character '\"' after object key:value pair"),
    ("[1 2]", "invalid character '2' after array element"),
    ("[1,]", f"invalid character ']' {BEGIN}"),
    ('{"a":01}', "invalid character '1' after object key:value pair"),
    ('{"a":-x}', "invalid character 'x' in numeric literal"),
    ('{"a":1.x}', "invalid character 'x' after decimal point in numeric literal"),
    ('{"a":1e+}', "invalid character '}' in exponent of numeric literal"),
    ('{"a":nul}', "invalid character '}' in literal null (expecting 'l')"),
    ('{"a":NaN}', f"invalid character 'N' {BEGIN}"),
    ('{"a":"\n"}', "invalid character '\\n' in string literal"),
    ('{"a":"\\x"}', "invalid character 'x' in string escape code"),
    ('{"a":"\\u12g4"}', "invalid character 'g' in \\u hexadecimal character escape"),
]


@pytest.mark.parametrize(("text", "words"), FAULTS)
def test_the_first_wrong_byte_is_named_in_gos_words(text: str, words: str) -> None:
    assert syntax.fault_of_stream(text.encode()) == words
    with pytest.raises(BadJson) as caught:
        first_value(text.encode())
    assert str(caught.value) == words


@pytest.mark.parametrize("text", ['{"a":[1,{"b":null}],"c":-0.5e-7}', "1", '"x"', "{}{", "[] x"])
def test_a_whole_value_has_no_fault_whatever_follows(text: str) -> None:
    assert syntax.fault_of_stream(text.encode()) == ""


def test_a_text_that_must_be_one_value_says_what_is_behind_it() -> None:
    assert syntax.fault_of_text(b"5") == ""
    assert syntax.fault_of_text(b" 5 ") == ""
    assert syntax.fault_of_text(b"5x") == "invalid character 'x' after top-level value"
    assert syntax.fault_of_text(b"") == "unexpected end of JSON input"
    assert syntax.fault_of_text(b"-") == "unexpected end of JSON input"


PIECES = (b"", *(bytes((byte,)) for byte in b'{}[],:"\\-0.e '))


@settings(max_examples=60)
@given(st.data())
def test_both_readers_agree_on_what_is_json(data: st.DataObject) -> None:
    """The decoder takes exactly what the scanner, which only words refusals, has no fault with."""
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
    text = bytearray(json.dumps(data.draw(json_values)).encode())
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text[at : at + data.draw(st.integers(0, 2))] = data.draw(st.sampled_from(PIECES))
    try:
        taken = first_value(bytes(text)) is not None
        words = ""
    except BadJson as error:
        taken, words = False, str(error)
    fault = syntax.fault_of_stream(bytes(text))
    if text.strip(b" \t\r\n"):
        assert (taken, words) == (not fault, fault)
    else:
        assert not taken


BODY = b'{"a":"}{\\"[","b":[{}]} \n{"c":{"d":"\\\\"}}{}'


@pytest.mark.parametrize("size", range(1, len(BODY)))
def test_values_are_found_however_a_body_is_cut(size: int) -> None:
    objects, found = Objects(), []
    for at in range(0, len(BODY), size):
        objects.add(BODY[at : at + size])
        found += list(objects.complete())
    assert found == [{"a": '}{"[', "b": [{}]}, {"c": {"d": "\\"}}, {}]
    assert objects.end() is None


def test_the_last_value_may_end_with_the_body() -> None:
    objects = Objects()
    objects.add(b' {"a":1}  nul')
    assert list(objects.complete()) == [{"a": 1}]
    objects.add(b"l")
    assert list(objects.complete()) == [None]
    objects.add(b"{")
    with pytest.raises(BadJson, match="unexpected EOF"):
        objects.end()


def test_what_can_be_no_value_is_refused_before_the_body_ends() -> None:
    objects = Objects()
    objects.add(b'{"a":1}x')
    values = objects.complete()
    assert next(values) == {"a": 1}
    with pytest.raises(BadJson, match="'x' looking for beginning of value"):
        next(values)
