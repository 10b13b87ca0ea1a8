"""Puts with a TTL, the question what is left, and how long a silent lease may stay."""

from dataclasses import replace

import pytest

from raftkv.kv.leases import put_with_ttl_request
from raftkv.sim import ttl_mutants
from raftkv.sim.etcd import encode_message, encode_request
from raftkv.sim.hunting import Mutant, applied, hunt, profile_of
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.leasing import Leasing
from raftkv.sim.model import Model
from raftkv.sim.mutants import MUTANTS
from raftkv.sim.operations import Delete, Expire, Operation, Put, PutDone, PutWithTTL
from raftkv.sim.run import Run, run_seed
from raftkv.sim.ttl_puts import TtlPuts
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, Scenario

TTL_MS = 1000
MUTANT_NAMES = {name for name, _ in ttl_mutants.PATCHES}


class Short(Scenario):
    """A quiet cluster, and puts with a TTL by hand."""

    def __init__(self) -> None:
        super().__init__(load=replace(LOAD, clients=0))
        self.leasing = Leasing(self.cluster, 1, clocks=False)
        self.puts = TtlPuts(self.leasing, self.clients)
        self.leasing.start()
        self.leasing.stop()

    def put(self, key: bytes, ttl_ms: int = TTL_MS) -> Operation:
        """PutWithTTL at the leader, answered."""
        held = self.leasing.new_lease(ttl_ms)
        return self.answer(self.leader, PutWithTTL(key, b"v", held.id, ttl_ms))

    def keys(self) -> list[bytes]:
        """The live keys of the leader that have a lease."""
        return [one.key for one in self.leader.live_keys() if one.lease]


def test_request_has_the_bytes_that_a_server_would_propose() -> None:
    request = PutWithTTL(b"t", b"v", 77, 1500)
    put = encode_message(Put(b"t", b"v"))
    assert encode_message(request) == put_with_ttl_request(77, 1500, put)
    assert encode_request(request, 5).startswith(encode_message(request))


def test_key_lives_for_its_ttl_and_not_much_longer() -> None:
    """M06"""
    run = Short()
    at_us = run.world.now_us
    run.put(b"t0")
    run.run_for(at_us + TTL_MS * MILLISECOND - run.world.now_us)
    assert run.keys() == [b"t0"]
    run.run_for(run.cluster.election_us)
    assert run.keys() == []
    assert run.leasing.counts["expired"] == 1
    assert run.leasing.checked["lease promise"] == 1
    run.finish()


def test_put_that_replaces_another_ends_its_lease() -> None:
    run = Short()
    run.put(b"t0")
    run.put(b"t0")
    assert len(run.leader.replica.machine.leases) == 1
    assert run.leasing.counts["leases replaced by a put"] == 1
    run.run_for(3 * SECOND)
    assert run.leasing.counts["expired"] == 1
    run.finish()


def test_model_ends_the_lease_of_a_key_that_was_put_again_only_if_it_has_no_other_key() -> None:
    model = Model()
    model.apply(PutWithTTL(b"t0", b"v", 1, 300))
    model.apply(Put(b"t1", b"v", 1))
    assert model.apply(PutWithTTL(b"t0", b"w", 2, 300)).response == PutDone()
    assert list(model.leases) == [1, 2]
    model.apply(Delete(b"t1"))
    model.apply(PutWithTTL(b"t1", b"w", 3, 300))
    model.apply(PutWithTTL(b"t0", b"w", 4, 300))
    assert list(model.leases) == [1, 3, 4]  # a lease without any key stays for its TTL
    before = len(model.events)
    assert model.apply(PutWithTTL(b"t2", b"w", 4, 300)).refusal == "lease exists"
    assert len(model.events) == before
    assert model.apply(Expire(1, 1, (4, 1))).changed
    assert [one.key for one in model.live()] == [b"t1"]


def test_what_is_left_is_asked_at_every_member_and_believed() -> None:
    """M06: the answer is a promise as well."""
    run = Short()
    run.put(b"t0", 3000)
    (held,) = run.leasing.held.values()
    promised_us = held.promised_us
    run.run_for(500 * MILLISECOND)
    for node in run.cluster.nodes.values():
        run.leasing.ask(held, node)
    run.run_for(100 * MILLISECOND)
    assert run.leasing.counts["told what is left"] == 3
    assert held.promised_us == promised_us  # two whole seconds are left of three
    run.run_for(4 * SECOND)
    run.leasing.ask(held, run.followers[0])
    run.run_for(100 * MILLISECOND)
    assert run.leasing.counts["told unknown"] == 1
    run.finish()


def test_lease_that_stays_for_too_long_is_noticed_although_nobody_asks() -> None:
    """M11"""
    (mutant,) = (one for one in MUTANTS if one.name == "forget leases that are due")
    with applied(mutant):
        run = Short()
        run.put(b"t0", 700)
        with pytest.raises(InvariantBroken, match="lease bound"):
            run.run_for(5 * SECOND)


def test_time_of_trouble_does_not_count_toward_the_bound() -> None:
    """Without a quorum nothing can end; it does soon after."""
    run = Short()
    run.put(b"t0", 300)
    for follower in run.followers:
        follower.crash()
    run.run_for(10 * SECOND)
    assert "expired" not in run.leasing.counts
    run.cluster.heal()
    run.run_for(5 * SECOND)
    assert run.leasing.counts["expired"] == 1
    run.finish()


def test_member_that_has_another_set_of_leases_is_noticed() -> None:
    run = Short()
    run.put(b"t0", 3000)
    run.elections(1)
    leases = run.followers[0].replica.machine.leases.by_id
    assert leases
    leases.clear()
    with pytest.raises(InvariantBroken, match="leases"):
        run.run_for(SECOND)


def test_run_has_puts_with_a_ttl_and_questions() -> None:
    leasing = run_seed(4, nodes=3, seconds=5)
    assert not leasing.failure, leasing.failure
    for name in ("puts with a TTL", "leases replaced by a put", "told what is left", "expired"):
        assert leasing.leasing[name] > 5, name
    for name in ("lease bound", "lease set", "lease alive", "lease gone", "lease promise"):
        assert leasing.checked[name] > 5, name


@pytest.mark.parametrize(
    "mutant", [one for one in MUTANTS if one.name in MUTANT_NAMES], ids=lambda one: one.name
)
def test_wrong_lease_of_a_put_is_noticed_and_the_right_one_passes(mutant: Mutant) -> None:
    """M06, M07, M11"""
    taken, summary = hunt(mutant)
    assert taken
    assert summary.failure.startswith("InvariantBroken: ")
    assert "ease" in summary.failure or "M07" in summary.failure
    assert not Run(summary.seed, profile_of(mutant, summary.seed)).execute().failure
