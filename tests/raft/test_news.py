"""When followers are told a commit index that no append carries to them."""

from raftkv.raft.messages import Heartbeat, Message, ReadIndexRequest
from tests.raft.cluster import Stage, every
from tests.raft.test_replication import accept, leader


def news(messages: list[Message]) -> dict[int, int]:
    """Heartbeats that only tell a commit index: receiver -> index."""
    return {beat.to: beat.commit for beat in every(messages, Heartbeat) if not beat.read_round}


def committed(stage: Stage) -> list[Message]:
    """Both followers take a new entry; what the leader sends then."""
    stage.core.propose([b"x"])
    stage.run()
    return [*stage.take(accept(stage, 2)), *stage.take(accept(stage, 3))]


def test_every_commit_is_told_at_once_unless_news_are_deferred() -> None:
    stage = leader()
    committed(stage)
    assert news(committed(stage)) == {2: stage.core.commit, 3: stage.core.commit}
    assert not stage.core.has_news()


def test_deferred_news_wait_for_the_driver() -> None:
    stage = leader()
    stage.core.defers_news = True
    assert news(committed(stage)) == {}
    assert stage.core.has_news()
    stage.core.tell_news()
    assert news(stage.run()) == {2: stage.core.commit, 3: stage.core.commit}
    assert not stage.core.has_news()


def test_deferred_news_are_told_at_once_to_a_member_where_somebody_waits() -> None:
    stage = leader()
    stage.core.defers_news = True
    committed(stage)
    stage.core.want_commit(3, stage.core.last_index + 1)
    assert news(committed(stage)) == {3: stage.core.commit}


def test_a_read_at_a_follower_brings_it_the_commit_index_it_waits_for() -> None:
    stage = leader()
    stage.core.defers_news = True
    committed(stage)
    assert stage.core.has_news()
    asked = stage.take(ReadIndexRequest(1, 2, stage.core.term, 7))
    reply = accept(stage, 3)
    reply.read_round = max(beat.read_round for beat in every(asked, Heartbeat))
    sent = [*asked, *stage.take(reply)]
    told = [beat.commit for beat in every(sent, Heartbeat) if beat.to == 2]
    assert max(told) == stage.core.commit


def test_news_wanted_for_an_entry_that_is_not_committed_yet_wait_for_its_commit() -> None:
    stage = leader()
    stage.core.defers_news = True
    committed(stage)
    stage.core.want_commit(2, stage.core.commit + 5)
    assert news(stage.run()) == {}


def test_an_acknowledgement_that_changes_nothing_asks_for_no_turn() -> None:
    """The second follower's answer comes after the commit; what it should know goes deferred."""
    stage = leader()
    stage.core.defers_news = True
    stage.core.propose([b"x"])
    stage.run()
    stage.take(accept(stage, 2))
    assert stage.core.commit == stage.core.last_index
    late = accept(stage, 3)
    stage.core.step(late)
    assert stage.core.match_index(3) == stage.core.commit
    assert not stage.core.has_ready()
    assert stage.core.has_news()
