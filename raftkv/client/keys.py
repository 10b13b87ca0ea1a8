"""Keys as the library takes them, ranges of keys, and a client's namespace.

A key is `bytes` or `str`; text is encoded as UTF-8. A range is (key, end) in etcd's form:

    end = b""      the one key
    end = b"\\0"    every key from `key` on
    else           the keys of [key, end)

A namespace is a prefix that stands before every key on the wire and that no answer shows. A
range that is open at its end stops at the namespace's end (etcd clientv3/namespace).
"""

from dataclasses import dataclass
from typing import Final

from raftkv.client.errors import EmptyKey
from raftkv.errors import Code

Key = bytes | str
OPEN_END: Final = b"\0"


def encoded(text: Key) -> bytes:
    """The bytes of a key, a value or a name; str is encoded as UTF-8."""
    return text.encode() if isinstance(text, str) else text


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys with this prefix (etcd clientv3.GetPrefixRangeEnd).

    b"\\0", an open end, if the prefix is empty or has only bytes of 255.
    """
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else OPEN_END


@dataclass(frozen=True, slots=True)
class Namespace:
    """Puts a prefix before keys and cuts it off again. prefix: may be empty."""

    prefix: bytes = b""

    def key(self, key: Key) -> bytes:
        """A key as the server knows it. Errors: EmptyKey."""
        if not key:
            raise EmptyKey("etcdserver: key is not provided", code=Code.INVALID_ARGUMENT)
        return self.prefix + (key.encode() if isinstance(key, str) else key)

    def range(self, key: Key, end: Key) -> tuple[bytes, bytes]:
        """A range as the server knows it. end: as in the module's docstring."""
        first, last = encoded(key), encoded(end)
        if not last:
            return self.key(first), b""
        last = prefix_end(self.prefix) if last == OPEN_END else self.prefix + last
        return self.prefix + first or OPEN_END, last

    def prefixed(self, prefix: Key) -> tuple[bytes, bytes]:
        """The range of all keys with this prefix, as the server knows it."""
        whole = self.prefix + encoded(prefix)
        return whole or OPEN_END, prefix_end(whole)

    def own(self, key: bytes) -> bytes:
        """A key of an answer as the user knows it."""
        assert key.startswith(self.prefix), "an answer has keys that were asked for"
        return key[len(self.prefix) :]
