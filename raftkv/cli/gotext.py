"""Text as Go's standard library writes and reads it.

etcdctl is the yardstick of raftctl's output, and what scripts parse there are
Go's formats: `%q` (strconv.Quote), encoding/json, time.Duration, and the
messages of strconv's errors. Everything here works on bytes or str without I/O.
"""

import base64
import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

_SHORT_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}
_UNESCAPES: Final = {escape[1]: char for char, escape in _SHORT_ESCAPES.items()} | {"'": "'"}
_ESCAPE = re.compile(
    r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3})|(.))", re.DOTALL
)


def quote(raw: bytes) -> str:
    """`raw` as `%q` prints it: printable characters stay, broken UTF-8 becomes \\xNN."""
    out = []
    for char in raw.decode("utf-8", "surrogateescape"):
        code = ord(char)
        if char in _SHORT_ESCAPES:
            out.append(_SHORT_ESCAPES[char])
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8
            out.append(f"\\x{code - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        elif code < 0x20 or code == 0x7F:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def quote_text(text: str) -> str:
    """`quote` for text from a command line, whose odd bytes came in as surrogates."""
    return quote(text.encode("utf-8", "surrogateescape"))


def unquote(text: str) -> bytes:
    """The bytes of a Go string literal, quotes included ("..." or `...`).

    Errors: ValueError for an unknown escape or a lone quote.
    """
    if len(text) < 2 or text[0] != text[-1] or text[0] not in '"`':
        raise ValueError("invalid syntax")
    body = text[1:-1]
    if text[0] == "`":
        return body.encode("utf-8", "surrogateescape")
    out = bytearray()
    end = 0
    for match in _ESCAPE.finditer(body):
        out += body[end : match.start()].encode("utf-8", "surrogateescape")
        end = match.end()
        byte, short, long, octal, single = match.groups()
        if byte or octal:
            number = int(byte, 16) if byte else int(octal, 8)
            if number > 0xFF:
                raise ValueError("invalid syntax")
            out.append(number)
        elif short or long:
            out += chr(int(short or long, 16)).encode("utf-8", "replace")
        elif single in _UNESCAPES and single != "'":
            out += _UNESCAPES[single].encode()
        else:
            raise ValueError("invalid syntax")
    out += body[end:].encode("utf-8", "surrogateescape")
    return bytes(out)


def hex_escaped(raw: bytes) -> str:
    """Each byte as \\xNN (etcdctl --hex)."""
    return "".join(f"\\x{byte:02x}" for byte in raw)


# --- numbers ------------------------------------------------------------------


def parse_int(text: str, base: int = 10, bits: int = 64, signed: bool = True) -> int:
    """A whole number as strconv.ParseInt or ParseUint reads it.

    base: 10 or 16, or 0 for the prefixes 0x, 0o, 0b and a leading 0 (octal).
    Errors: ValueError with strconv's message.
    """
    name = "ParseInt" if signed else "ParseUint"
    shape = (
        r"[0-9]+|0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+"
        if base == 0
        else (r"[0-9a-fA-F]+" if base == 16 else r"[0-9]+")
    )
    sign = r"[+-]?" if signed else ""
    if not re.fullmatch(f"{sign}(?:{shape})", text, re.ASCII):
        raise ValueError(f"strconv.{name}: parsing {quote_text(text)}: invalid syntax")
    if base == 0 and re.fullmatch(r"[+-]?0[0-9]+", text):
        base = 8
        if re.search("[89]", text):
            raise ValueError(f"strconv.{name}: parsing {quote_text(text)}: invalid syntax")
    number = int(text, base)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if not low <= number <= high:
        raise ValueError(f"strconv.{name}: parsing {quote_text(text)}: value out of range")
    return number


def duration(nanoseconds: int) -> str:
    """A time.Duration: "1.5s", "985.434µs", "2m0s", "0s"."""
    if nanoseconds < 0:
        return "-" + duration(-nanoseconds)
    for unit, scale in (("ns", 1), ("µs", 1_000), ("ms", 1_000_000)):
        if nanoseconds < scale * 1000:
            return f"{_fraction(nanoseconds, scale)}{unit}" if nanoseconds else "0s"
    minutes, rest = divmod(nanoseconds, 60 * 10**9)
    hours, minutes = divmod(minutes, 60)
    text = f"{_fraction(rest, 10**9)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _fraction(number: int, scale: int) -> str:
    whole, rest = divmod(number, scale)
    if not rest:
        return str(whole)
    digits = f"{rest:0{len(str(scale)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}"


def byte_size(count: int) -> str:
    """A size in SI units with two significant digits: "20 kB", "1.5 MB"."""
    if count < 10:
        return f"{count} B"
    exponent = 0
    while count >= 1000 ** (exponent + 1) and exponent < 6:
        exponent += 1
    tenths = int(count / 1000**exponent * 10 + 0.5)
    unit = ("B", "kB", "MB", "GB", "TB", "PB", "EB")[exponent]
    return f"{tenths / 10:.0f} {unit}" if tenths >= 100 else f"{tenths / 10:.1f} {unit}"


# --- JSON ---------------------------------------------------------------------


def json_text(value: object) -> str:
    """encoding/json's compact form: no spaces, and <, >, & and U+2028/9 escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        if char in text:
            text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def message_tree(message: "Message") -> dict[str, Any]:
    """A message as Go's generated structs marshal: proto names, zero values left out.

    Bytes are base64, numbers stay numbers, and a oneof is an object of its own
    named after the oneof with a capital letter.
    """
    tree: dict[str, Any] = {}
    fields: list[Any] = list(message.DESCRIPTOR.fields)
    for field in sorted(fields, key=lambda one: one.number):
        value = getattr(message, field.name)
        oneof = field.containing_oneof
        if oneof is not None:
            if message.HasField(field.name):
                tree[oneof.name.capitalize()] = {field.name: _json_value(field, value)}
        elif field.is_repeated:
            if value:
                tree[field.name] = [_json_value(field, one) for one in value]
        elif field.message_type is not None:
            if message.HasField(field.name):
                tree[field.name] = message_tree(value)
        elif value:
            tree[field.name] = _json_value(field, value)
    return tree


def _json_value(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return message_tree(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value
