"""Long runs: what a seed draws, episodes that can be left out, liveness phases and their bounds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from raftkv.raft.leader import Leader
from raftkv.sim import floors, liveness
from raftkv.sim.__main__ import main
from raftkv.sim.episodes import episode_name, round_of
from raftkv.sim.faults import KINDS
from raftkv.sim.hunting import Mutant, applied
from raftkv.sim.minority import BREAKS
from raftkv.sim.profiles import Profile
from raftkv.sim.replay import Replay, read_seeds
from raftkv.sim.run import Run, Summary
from raftkv.sim.swarm import Swarm, calm_profile, swarm_profile
from raftkv.sim.totals import Totals
from raftkv.sim.world import SECOND
from tests.sim.scenario import LOAD, TIMING

SEED = 7  # its broken minority is the leader


def small(only: frozenset[str] | None = None) -> Profile:
    """Few clients and quick faults."""
    drawn = swarm_profile(SEED, 3, 8.0)
    swarm = Swarm(150_000, 0.5, 8 * SECOND, only)
    return replace(drawn, timing=TIMING, load=LOAD, rounds=2, fault_us=4 * SECOND, swarm=swarm)


@pytest.fixture(scope="module")
def whole() -> Summary:
    """The small run with all its faults."""
    summary = Run(SEED, small()).execute()
    assert not summary.failure, summary.failure
    return summary


# --- what is drawn ---------------------------------------------------------------------------


def test_settings_of_a_seed_are_fixed_and_those_of_others_differ() -> None:
    assert swarm_profile(5) == swarm_profile(5)
    assert calm_profile(5) == calm_profile(5)
    profiles = [swarm_profile(seed) for seed in range(60)]
    draws: tuple[Callable[[Profile], object], ...] = (
        lambda one: one.nodes,
        lambda one: len(one.kinds) == len(KINDS),
        lambda one: one.timing.tick_us * one.timing.election_ticks,
        lambda one: one.timing.request_timeout_seconds,
        lambda one: one.timing.fsync_us,
        lambda one: one.timing.latency_us,
        lambda one: one.timing.snapshot_count,
        lambda one: one.load.think_us,
        lambda one: one.load.value_bytes,
        lambda one: one.load.get == 0,
        lambda one: one.watchers == 0,
        lambda one: one.holders == 0,
        lambda one: one.swarm and one.swarm.pause_us,
        lambda one: one.swarm and one.swarm.lasting,
    )
    for draw in draws:
        assert len({draw(one) for one in profiles}) > 1
    assert {kind for one in profiles for kind in one.kinds} == set(KINDS)


def test_line_of_a_seed_tells_what_was_drawn() -> None:
    profile = swarm_profile(3, 5)
    words = profile.describe()
    assert words.startswith("5 members, election ")
    assert "faults every " in words
    assert words.endswith(", ".join(profile.kinds))


def test_fault_time_is_divided_into_phases_and_the_last_one_is_shorter() -> None:
    profile = replace(small(), fault_us=3 * SECOND, rounds=3)
    assert list(profile.phases()) == [(1, 3 * SECOND), (2, 3 * SECOND), (3, 2 * SECOND)]


# --- episodes ----------------------------------------------------------------------------------


def test_names_of_episodes_say_their_round() -> None:
    assert round_of(episode_name(12, 34)) == 12
    with pytest.raises(ValueError, match="not enough values"):
        round_of("12")


def test_same_seed_gives_the_same_long_run(whole: Summary) -> None:
    again = Run(SEED, small()).execute()
    assert again.trace_hash == whole.trace_hash
    assert again.episodes == whole.episodes
    assert len(whole.episodes) > 10
    assert whole.operations > 50


def test_episode_that_is_left_out_leaves_the_others_where_they_were(whole: Summary) -> None:
    first = [one for one in whole.episodes if round_of(one.name) == 1]
    gone = first[2]
    names = frozenset(one.name for one in whole.episodes) - {gone.name}
    summary = Run(SEED, small(names)).execute()
    assert not summary.failure, summary.failure
    found = {one.name: one for one in summary.episodes if round_of(one.name) == 1}
    assert set(found) <= {one.name for one in first} - {gone.name}
    begun = {one.name: one for one in first}
    for name, episode in found.items():
        if not name.endswith(".0"):  # the phase of the minority begins when all has settled
            assert episode == begun[name]


def test_rounds_without_an_episode_do_not_happen() -> None:
    profile = small(frozenset({"2.1", "2.3"}))
    assert [number for number, _ in profile.phases()] == [2]
    summary = Run(SEED, profile).execute()
    assert {one.name for one in summary.episodes} <= {"2.1", "2.3"}
    assert sum(summary.struck.values()) == len(summary.episodes) > 0


# --- liveness phases ---------------------------------------------------------------------------


def minority_run(kind: str, monkeypatch: pytest.MonkeyPatch, nodes: int = 3) -> Summary:
    """One round without faults, behind which a minority, the leader if possible, is broken so."""
    monkeypatch.setattr(liveness, "ALL_WELL", 0.0)
    monkeypatch.setattr(liveness, "BREAKS", {kind: BREAKS[kind]})
    profile = replace(small(frozenset({"1.0"})), nodes=nodes, watchers=0, holders=0, sessions=0)
    return Run(SEED, profile).execute()


@pytest.mark.parametrize("kind", sorted(BREAKS))
def test_majority_goes_on_while_a_minority_stays_broken(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R05, R07, R08, R11, R18, D14, D15"""
    summary = minority_run(kind, monkeypatch, 5 if kind == "half cut" else 3)
    assert not summary.failure, summary.failure
    assert {one.kind for one in summary.episodes} == {f"minority {kind}"}
    assert summary.minorities == 1
    assert 0 < summary.longest_pause < 2 * liveness.PAUSE_ELECTIONS


