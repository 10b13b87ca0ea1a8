"""JSON -> protobuf bytes, taking and refusing what etcd's gateway does, in its words.

golang/protobuf's jsonpb on Go's encoding/json: fields by their .proto or camelCase name, the
latter wins; unknown ones are ignored; null is "not given". Integers may be strings. bytes are
standard base64 with padding, or an array of numbers. Enums are names or numbers.

The encoder is made once per message type and writes the wire format itself: fields in the order
of their numbers, zero values left out, as any protobuf library would. So a plain put arrives at
its service as the same bytes that a gRPC client sends.

Errors: BadJson with the words of Go. The first wrong field in the order of the .proto is named.
"""

import binascii
import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from raftkv.kv.encoding import varint
from raftkv.server.http import syntax
from raftkv.server.http.tojson import is_map

Encode: TypeAlias = Callable[[Any], bytes]

_INTS: Final = {
    FieldDescriptor.TYPE_INT32: ("int32", -(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: ("int64", -(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: ("uint32", 0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: ("uint64", 0, 2**64 - 1),
}
_OBJECT: Final = "map[string]json.RawMessage"
_LIST: Final = "[]json.RawMessage"
_ENUM: Final = "protoreflect.EnumNumber"
_BLANKS: Final = " \t\r\n"


class BadJson(Exception):
    """A body that is refused; the text is for the client."""


class _Literal(str):
    """A number that is no integer, as it was written."""

    __slots__ = ()


def _constant(text: str) -> None:
    raise ValueError(text)


_decoder: Final = json.JSONDecoder(parse_float=_Literal, parse_constant=_constant)


def first_value(data: bytes) -> tuple[Any, int] | None:
    """The first JSON value in a body and how many bytes it takes; None if there is none.

    Raises BadJson.
    """
    text = data.decode("utf-8", "replace")
    start = len(text) - len(text.lstrip(_BLANKS))
    if start == len(text):
        return None
    try:
        value, end = _decoder.raw_decode(text, start)
    except RecursionError:
        raise BadJson(syntax.TOO_DEEP) from None
    except ValueError:
        raise BadJson(syntax.fault_of_stream(data) or syntax.UNEXPECTED_EOF) from None
    return value, end if len(text) == len(data) else len(text[:end].encode("utf-8"))


def _kind(value: Any) -> str:
    """What Go calls a JSON value."""
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, _Literal | int):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _mismatch(value: Any, wanted: str, with_number: bool = False) -> BadJson:
    kind = _kind(value)
    if kind == "number" and with_number:
        kind = f"number {value}"
    return BadJson(f"json: cannot unmarshal {kind} into Go value of type {wanted}")


# --- scalars ------------------------------------------------------------------


def _integer(value: Any, name: str, least: int, most: int) -> int:
    if type(value) is str:  # in quotes: what is in there must be JSON by itself
        value = _unquoted(value)
    if type(value) is int and least <= value <= most:
        return value
    if value is None:
        return 0
    raise _mismatch(value, name, True)


def _unquoted(text: str) -> Any:
    if text.isascii() and text.isdigit() and (text == "0" or text[0] != "0") and len(text) < 40:
        return int(text)
    if '"' in text or "\\" in text:  # what is read is what was written between the quotes
        text = json.dumps(text)[1:-1]
    fault = syntax.fault_of_text(text.encode())
    if fault:
        raise BadJson(fault)
    return _decoder.decode(text)


def _integers(kind: int) -> Encode:
    name, least, most = _INTS[kind]

    def encode(value: Any) -> bytes:
        number = _integer(value, name, least, most)
        return varint(number & 0xFFFFFFFFFFFFFFFF) if number else b""

    return encode


def _bool(value: Any) -> bytes:
    if value is None or value is False:
        return b""
    if value is True:
        return b"\x01"
    raise _mismatch(value, "bool")


def _string(value: Any) -> bytes:
    if value is None:
        return b""
    if type(value) is not str:
        raise _mismatch(value, "string")
    return value.encode("utf-8", "replace")


def _bytes(value: Any) -> bytes:
    if type(value) is str:
        size, padding = len(value), value.find("=")
        if not size & 3 and (padding < 0 or padding >= size - 2):
            try:
                return binascii.a2b_base64(value, strict_mode=True)
            except ValueError:
                pass
        return _lenient_base64(value.encode("utf-8", "replace"))
    if value is None:
        return b""
    if type(value) is list:
        return bytes([_integer_alone(one) for one in value])
    raise _mismatch(value, "[]uint8")


def _integer_alone(value: Any) -> int:
    if type(value) is int and 0 <= value <= 255:
        return value
    if value is None:
        return 0
    raise _mismatch(value, "uint8", True)


_ALPHABET: Final = {
    byte: value
    for value, byte in enumerate(
        b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    )
}


def _lenient_base64(text: bytes) -> bytes:
    """base64 in which line ends count for nothing (Go), and the place of its first fault."""
    at, out = 0, bytearray()
    while at < len(text):
        group: list[int] = []
        while len(group) < 4:
            if at == len(text):
                if not group:
                    return bytes(out)
                raise _bad_base64(at - len(group))
            byte = text[at]
            at += 1
            if byte in b"\r\n":
                continue
            sextet = _ALPHABET.get(byte)
            if sextet is not None:
                group.append(sextet)
                continue
            if byte != 0x3D or len(group) < 2:
                raise _bad_base64(at - 1)
            _check_padding(text, at, len(group))
            out += _joined(group)
            return bytes(out)
        out += _joined(group)
    return bytes(out)


def _check_padding(text: bytes, at: int, sextets: int) -> None:
    """at: behind the first "="."""

    def skip(at: int) -> int:
        while at < len(text) and text[at] in b"\r\n":
            at += 1
        return at

    if sextets == 2:
        at = skip(at)
        if at == len(text):
            raise _bad_base64(len(text))
        if text[at] != 0x3D:
            raise _bad_base64(at - 1)
        at += 1
    at = skip(at)
    if at < len(text):
        raise _bad_base64(at)


def _joined(group: list[int]) -> bytes:
    bits = 0
    for sextet in group:
        bits = bits << 6 | sextet
    bits <<= 6 * (4 - len(group))
    return bits.to_bytes(3, "big")[: len(group) - 1]


def _bad_base64(at: int) -> BadJson:
    return BadJson(f"illegal base64 data at input byte {at}")


def _enums(names: EnumDescriptor) -> Encode:
    def encode(value: Any) -> bytes:
        if type(value) is str:
            named = names.values_by_name.get(value)
            if named is None:
                shown = json.dumps(json.dumps(value, ensure_ascii=False), ensure_ascii=False)
                raise BadJson(f"unknown value {shown} for enum {names.full_name}")
            number = int(named.number)
        elif value is None:
            return b""
        elif type(value) is int and -(2**31) <= value < 2**31:
            number = value
        else:
            raise _mismatch(value, _ENUM, True)
        return varint(number & 0xFFFFFFFFFFFFFFFF) if number else b""

    return encode


# --- messages -------------------------------------------------------------------


class _Field:
    """number: of the field. tag: with its wire type. sized: a length comes before the value."""

    __slots__ = ("camel", "encode", "map", "name", "number", "presence", "repeated", "sized", "tag")

    def __init__(self, field: FieldDescriptor) -> None:
        self.name = field.name
        self.camel = field.json_name if field.json_name != field.name else ""
        self.number = field.number
        self.map = is_map(field)
        self.repeated = bool(field.is_repeated)
        self.presence = bool(field.has_presence)
        self.encode, self.sized = _single(field)
        self.tag = varint(field.number << 3 | (2 if self.sized else 0))
        if self.repeated and not self.sized:
            self.tag = varint(field.number << 3 | 2)  # packed

    def write(self, value: Any) -> bytes:
        """The field with its tag; b"" if it has its zero value."""
        if self.repeated:
            return self._write_list(value)
        encoded = self.encode(value)
        if self.sized:
            if encoded or self.presence:
                return self.tag + varint(len(encoded)) + encoded
            return b""
        if encoded:
            return self.tag + encoded
        return self.tag + b"\0" if self.presence else b""

    def _write_list(self, values: Any) -> bytes:
        if self.map and type(values) is dict:
            values = [{"key": key, "value": value} for key, value in values.items()]
        elif self.map:
            raise _mismatch(values, _OBJECT)
        if type(values) is not list:
            raise _mismatch(values, _LIST)
        encoded = [self.encode(value) for value in values]
        if self.sized:
            return b"".join([self.tag + varint(len(one)) + one for one in encoded])
        if not encoded:
            return b""
        packed = b"".join([one or b"\0" for one in encoded])
        return self.tag + varint(len(packed)) + packed


def _single(field: FieldDescriptor) -> tuple[Encode, bool]:
    kind = field.type
    if kind == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        return encoder(field.message_type).encode, True
    if kind == FieldDescriptor.TYPE_BYTES:
        return _bytes, True
    if kind == FieldDescriptor.TYPE_STRING:
        return _string, True
    if kind == FieldDescriptor.TYPE_BOOL:
        return _bool, False
    if kind == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return _enums(field.enum_type), False
    return _integers(kind), False


class Encoder:
    """Encodes messages of one type."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._fields: list[_Field] | None = None  # in the order of the .proto; made at first use
        self._sorted = True  # that is also the order of their numbers

    def _make(self) -> list[_Field]:
        fields = [_Field(field) for field in self._descriptor.fields]
        numbers = [field.number for field in fields]
        self._sorted = numbers == sorted(numbers)
        self._fields = fields
        return fields

    def encode(self, value: Any) -> bytes:
        """The wire format of a decoded JSON value. Raises BadJson."""
        if type(value) is not dict:
            if value is None:
                return b""
            raise _mismatch(value, _OBJECT)
        fields = self._fields or self._make()
        parts = []
        get = value.get
        for field in fields:
            given = get(field.name)
            if field.camel and field.camel in value:
                given = value[field.camel]
            if given is not None:
                parts.append((field.number, field.write(given)))
        if not self._sorted:
            parts.sort()
        return b"".join([part for _, part in parts])


_encoders: dict[str, Encoder] = {}


def encoder(descriptor: Descriptor) -> Encoder:
    """The encoder of a message type."""
    known = _encoders.get(descriptor.full_name)
    if known is None:
        known = _encoders[descriptor.full_name] = Encoder(descriptor)
    return known
