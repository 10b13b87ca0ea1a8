"""Random requests of the KV service, from one seed: every option, and every kind of mistake.

Keys come from a small, nasty alphabet so that requests meet each other; revisions come
from what both servers have reached, so that history, compaction and the future are all hit.

Left out on purpose: transactions nested deeper than raftkv's own bound, and what ends the
process of an etcd 3.5.1, which is an unknown sort target, and a transaction that deletes
[key, "\\0") and then puts a key of that range with ignore_value or ignore_lease.
"""

from collections.abc import Iterator
from random import Random
from typing import Final

from google.protobuf.message import Message

from raftkv.pb import rpc_pb2

KEYS: Final = (
    b"\x00",
    b"\x00\x00",
    b"\x00\xff",
    b"a",
    b"a\x00",
    b"aa",
    b"ab",
    b"a\xff",
    b"b",
    b"b/1",
    b"b/2",
    b"b/3",
    b"b/10",
    "schlüssel".encode(),
    b"k1",
    b"k2",
    b"k3",
    b"k4",
    b"z",
    b"\xfe",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
)
VALUES: Final = (b"", b"1", b"2", b"10", b"\x00", b"value", b"v\x00w", b"\xff" * 30, b"x" * 2000)
NO_SUCH_LEASE: Final = 4711
LEASES: Final = (1, 2, 3, -1, -(1 << 63), (1 << 63) - 1)
# Seconds; none ends during a run. The last one is too many.
TTLS: Final = (600, 86_401, 8_999_999_999, 9_000_000_000, 9_000_000_001)
MAX_DEPTH: Final = 3

Range = rpc_pb2.RangeRequest


