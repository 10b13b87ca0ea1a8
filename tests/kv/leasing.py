"""Short names for what the tests of leases do to a machine."""

from typing import Any

from raftkv.kv import commands, leases
from raftkv.kv.encoding import LEASE_ROWS
from raftkv.kv.machine import Result, StateMachine
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import TERM, Driver

Put = pb.PutRequest
SMALLEST, LARGEST = -(1 << 63), (1 << 63) - 1


def ok(outcome: Any) -> Result:
    """The outcome, which must be a success."""
    assert isinstance(outcome, Result), outcome
    return outcome


def put(driver: Driver, key: bytes, lease: int = 0, **options: Any) -> Result:
    return ok(driver.submit(Put(key=key, value=b"v", lease=lease, **options)))


def revoke(driver: Driver, lease: int) -> Any:
    return driver.command(commands.LEASE_REVOKE, leases.revoke_request(lease))


def expire(
    driver: Driver, *ids: int, decided: int = TERM, term: int = TERM, known: int | None = None
) -> Result:
    """known: the index that was applied when it was decided; None: everything."""
    known = driver.machine.applied_index if known is None else known
    request = leases.expire_request(decided, known, list(ids))
    return ok(driver.command(commands.LEASE_EXPIRE, request, term))


def checkpoint(driver: Driver, *remaining: tuple[int, int], known: int | None = None) -> Result:
    known = driver.machine.applied_index if known is None else known
    request = leases.checkpoint_request(known, list(remaining))
    return ok(driver.command(commands.LEASE_CHECKPOINT, request))


def put_with_ttl(driver: Driver, own: int, ttl_ms: int, **fields: Any) -> Any:
    request = leases.put_with_ttl_request(own, ttl_ms, Put(**fields).SerializeToString())
    return driver.command(commands.PUT_WITH_TTL, request)


def keys(subject: StateMachine) -> dict[bytes, int]:
    """key -> lease of everything that exists."""
    answer = ok(subject.range(pb.RangeRequest(key=b"\0", range_end=b"\0")))
    return {kv.key: kv.lease for kv in pb.RangeResponse.FromString(answer.body).kvs}


def lease_rows(subject: StateMachine) -> list[tuple[bytes, bytes]]:
    subject.flush()
    return list(subject.backend.scan(*LEASE_ROWS))
