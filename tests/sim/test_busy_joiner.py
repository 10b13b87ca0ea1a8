"""A member joins a cluster that writes many checkpoints' worth while it gets the state."""

from dataclasses import replace

import pytest

from raftkv.kv import commands
from raftkv.kv.members import encode_member
from raftkv.sim import transfer
from raftkv.sim.cluster import Cluster
from raftkv.sim.operations import Put
from raftkv.sim.process import member_of
from raftkv.sim.world import MILLISECOND, SECOND
from tests.sim.scenario import LOAD, TIMING, Scenario

NEWCOMER = 4
# What is missing behind the state goes in many messages, as it would with many megabytes.
SMALL = replace(
    TIMING, snapshot_count=20, catch_up_entries=5, max_append_bytes=512, max_inflight_messages=2
)
QUIET = replace(LOAD, clients=1)


def keep_writing(run: Scenario) -> None:
    """A put at the leader every ten milliseconds. (A client would also ask the newcomer.)"""
    run.ask(run.leader, Put(b"busy", b"x"))
    run.world.after(10 * MILLISECOND, keep_writing, run)


def test_a_member_that_joins_a_busy_cluster_needs_one_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was written during the transfer is kept for it; or it would get states for ever."""
    monkeypatch.setattr(Cluster, "_administer", lambda self: None)
    monkeypatch.setattr(transfer, "_GAP_US", SECOND // 2)  # between two pieces of a state
    monkeypatch.setattr(transfer, "_DAMAGED", 0.0)
    run = Scenario(timing=SMALL, load=QUIET)
    keep_writing(run)
    run.run_for(3 * SECOND)
    joining = run.cluster._add(NEWCOMER, initial=())
    joining.start()
    began = run.leader.applied_index
    run.leader.change(commands.LEARNER_ADD, encode_member(member_of(NEWCOMER)))
    run.world.run_while(lambda: joining.applied_index < began, run.world.now_us + 20 * SECOND)
    written = run.leader.applied_index - began
    assert written > 3 * 20, "the transfer was to take several checkpoints"
    run.run_for(3 * SECOND)
    assert run.leader.applied_index - joining.applied_index < 20
    assert run.cluster.counts["snapshots installed"] == 1
    core = run.leader.replica.core
    run.run_for(3 * SECOND)
    assert core.last_index - core.log.first_index < 4 * 20, "the log is dropped again"