class Requests:
    """An endless source of requests.

    leases: whether leases are granted and revoked, keys attached to them, and who is asked.
    revision, compacted: where the store stands; the caller keeps them true.
    """

    def __init__(self, random: Random, *, leases: bool = False) -> None:
        self._random = random
        self._leases = leases
        self.revision = 1
        self.compacted = 0

    def next(self) -> Message:
        """One request, fit for sending to every server under test."""
        if self._leases and self._chance(15):
            return self._lease()
        kind = self._random.choices(
            ("put", "range", "delete", "txn", "compact"), (30, 34, 8, 26, 2)
        )[0]
        if kind == "put":
            return self._put()
        if kind == "range":
            return self._range()
        if kind == "delete":
            return self._delete()
        if kind == "txn":
            return _without_the_crash(self._txn())
        return self._compact()

    # --- parts ----------------------------------------------------------------

    def _chance(self, per_cent: float) -> bool:
        return self._random.random() * 100 < per_cent

    def _key(self) -> bytes:
        return b"" if self._chance(0.7) else self._random.choice(KEYS)

    def _range_end(self, key: bytes) -> bytes:
        kind = self._random.randrange(6)
        if kind < 2:
            return b""
        if kind == 2:
            return b"\x00"
        if kind == 3:
            return _prefix_end(key)
        return self._random.choice(KEYS)

    def _some_revision(self) -> int:
        """Mostly a readable revision; else around an edge."""
        if self._chance(70) and self.revision > self.compacted:
            return self._random.randint(max(self.compacted, 1), self.revision)
        edges = (-1, 0, 1, self.compacted - 1, self.compacted, self.compacted + 1)
        return self._random.choice((*edges, self.revision, self.revision + 1, 2**62))

    # --- requests -------------------------------------------------------------

    def _put(self) -> rpc_pb2.PutRequest:
        request = rpc_pb2.PutRequest(key=self._key(), value=self._random.choice(VALUES))
        request.prev_kv = self._chance(30)
        if self._chance(8):
            request.ignore_value = True
            if self._chance(85):
                request.value = b""
        if self._chance(6):
            request.ignore_lease = True
        if self._chance(1.5):
            request.lease = NO_SUCH_LEASE
        if self._leases and not request.ignore_lease and self._chance(45):
            request.lease = self._random.choice(LEASES)
        return request

    def _lease(self) -> Message:
        """A grant, a revoke, or which keys go with a lease."""
        kind = self._random.choices(("grant", "revoke", "keys"), (45, 25, 30))[0]
        lease = self._random.choice((*LEASES, NO_SUCH_LEASE))
        if kind == "keys":
            return rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=self._chance(80))
        if kind == "grant" and lease != NO_SUCH_LEASE:
            return rpc_pb2.LeaseGrantRequest(ID=lease, TTL=self._random.choice(TTLS))
        return rpc_pb2.LeaseRevokeRequest(ID=lease)

    def _range(self) -> rpc_pb2.RangeRequest:
        request = Range(key=self._key())
        request.range_end = self._range_end(request.key)
        if self._chance(40):
            request.limit = self._random.choice((-1, 0, 1, 2, 3, 5, 100))
        if self._chance(30):
            request.revision = self._some_revision()
        if self._chance(40):
            request.sort_order = self._random.choice((0, 1, 2, 2, 9, 77, -1))  # type: ignore[assignment]
            request.sort_target = self._random.choice(Range.SortTarget.values())
        request.serializable = self._chance(30)
        request.keys_only = self._chance(15)
        request.count_only = self._chance(10)
        for field in ("mod", "create"):
            for side in ("min", "max"):
                if self._chance(6):
                    setattr(request, f"{side}_{field}_revision", self._some_revision())
        return request

    def _delete(self) -> rpc_pb2.DeleteRangeRequest:
        request = rpc_pb2.DeleteRangeRequest(key=self._key(), prev_kv=self._chance(40))
        if self._chance(50):
            request.range_end = self._range_end(request.key)
        return request

    def _compact(self) -> rpc_pb2.CompactionRequest:
        request = rpc_pb2.CompactionRequest(physical=self._chance(30))
        if self._chance(60):
            low = self.compacted + 1
            request.revision = self._random.randint(low, max(low, self.revision))
        else:
            request.revision = self._some_revision()
        return request

    def _compare(self) -> rpc_pb2.Compare:
        random = self._random
        compare = rpc_pb2.Compare(key=self._key())
        compare.result = random.choice((0, 0, 0, 1, 2, 3))  # type: ignore[assignment]
        if self._chance(3):
            compare.result = 17  # type: ignore[assignment]
        compare.target = random.choice(rpc_pb2.Compare.CompareTarget.values())
        given = compare.target if self._chance(92) else random.randrange(6)
        if given == rpc_pb2.Compare.VERSION:
            compare.version = random.randrange(4)
        elif given == rpc_pb2.Compare.CREATE:
            compare.create_revision = random.choice((0, self._some_revision()))
        elif given == rpc_pb2.Compare.MOD:
            compare.mod_revision = random.choice((0, self._some_revision()))
        elif given == rpc_pb2.Compare.VALUE:
            compare.value = random.choice(VALUES)
        elif given == rpc_pb2.Compare.LEASE:
            compare.lease = random.choice((0, *(LEASES if self._leases else ()), NO_SUCH_LEASE))
        if self._chance(25):
            compare.range_end = self._range_end(compare.key)
        return compare

    def _op(self, depth: int) -> rpc_pb2.RequestOp:
        kind = self._random.choices(
            ("put", "range", "delete", "txn", "nothing"),
            (45, 30, 12, 12 if depth < MAX_DEPTH else 0, 0.4),
        )[0]
        if kind == "put":
            return rpc_pb2.RequestOp(request_put=self._put())
        if kind == "range":
            return rpc_pb2.RequestOp(request_range=self._range())
        if kind == "delete":
            return rpc_pb2.RequestOp(request_delete_range=self._delete())
        if kind == "txn":
            return rpc_pb2.RequestOp(request_txn=self._txn(depth + 1))
        return rpc_pb2.RequestOp()

    def _txn(self, depth: int = 0) -> rpc_pb2.TxnRequest:
        random = self._random
        request = rpc_pb2.TxnRequest()
        request.compare.extend(self._compare() for _ in range(random.choice((0, 1, 1, 2))))
        for branch in (request.success, request.failure):
            branch.extend(self._op(depth) for _ in range(random.choice((0, 1, 1, 2, 3))))
        if self._chance(0.3):
            too_many = [rpc_pb2.RequestOp(request_range=Range(key=b"a"))] * random.choice(
                (128, 129)
            )
            request.failure.extend(too_many)
        return request


def _without_the_crash(request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnRequest:
    ops = list(_all_ops(request))
    if any(op.request_delete_range.range_end == b"\0" for op in ops):
        for op in ops:
            if op.HasField("request_put"):
                op.request_put.ignore_value = op.request_put.ignore_lease = False
    return request


def _all_ops(request: rpc_pb2.TxnRequest) -> Iterator[rpc_pb2.RequestOp]:
    for op in (*request.success, *request.failure):
        yield op
        if op.HasField("request_txn"):
            yield from _all_ops(op.request_txn)


def _prefix_end(key: bytes) -> bytes:
    """The range end that covers all keys beginning with `key`."""
    stem = key.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\x00"
