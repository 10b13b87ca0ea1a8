"""Known-wrong variants of the server are found, and the table of them says the truth."""

import re
from random import Random

import pytest
from click.testing import CliRunner

from jepsen_lite.member import etcd_bugs
from jepsen_lite.mutants import (
    BUDGET_SECONDS,
    IN_SIMULATED_RUNS,
    PROCESS,
    REAL,
    RUN,
    SIMULATED,
    SIMULATOR,
    TEETH,
    Tooth,
    tooth_of,
)
from jepsen_lite.nemesis import NEMESES
from jepsen_lite.registry import UnknownName
from jepsen_lite.scenarios import SCENARIOS, waiter_whose_lease_ends
from jepsen_lite.target.simfaults import KINDS_BY_NAME
from jepsen_lite.teeth import Bite, bite, bites, first_finding, row, teeth_command
from jepsen_lite.workload import WORKLOADS, workload_class
from raftkv.sim.hunting import Mutant
from raftkv.sim.mutants import MUTANTS
from raftkv.sim.world import World

QUICK = ("skip-an-entry-that-is-unknown", "renew-a-lease-that-is-gone", "own-entries-by-index")


def test_there_are_enough_teeth_each_with_a_name_of_its_own_and_somebody_who_finds_it() -> None:
    names = [tooth.name for tooth in TEETH]
    assert len(set(names)) == len(names) >= 25
    assert {tooth.mutant.name for tooth in TEETH} >= {mutant.name for mutant in MUTANTS}
    assert len({tooth.etcd for tooth in TEETH if tooth.etcd}) >= 12
    for tooth in TEETH:
        assert re.fullmatch(r"[A-Za-z0-9_-]+", tooth.name)
        assert tooth.mutant.patches
        assert tooth_of(tooth.name) is tooth_of(tooth.mutant.name) is tooth
        if tooth.found_by == PROCESS:
            assert tooth.mutant.name in SCENARIOS
        elif tooth.found_by in (RUN, SIMULATED):
            assert tooth.workload in WORKLOADS
        else:
            assert tooth.found_by == SIMULATOR
            assert tooth.mutant.kinds


def test_every_patch_replaces_something_that_is_there() -> None:
    own = [tooth.mutant for tooth in TEETH if tooth.mutant not in MUTANTS]
    assert len(own) > len(etcd_bugs.MUTANTS)
    for mutant in own:
        for owner, attribute, replacement in mutant.patches:
            assert vars(owner)[attribute] is not replacement


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(UnknownName, match="no mutant 'no-such'"):
        tooth_of("no-such")
    result = CliRunner().invoke(teeth_command, ["no-such"])
    assert result.exit_code == 2
    assert "no mutant 'no-such'" in result.output


def test_the_list_names_all_of_them() -> None:
    result = CliRunner().invoke(teeth_command, ["--list"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == len(TEETH)
    only_etcd = CliRunner().invoke(teeth_command, ["--list", "--etcd"]).output.splitlines()
    assert 12 <= len(only_etcd) < len(TEETH)


def test_quick_ones_are_found() -> None:
    found = list(bites([tooth_of(name) for name in QUICK], 1, BUDGET_SECONDS))
    assert [one.tooth.name for one in found] == list(QUICK)
    assert all(one.noticed and one.runs for one in found)


def test_one_that_changes_nothing_survives() -> None:
    calm = Mutant("calm", ((World, "after", vars(World)["after"]),), ("pause",), seeds=1)
    assert bite(Tooth(calm, ""), 30.0) == ("", 1)


def test_one_that_takes_too_long_survives_and_is_ended() -> None:
    (late,) = bites([tooth_of(QUICK[0])], 1, 0.01)
    assert late.noticed == ""
    assert late.seconds >= 0.01
    assert "**SURVIVED**" in row(late)


def test_what_whole_runs_must_find_names_workloads_and_nemeses_that_there_are() -> None:
    assert len(REAL) >= 5
    for tooth in REAL:
        assert tooth.found_by == RUN
        assert tooth.workload in WORKLOADS
        assert set(tooth.nemeses.split(",")) <= set(NEMESES)
    for tooth in IN_SIMULATED_RUNS:
        assert tooth.found_by == SIMULATED
        assert "sim" in workload_class(tooth.workload).worlds
        assert set(tooth.nemeses.split(",")) <= set(KINDS_BY_NAME)


def test_a_hunt_in_another_process_hunts_what_it_was_told_and_not_its_namesake() -> None:
    """A rule of consensus that a whole run broke is told as the simulator tells it."""
    (tooth,) = [one for one in IN_SIMULATED_RUNS if one.name == "commit-without-a-majority"]
    (found,) = bites([tooth], 1, BUDGET_SECONDS)
    assert found.noticed.startswith("InvariantBroken: commit is durable")
    assert "election / partition,kill,pause" in row(found)


def test_the_first_finding_of_a_run_is_its_checker_and_its_smallest_witness() -> None:
    output = (
        "checking\nlinear     valid\nwitness    NOT VALID  stale-read 1\n  stale-read: read of 5\n"
    )
    assert first_finding(output) == "witness: stale-read: read of 5"
    assert first_finding("hashes  NOT VALID  members 3\n") == "hashes"


def test_a_row_of_the_table_names_what_noticed_it() -> None:
    tooth = tooth_of("forget the vote")
    text = row(Bite(tooth, "two | leaders", 3, 1.25))
    assert text == "| `forget-the-vote` | R03 | - | simulator | 3 | 1.2 | two / leaders |"


@pytest.mark.slow
def test_a_lock_is_refused_to_who_lost_its_lease_while_it_waited_and_the_variant_is_found() -> None:
    """C04, Jepsen on etcd 3.4.3: with a real member."""
    assert waiter_whose_lease_ends() == ""
    noticed = waiter_whose_lease_ends("wait-for-a-lock-without-a-second-look-at-the-lease")
    assert "which was over while it waited" in noticed


@pytest.mark.slow
def test_a_sample_of_all_is_found() -> None:
    sample = Random(5).sample([tooth for tooth in TEETH if tooth.found_by == SIMULATOR], 6)
    survivors = [one.tooth.name for one in bites(sample, 2, BUDGET_SECONDS) if not one.noticed]
    assert survivors == []
