"""JSON values one behind the other, cut out of a body while it arrives.

An object is complete when its braces are; only then is it decoded, so many small pieces cost no
more than one large one. Whatever else a value may be is for the decoder, as soon as something
follows it or the body ends.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

from raftkv.server.http import syntax
from raftkv.server.http.fromjson import BadJson, first_value

_BLANKS: Final = b" \t\r\n"
_OUTSIDE: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')


class Objects:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._at = 0  # looked at so far
        self._depth = 0
        self._in_string = False

    @property
    def size(self) -> int:
        """Bytes that wait for the rest of their value."""
        return len(self._data)

    def add(self, data: bytes) -> None:
        """Takes some of the body."""
        self._data += data

    def complete(self) -> Iterator[Any]:
        """The values that are complete by now. Raises BadJson."""
        while self._is_complete():
            found = first_value(bytes(self._data[: self._at]))
            assert found is not None
            self._forget(found[1])
            yield found[0]

    def end(self) -> tuple[Any, int] | None:
        """The last value, if it ends with the body. Raises BadJson."""
        return first_value(bytes(self._data))

    def _forget(self, count: int) -> None:
        del self._data[:count]
        self._at = 0
        self._depth = 0
        self._in_string = False

    def _is_complete(self) -> bool:
        """Whether there is a whole object, which then ends at `_at`."""
        data = self._data
        if not self._at:
            blanks = len(data) - len(data.lstrip(_BLANKS))
            del data[:blanks]
            if not data:
                return False
            if data[0] not in b"{[":
                return self._complete_scalar()
        while True:
            found = (_IN_STRING if self._in_string else _OUTSIDE).search(data, self._at)
            if found is None:
                self._at = len(data)
                return False
            at, byte = found.start(), data[found.start()]
            if self._in_string:
                if byte == 0x22:
                    self._in_string = False
                elif at + 1 >= len(data):  # what is escaped has not come yet
                    self._at = at
                    return False
                else:
                    at += 1
            elif byte == 0x22:
                self._in_string = True
            else:
                self._depth += 1 if byte in b"{[" else -1
            self._at = at + 1
            if not self._depth and not self._in_string:
                return True

    def _complete_scalar(self) -> bool:
        """No message at all, but it may be about to be one of the other values."""
        fault = syntax.fault_of_stream(bytes(self._data))
        if not fault:
            self._at = len(self._data)
            return True
        if fault != syntax.UNEXPECTED_EOF:
            raise BadJson(fault)
        return False
