"""What a Ready sends goes with it: no empty Ready follows, and none that is due is forgotten."""

from typing import Any

from raftkv.raft.messages import AppendEntries, Heartbeat, ReadIndexRequest
from raftkv.raft.replication import MAX_MESSAGES_PER_READY
from tests.raft.cluster import Stage, every
from tests.raft.test_replication import accept, leader
from tests.raft.test_replication import append as append_of_2


def led(**settings: Any) -> Stage:
    """A leader whose followers have everything and know it."""
    stage = leader(**settings)
    stage.run()
    stage.take(accept(stage, 2), accept(stage, 3))
    stage.tick(stage.core.settings.heartbeat_ticks)
    assert not stage.core.has_ready()
    return stage


def test_an_append_is_one_ready() -> None:
    """It carries the batch and the messages; a second one would find nothing."""
    stage = led()
    stage.core.propose([b"x"])
    ready = stage.core.ready()
    assert ready.batch is not None
    assert [type(message) for message in ready.messages] == [AppendEntries, AppendEntries]
    assert not stage.core.has_ready()


def test_a_heartbeat_is_one_ready() -> None:
    stage = led()
    for _ in range(stage.core.settings.heartbeat_ticks):
        stage.core.tick()
    ready = stage.core.ready()
    assert [type(message) for message in ready.messages] == [Heartbeat, Heartbeat]
    assert not stage.core.has_ready()


def test_a_followers_question_for_a_read_index_is_one_ready() -> None:
    stage = Stage()
    stage.take(append_of_2(1, 0, 0, [1]))
    stage.core.read()
    ready = stage.core.ready()
    assert [type(message) for message in ready.messages] == [ReadIndexRequest]
    assert not stage.core.has_ready()


def test_what_one_ready_may_not_send_is_sent_by_the_next_ones() -> None:
    """More appends than one Ready takes for a follower: the following Readies send the rest."""
    stage = led(max_append_bytes=10, max_inflight_messages=100)
    count = 3 * MAX_MESSAGES_PER_READY
    stage.core.propose([bytes(10)] * count)
    first = stage.core.ready()
    assert [message.to for message in first.messages].count(2) == MAX_MESSAGES_PER_READY
    assert stage.core.has_ready()
    rest = every(stage.run(), AppendEntries)
    assert [message.to for message in rest].count(2) == count - MAX_MESSAGES_PER_READY
    assert not stage.core.has_ready()
