"""The state machine against the model: any requests, any restarts, any moments of flushing."""

import os

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from raftkv.errors import DUPLICATE_KEY, ApiError
from raftkv.kv.encoding import revision_header
from raftkv.pb import rpc_pb2 as pb
from tests.kv import strategies
from tests.kv.adapter import ANSWERS, Driver, finish, machine
from tests.kv.model import Model, Refused

EXAMPLES = int(os.environ.get("RAFTKV_KV_MODEL_EXAMPLES", "60"))


class Comparison(RuleBasedStateMachine):
    """Both get every request. The cache is so small that most reads go to the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(machine(cache_bytes=1000))
        self.twin = Driver()  # never flushes or restarts: hashes must agree all the same
        self.model = Model()
        for lease in (7, -7):
            self.model.grant(lease)
            self.driver.grant(lease)
            self.twin.grant(lease)

    def _both(self, request: Message) -> None:
        outcome = self.driver.perform(request)
        assert self.twin.perform(request) == outcome
        if outcome is DUPLICATE_KEY:
            return
        if isinstance(outcome, ApiError):
            with pytest.raises(Refused) as refused:
                self.model.perform(request)
            assert str(refused.value) == outcome.text
            return
        expected = self.model.perform(request)
        encoded = revision_header(outcome.revision) + outcome.body
        assert ANSWERS[type(request)].FromString(encoded) == expected
        assert encoded == expected.SerializeToString(deterministic=True)

    @rule(request=strategies.puts())
    def put(self, request: pb.PutRequest) -> None:
        self._both(request)

    @rule(request=strategies.deletes())
    def delete(self, request: pb.DeleteRangeRequest) -> None:
        self._both(request)

    @rule(request=strategies.txns())
    def txn(self, request: pb.TxnRequest) -> None:
        self._both(request)

    @rule(request=strategies.ranges())
    def range(self, request: pb.RangeRequest) -> None:
        self._both(request)
        sliced = finish(self.driver.machine.range_steps(request))
        assert sliced == self.driver.machine.range(request)

    @rule(back=st.integers(-1, 12))
    def range_at_each_recent_revision(self, back: int) -> None:
        revision = max(self.model.revision - back, 1)
        self._both(pb.RangeRequest(key=b"\0", range_end=b"\0", revision=revision))
        self._both(pb.RangeRequest(key=b"a", range_end=b"b\xff", revision=revision, limit=2))
        self._both(pb.RangeRequest(key=b"a", revision=revision))

    @rule(back=st.integers(-1, 8))
    def compact(self, back: int) -> None:
        self._both(pb.CompactionRequest(revision=self.model.revision - back))

    @rule()
    def flush(self) -> None:
        self.driver.machine.flush()

    @rule()
    def restart(self) -> None:
        self.driver.reopen()

    @rule(rows=st.integers(1, 5))
    def compact_slice(self, rows: int) -> None:
        self.driver.machine.compact_slice(rows)

    @rule()
    def finish_compaction(self) -> None:
        while self.driver.machine.compact_slice(3):
            pass
        assert self.driver.machine.physically_compacted >= self.model.compacted

    @rule()
    def hash_of_the_history(self) -> None:
        """M20: physical progress of compaction does not show."""
        assert finish(self.driver.machine.hash_kv()) == finish(self.twin.machine.hash_kv())

    @invariant()
    def both_went_the_same_way(self) -> None:
        one, other = self.driver.machine, self.twin.machine
        assert one.state_hash == other.state_hash
        assert one.revision == other.revision == self.model.revision
        assert one.applied_index == other.applied_index
        for lease in (7, -7):
            attached = [
                key
                for key, kv in sorted(self.model.history[self.model.revision].items())
                if kv.lease == lease
            ]
            assert one.lease_keys(lease) == attached == other.lease_keys(lease)


TestComparison = Comparison.TestCase
TestComparison.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    derandomize=EXAMPLES == 60,
    suppress_health_check=list(HealthCheck),
)
TestComparison = pytest.mark.timeout(300)(TestComparison)
