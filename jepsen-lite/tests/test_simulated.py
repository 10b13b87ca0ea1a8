"""Whole runs on simulated clusters: the same parts as on real ones, in virtual time."""

import asyncio
import random
import time
from pathlib import Path

import pytest

from jepsen_lite.checker.base import Verdict
from jepsen_lite.judging import judge
from jepsen_lite.nemesis import NEMESES
from jepsen_lite.planning import BadPlan
from jepsen_lite.registry import UnknownName
from jepsen_lite.store import Store
from jepsen_lite.target.simfaults import KINDS_BY_NAME, run_simulated
from jepsen_lite.target.virtual import NothingLeft, VirtualLoop
from jepsen_lite.workload import WORKLOADS
from jepsen_lite.workload.options import Options
from raftkv.client import lifetime
from raftkv.client.aio import lease, watch
from raftkv.sim.faults import KINDS
from raftkv.sim.world import World

SAFE = sorted({*WORKLOADS} - {"lock-unfenced"})


def simulated(
    root: Path,
    workload: str = "register",
    *,
    nemeses: tuple[str, ...] = ("partition", "kill", "pause"),
    seed: int = 1,
    seconds: float = 15.0,
    mutants: tuple[str, ...] = (),
) -> tuple[Store, dict[str, Verdict]]:
    options = Options(
        workload=workload,
        nemeses=nemeses,
        seed=seed,
        seconds=seconds,
        rate=30.0,
        world="sim",
    )
    store = Store.create(root, workload)
    run_simulated(options, store, mutants)
    return store, judge(store)


@pytest.mark.parametrize("workload", SAFE)
def test_a_workload_passes_on_a_simulated_cluster_with_faults(
    workload: str, tmp_path: Path
) -> None:
    _, verdicts = simulated(tmp_path, workload)
    for name, verdict in verdicts.items():
        assert verdict.passed, (name, verdict.anomalies[:3])
    assert int(verdicts["floors"].facts["operations"]) > 100
    assert int(verdicts["floors"].facts["faults"]) >= 3


@pytest.mark.parametrize("workload", ["append", "lock"])
def test_equal_seeds_give_equal_histories_and_others_do_not(workload: str, tmp_path: Path) -> None:
    stores = [simulated(tmp_path, workload, seed=seed, seconds=6.0)[0] for seed in (5, 5, 6)]
    first, second, other = (store.history.read_bytes() for store in stores)
    assert first == second
    assert stores[0].log.read_bytes() == stores[1].log.read_bytes()
    assert first != other


def test_every_simulated_kind_of_fault_can_strike(tmp_path: Path) -> None:
    names = tuple(sorted(KINDS_BY_NAME))
    _, verdicts = simulated(tmp_path, "wr", nemeses=names, seconds=40.0, seed=4)
    for name in names:
        assert int(verdicts["floors"].facts[f"faults: {name}"]) > 0, name
    assert all(verdict.passed for verdict in verdicts.values())


def test_the_names_are_those_of_nemeses_and_of_the_simulator() -> None:
    assert set(KINDS_BY_NAME) <= set(NEMESES)
    assert {kind for kinds in KINDS_BY_NAME.values() for kind in kinds} <= set(KINDS)


@pytest.mark.parametrize(
    ("workload", "nemesis", "mutant", "noticing"),
    [
        ("register", "partition", "commit-without-a-majority", "floors"),
        ("register", "partition", "vote-twice-in-a-term", "floors"),
        ("register", "member", "count-learners-as-voters", "floors"),
        ("watch", "pause", "split-a-revision", "watch"),
        ("cache", "pause", "start-to-scan-too-late", "cache"),
        ("lease", "partition", "renew-a-lease-that-is-gone", "lease"),
        ("lock", "pause", "guard-by-a-key-that-is-gone", "lock"),
    ],
)
def test_a_known_wrong_server_is_found(
    workload: str, nemesis: str, mutant: str, noticing: str, tmp_path: Path
) -> None:
    """A broken rule of consensus ends a run, so it is under its floors."""
    nemeses = tuple(dict.fromkeys((nemesis, "partition", "kill", "pause")))
    for seed in range(1, 9):
        _, verdicts = simulated(tmp_path, workload, nemeses=nemeses, seed=seed, mutants=(mutant,))
        if not verdicts[noticing].valid:
            return
    pytest.fail("nobody noticed")


def test_locks_without_fencing_are_found_unsafe(tmp_path: Path) -> None:
    """C03: who stands still too long writes too late, whatever the servers do."""
    for seed in range(1, 9):
        _, verdicts = simulated(tmp_path, "lock-unfenced", nemeses=("pause",), seed=seed)
        if "late-write" in {anomaly.name for anomaly in verdicts["lock"].anomalies}:
            return
    pytest.fail("nobody wrote too late")


def test_members_are_replaced_and_clients_find_those_that_come(tmp_path: Path) -> None:
    nemeses = ("member", "partition", "kill")
    store, verdicts = simulated(tmp_path, "append", nemeses=nemeses, seconds=12.0)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    assert int(verdicts["floors"].facts["faults: member"]) > 0
    assert len(store.read_run()["final"]["members"]) == 3


def test_what_is_not_simulated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="is not simulated; possible here: clock"):
        simulated(tmp_path, nemeses=("files",))
    with pytest.raises(UnknownName, match="no nemesis 'nope'"):
        simulated(tmp_path, nemeses=("nope",))
    with pytest.raises(UnknownName, match="no mutant"):
        simulated(tmp_path, mutants=("nope",))


def test_a_sleep_takes_virtual_time_only() -> None:
    world = World(1)
    happened: list[int] = []
    world.after(1_500_000, lambda: happened.append(world.now_us))
    loop = VirtualLoop(world)
    try:
        loop.run_until_complete(asyncio.sleep(3600.0))
    finally:
        loop.close()
    assert happened == [1_500_000]
    assert world.now_us == 3_600_000_000


def test_no_timer_fires_before_its_time_not_even_by_a_part_of_a_microsecond() -> None:
    """Who waits until then, and looks at the clock, would find nothing to do for ever."""
    world = World(1)
    loop = VirtualLoop(world)

    async def wait_until(moment: float) -> float:
        steps = 0
        while loop.time() < moment:
            assert (steps := steps + 1) < 10
            await asyncio.sleep(moment - loop.time())
        return loop.time()

    try:
        for moment in (0.1234567, 0.1234567 + 1e-13, 7.7000001, 1000.3 + 1e-12):
            assert moment <= loop.run_until_complete(wait_until(moment)) < moment + 3e-6
    finally:
        loop.close()


def test_the_library_has_its_own_clock_and_dice_again_behind_a_run(tmp_path: Path) -> None:
    before = lifetime.now()
    simulated(tmp_path, "lock", nemeses=("pause",), seconds=3.0)
    assert lifetime.now() >= before
    assert vars(lifetime)["time"] is time
    assert vars(lease)["random"] is vars(watch)["random"] is random


def test_an_event_of_the_world_wakes_a_coroutine_at_its_time() -> None:
    world = World(1)
    loop = VirtualLoop(world)

    async def wait() -> float:
        future: asyncio.Future[None] = loop.create_future()
        world.after(250_000, future.set_result, None)
        async with asyncio.timeout(10.0):
            await future
        return loop.time()

    try:
        assert loop.run_until_complete(wait()) == 0.25
    finally:
        loop.close()


def test_waiting_for_nothing_is_an_error_and_not_for_ever() -> None:
    loop = VirtualLoop(World(1))
    try:
        with pytest.raises(NothingLeft):
            loop.run_until_complete(loop.create_future())
    finally:
        loop.close()
