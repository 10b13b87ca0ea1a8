"""The numbers of writes that are carried out once (raftkv.v1 Sessions). Pure but for a lock.

A session numbers its writes from 1 and tells with each one the lowest number that has no answer
yet; the server keeps the answers from there on. What lies below is never carried out again, so
giving up on a write is the same as having its answer: the number goes on, and a late attempt of
it comes to nothing.

A repetition is answered as the write was. What a server says before it looks at the session (no
leader, too many requests, a login) tells nothing about the earlier attempt: `is_answer`.
"""

import threading
from typing import Final

from raftkv.client.errors import (
    AlreadyApplied,
    ClientError,
    Compacted,
    FutureRevision,
    KeyNotFound,
    LeaseError,
    ReadsTooMuch,
)

WINDOW: Final = 64  # a session's writes under way (raftkv.limits.MAX_KEPT_ANSWERS)

# Calls that may be in a session.
PATHS: Final = frozenset(
    (
        "/etcdserverpb.KV/Put",
        "/etcdserverpb.KV/DeleteRange",
        "/etcdserverpb.KV/Txn",
        "/etcdserverpb.Lease/LeaseGrant",
        "/etcdserverpb.Lease/LeaseRevoke",
        "/raftkv.v1.KV/PutWithTTL",
    )
)


class Write:
    """One write of a session. may_be_done: an attempt of it may have been carried out."""

    __slots__ = ("_sequences", "may_be_done", "sequence")

    def __init__(self, sequences: "Sequences", sequence: int) -> None:
        self._sequences = sequences
        self.sequence: int = sequence
        self.may_be_done: bool = False

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the next attempt carries."""
        return (
            ("raftkv-session", str(self._sequences.session)),
            ("raftkv-sequence", str(self.sequence)),
            ("raftkv-unanswered", str(self._sequences.unanswered)),
        )


class Sequences:
    """The writes of one session. session: its id. May be used by several threads."""

    def __init__(self, session: int) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._next = 1
        self._under_way: set[int] = set()

    @property
    def unanswered(self) -> int:
        """The lowest number without an answer: of a write under way, else the next one."""
        with self._lock:
            return self._lowest()

    def begin(self) -> Write | None:
        """The next write; None while too many are under way."""
        with self._lock:
            if self._next - self._lowest() >= WINDOW:
                return None
            sequence = self._next
            self._next += 1
            self._under_way.add(sequence)
            return Write(self, sequence)

    def end(self, write: Write) -> None:
        """It was answered, or given up."""
        with self._lock:
            self._under_way.discard(write.sequence)

    def _lowest(self) -> int:
        return min(self._under_way, default=self._next)


def is_answer(error: ClientError) -> bool:
    """Whether an error is what the write came to, the same for every repetition of it."""
    return isinstance(
        error,
        LeaseError | KeyNotFound | ReadsTooMuch | Compacted | FutureRevision | AlreadyApplied,
    )
