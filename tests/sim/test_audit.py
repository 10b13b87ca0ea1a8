"""Comparisons of states in simulated clusters with faults: equal members are never named."""

from functools import partial

import pytest

from raftkv.kv.alarms import Alarms
from raftkv.raft.types import Configuration
from raftkv.replica import audit
from raftkv.replica.audit import Said, Verdict
from raftkv.replica.caretaker import UpkeepSettings
from raftkv.replica.replica import ReplicaSettings
from raftkv.sim import process
from raftkv.sim.run import run_seed


@pytest.mark.parametrize(("seed", "nodes"), [(1001, 3), (1002, 5)])
def test_crashes_partitions_and_transfers_make_nobody_look_wrong(
    seed: int, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M20: members that are down, behind, wiped or replaced are not judged or found right."""
    full: list[int] = []
    raised: list[int] = []
    judge = audit.judge

    def judging(reports: dict[int, Said], configuration: Configuration) -> Verdict:
        full.append(len(reports))
        return judge(reports, configuration)

    settings = partial(ReplicaSettings, upkeep=UpkeepSettings(check_seconds=1.0))
    monkeypatch.setattr(process, "ReplicaSettings", settings)
    monkeypatch.setattr(audit, "judge", judging)
    monkeypatch.setattr(Alarms, "activate", lambda *_, **__: raised.append(1))
    summary = run_seed(seed, nodes=nodes, seconds=5)
    assert not summary.failure, summary.failure
    assert not raised
    assert full.count(nodes) > 10, "all members were compared with each other"
    assert min(full) < nodes, "and at times some could not be"
