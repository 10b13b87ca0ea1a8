"""Leases: every fact is true of etcd first, and then of every kind of raftkv node.

M06, M08, M11 and M12 of the failure catalogue as far as one client can see them.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Final

import pytest

from raftkv.pb import rpc_pb2
from tests.conformance.conftest import SUBJECTS
from tests.conformance.store import NO_LEASE, Store
from tests.conformance.streams import PATIENCE_SECONDS, Ended, KeepAliveStream, skip_unless_offered

EXISTS: Final = ("FAILED_PRECONDITION", "etcdserver: lease already exists")
TOO_LARGE_TTL: Final = ("OUT_OF_RANGE", "etcdserver: too large lease TTL")
MAX_TTL: Final = 9_000_000_000
SHORT_TTL: Final = 5  # and yet longer than a busy machine stands still
POLL_SECONDS: Final = 0.1
UNKNOWN: Final = 4_000_000

Open = Callable[[], KeepAliveStream]


@pytest.fixture
def leases(store: Store) -> Store:
    """A server that has leases."""
    skip_unless_offered(store.target, "Lease.LeaseLeases")
    return store


@pytest.fixture
def open_stream(leases: Store) -> Iterator[Open]:
    with ExitStack() as stack:

        def start() -> KeepAliveStream:
            stream = KeepAliveStream(leases.target)
            stack.callback(stream.close)
            return stream

        yield start


@pytest.fixture
def stream(open_stream: Open) -> KeepAliveStream:
    return open_stream()


def grant(store: Store, ttl: int = 600, lease: int = 0) -> rpc_pb2.LeaseGrantResponse:
    request = rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease)
    return store.call(request, rpc_pb2.LeaseGrantResponse)


def revoke(store: Store, lease: int) -> rpc_pb2.LeaseRevokeResponse:
    return store.call(rpc_pb2.LeaseRevokeRequest(ID=lease), rpc_pb2.LeaseRevokeResponse)


def left(store: Store, lease: int, *, keys: bool = False) -> rpc_pb2.LeaseTimeToLiveResponse:
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=keys)
    return store.call(request, rpc_pb2.LeaseTimeToLiveResponse)


def listed(store: Store) -> list[int]:
    answer = store.call(rpc_pb2.LeaseLeasesRequest(), rpc_pb2.LeaseLeasesResponse)
    return [status.ID for status in answer.leases]


def exists(store: Store, name: str) -> bool:
    return store.range(name).count == 1


# --- grant ------------------------------------------------------------------------


def test_the_server_chooses_a_positive_id(leases: Store) -> None:
    first, second = grant(leases), grant(leases)
    assert first.ID > 0
    assert second.ID > 0
    assert first.ID != second.ID
    assert (first.TTL, first.error) == (600, "")
    for lease in (first.ID, second.ID):
        revoke(leases, lease)


@pytest.mark.parametrize("lease", [77_001, -77_001, 2**63 - 1, -(2**63)])
def test_chosen_ids_are_kept(leases: Store, lease: int) -> None:
    assert lease == grant(leases, lease=lease).ID
    assert leases.fails(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=600)) == EXISTS
    assert left(leases, lease).grantedTTL == 600
    revoke(leases, lease)
    assert lease == grant(leases, lease=lease).ID
    revoke(leases, lease)


@pytest.mark.parametrize(
    ("asked", "granted"), [(-1, 2), (0, 2), (1, 2), (2, 2), (3, 3), (-(2**63), 2)]
)
def test_a_short_ttl_is_raised_to_the_minimum(leases: Store, asked: int, granted: int) -> None:
    answer = grant(leases, ttl=asked)
    assert granted == answer.TTL
    revoke(leases, answer.ID)


def test_the_longest_ttl(leases: Store) -> None:
    answer = grant(leases, ttl=MAX_TTL)
    assert answer.TTL == MAX_TTL
    assert MAX_TTL - 60 <= left(leases, answer.ID).TTL <= MAX_TTL
    revoke(leases, answer.ID)


@pytest.mark.parametrize("ttl", [MAX_TTL + 1, 2**63 - 1])
def test_a_longer_ttl_is_refused(leases: Store, ttl: int) -> None:
    assert leases.fails(rpc_pb2.LeaseGrantRequest(TTL=ttl)) == TOO_LARGE_TTL
    assert leases.fails(rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=77_002)) == TOO_LARGE_TTL


def test_grant_and_revoke_without_keys_leave_the_revision_alone(leases: Store) -> None:
    before = leases.put("a").header.revision
    answer = grant(leases)
    assert answer.header.revision == before
    assert left(leases, answer.ID).header.revision == before
    assert revoke(leases, answer.ID).header.revision == before


# --- revoke -----------------------------------------------------------------------


def test_revoke_deletes_the_keys_in_one_revision_before_it_answers(leases: Store) -> None:
    lease = grant(leases).ID
    for name in "cab":
        leases.put(name, lease=lease)
    before = leases.put("other").header.revision
    assert revoke(leases, lease).header.revision == before + 1
    assert leases.names(leases.range()) == ["other"]
    assert left(leases, lease).TTL == -1


@pytest.mark.parametrize("lease", [0, UNKNOWN, -1])
def test_revoke_of_an_unknown_lease(leases: Store, lease: int) -> None:
    assert leases.fails(rpc_pb2.LeaseRevokeRequest(ID=lease)) == NO_LEASE


def test_a_second_revoke_finds_nothing(leases: Store) -> None:
    lease = grant(leases).ID
    revoke(leases, lease)
    assert leases.fails(rpc_pb2.LeaseRevokeRequest(ID=lease)) == NO_LEASE
    assert leases.fails(leases.put_of("a", lease=lease)) == NO_LEASE


def test_only_keys_that_are_still_attached_go_with_a_lease(leases: Store) -> None:
    one, other = grant(leases).ID, grant(leases).ID
    for name in ("kept", "moved", "gone", "again", "ignored"):
        leases.put(name, lease=one)
    leases.put("kept")
    leases.put("moved", lease=other)
    leases.delete("gone")
    leases.delete("again")
    leases.put("again")
    leases.put("ignored", b"new", ignore_lease=True)
    assert list(left(leases, one, keys=True).keys) == [leases.key("ignored")]
    revoke(leases, one)
    assert leases.names(leases.range()) == ["again", "kept", "moved"]
    revoke(leases, other)
    assert leases.names(leases.range()) == ["again", "kept"]


def test_a_revoke_of_many_keys_is_one_revision(leases: Store) -> None:
    lease = grant(leases).ID
    for batch in range(3):
        leases.txn(*(leases.op_put(f"{batch}/{n:03}", lease=lease) for n in range(128)))
    before = leases.range().header.revision
    assert revoke(leases, lease).header.revision == before + 1
    assert leases.range().count == 0


# --- keep alive -------------------------------------------------------------------


def test_a_renewal_answers_the_granted_ttl(leases: Store, stream: KeepAliveStream) -> None:
    lease = grant(leases, ttl=333).ID
    stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
    answer = stream.next()
    assert (lease, 333) == (answer.ID, answer.TTL)
    assert answer.header.revision == leases.range("nothing").header.revision
    revoke(leases, lease)


def test_unknown_leases_answer_zero_and_the_stream_goes_on(
    leases: Store, stream: KeepAliveStream
) -> None:
    """M11."""
    lease = grant(leases).ID
    for unknown in (UNKNOWN, -1, 0):
        assert stream.renew(unknown) == (unknown, 0)
    assert stream.renew(lease) == (lease, 600)
    revoke(leases, lease)


def test_a_revoked_lease_is_never_renewed(leases: Store, stream: KeepAliveStream) -> None:
    """M08."""
    lease = grant(leases).ID
    assert stream.renew(lease) == (lease, 600)
    revoke(leases, lease)
    assert stream.renew(lease) == (lease, 0)


def test_every_renewal_of_a_burst_is_answered_in_order(
    leases: Store, stream: KeepAliveStream
) -> None:
    ids = [grant(leases, ttl=600 + number).ID for number in range(5)]
    for _ in range(20):
        for lease in ids:
            stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
    answers = [stream.next() for _ in range(100)]
    assert [(answer.ID, answer.TTL) for answer in answers] == [
        (lease, 600 + number) for _ in range(20) for number, lease in enumerate(ids)
    ]
    for lease in ids:
        revoke(leases, lease)


def test_half_close_ends_the_stream_well_after_its_answers(
    leases: Store, stream: KeepAliveStream
) -> None:
    lease = grant(leases).ID
    assert stream.renew(lease) == (lease, 600)
    stream.half_close()
    assert stream.end() == Ended("OK", "")
    revoke(leases, lease)


def test_a_stream_that_asks_nothing_ends_well(stream: KeepAliveStream) -> None:
    stream.half_close()
    assert stream.end() == Ended("OK", "")


def test_any_stream_may_renew_any_lease(leases: Store, open_stream: Open) -> None:
    lease = grant(leases).ID
    one, other = open_stream(), open_stream()
    assert one.renew(lease) == other.renew(lease) == (lease, 600)
    one.close()
    assert other.renew(lease) == (lease, 600)
    revoke(leases, lease)


def test_a_renewal_moves_the_end(leases: Store, stream: KeepAliveStream) -> None:
    """After a renewal the whole TTL is left again, wherever it is asked for."""
    lease = grant(leases, ttl=600).ID
    while left(leases, lease).TTL > 598:
        time.sleep(POLL_SECONDS)
    began = time.monotonic()
    assert stream.renew(lease) == (lease, 600)
    shown = left(leases, lease).TTL
    assert 599 - (time.monotonic() - began) < shown <= 600
    revoke(leases, lease)


# --- time to live -----------------------------------------------------------------


def test_time_to_live_counts_down_from_below_the_granted_ttl(leases: Store) -> None:
    began = time.monotonic()
    lease = grant(leases, ttl=600).ID
    answer = left(leases, lease)
    assert (answer.ID, answer.grantedTTL, list(answer.keys)) == (lease, 600, [])
    assert 598 - (time.monotonic() - began) < answer.TTL <= 599
    revoke(leases, lease)


@pytest.mark.parametrize("lease", [0, UNKNOWN, -1])
@pytest.mark.parametrize("keys", [False, True])
def test_time_to_live_of_an_unknown_lease_is_no_error(
    leases: Store, lease: int, keys: bool
) -> None:
    answer = left(leases, lease, keys=keys)
    assert (answer.ID, answer.TTL, answer.grantedTTL, list(answer.keys)) == (lease, -1, 0, [])


def test_time_to_live_gives_the_keys_only_if_asked(leases: Store) -> None:
    lease = grant(leases).ID
    for name in "cab":
        leases.put(name, lease=lease)
    assert list(left(leases, lease).keys) == []
    assert sorted(left(leases, lease, keys=True).keys) == [leases.key(name) for name in "abc"]
    revoke(leases, lease)


# --- leases -----------------------------------------------------------------------


def test_leases_lists_what_lives(leases: Store) -> None:
    before = set(listed(leases))
    ids = [grant(leases).ID for _ in range(3)]
    assert set(listed(leases)) - before == set(ids)
    revoke(leases, ids[1])
    assert set(listed(leases)) - before == {ids[0], ids[2]}
    revoke(leases, ids[0])
    revoke(leases, ids[2])
    assert set(listed(leases)) == before


@pytest.mark.parametrize("store", SUBJECTS[:2], indirect=True)
def test_leases_come_in_the_order_of_their_ends(leases: Store, stream: KeepAliveStream) -> None:
    """As the leader sees it."""
    middle, early, late = (grant(leases, ttl=ttl).ID for ttl in (7000, 5000, 9000))
    ours = {middle, early, late}
    assert [lease for lease in listed(leases) if lease in ours] == [early, middle, late]
    for lease in ours:
        revoke(leases, lease)


# --- expiry -----------------------------------------------------------------------


@pytest.mark.slow
def test_an_expired_lease_takes_its_keys_along(leases: Store) -> None:
    """M06: not before the TTL."""
    start = time.monotonic()
    lease = grant(leases, ttl=SHORT_TTL).ID
    leases.put("a", lease=lease)
    while exists(leases, "a"):
        time.sleep(POLL_SECONDS)
        assert time.monotonic() < start + SHORT_TTL + PATIENCE_SECONDS
    assert time.monotonic() - start >= SHORT_TTL
    assert left(leases, lease).TTL == -1
    assert lease not in listed(leases)


@pytest.mark.slow
def test_a_lease_that_is_renewed_lives_and_ends_when_it_is_not(
    leases: Store, stream: KeepAliveStream
) -> None:
    """M12: never before the last answered renewal plus the TTL."""
    lease = grant(leases, ttl=SHORT_TTL).ID
    leases.put("a", lease=lease)
    stop = time.monotonic() + 1.5 * SHORT_TTL
    while True:
        answered = time.monotonic()
        assert stream.renew(lease) == (lease, SHORT_TTL)
        assert exists(leases, "a")
        if answered > stop:
            break
        time.sleep(10 * POLL_SECONDS)
    while exists(leases, "a"):
        assert time.monotonic() < answered + SHORT_TTL + PATIENCE_SECONDS
        time.sleep(POLL_SECONDS)
    assert time.monotonic() - answered >= SHORT_TTL
    assert stream.renew(lease) == (lease, 0)
