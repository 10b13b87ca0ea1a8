"""Protobuf -> JSON as etcd's gateway writes it (golang/protobuf's jsonpb with the .proto names).

Fields stand in the order of the .proto file; those with their zero value are left out, unless
they are the chosen one of a oneof. 64-bit integers are strings, bytes are base64, enums are
names, or numbers where there is no name. Strings are escaped as by Go's encoding/json, that is
so that the text may stand in HTML.

A printer is made once per message type: a list of fields with what prints each.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

Print: TypeAlias = Callable[[Any], str]

STEP_BYTES: Final = 32 * 1024  # encoded; printed in well under a millisecond

_QUOTED: Final = frozenset(
    {
        FieldDescriptor.TYPE_INT64,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_SINT64,
        FieldDescriptor.TYPE_FIXED64,
        FieldDescriptor.TYPE_SFIXED64,
    }
)
_ESCAPED: Final = re.compile('["\\\\<>&\u2028\u2029\x00-\x1f]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quote(text: str) -> str:
    """A string as Go's encoding/json writes it."""
    return f'"{_ESCAPED.sub(_escape, text)}"'


def _escape(found: re.Match[str]) -> str:
    return _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}"


def _quoted_int(value: int) -> str:
    return f'"{value}"'


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _bytes(value: bytes) -> str:
    return f'"{b64encode(value).decode()}"'


def _enum(names: EnumDescriptor) -> Print:
    known = {number: f'"{value.name}"' for number, value in names.values_by_number.items()}
    return lambda value: known.get(value) or str(value)


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map, which is a list of entries to the wire only."""
    entry = field.message_type
    return entry is not None and bool(entry.GetOptions().map_entry)


def _map(field: FieldDescriptor) -> Print:
    """Of strings, which all keys of the API are; in their order."""
    assert field.message_type is not None
    of = _single(field.message_type.fields_by_name["value"])
    return lambda values: (
        f"{{{','.join([f'{quote(key)}:{of(values[key])}' for key in sorted(values)])}}}"
    )


def _list(of: Print) -> Print:
    return lambda values: f"[{','.join([of(value) for value in values])}]"


class Printer:
    """Prints messages of one type."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._class = GetMessageClass(descriptor)
        self._descriptor = descriptor
        self._fields: list[tuple[str, str, bool, Print]] | None = None  # made at first use

    def text(self, encoded: bytes) -> str:
        """An encoded message as JSON."""
        return self.print(self._class.FromString(encoded))

    def text_steps(self, encoded: bytes, parts: list[str]) -> Iterator[None]:
        """Adds the same text to `parts`, in steps of some kilobytes."""
        return self._steps(self._class.FromString(encoded), parts)

    def _steps(self, message: Any, parts: list[str]) -> Iterator[None]:
        separator = "{"
        for field in self._descriptor.fields:
            name, label, presence, text = _field(field)
            if not (message.HasField(name) if presence else getattr(message, name)):
                continue
            parts.append(separator + label)
            separator = ","
            value, inner = getattr(message, name), field.message_type
            if inner is None or is_map(field):
                parts.append(text(value))
            elif field.is_repeated:
                yield from _list_steps(printer(inner), value, parts)
            else:
                yield from printer(inner)._steps(value, parts)
        parts.append("}" if separator == "," else "{}")

    def print(self, message: Any) -> str:
        """A message as JSON."""
        fields = self._fields
        if fields is None:
            fields = self._fields = [_field(one) for one in self._descriptor.fields]
        parts = []
        for name, label, presence, text in fields:
            if presence:
                if message.HasField(name):
                    parts.append(label + text(getattr(message, name)))
            else:
                value = getattr(message, name)
                if value:
                    parts.append(label + text(value))
        return "{" + ",".join(parts) + "}"


def _list_steps(of: Printer, values: Any, parts: list[str]) -> Iterator[None]:
    separator, size = "[", 0
    for value in values:
        parts.append(separator)
        separator = ","
        bytes_ = value.ByteSize()
        if bytes_ > STEP_BYTES:
            yield from of._steps(value, parts)
        else:
            parts.append(of.print(value))
        size += bytes_
        if size > STEP_BYTES:
            size = 0
            yield
    parts.append("]")


_printers: dict[str, Printer] = {}


def printer(descriptor: Descriptor) -> Printer:
    """The printer of a message type."""
    known = _printers.get(descriptor.full_name)
    if known is None:
        known = _printers[descriptor.full_name] = Printer(descriptor)
    return known


def _field(field: FieldDescriptor) -> tuple[str, str, bool, Print]:
    """Attribute, `"name":`, whether HasField tells that it is there, and its printer."""
    if is_map(field):
        text = _map(field)
    else:
        text = _single(field)
        if field.is_repeated:
            text = _list(text)
    return field.name, f'"{field.name}":', bool(field.has_presence), text


def _single(field: FieldDescriptor) -> Print:
    kind = field.type
    if kind == FieldDescriptor.TYPE_MESSAGE:
        assert field.message_type is not None
        return printer(field.message_type).print
    if kind == FieldDescriptor.TYPE_BYTES:
        return _bytes
    if kind == FieldDescriptor.TYPE_STRING:
        return quote
    if kind == FieldDescriptor.TYPE_BOOL:
        return _bool
    if kind == FieldDescriptor.TYPE_ENUM:
        assert field.enum_type is not None
        return _enum(field.enum_type)
    return _quoted_int if kind in _QUOTED else str
