"""Quick changes of leaders: what the fault brings about, and that it ends."""

from dataclasses import replace
from random import Random

import pytest

from raftkv.raft.types import Entry
from raftkv.replica.effects import Effects
from raftkv.replica.replica import Replica
from raftkv.sim.cluster import Cluster
from raftkv.sim.faults import usurp
from raftkv.sim.hunting import hunt, profile_of
from raftkv.sim.mutants import MUTANTS
from raftkv.sim.run import Run
from raftkv.sim.world import SECOND, World
from tests.sim.scenario import TIMING, Scenario

(BY_INDEX,) = (mutant for mutant in MUTANTS if mutant.name == "own entries by index")


def test_usurped_leaders_see_entries_of_older_terms_at_the_indexes_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R14: else the fault would be for nothing."""
    met = 0
    apply = Replica._apply

    def counting(self: Replica, entries: list[Entry], effects: Effects) -> None:
        nonlocal met
        terms = {entry.index: entry.term for entry in entries}
        met += sum(terms.get(own[0], own[1]) < own[1] for own in self.writes.pending.local)
        apply(self, entries, effects)

    monkeypatch.setattr(Replica, "_apply", counting)
    for seed in range(3):
        before = met
        profile = replace(profile_of(BY_INDEX, seed), rounds=1, fault_us=6 * SECOND)
        assert not Run(seed, profile).execute().failure
        assert met > before


def test_member_that_takes_own_entries_by_their_index_is_noticed_at_once() -> None:
    """R14: `raftkv.replica.pending` says why the term counts as well."""
    assert BY_INDEX.seeds <= 3
    taken, summary = hunt(BY_INDEX)
    assert taken, summary


@pytest.mark.parametrize("nodes", [3, 5])
def test_usurpation_changes_leaders_and_leaves_no_link_cut(nodes: int) -> None:
    run = Scenario(seed=nodes, nodes=nodes)
    first, term = run.leader, run.leader.term
    undo = usurp(run.cluster, Random(nodes))
    assert undo is not None
    assert usurp(run.cluster, Random(nodes)) is None  # one at a time
    run.elections(6)
    assert run.leader.term > term
    assert len(set(run.cluster.invariants.leaders.values())) > 1
    undo()
    assert not any(link.cuts for link in run.cluster.network.links.values())
    assert not run.cluster.election_watchers
    assert first.up
    run.finish()


def test_wiped_member_is_refused_by_one_that_had_not_heard_from_it_before() -> None:
    """R33: a directory is noted by the others before it takes part."""
    cluster = Cluster(World(1), 3, TIMING)
    wiped, *others = cluster.nodes.values()
    before = wiped.home.incarnation
    wiped.home.wipe()
    assert wiped.home.incarnation != before
    for other in others:
        assert not other.home.meets(wiped.member, wiped.home.incarnation)
