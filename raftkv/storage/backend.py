"""What a storage engine offers: rows of a Raft log, and rows of a state machine.

Two engines pass one conformance suite: LevelDB (`leveldb`) and memory (`memory`, with a model
of what a power cut takes). Everything above (`raftlog`, `recovery`, `snapshots`) is written
once, against the Protocols of this module.
"""

from collections.abc import Iterator
from threading import Lock
from typing import Final, Protocol

from raftkv.histogram import Histogram, exponential
from raftkv.kv.backend import Backend, Row, View

__all__ = ["Backend", "Engine", "LogRows", "Row", "RowBatch", "StateBackend", "View"]

WRITE_SECONDS: Final = exponential(0.001, 2, 14)  # the buckets of etcd's histogram of commits


class RowBatch(Protocol):
    """Changes that become durable together."""

    def put(self, key: bytes, value: bytes) -> None:
        """Adds a row to the changes."""

    def delete(self, key: bytes) -> None:
        """Adds the removal of a row to the changes."""


class LogRows(Protocol):
    """The rows of one Raft log (`segments`). CorruptionError on reads, DiskFailure on writes.

    reading: held by whoever reads records, until the last one is read.
    """

    reading: Lock

    @property
    def full(self) -> bool:
        """True if the next write should be one of `begin`."""

    @property
    def start(self) -> bytes:
        """The first record key that the newest segment may hold."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, None if absent."""

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Records with start <= key < stop, ascending."""

    def batch(self) -> RowBatch:
        """An empty set of changes."""

    def begin(self) -> RowBatch:
        """An empty set of changes that begin a new segment."""

    def commit(self, batch: RowBatch, written_bytes: int, start: bytes | None) -> None:
        """Makes all changes of `batch`, or none; durable when it returns. One long call.

        written_bytes: about its size. start: for a batch of `begin`: the first record key that
        the segment may hold; older records from there on are gone with this write.
        """

    def drop(self, before: bytes) -> None:
        """Records before this key are not needed any more."""

    @property
    def untended(self) -> bool:
        """True if `tend` should be called soon."""

    def tend(self) -> None:
        """Long work on segments that nobody waits for."""

    def size(self) -> int:
        """Bytes on disk, approximately."""

    def close(self) -> None:
        """Ends all use. No other call may be under way."""


class StateBackend(Backend, Protocol):
    """The state machine's rows in a directory of their own.

    directory: path of that directory. closed: `close` was called. write_seconds: how long calls of
    `write` took.
    """

    directory: str
    closed: bool
    write_seconds: Histogram

    def stalling(self) -> bool:
        """True when writes are about to be slowed down by background work: take in less."""

    def close(self) -> None:
        """Ends all use; views and iterators die. No other call may be under way."""


class Engine(Protocol):
    """Opens row stores in directories that exist."""

    def open_log(self, path: str, *, paranoid: bool = True) -> LogRows:
        """The rows of a log; of an empty directory: one that must be begun. `paranoid`:
        CorruptionError if the engine notices any damage."""

    def log_tail(self, path: str, kept: str) -> list[bytes]:
        """The raw files of what was written last, oldest first: evidence of records that the
        engine no longer shows (`torntail`).

        Must be asked before `open_log`, which may remove them: so they are kept in the directory
        `kept` as well, and those that an earlier opening left there come first. OSError."""

    def open_state(self, path: str, *, buffer_bytes: int, create: bool = False) -> StateBackend:
        """The rows of a state machine, exactly as of their last `sync` or a later moment at
        which the engine made them durable by itself."""
