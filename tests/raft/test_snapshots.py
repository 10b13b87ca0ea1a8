"""Snapshots: Raft 7, figure 13; R29, R36, R38 as far as the core decides."""

import pytest

from raftkv.errors import CorruptionError
from raftkv.raft.membership import plain
from raftkv.raft.messages import AppendEntries, AppendReply, Heartbeat, InstallSnapshot
from raftkv.raft.types import Configuration, SnapshotMeta
from tests.raft.cluster import Cluster, Stage, entries, every, only, snapshot
from tests.raft.harness import State
from tests.raft.test_replication import accept, append, leader


def offer(index: int, term: int, *, leader_term: int = 5) -> InstallSnapshot:
    """Leader 2's snapshot for member 1."""
    return InstallSnapshot(1, 2, leader_term, snapshot(index, term))


def receive(stage: Stage, message: InstallSnapshot, *, sync: bool = True) -> list[object]:
    """The driver has the state: step the message."""
    stage.received[message.snapshot.index] = State(message.snapshot, 42)
    return list(stage.take(message, sync=sync))


# --- the receiver ------------------------------------------------------------------------------


def test_a_snapshot_replaces_state_and_log() -> None:
    stage = Stage(terms=[1, 1])
    (reply,) = receive(stage, offer(10, 4))
    assert reply == AppendReply(2, 1, 5, True, 10)
    assert (stage.core.commit, stage.core.last_index, stage.core.log.anchor_term) == (10, 10, 4)
    assert stage.disk.anchor == (10, 4)
    assert stage.state.digest == 42
    assert stage.core.configuration == plain((1, 2, 3))
    stage.take(append(5, 10, 4, [5], commit=11))
    assert stage.core.commit == 11


def test_a_snapshot_is_acknowledged_only_when_its_log_is_durable() -> None:
    stage = Stage(terms=[1, 1])
    assert receive(stage, offer(10, 4), sync=False) == []
    assert only(stage.run(), AppendReply).index == 10


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_during_installation_leaves_the_old_or_the_new_state(when: str) -> None:
    """R38."""
    stage = Stage(terms=[1, 1])
    receive(stage, offer(10, 4), sync=when == "after")
    stage.reboot()
    assert stage.core.commit == (10 if when == "after" else 0)
    assert stage.core.last_index == (10 if when == "after" else 2)
    receive(stage, offer(10, 4))
    assert stage.core.commit == 10


def test_an_older_snapshot_is_dropped_and_answered_with_what_we_have() -> None:
    """R36: a second one arrives late."""
    stage = Stage()
    receive(stage, offer(10, 4))
    (reply,) = receive(stage, offer(7, 3))
    assert reply == AppendReply(2, 1, 5, True, 10)
    assert stage.core.commit == 10
    (reply,) = receive(stage, offer(10, 4))
    assert [r.installed for r in stage.readies if r.installed] == [snapshot(10, 4)]


def test_a_snapshot_of_a_prefix_of_the_log_keeps_the_entries_behind_it() -> None:
    """Raft 7: "if the follower has the entry, it retains the entries following it"."""
    stage = Stage(terms=[1, 1, 2, 2])
    (reply,) = receive(stage, offer(3, 2))
    assert reply == AppendReply(2, 1, 5, True, 3)
    assert (stage.core.commit, stage.core.last_index) == (3, 4)
    assert [r.installed for r in stage.readies if r.installed] == []


def test_a_snapshot_discards_a_conflicting_log() -> None:
    stage = Stage(terms=[1, 1, 2, 2])
    receive(stage, offer(3, 3))
    assert (stage.core.commit, stage.core.last_index) == (3, 3)


def test_a_snapshot_of_a_deposed_leader_is_refused_with_our_term() -> None:
    stage = Stage(term=9)
    (reply,) = receive(stage, offer(10, 4))
    assert isinstance(reply, AppendReply)
    assert (reply.success, reply.term) == (False, 9)
    assert stage.core.commit == 0


def test_a_learner_takes_a_snapshot_older_than_its_own_addition() -> None:
    """R29: its configuration does not know the learner yet; that says nothing."""
    stage = Stage(member=9, configuration=Configuration())
    message = InstallSnapshot(9, 2, 5, snapshot(10, 4))
    stage.received[10] = State(message.snapshot, 42)
    stage.take(message)
    assert stage.core.commit == 10
    stage.core.step(AppendEntries(9, 2, 5, 10, 4, entries(11, [5]), 11))
    stage.run()
    assert stage.core.commit == 11


