"""Whole runs on simulated clusters: the same parts as on real ones, in virtual time."""

import asyncio
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
from jepsen_lite.workload import WORKLOADS, workload_class
from jepsen_lite.workload.options import Options
from raftkv.sim.faults import KINDS
from raftkv.sim.world import World

SIMULATED = sorted(name for name in WORKLOADS if "sim" in workload_class(name).worlds)


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


@pytest.mark.parametrize("workload", SIMULATED)
def test_a_workload_passes_on_a_simulated_cluster_with_faults(
    workload: str, tmp_path: Path
) -> None:
    _, verdicts = simulated(tmp_path, workload)
    for name, verdict in verdicts.items():
        assert verdict.passed, (name, verdict.anomalies[:3])
    assert int(verdicts["floors"].facts["operations"]) > 200
    assert int(verdicts["floors"].facts["faults"]) >= 3


def test_equal_seeds_give_equal_histories_and_others_do_not(tmp_path: Path) -> None:
    stores = [simulated(tmp_path, "append", seed=seed, seconds=6.0)[0] for seed in (5, 5, 6)]
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


@pytest.mark.parametrize("mutant", ["commit-without-a-majority", "vote-twice-in-a-term"])
def test_a_known_wrong_server_is_found(mutant: str, tmp_path: Path) -> None:
    for seed in range(1, 6):
        _, verdicts = simulated(tmp_path, seed=seed, mutants=(mutant,))
        if not all(verdict.valid for verdict in verdicts.values()):
            return
    pytest.fail("nobody noticed")


def test_what_is_not_simulated_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="cannot run in the world 'sim'"):
        simulated(tmp_path, "lock")
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
