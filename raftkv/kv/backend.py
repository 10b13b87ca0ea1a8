"""The ordered byte store that the state machine keeps its rows in.

`storage` implements it over LevelDB and in memory; both pass one conformance suite.
Keys and values are bytes; the order is that of the bytes.
"""

from collections.abc import Iterator
from typing import Protocol

Row = tuple[bytes, bytes | None]  # value None: delete the key


class View(Protocol):
    """A consistent picture of the rows at one moment. Must be closed."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None if absent."""

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The first row whose key is >= `key`, None if there is none."""

    def scan(
        self, start: bytes, stop: bytes, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start <= key < stop, ascending (descending if `reverse`). Lazy."""

    def close(self) -> None:
        """Release the picture. Iterators made from it are dead afterwards."""


class Backend(View, Protocol):
    """The live rows. Reads see every finished `write`."""

    def write(self, rows: list[Row]) -> None:
        """All rows or none, in order; not synced. Raises DiskFailure: final."""

    def view(self) -> View:
        """A consistent picture of the rows as they are now."""

    def compact(self, start: bytes, stop: bytes) -> None:
        """Give back the space of deleted rows in [start, stop). One long blocking call."""

    def sync(self) -> None:
        """Force everything written so far into durable tables. One long blocking call."""

    def size(self) -> int:
        """Bytes on disk, approximately."""