def test_batches_written_before_a_snapshot_do_not_vouch_for_the_log_behind_it() -> None:
    """R14."""
    stage = Stage()
    stage.take(append(1, 0, 0, [1] * 20), sync=False)
    receive(stage, offer(10, 4), sync=False)
    stage.take(append(5, 10, 4, [5] * 5), sync=False)
    stable = []
    while stage.writing:
        stage.sync(stage.out.append)
        stable.append(stage.core.log.stable_index)
    assert stable == [0, 10, 15]


def test_state_and_log_that_do_not_meet_are_refused_at_the_start() -> None:
    """R38, R15: state ahead of the log, or the log compacted beyond the state."""
    stage = Stage(terms=[1, 1])
    stage.disk.state = State(SnapshotMeta(5, 1, plain((1, 2, 3))))
    with pytest.raises(CorruptionError, match="entries were lost"):
        stage.start()
    stage.disk.state = State(SnapshotMeta(0, 0, plain((1, 2, 3))))
    stage.disk.compact(1)
    with pytest.raises(CorruptionError, match="entries were lost"):
        stage.start()


# --- the leader ----------------------------------------------------------------------------------


def compacted_leader() -> Stage:
    """A leader whose log begins behind entry 3; follower 3 is empty."""
    stage = leader([1, 1, 1])
    stage.run()
    stage.take(accept(stage, 2))
    stage.checkpoint()
    stage.compact(1)
    assert stage.core.log.first_index == 4
    return stage


def test_a_follower_that_needs_dropped_entries_gets_the_state_once() -> None:
    """R36: one installation at a time."""
    stage = compacted_leader()
    sent = stage.take(AppendReply(1, 3, 2, False, 3, 0, 0, read_round=1))
    assert only(sent, InstallSnapshot).snapshot == stage.core.snapshot
    stage.core.propose([b"x"])
    sent = stage.run() + stage.tick(5)
    assert every(sent, InstallSnapshot) == []
    assert [m for m in every(sent, AppendEntries) if m.to == 3] == []
    assert len([m for m in every(sent, Heartbeat) if m.to == 3]) == 5
    assert stage.core.progress()[3].state == "snapshot"


def test_entries_follow_behind_the_state() -> None:
    stage = compacted_leader()
    stage.take(AppendReply(1, 3, 2, False, 3, 0, 0, read_round=1))
    stage.core.propose([b"x"])
    stage.run()
    stage.core.snapshot_sent(3, True, 4)
    (message,) = [m for m in every(stage.run(), AppendEntries) if m.to == 3]
    assert (message.previous_index, len(message.entries)) == (4, 1)


def test_a_failed_transfer_is_tried_again_in_the_next_interval() -> None:
    stage = compacted_leader()
    stage.take(AppendReply(1, 3, 2, False, 3, 0, 0, read_round=1))
    stage.core.snapshot_sent(3, False, 4)
    assert every(stage.run(), InstallSnapshot) == []
    assert len(every(stage.tick(), InstallSnapshot)) == 1


def test_the_end_of_a_transfer_that_nobody_waits_for_is_ignored() -> None:
    stage = compacted_leader()
    stage.core.snapshot_sent(2, True, 4)
    stage.core.snapshot_sent(99, False, 4)
    assert stage.core.progress()[2].state == "replicate"


def test_no_state_is_sent_that_the_log_does_not_continue() -> None:
    stage = compacted_leader()
    stage.core.snapshot = snapshot(1, 1)
    sent = stage.take(AppendReply(1, 3, 2, False, 3, 0, 0, read_round=1)) + stage.tick(3)
    assert every(sent, InstallSnapshot) == []
    stage.core.snapshot_point(stage.state.meta)
    assert len(every(stage.tick(), InstallSnapshot)) == 1


def test_a_follower_behind_the_log_converges_by_snapshot_and_entries() -> None:
    cluster = Cluster()
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(30):
        cluster.put(b"%d" % number)
    cluster.stages[1].checkpoint()
    cluster.stages[1].compact(0)
    cluster.put(b"behind")
    cluster.cut.clear()
    cluster.tick(5)
    assert cluster[3].commit == cluster[1].commit
    assert cluster.stages[3].state.digest == cluster.stages[1].state.digest
    assert cluster[3].log.anchor_index == 31


def test_a_window_full_of_lost_entries_that_are_gone_by_now_ends_in_a_snapshot() -> None:
    """The follower fell behind with its whole window in flight while the log moved on."""
    cluster = Cluster()
    core = cluster.elect(1)
    cluster.tick(2)
    cluster.isolate(3)
    for number in range(600):
        core.propose([b"%d" % number])
        cluster.flow()
    assert core.progress()[3].inflight_messages == 512
    cluster.stages[1].checkpoint()
    cluster.stages[1].compact(0)
    cluster.cut.clear()
    cluster.tick(5)
    assert cluster[3].commit == core.commit
