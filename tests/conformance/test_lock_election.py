"""Lock and Election: every fact is true of etcd first, and then of every kind of raftkv node."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import grpc
import pytest

from raftkv.pb import election_pb2, election_pb2_grpc, lock_pb2, lock_pb2_grpc, rpc_pb2
from tests.conformance.store import Store
from tests.conformance.streams import PATIENCE_SECONDS, Stream, skip_unless_offered

NO_LEASE: Final = ("UNKNOWN", "etcdserver: requested lease not found")
NO_LEADER: Final = ("UNKNOWN", "election: no leader")
NOT_LEADER: Final = ("UNKNOWN", "election: not leader")
LEADER_MISSING: Final = ("UNKNOWN", '"leader" field must be provided')
NO_KEY: Final = ("UNKNOWN", "etcdserver: key is not provided")
SESSION_EXPIRED: Final = ("UNKNOWN", "mutex: session is expired")
DEADLINE_SECONDS: Final = 2.0
UNKNOWN_LEASE: Final = 4_000_001

Observing = Stream[Any, election_pb2.LeaderResponse]


class Party:
    """Calls of both services below a prefix of this test's own, by one name."""

    def __init__(self, store: Store, stack: ExitStack) -> None:
        self.store = store
        self.name = store.key("n")
        self._stack = stack
        self._locks = lock_pb2_grpc.LockStub(store.target.channel)
        self._elections = election_pb2_grpc.ElectionStub(store.target.channel)

    def lease(self) -> int:
        """A lease that ends with the test."""
        answer = self.store.call(rpc_pb2.LeaseGrantRequest(TTL=600), rpc_pb2.LeaseGrantResponse)
        self._stack.callback(self.store.target.call, rpc_pb2.LeaseRevokeRequest(ID=answer.ID))
        return answer.ID

    def revoke(self, lease: int) -> None:
        self.store.call(rpc_pb2.LeaseRevokeRequest(ID=lease), rpc_pb2.LeaseRevokeResponse)

    def key_of(self, lease: int) -> bytes:
        """The key that a holder of this lease has."""
        return self.name + b"/%x" % lease

    def keys(self) -> list[bytes]:
        """The keys below the name."""
        answer = self.store.call(
            rpc_pb2.RangeRequest(key=self.name + b"/", range_end=self.name + b"0"),
            rpc_pb2.RangeResponse,
        )
        return [kv.key for kv in answer.kvs]

    def wait_for(self, keys: int) -> None:
        """Returns when that many keys wait below the name."""
        while len(self.keys()) != keys:
            pass  # every look is a call of its own

    # --- locks ----------------------------------------------------------------

    def locking(self, lease: int, seconds: float = PATIENCE_SECONDS) -> Any:
        request = lock_pb2.LockRequest(name=self.name, lease=lease)
        return self._locks.Lock.future(request, timeout=seconds)

    def lock(self, lease: int) -> lock_pb2.LockResponse:
        answer: lock_pb2.LockResponse = self.locking(lease).result()
        return answer

    def unlocking(self, key: bytes) -> Any:
        return self._locks.Unlock.future(lock_pb2.UnlockRequest(key=key), timeout=PATIENCE_SECONDS)

    def unlock(self, key: bytes) -> lock_pb2.UnlockResponse:
        answer: lock_pb2.UnlockResponse = self.unlocking(key).result()
        return answer

    # --- elections ------------------------------------------------------------

    def campaigning(self, lease: int, value: bytes, seconds: float = PATIENCE_SECONDS) -> Any:
        request = election_pb2.CampaignRequest(name=self.name, lease=lease, value=value)
        return self._elections.Campaign.future(request, timeout=seconds)

    def campaign(self, lease: int, value: bytes) -> election_pb2.LeaderKey:
        answer: election_pb2.CampaignResponse = self.campaigning(lease, value).result()
        return answer.leader

    def proclaiming(self, leader: election_pb2.LeaderKey | None, value: bytes) -> Any:
        request = election_pb2.ProclaimRequest(leader=leader, value=value)
        return self._elections.Proclaim.future(request, timeout=PATIENCE_SECONDS)

    def asking(self) -> Any:
        request = election_pb2.LeaderRequest(name=self.name)
        return self._elections.Leader.future(request, timeout=PATIENCE_SECONDS)

    def resigning(self, leader: election_pb2.LeaderKey | None) -> Any:
        request = election_pb2.ResignRequest(leader=leader)
        return self._elections.Resign.future(request, timeout=PATIENCE_SECONDS)

    def observe(self) -> Observing:
        request = election_pb2.LeaderRequest(name=self.name)
        stream: Observing = Stream(
            lambda _, seconds: self._elections.Observe(request, timeout=seconds)
        )
        self._stack.callback(stream.close)
        return stream


