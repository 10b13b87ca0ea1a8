"""What Go's encoding/json says about text that is no JSON.

Only used once a decoder has refused something, so that clients are told the same as by etcd:
the text is walked again as Go's scanner would, byte by byte, up to the first byte that it would
not take. Source: the behaviour of Go's encoding/json, as etcd's gateway shows it.
"""

from typing import Final

UNEXPECTED_EOF: Final = "unexpected EOF"  # of a stream's decoder
UNEXPECTED_END: Final = "unexpected end of JSON input"  # of json.Unmarshal
TOO_DEEP: Final = "exceeded max depth"

_BLANKS: Final = frozenset(b" \t\r\n")
_DIGITS: Final = frozenset(b"0123456789")
_HEX: Final = frozenset(b"0123456789abcdefABCDEF")
_ESCAPES: Final = frozenset(b'bfnrt\\/"')
_MAX_DEPTH: Final = 10_000


class _End(Exception):
    """The text ended too early."""


class _Bad(Exception):
    """A byte that cannot stand there."""

    def __init__(self, byte: int, where: str) -> None:
        super().__init__(f"invalid character {_quoted(byte)} {where}")


def _quoted(byte: int) -> str:
    """A byte in single quotes, as Go's scanner shows it."""
    if byte == 0x27:
        return "'\\''"
    if byte == 0x22:
        return "'\"'"
    named = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 92: "\\"}.get(byte)
    if named is not None:
        return f"'\\{named}'"
    if byte < 0x20 or byte == 0x7F:
        return f"'\\x{byte:02x}'"
    if 0x80 <= byte < 0xA1 or byte == 0xAD:
        return f"'\\u{byte:04x}'"
    return f"'{chr(byte)}'"


class _Scanner:
    """Walks one value."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def next(self) -> int:
        """The next byte. Raises _End."""
        if self.at >= len(self._data):
            raise _End
        self.at += 1
        return self._data[self.at - 1]

    def solid(self) -> int:
        """The next byte that is no blank."""
        byte = self.next()
        while byte in _BLANKS:
            byte = self.next()
        return byte

    def walk(self) -> None:
        """A value with all that it contains, without recursion."""
        inside: list[int] = []  # { and [ that are open
        byte = self.solid()
        while True:
            if byte in b"{[":
                inside.append(byte)
                if len(inside) > _MAX_DEPTH:
                    raise RecursionError
                closed = self._opened(byte)
                if closed is not None:
                    byte = closed
                    continue
                inside.pop()
            else:
                self._scalar(byte)
            following = self._behind(inside)
            if following is None:
                return
            byte = following

    def _opened(self, byte: int) -> int | None:
        """Behind { or [: the first byte of the first value in it, None if it is empty."""
        following = self.solid()
        if byte == 0x5B:
            return None if following == 0x5D else following
        return None if following == 0x7D else self._key(following)

    def _key(self, byte: int) -> int:
        """A key and its colon; the first byte of its value."""
        if byte != 0x22:
            raise _Bad(byte, "looking for beginning of object key string")
        self._string()
        colon = self.solid()
        if colon != 0x3A:
            raise _Bad(colon, "after object key")
        return self.solid()

    def _behind(self, inside: list[int]) -> int | None:
        """Behind a value: the first byte of the next one, None if the outermost one is over."""
        while inside:
            byte = self.solid()
            if inside[-1] == 0x7B:
                if byte == 0x2C:
                    return self._key(self.solid())
                if byte != 0x7D:
                    raise _Bad(byte, "after object key:value pair")
            else:
                if byte == 0x2C:
                    return self.solid()
                if byte != 0x5D:
                    raise _Bad(byte, "after array element")
            inside.pop()
        return None

    # --- scalars ------------------------------------------------------------

    def _scalar(self, byte: int) -> None:
        if byte == 0x22:
            self._string()
        elif byte == 0x2D or byte in _DIGITS:
            self._number(byte)
        elif byte in b"tfn":
            word = {0x74: b"true", 0x66: b"false", 0x6E: b"null"}[byte]
            for expected in word[1:]:
                found = self.next()
                if found != expected:
                    where = f"in literal {word.decode()} (expecting {_quoted(expected)})"
                    raise _Bad(found, where)
        else:
            raise _Bad(byte, "looking for beginning of value")

    def _string(self) -> None:
        while True:
            byte = self.next()
            if byte == 0x22:
                return
            if byte < 0x20:
                raise _Bad(byte, "in string literal")
            if byte == 0x5C:
                self._escape()

    def _escape(self) -> None:
        byte = self.next()
        if byte == 0x75:
            for _ in range(4):
                digit = self.next()
                if digit not in _HEX:
                    raise _Bad(digit, "in \\u hexadecimal character escape")
        elif byte not in _ESCAPES:
            raise _Bad(byte, "in string escape code")

    def _number(self, byte: int) -> None:
        if byte == 0x2D:
            byte = self.next()
            if byte not in _DIGITS:
                raise _Bad(byte, "in numeric literal")
        if byte != 0x30:
            self._digits()
        if self._peek(b"."):
            self._some_digits("after decimal point in numeric literal")
        if self._peek(b"eE"):
            self._peek(b"+-")
            self._some_digits("in exponent of numeric literal")

    def _peek(self, wanted: bytes) -> bool:
        if self.at < len(self._data) and self._data[self.at] in wanted:
            self.at += 1
            return True
        return False

    def _some_digits(self, where: str) -> None:
        byte = self.next()
        if byte not in _DIGITS:
            raise _Bad(byte, where)
        self._digits()

    def _digits(self) -> None:
        while self.at < len(self._data) and self._data[self.at] in _DIGITS:
            self.at += 1


def fault_of_stream(data: bytes) -> str:
    """What a stream's decoder says about its first value; "" if it is well."""
    try:
        _Scanner(data).walk()
    except _End:
        return UNEXPECTED_EOF
    except _Bad as bad:
        return str(bad)
    except RecursionError:
        return TOO_DEEP
    return ""


def fault_of_text(data: bytes) -> str:
    """What json.Unmarshal says about a text that has to be one value; "" if it is well."""
    scanner = _Scanner(data)
    try:
        scanner.walk()
        while True:
            byte = scanner.next()
            if byte not in _BLANKS:
                raise _Bad(byte, "after top-level value")
    except _End:
        complete = scanner.at >= len(data) and _walks(data)
        return "" if complete else UNEXPECTED_END
    except _Bad as bad:
        return str(bad)
    except RecursionError:
        return TOO_DEEP


def _walks(data: bytes) -> bool:
    try:
        _Scanner(data).walk()
    except (_End, _Bad):
        return False
    return True
