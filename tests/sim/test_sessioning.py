"""Repeated writes in sessions (C01): in whole runs, and in schedules that bring out a second."""

from collections import Counter
from dataclasses import replace

import pytest

from raftkv.errors import SESSION_NOT_FOUND, ApiError
from raftkv.kv import commands
from raftkv.kv.leases import grant_request
from raftkv.kv.machine import Result
from raftkv.pb import rpc_pb2
from raftkv.sim import session_mutants
from raftkv.sim.cluster import Timing
from raftkv.sim.hunting import hunt
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.leasing import LeaseCall, Leasing
from raftkv.sim.mutants import MUTANTS
from raftkv.sim.node import Node
from raftkv.sim.operations import Expire, Revoke
from raftkv.sim.run import run_seed
from raftkv.sim.sessioning import SessionLog
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario

TTL_MS = 30_000
KEY = b"once"


class Repeating(Scenario):
    """A cluster with a session; only this test writes, and nobody checks but this test."""

    def __init__(self, timing: Timing = TIMING) -> None:
        super().__init__(timing=timing, load=replace(LOAD, clients=0))
        self.leasing = Leasing(self.cluster, 0, clocks=False)
        self.held = self.leasing.new_lease(TTL_MS)
        request = grant_request(self.held.id, TTL_MS)
        assert isinstance(self.told(self.leader, commands.SESSION_OPEN, request), Result)

    def send(self, node: Node, command: int, request: bytes) -> LeaseCall:
        """Ask a member now; the call has the result when there is one."""
        call = LeaseCall(self.leasing, self.held, lambda _: None)
        call.send(node, lambda: node.replica.propose(command, request, (call, b"")))
        return call

    def told(self, node: Node, command: int, request: bytes) -> object:
        """The answer."""
        call = self.send(node, command, request)
        self.world.run_while(lambda: call.result is None, self.world.now_us + 20 * SECOND)
        return call.result

    def put(self, sequence: int, lowest: int = 1) -> tuple[int, bytes]:
        """A put of KEY in the session: the command and its request."""
        request = rpc_pb2.PutRequest(key=KEY, value=b"v").SerializeToString()
        head = commands.session_bytes(self.held.id, sequence, lowest)
        return commands.PUT + commands.IN_SESSION, head + request

    def versions(self) -> set[int]:
        """How often each running member has carried out a put of KEY."""
        running = [node for node in self.cluster.nodes.values() if node.up]
        records = [node.replica.machine.store.latest(KEY) for node in running]
        return {0 if record is None else record[3] for record in records}

    def agree(self) -> None:
        """All members come to the same state."""
        self.cluster.heal()
        self.must_converge(self.cluster.goal)
        self.cluster.check_equal_states()

    def entries(self) -> int:
        """Puts of KEY in the committed log."""
        log = self.cluster.invariants.log.values()
        return sum(one.kind == 0 and KEY in one.payload for one in log)


def test_sessions_of_a_run_are_repeated_answered_again_lost_and_closed() -> None:
    """A test in which nothing of it happens would be green."""
    counts: Counter[str] = Counter()
    for seed in (2, 5, 7):
        summary = run_seed(seed, nodes=3, seconds=6)
        assert not summary.failure, summary.failure
        counts += summary.sessions
    wanted = {"answered", "answered again", "asked again", "repeated", "closed", "late duplicates"}
    assert wanted <= counts.keys(), counts
    assert counts["carried out"] >= counts["answered"] > 50


def test_a_write_whose_leader_died_with_it_is_carried_out_by_the_repetition() -> None:
    """The first attempt is in the log of nobody else and goes away with it."""
    run = Repeating()
    leader, followers = run.leader, run.followers
    run.isolate(leader)
    lost = run.send(leader, *run.put(1))
    run.run_for(50 * MILLISECOND)
    assert leader.replica.core.last_index > run.cluster.invariants.last_committed
    leader.crash()
    first = run.told(followers[0], *run.put(1))
    assert isinstance(first, Result)
    run.cluster.heal()
    run.run_for(2 * SECOND)
    assert run.told(leader, *run.put(1)) == first
    assert lost.result is None
    assert run.versions() == {1}
    run.agree()


