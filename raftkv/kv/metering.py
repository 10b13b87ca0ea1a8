"""How much the ranges of a transaction that writes may read.

Such a transaction is applied in one go, on every member, between two other entries: a range that
reads a million keys there would hold up the whole cluster. How much it reads is known only when it
is applied, so it is refused then, as a whole and before its first write. The decision is part of
the state machine: it must depend on the entries before alone, never on what is cached, on which
rows a member has compacted away already, or on time.
"""

from typing import Final

from raftkv import limits
from raftkv.kv.encoding import ID_BYTES, ID_MAX, SUB_BITS


class Exceeded(Exception):
    """The transaction reads too much; nothing of it has been carried out."""


class Meter:
    """What one transaction may still read. compacted: the store's compacted revision."""

    __slots__ = ("_bytes_left", "_kept", "_keys_left")

    def __init__(self, compacted: int) -> None:
        self._keys_left: int = limits.MAX_TXN_READ_KEYS
        self._bytes_left: int = limits.MAX_TXN_READ_BYTES
        # Pointer rows end with the complement of the row id: newer ones are smaller.
        self._kept: Final = (ID_MAX - (max(compacted, 0) << SUB_BITS)).to_bytes(ID_BYTES, "big")

    def keys(self, count: int) -> None:
        """This many keys will be read. Raises Exceeded."""
        self._keys_left -= count
        if self._keys_left < 0:
            raise Exceeded

    def record(self, framed: bytes) -> None:
        """A version was read. Raises Exceeded."""
        self._bytes_left -= len(framed)
        if self._bytes_left < 0:
            raise Exceeded

    def row(self, row: bytes, *, deletion: bool) -> None:
        """A pointer row was read that tells what a past revision sees of a key. Raises Exceeded.

        A deletion below the compacted revision does not count: other members may have removed it.
        """
        if not deletion or row[-ID_BYTES:] <= self._kept:
            self.keys(1)