def failure(future: Any) -> tuple[str, str]:
    """The status of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        future.result()
    error: Any = caught.value
    return error.code().name, error.details()


def too_late(future: Any) -> bool:
    """True if a call ended by its deadline; etcd's own word for it may come before the client's."""
    code, text = failure(future)
    return code == "DEADLINE_EXCEEDED" or (code, text) == ("UNKNOWN", "context deadline exceeded")


@pytest.fixture
def locks(store: Store) -> Iterator[Party]:
    """A server that has locks."""
    skip_unless_offered(store.target, "Lock.Unlock")
    with ExitStack() as stack:
        yield Party(store, stack)


@pytest.fixture
def elections(store: Store) -> Iterator[Party]:
    """A server that has elections."""
    skip_unless_offered(store.target, "Election.Leader")
    with ExitStack() as stack:
        yield Party(store, stack)


# --- lock -------------------------------------------------------------------------


def test_the_lock_key_is_the_name_and_the_lease_in_hex(locks: Party) -> None:
    lease = locks.lease()
    before = locks.store.put("other").header.revision
    answer = locks.lock(lease)
    assert answer.key == locks.key_of(lease)
    assert answer.header.revision == before + 1
    (pair,) = locks.store.call(rpc_pb2.RangeRequest(key=answer.key), rpc_pb2.RangeResponse).kvs
    assert (pair.lease, pair.value, pair.create_revision) == (lease, b"", before + 1)


def test_a_negative_lease_shows_as_a_signed_number(locks: Party) -> None:
    request = rpc_pb2.LeaseGrantRequest(TTL=600, ID=-77_100)
    lease = locks.store.call(request, rpc_pb2.LeaseGrantResponse).ID
    assert locks.lock(lease).key == locks.name + b"/-%x" % -lease
    locks.revoke(lease)


def test_the_same_lease_locks_again_at_once(locks: Party) -> None:
    lease = locks.lease()
    first = locks.lock(lease)
    again = locks.lock(lease)
    assert again.key == first.key
    assert len(locks.keys()) == 1
    locks.unlock(first.key)
    assert locks.keys() == []


def test_unlock_lets_waiters_in_one_by_one_in_their_order(locks: Party) -> None:
    """W17: the order of the queue is the order of creation."""
    leases = [locks.lease() for _ in range(5)]
    first = locks.lock(leases[0])
    waiting = []
    for number, lease in enumerate(leases[1:], 2):
        waiting.append(locks.locking(lease))
        locks.wait_for(number)
    key = first.key
    for number, future in enumerate(waiting):
        assert not any(one.done() for one in waiting[number:])
        locks.unlock(key)
        answer = future.result()
        key = answer.key
        assert key == locks.key_of(leases[number + 1])
    locks.unlock(key)
    assert locks.keys() == []


def test_a_revoked_lease_lets_the_next_in(locks: Party) -> None:
    holder, waiter = locks.lease(), locks.lease()
    locks.lock(holder)
    future = locks.locking(waiter)
    locks.wait_for(2)
    locks.revoke(holder)
    assert future.result().key == locks.key_of(waiter)


def test_a_waiter_in_the_middle_that_goes_lets_nobody_in_early(locks: Party) -> None:
    holder, middle, last = (locks.lease() for _ in range(3))
    held = locks.lock(holder)
    first = locks.locking(middle)
    locks.wait_for(2)
    second = locks.locking(last)
    locks.wait_for(3)
    first.cancel()
    locks.wait_for(2)
    assert not second.done()
    locks.unlock(held.key)
    assert second.result().key == locks.key_of(last)


def test_a_waiter_whose_deadline_passes_leaves_no_key(locks: Party) -> None:
    holder, waiter = locks.lease(), locks.lease()
    held = locks.lock(holder)
    assert too_late(locks.locking(waiter, DEADLINE_SECONDS))
    locks.wait_for(1)
    assert locks.keys() == [held.key]


def test_a_waiter_whose_lease_ends_does_not_get_the_lock(locks: Party) -> None:
    """A waiter looks at its own key again after waiting."""
    holder, waiter = locks.lease(), locks.lease()
    held = locks.lock(holder)
    future = locks.locking(waiter)
    locks.wait_for(2)
    locks.revoke(waiter)
    locks.unlock(held.key)
    assert failure(future) == SESSION_EXPIRED
    assert locks.keys() == []


def test_lock_with_an_unknown_lease(locks: Party) -> None:
    assert failure(locks.locking(UNKNOWN_LEASE)) == NO_LEASE
    assert locks.keys() == []


def test_lock_without_a_lease_gets_one_of_the_servers(locks: Party) -> None:
    answer = locks.lock(0)
    (pair,) = locks.store.call(rpc_pb2.RangeRequest(key=answer.key), rpc_pb2.RangeResponse).kvs
    assert pair.lease > 0
    assert answer.key == locks.key_of(pair.lease)
    granted = locks.store.call(
        rpc_pb2.LeaseTimeToLiveRequest(ID=pair.lease), rpc_pb2.LeaseTimeToLiveResponse
    )
    assert granted.grantedTTL == 60
    locks.revoke(pair.lease)


def test_unlock_without_a_key(locks: Party) -> None:
    assert failure(locks.unlocking(b"")) == NO_KEY


def test_unlock_of_a_key_that_nobody_holds(locks: Party) -> None:
    before = locks.store.put("other").header.revision
    assert locks.unlock(locks.name + b"/4711").header.revision == before


def test_a_key_written_by_a_client_takes_part_in_the_queue(locks: Party) -> None:
    """Clients that keep the queue themselves write such keys."""
    own, waiter = locks.lease(), locks.lease()
    key = locks.key_of(own)
    locks.store.call(rpc_pb2.PutRequest(key=key, lease=own), rpc_pb2.PutResponse)
    future = locks.locking(waiter)
    locks.wait_for(2)
    assert not future.done()
    locks.store.call(rpc_pb2.DeleteRangeRequest(key=key), rpc_pb2.DeleteRangeResponse)
    assert future.result().key == locks.key_of(waiter)


def test_names_that_begin_alike_do_not_meet(locks: Party) -> None:
    one, other = locks.lease(), locks.lease()
    locks.lock(one)
    locks.name += b"2"
    assert locks.lock(other).key == locks.key_of(other)


# --- election ---------------------------------------------------------------------


def test_a_campaign_without_rivals_wins(elections: Party) -> None:
    lease = elections.lease()
    before = elections.store.put("other").header.revision
    leader = elections.campaign(lease, b"v")
    assert (leader.name, leader.key) == (elections.name, elections.key_of(lease))
    assert (leader.rev, leader.lease) == (before + 1, lease)
    answer = elections.asking().result()
    assert (answer.kv.key, answer.kv.value) == (leader.key, b"v")
    assert (answer.kv.create_revision, answer.kv.lease) == (leader.rev, lease)


def test_leader_of_an_election_without_one(elections: Party) -> None:
    assert failure(elections.asking()) == NO_LEADER


def test_a_second_campaign_of_the_same_lease_proclaims(elections: Party) -> None:
    lease = elections.lease()
    first = elections.campaign(lease, b"1")
    second = elections.campaign(lease, b"2")
    assert second == first
    assert elections.asking().result().kv.value == b"2"


def test_candidates_win_in_their_order(elections: Party) -> None:
    leases = [elections.lease() for _ in range(4)]
    leader = elections.campaign(leases[0], b"0")
    waiting = []
    for number, lease in enumerate(leases[1:], 1):
        waiting.append(elections.campaigning(lease, b"%d" % number))
        elections.wait_for(number + 1)
    for number, future in enumerate(waiting, 1):
        assert not any(one.done() for one in waiting[number - 1 :])
        elections.resigning(leader).result()
        leader = future.result().leader
        assert leader.key == elections.key_of(leases[number])
        assert elections.asking().result().kv.value == b"%d" % number


def test_campaign_with_an_unknown_lease(elections: Party) -> None:
    assert failure(elections.campaigning(UNKNOWN_LEASE, b"v")) == NO_LEASE


def test_campaign_without_a_lease_gets_one_of_the_servers(elections: Party) -> None:
    leader = elections.campaign(0, b"v")
    assert leader.key == elections.key_of(leader.lease)
    elections.revoke(leader.lease)


def test_a_candidate_whose_deadline_passes_leaves_no_key(elections: Party) -> None:
    first, second = elections.lease(), elections.lease()
    leader = elections.campaign(first, b"v")
    assert too_late(elections.campaigning(second, b"w", DEADLINE_SECONDS))
    elections.wait_for(1)
    assert elections.keys() == [leader.key]


def test_proclaim_replaces_the_value(elections: Party) -> None:
    leader = elections.campaign(elections.lease(), b"1")
    before = elections.store.put("other").header.revision
    assert elections.proclaiming(leader, b"2").result().header.revision == before + 1
    assert elections.asking().result().kv.value == b"2"


def test_proclaim_with_a_stale_key(elections: Party) -> None:
    leader = elections.campaign(elections.lease(), b"1")
    elections.resigning(leader).result()
    assert failure(elections.proclaiming(leader, b"2")) == NOT_LEADER
    assert elections.keys() == []


def test_proclaim_and_resign_need_the_leader_field(elections: Party) -> None:
    assert failure(elections.proclaiming(None, b"v")) == LEADER_MISSING
    assert failure(elections.resigning(None)) == LEADER_MISSING


def test_resign_with_a_stale_key_changes_nothing(elections: Party) -> None:
    lease = elections.lease()
    stale = elections.campaign(lease, b"1")
    elections.resigning(stale).result()
    current = elections.campaign(lease, b"2")
    assert current.key == stale.key
    answer = elections.resigning(stale).result()
    assert answer.header.revision >= current.rev
    assert elections.asking().result().kv.value == b"2"


def test_resign_of_a_foreign_key_by_who_knows_it(elections: Party) -> None:
    """The key and its revision are all the proof there is."""
    leader = elections.campaign(elections.lease(), b"1")
    foreign = election_pb2.LeaderKey(
        name=elections.name, key=leader.key, rev=leader.rev, lease=UNKNOWN_LEASE
    )
    elections.resigning(foreign).result()
    assert elections.keys() == []


def test_the_leader_is_gone_with_its_lease(elections: Party) -> None:
    lease = elections.lease()
    elections.campaign(lease, b"1")
    elections.revoke(lease)
    assert failure(elections.asking()) == NO_LEADER


def test_observe_begins_with_the_leader_and_follows_it(elections: Party) -> None:
    first, second = elections.lease(), elections.lease()
    leader = elections.campaign(first, b"1")
    stream = elections.observe()
    answer = stream.next()
    assert (answer.kv.key, answer.kv.value) == (leader.key, b"1")
    assert answer.header.revision > 0
    elections.proclaiming(leader, b"2").result()
    assert stream.next().kv.value == b"2"
    rival = elections.campaigning(second, b"3")
    elections.wait_for(2)
    elections.resigning(leader).result()
    rival.result()
    answer = stream.next()
    assert (answer.kv.key, answer.kv.value) == (elections.key_of(second), b"3")


def test_observe_waits_for_the_first_leader(elections: Party) -> None:
    stream = elections.observe()
    leader = elections.campaign(elections.lease(), b"1")
    assert stream.next().kv.key == leader.key


def test_observe_lives_on_while_nobody_leads(elections: Party) -> None:
    leader = elections.campaign(elections.lease(), b"1")
    stream = elections.observe()
    assert stream.next().kv.value == b"1"
    elections.resigning(leader).result()
    elections.campaign(elections.lease(), b"2")
    assert stream.next().kv.value == b"2"
