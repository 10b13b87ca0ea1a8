"""Leases among everything else: random commands, restarts and compactions against the model.

All that `test_model` does, and every command about leases besides.
"""

import os
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from raftkv.errors import ApiError
from raftkv.kv import commands, leases
from raftkv.kv.encoding import revision_header, varint
from raftkv.kv.leases import CHECKPOINTED, GRANTED, REVOKED, Lease
from raftkv.kv.machine import Result
from raftkv.pb import rpc_pb2 as pb
from tests.kv import strategies
from tests.kv.adapter import TERM
from tests.kv.model import Granted, Refused
from tests.kv.test_model import Comparison

EXAMPLES = int(os.environ.get("RAFTKV_LEASE_MODEL_EXAMPLES", "60"))
IDS = st.sampled_from([7, 7, -7, -7, 404, 1, 2])
TTLS = st.integers(1, 90_000)
BEHIND = st.sampled_from([0, 0, 1, 2, 5])  # applied since a decision


class LeaseComparison(Comparison):
    """Adds the commands about leases, and what is to be told about them."""

    def __init__(self) -> None:
        super().__init__()
        self.told = [(GRANTED, 7), (GRANTED, -7)]
        self.granted = {7: 1, -7: 2}  # lease -> index of its newest grant

    def _command(self, command: int, request: bytes, term: int = TERM) -> Result | ApiError:
        outcome = self.driver.command(command, request, term)
        assert self.twin.command(command, request, term) == outcome
        return outcome

    def _expect(self, outcome: Result | ApiError, model: Callable[[], Any]) -> Any:
        """The model agrees; what it returned, None if both refused."""
        if isinstance(outcome, ApiError):
            with pytest.raises(Refused) as refused:
                model()
            assert str(refused.value) == outcome.text
            return None
        answer = model()
        assert outcome.revision == self.model.revision
        return answer

    @rule(lease=IDS, ttl_ms=TTLS)
    def grant(self, lease: int, ttl_ms: int) -> None:
        outcome = self._command(commands.LEASE_GRANT, leases.grant_request(lease, ttl_ms))
        self._expect(outcome, lambda: self.model.grant(lease, ttl_ms))
        if isinstance(outcome, Result):
            wanted = pb.LeaseGrantResponse(ID=lease, TTL=ttl_ms // 1000)
            assert pb.LeaseGrantResponse.FromString(outcome.body) == wanted
            self._granted(lease)

    def _granted(self, lease: int) -> None:
        self.told.append((GRANTED, lease))
        self.granted[lease] = self.driver.machine.applied_index

    def _meant(self, leases: list[int], known: int) -> list[int]:
        """Those that a decision at index `known` is about."""
        return [one for one in leases if one in self.model.leases and self.granted[one] <= known]

    @rule(lease=IDS)
    def revoke(self, lease: int) -> None:
        known = lease in self.model.leases
        outcome = self._command(commands.LEASE_REVOKE, leases.revoke_request(lease))
        self._expect(outcome, lambda: self.model.revoke(lease))
        if known:
            self.told.append((REVOKED, lease))

    @rule(ids=st.lists(IDS, max_size=5), late=st.sampled_from([False, False, True]), behind=BEHIND)
    def expire(self, ids: list[int], late: bool, behind: int) -> None:
        known = max(self.driver.machine.applied_index - behind, 0)
        request = leases.expire_request(TERM - late, known, ids)
        for driver in (self.driver, self.twin):
            driver.machine.collect_changes(True)
        outcome = self._command(commands.LEASE_EXPIRE, request)
        changes = self.driver.machine.take_changes()
        assert self.twin.machine.take_changes() == changes
        for driver in (self.driver, self.twin):
            driver.machine.collect_changes(False)
        if late:
            assert outcome == Result(self.model.revision, b"")
            assert changes == []
            return
        over = self._meant(list(dict.fromkeys(ids)), known)
        gone = self._expect(outcome, lambda: self.model.expire(over))
        assert [change.key for change in changes] == gone
        self.told += [(REVOKED, lease) for lease in over]

    @rule(
        remaining=st.lists(st.tuples(IDS, st.one_of(st.just(0), TTLS)), max_size=4), behind=BEHIND
    )
    def checkpoint(self, remaining: list[tuple[int, int]], behind: int) -> None:
        known = max(self.driver.machine.applied_index - behind, 0)
        request = leases.checkpoint_request(known, remaining)
        outcome = self._command(commands.LEASE_CHECKPOINT, request)
        meant = set(self._meant([lease for lease, _ in remaining], known))
        told = [one for one in remaining if one[0] in meant]
        self._expect(outcome, lambda: self.model.checkpoint(told))
        self.told += [(CHECKPOINTED, lease) for lease, _ in told]
        index = self.driver.machine.applied_index
        for lease, left in told:
            if not left:
                assert self.driver.machine.leases.by_id[lease].renewed_index == index

    @rule(lease=st.one_of(IDS, st.integers(100, 110)), ttl_ms=TTLS, request=strategies.puts())
    def put_with_ttl(self, lease: int, ttl_ms: int, request: pb.PutRequest) -> None:
        wire = leases.put_with_ttl_request(lease, ttl_ms, request.SerializeToString())
        outcome = self._command(commands.PUT_WITH_TTL, wire)
        before = list(self.model.leases)
        answer = self._expect(outcome, lambda: self.model.put_with_ttl(lease, ttl_ms, request))
        if isinstance(outcome, Result):
            encoded = revision_header(outcome.revision) + outcome.body
            own_lease = b"\x18" + varint(lease)  # of a PutWithTTLResponse
            assert encoded == answer.SerializeToString(deterministic=True) + own_lease
            self._granted(lease)
            ended = [one for one in before if one not in self.model.leases]
            self.told += [(REVOKED, one) for one in ended]

    @invariant()
    def both_know_the_leases_of_the_model(self) -> None:
        latest = sorted(self.model.latest().items())
        for driver in (self.driver, self.twin):
            subject = driver.machine
            known = {lease.id: _granted(lease) for lease in subject.leases}
            assert known == self.model.leases
            assert list(known) == list(self.model.leases)  # in the order of their grants
            attached = {}
            for lease in known:
                attached[lease] = [key for key, kv in latest if kv.lease == lease]
                assert subject.lease_keys(lease) == attached[lease]
            # No key is attached to what is gone (M11), none is counted that is no more.
            assert sorted(subject.store.attached) == sorted(k for k, v in attached.items() if v)
            assert all(kv.lease == 0 or kv.lease in known for _, kv in latest)

    @invariant()
    def what_happened_to_leases_was_told_in_order(self) -> None:
        twin = self.twin.machine.lease_events  # the other one's are lost in restarts
        assert twin == self.told
        twin.clear()
        self.told.clear()


def _granted(lease: Lease) -> Granted:
    return Granted(lease.ttl_ms, lease.remaining_ms, lease.hidden)


TestLeaseComparison = LeaseComparison.TestCase
TestLeaseComparison.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=50,
    deadline=None,
    derandomize=EXAMPLES == 60,
    suppress_health_check=list(HealthCheck),
)
TestLeaseComparison = pytest.mark.timeout(300)(TestLeaseComparison)