def test_pause_of_a_well_majority_that_is_too_long_fails_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A bound that nothing can break would promise nothing."""
    monkeypatch.setattr(liveness, "longest_pause_us", lambda election_us: 0)
    summary = minority_run("down", monkeypatch)
    assert summary.rule == "liveness"
    assert "which are well" in summary.failure


def test_recovery_that_takes_too_long_fails_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "recovery_us", lambda election_us: 0)
    summary = minority_run("down", monkeypatch)
    assert summary.rule == "recovery"


# --- series of runs ------------------------------------------------------------------------------


def test_sums_of_a_series_go_on_where_they_were_left(tmp_path: Path, whole: Summary) -> None:
    file, what = tmp_path / "totals.json", {"load": "swarm", "seconds": 8.0}
    totals = Totals()
    totals.add(whole)
    totals.save(file, what)
    again = Totals.load(file, what)
    assert again.lines(1.0) == totals.lines(1.0)
    assert again.seeds == {SEED}
    again.add(replace(whole, seed=SEED + 1, failure="broken"))
    assert again.runs == 2
    assert again.failed == {SEED + 1: "broken"}
    assert again.sums["operations"] == 2 * whole.operations
    with pytest.raises(ValueError, match="seconds"):
        Totals.load(file, {"load": "swarm", "seconds": 9.0})
    assert Totals.load(tmp_path / "none.json", what).runs == 0


def test_command_goes_on_with_a_series_and_tells_its_sums(tmp_path: Path) -> None:
    words = ["--seconds", "2", "--processes", "1", "--nodes", "3", "--load", "calm"]
    words += ["--totals", str(tmp_path / "totals.json")]
    first = CliRunner().invoke(main, [*words, "--seeds", "1"])
    assert first.exit_code == 0, first.output
    assert "seed 0 ok, " in first.output
    second = CliRunner().invoke(main, [*words, "--seeds", "2"])
    assert second.exit_code == 0, second.output
    assert "seed 0 ok, " not in second.output
    assert "seed 1 ok, " in second.output
    assert "\n2 runs, 0 failed; " in second.output
    for what in ("simulated hours", "operations ", "faults that struck: ", "faults every "):
        assert what in second.output


def test_series_with_too_few_faults_fails(whole: Summary) -> None:
    totals = Totals()
    totals.add(whole)
    faults = sum(whole.struck.values())
    assert totals.missing("swarm", 8.0, 0, faults) == []
    assert "of at least" in totals.missing("swarm", 8.0, 0, faults + 1)[0]


def test_swarm_that_meets_too_few_faults_fails() -> None:
    assert floors.swarm_missing(149_999, 1000, 50.0) != []
    assert floors.swarm_missing(150_000, 1000, 50.0) == []
    assert floors.swarm_missing(0, floors.ALL_STRUCK_RUNS - 1, 50.0) == []


def test_calm_load_is_cheap_and_has_an_operation_every_second() -> None:
    """What a virtual second costs is its events; the clock of this machine has no say."""
    summary = Run(2, calm_profile(2, 3, 20.0)).execute()
    assert not summary.failure, summary.failure
    virtual_seconds = summary.virtual_us / SECOND
    assert summary.operations >= virtual_seconds
    assert summary.events < 350 * virtual_seconds
    assert summary.struck


def test_command_of_a_run_repeats_it(tmp_path: Path) -> None:
    replay = Replay(3, 7.5, ("leases",), "swarm", 5, ("1.2", "2.0"), "vote for any log")
    words = "--seed 3 --load swarm --nodes 5 --seconds 7.5 --without leases --only 1.2,2.0 --mutant"
    assert words in replay.command()
    file = tmp_path / "seeds.txt"
    file.write_text("3 7.5 -leases +swarm =1.2,2.0  # found something\n")
    assert read_seeds(file) == [Replay(3, 7.5, ("leases",), "swarm", 0, ("1.2", "2.0"))]


# --- a known-wrong variant that does nothing wrong, but stands still ---------------------------


_tick = Leader.tick


def _tick_without_check_quorum(self: Leader) -> None:
    self._check_elapsed = 0
    _tick(self)


STANDSTILL = Mutant(
    "lead although nobody answers", ((Leader, "tick", _tick_without_check_quorum),), ()
)


def test_leader_that_keeps_its_place_and_serves_nobody_fails_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R07: no invariant is broken; only the liveness phase sees it."""
    with applied(STANDSTILL):
        summary = minority_run("deaf", monkeypatch)
    assert summary.rule == "recovery", summary.failure
