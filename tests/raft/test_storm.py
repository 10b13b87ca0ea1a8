"""Random faults against all promises of Raft at once (R01-R17, R23, R35, R36, R38, R40, R42).

What is checked after every step stands in world.py. What a storm has found is pinned as
a test of its own beside the rule that it broke, so that it does not depend on a seed.
"""

from collections import Counter

import pytest

from tests.raft.world import Faults, World, storm

WORLDS: dict[str, dict[str, object]] = {
    "plain": {},
    "five": {"voters": 5, "faults": Faults(cuts=0.15, crashes=0.1)},
    "changing": {"spare": 2, "faults": Faults(changes=0.3, transfers=0.1, losses=0.1)},
    "growing": {"voters": 1, "spare": 3, "faults": Faults(changes=0.3, checkpoints=0.5)},
    "slow disks": {"faults": Faults(disk_ticks=2.0, crashes=0.2, late=0.15)},
    "lossy": {"faults": Faults(drop=0.3, duplicate=0.5, late=0.2)},  # R12
}
SEEDS_PER_WORLD = 50  # 300 in all
CHUNK = 10


@pytest.mark.parametrize("chunk", range(0, SEEDS_PER_WORLD, CHUNK))
@pytest.mark.parametrize("name", WORLDS)
def test_the_promises_hold_under_faults_and_the_cluster_recovers(name: str, chunk: int) -> None:
    count = Counter[str]()
    for seed in range(chunk, chunk + CHUNK):
        world = storm(seed, 35, **WORLDS[name])
        count += world.count
        count["commit"] += world.commit
    # The storm must have been one, and the cluster must have worked in it.
    assert count["crashes"] > 3
    assert count["elections"] >= CHUNK
    assert count["commit"] > 10 * CHUNK
    assert count["answered"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(0, 60, CHUNK))
@pytest.mark.parametrize("name", WORLDS)
def test_the_promises_hold_under_longer_storms(name: str, chunk: int) -> None:
    for seed in range(10_000 + chunk, 10_000 + chunk + CHUNK):
        storm(seed, 120, **WORLDS[name])


def test_one_seed_is_one_history() -> None:
    def history(seed: int) -> tuple[object, ...]:
        world = World(seed)
        world.run(60)
        return tuple(world.lines()), tuple(world.committed.items()), dict(world.count)

    assert history(5) == history(5)
    assert history(5) != history(6)