def test_a_write_that_its_dead_leader_has_passed_on_is_carried_out_once() -> None:
    """Both attempts are in the log: the new leader commits the first one, then the second."""
    run = Repeating()
    leader, followers = run.leader, run.followers
    for follower in followers:  # the entry arrives, and no answer to it comes back
        run.cluster.network.cut(follower.member, leader.member)
    lost = run.send(leader, *run.put(1))
    run.run_for(50 * MILLISECOND)
    assert {one.replica.core.last_index for one in followers} == {leader.replica.core.last_index}
    assert run.entries() == 0
    leader.crash()
    first = run.told(followers[0], *run.put(1))
    assert run.told(followers[1], *run.put(1)) == first
    assert isinstance(first, Result)
    assert lost.result is None
    assert run.entries() == 3
    assert run.versions() == {1}
    run.agree()


def test_a_member_that_got_the_state_from_another_answers_what_was_kept() -> None:
    """Answers are part of the state that is sent to members that fell behind."""
    run = Repeating(replace(TIMING, snapshot_count=10, catch_up_entries=2))
    behind = run.followers[0]
    run.isolate(behind)
    first = run.told(run.leader, *run.put(1))
    for _ in range(30):
        run.told(run.leader, commands.PUT, rpc_pb2.PutRequest(key=b"x").SerializeToString())
    run.run_for(2 * SECOND)
    run.cluster.heal()
    run.run_for(3 * SECOND)
    assert run.cluster.counts["snapshots installed"]
    run.cluster.transfer_leadership(behind.member)
    run.run_for(2 * SECOND)
    assert run.leader is behind
    assert run.told(behind, *run.put(1)) == first
    assert run.versions() == {1}
    run.agree()


def test_answers_outlive_a_power_cut_of_every_member() -> None:
    run = Repeating()
    first = run.told(run.leader, *run.put(1))
    for checkpointed in (False, True):
        if checkpointed:
            run.run_for(SECOND)
            for node in run.cluster.nodes.values():
                node.replica.machine.flush()
                node.replica.machine.backend.sync()
        for node in run.cluster.nodes.values():
            node.crash()
        run.cluster.heal()
        run.run_for(3 * SECOND)
        assert run.told(run.leader, *run.put(1)) == first
        assert run.versions() == {1}
    run.agree()


def test_nothing_is_carried_out_when_the_session_has_expired() -> None:
    run = Repeating()
    run.run_for(2 * TTL_MS * MILLISECOND)
    refused = run.told(run.leader, *run.put(1))
    assert isinstance(refused, ApiError)
    assert refused.text == SESSION_NOT_FOUND.text
    assert run.versions() == {0}


def test_the_rules_that_the_log_is_judged_by() -> None:
    """`SessionLog` knows them from the API, not from the code that it judges."""
    log = SessionLog()
    assert not log.carries_out((5, 1, 1))
    log.opened(5, 10)
    assert log.carries_out((5, 2, 1))
    assert not log.carries_out((5, 2, 1))
    assert log.carries_out((5, 1, 1))
    assert log.carries_out((5, 4, 4))
    assert not log.carries_out((5, 3, 3))
    log.lease(Expire(1, 2, (5,)))  # of another term
    log.lease(Expire(2, 2, (5,), 9))  # decided before it was opened
    assert log.carries_out((5, 5, 4))
    log.lease(Expire(2, 2, (5,)))
    assert not log.carries_out((5, 6, 4))
    log.opened(6, 20)
    log.lease(Revoke(6))
    assert not log.carries_out((6, 1, 1))
    assert log.counts == {"carried out": 4, "repeated": 1, "closed": 1, "too late": 3}


@pytest.mark.parametrize("name", [name for name, _ in session_mutants.PATCHES])
def test_sessions_that_are_wrong_are_noticed(name: str) -> None:
    (mutant,) = (one for one in MUTANTS if one.name == name)
    taken, summary = hunt(mutant)
    assert taken
    assert summary.failure.startswith(InvariantBroken.__name__)
