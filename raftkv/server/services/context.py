"""What every service needs: the replica, the driver, and the header of its answers."""

from typing import Final

from raftkv.errors import NO_LEADER, NOT_FOR_LEARNER, ApiError, Code
from raftkv.kv import encoding
from raftkv.raft.types import NOBODY
from raftkv.server.driver import Driver
from raftkv.wire.grpc import RequestHead

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
        self._prefix = encoding.header_prefix(cluster, member)

    def header(self, revision: int) -> bytes:
        """Field 1 of an answer: the response header at `revision`."""
        return encoding.finish_header(self._prefix, revision, self.replica.core.term)

    def header_now(self) -> bytes:
        """The header with the store's present revision."""
        return self.header(self.replica.machine.revision)

    def refusal(self, head: RequestHead) -> ApiError | None:
        """The error for a call that this member cannot take in its present role."""
        replica = self.replica
        if b"hasleader" in head.metadata and replica.leader == NOBODY:
            return NO_LEADER
        if replica.is_learner:
            return NOT_FOR_LEARNER
        return None
