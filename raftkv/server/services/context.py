"""What every service needs: the replica, the driver, and the header of its answers."""

from typing import Final

from raftkv.errors import CORRUPT, NO_LEADER, NOT_FOR_LEARNER, STOPPED, ApiError, Code
from raftkv.kv import encoding
from raftkv.raft.types import NOBODY, Configuration
from raftkv.server.driver import Driver
from raftkv.server.services.longstreams import LongStreams
from raftkv.wire.grpc import RequestHead

MAX_VARINT_BYTES: Final = 9  # of a positive int64
ENVELOPE_BYTES: Final = 18  # etcd counts a write as it stands in its log
CANNOT_DECODE: Final = ApiError(Code.INTERNAL, "grpc: error unmarshalling request")


class Context:
    """Shared by the services of one member.

    max_request_bytes: of an encoded write. max_txn_ops: per list of a transaction.
    """

    def __init__(
        self,
        driver: Driver,
        cluster: int,
        member: int,
        max_request_bytes: int,
        max_txn_ops: int,
        quota_backend_bytes: int,
    ) -> None:
        self.driver = driver
        self.replica = driver.replica
        self.cluster = cluster
        self.member = member
        self.max_request_bytes = max_request_bytes
        self.max_txn_ops = max_txn_ops
        self.quota_backend_bytes = quota_backend_bytes
        self.propose = driver.replica.propose
        self.read = driver.replica.read
        self.long_streams = LongStreams(driver)
        self.renewal_streams = 0  # LeaseKeepAlive calls that are open
        # KV calls that clients made here since the start, also those that were refused.
        self.puts = self.ranges = self.deletes = self.txns = 0
        self.health_successes = self.health_failures = 0  # what /health has told
        self._prefix = encoding.header_prefix(cluster, member)
        # Headers of one term whose revisions take the same number of bytes differ in these alone.
        self._head = self._tail = b""
        self._revisions = range(0)
        self._term = 0
        self._header_now = b""
        self._revision_now = self._term_now = -1
        self._configuration: Configuration | None = None  # as `_is_learner` was judged by
        self._is_learner = False

    def header(self, revision: int) -> bytes:
        """Field 1 of an answer: the response header at `revision`."""
        if revision in self._revisions and self._term == self.replica.core.term:
            return self._head + encoding.varint(revision) + self._tail
        return self._first_header(revision)

    def _first_header(self, revision: int) -> bytes:
        """A header in full; remembers what the next ones will have in common with it."""
        term = self.replica.core.term
        header = encoding.finish_header(self._prefix, revision, term)
        size = len(encoding.varint(revision))
        if revision > 0 and size < MAX_VARINT_BYTES:
            behind = len(encoding.finish_header(b"", 0, term)) - 2  # without tag and length
            at = len(header) - behind
            self._head, self._tail = header[: at - size], header[at:]
            self._revisions = range(1 << 7 * (size - 1), 1 << 7 * size)
            self._term = term
        return header

    def header_now(self) -> bytes:
        """The header with the store's present revision; the same object while nothing changes."""
        revision, term = self.replica.machine.revision, self.replica.core.term
        if revision != self._revision_now or term != self._term_now:
            self._revision_now, self._term_now = revision, term
            self._header_now = self.header(revision)
        return self._header_now

    def refusal(self, head: RequestHead) -> ApiError | None:
        """The error for a call that this member cannot take in its present role."""
        replica = self.replica
        if replica.caretaker.condemned:
            return CORRUPT
        if b"hasleader" in head.metadata and replica.leader == NOBODY:
            return NO_LEADER
        configuration = replica.core.configuration
        if configuration is not self._configuration:
            self._configuration = configuration
            self._is_learner = replica.is_learner
        if not self._is_learner:
            return None
        return STOPPED if replica.member in replica.machine.removed else NOT_FOR_LEARNER
