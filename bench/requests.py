"""What the load consists of: requests encoded once, before any clock starts.

Values are random bytes, so that no system gains by compression. Keys are
`bench/00000042`; every reading row finds its keys written before.
"""

import itertools
import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from raftkv.pb import rpc_pb2

PUT: Final = b"/etcdserverpb.KV/Put"
RANGE: Final = b"/etcdserverpb.KV/Range"
TXN: Final = b"/etcdserverpb.KV/Txn"
LEASE_GRANT: Final = b"/etcdserverpb.Lease/LeaseGrant"
LEASE_REVOKE: Final = b"/etcdserverpb.Lease/LeaseRevoke"
STATUS: Final = b"/etcdserverpb.Maintenance/Status"
MEMBER_ADD: Final = b"/etcdserverpb.Cluster/MemberAdd"
MEMBER_PROMOTE: Final = b"/etcdserverpb.Cluster/MemberPromote"

POOL_OPERATIONS: Final = 8192
RANGE_KEYS: Final = 100
READS_PER_TEN: Final = 8
LEASE_SECONDS: Final = 60
PAIR_DISTANCE: Final = 2048  # far more operations than any run has under way

# TxnResponse: field 2 (succeeded) is true, then field 3 (responses) begins.
_SUCCEEDED: Final = b"\x10\x01\x1a"


class Operation(NamedTuple):
    """One request.

    path: the gRPC method. message: the encoded request.
    reply_bytes, proof: a reply that is shorter, or does not hold these bytes, is no success:
    the value is missing, or the other branch of a transaction ran.
    """

    path: bytes
    message: bytes
    reply_bytes: int
    proof: bytes = b""


def key(number: int) -> bytes:
    """The key of that number; numbers and keys sort alike up to 10^8."""
    return b"bench/%08d" % number


def _put(number: int, value: bytes) -> Operation:
    request = rpc_pb2.PutRequest(key=key(number), value=value)
    return Operation(PUT, request.SerializeToString(), 1)


def _get(number: int, value_bytes: int, *, serializable: bool = False) -> Operation:
    request = rpc_pb2.RangeRequest(key=key(number), serializable=serializable)
    return Operation(RANGE, request.SerializeToString(), value_bytes)


def _txn(number: int, value: bytes) -> Operation:
    """Puts if the key exists; the reply proves that it did."""
    request = rpc_pb2.TxnRequest(
        compare=[
            rpc_pb2.Compare(
                target=rpc_pb2.Compare.VERSION,
                result=rpc_pb2.Compare.GREATER,
                key=key(number),
                version=0,
            ),
            rpc_pb2.Compare(
                target=rpc_pb2.Compare.MOD,
                result=rpc_pb2.Compare.GREATER,
                key=key(number),
                mod_revision=0,
            ),
        ],
        success=[
            rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key(number), value=value)),
        ],
        failure=[],
    )
    return Operation(TXN, request.SerializeToString(), 1, _SUCCEEDED)


def _range(number: int, value_bytes: int) -> Operation:
    request = rpc_pb2.RangeRequest(key=key(number), range_end=key(number + RANGE_KEYS))
    return Operation(RANGE, request.SerializeToString(), RANGE_KEYS * value_bytes)


def _mixed(rng: random.Random, number: int, value_bytes: int) -> Operation:
    if rng.randrange(10) < READS_PER_TEN:
        return _get(number, value_bytes)
    return _put(number, rng.randbytes(value_bytes))


Build = Callable[[random.Random, int, int], Operation]

# kind -> how one operation is made of (random numbers, number of a key, bytes of a value).
KINDS: Final[dict[str, Build]] = {
    "put": lambda rng, number, size: _put(number, rng.randbytes(size)),
    "txn": lambda rng, number, size: _txn(number, rng.randbytes(size)),
    "get": lambda rng, number, size: _get(number, size),
    "ser-get": lambda rng, number, size: _get(number, size, serializable=True),
    "range": lambda rng, number, size: _range(number, size),
    "mixed": _mixed,
}


def lease_grant(lease: int, ttl_seconds: int) -> Operation:
    """Grants a lease with a chosen id."""
    request = rpc_pb2.LeaseGrantRequest(ID=lease, TTL=ttl_seconds)
    return Operation(LEASE_GRANT, request.SerializeToString(), 1)


def _lease_revoke(lease: int) -> Operation:
    return Operation(LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease).SerializeToString(), 1)


def lease_pairs(seed: int) -> Iterator[Operation]:
    """Grants, each followed by the revoke of the same lease, for ever.

    A revoke comes long after its grant was answered, whatever is under way.
    """
    first = (seed + 1) << 32
    ids = range(first, first + POOL_OPERATIONS)
    grants = [lease_grant(lease, LEASE_SECONDS) for lease in ids]
    revokes = [_lease_revoke(lease) for lease in ids]
    yield from grants[:PAIR_DISTANCE]
    for place in itertools.count(PAIR_DISTANCE):
        yield grants[place % POOL_OPERATIONS]
        yield revokes[(place - PAIR_DISTANCE) % POOL_OPERATIONS]


def lease_fill(*, leases: int, seed: int) -> Iterator[Operation]:
    """One grant for each of `leases` leases."""
    first = (seed + 1) << 32
    return (lease_grant(first + number, LEASE_SECONDS) for number in range(leases))


def endless(kind: str, *, keys: int, value_bytes: int, seed: int) -> Iterator[Operation]:
    """Operations of a kind on random ones of `keys` keys, for ever: a pool, repeated.

    Errors: KeyError for an unknown kind.
    """
    if kind == "lease-pair":
        return lease_pairs(seed)
    build = KINDS[kind]
    rng = random.Random(seed)
    numbers = keys - RANGE_KEYS if kind == "range" else keys
    pool = [build(rng, rng.randrange(numbers), value_bytes) for _ in range(POOL_OPERATIONS)]
    return itertools.cycle(pool)


def fill(*, keys: int, value_bytes: int, seed: int) -> Iterator[Operation]:
    """One put for each of `keys` keys, in an order that is random but the same every time."""
    rng = random.Random(seed)
    order = list(range(keys))
    rng.shuffle(order)
    return (_put(number, rng.randbytes(value_bytes)) for number in order)
