"""Log replication and commitment: Raft 5.3, 5.4.2, figure 2, figures 7 and 8. One test per rule."""

from typing import Any

import pytest

from raftkv.errors import CorruptionError, ProtocolError
from raftkv.raft.log import Log
from raftkv.raft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Message,
    VoteReply,
)
from raftkv.raft.roles import LEADER, NotLeader, UncommittedFull
from raftkv.raft.types import Entry, HardState
from tests.raft.cluster import TIMEOUT, Cluster, Stage, entries, every, only


def append(
    term: int, previous: int, previous_term: int, terms: list[int], commit: int = 0, round_: int = 0
) -> AppendEntries:
    """What leader 2 sends to member 1."""
    return AppendEntries(
        1, 2, term, previous, previous_term, entries(previous + 1, terms), commit, round_
    )


def leader(terms: list[int] | None = None, **settings: Any) -> Stage:
    """Member 1 of 1, 2, 3 leads a new term; 2 and 3 are probed."""
    stage = Stage(terms=terms or [], **settings)
    term = stage.core.term + 1
    stage.core.campaign()
    stage.run()
    stage.take(VoteReply(1, 2, term, True, True))
    stage.core.step(VoteReply(1, 2, term, True))
    assert stage.core.role == LEADER
    return stage


def accept(stage: Stage, sender: int, index: int | None = None) -> AppendReply:
    """Follower `sender` has everything up to `index` (default: all)."""
    index = stage.core.last_index if index is None else index
    return AppendReply(1, sender, stage.core.term, True, index)


# --- the follower (5.3, figure 2) ------------------------------------------------------------


def test_an_append_is_refused_when_the_entry_before_it_is_missing() -> None:
    stage = Stage(terms=[1, 1])
    reply = only(stage.take(append(2, 5, 1, [2])), AppendReply)
    assert (reply.success, reply.index) == (False, 5)
    assert (reply.hint_index, reply.hint_term) == (2, 1)


def test_an_append_is_refused_when_the_entry_before_it_has_another_term() -> None:
    stage = Stage(terms=[1, 2, 2])
    reply = only(stage.take(append(3, 3, 1, [3])), AppendReply)
    assert (reply.success, reply.hint_index, reply.hint_term) == (False, 1, 1)
    assert stage.log_terms() == [1, 2, 2]


def test_a_conflicting_entry_and_all_that_follow_it_are_deleted() -> None:
    stage = Stage(terms=[1, 1, 1, 1])
    stage.take(append(2, 1, 1, [2]))
    assert stage.log_terms() == [1, 2]
    assert [entry.term for entry in stage.disk.log] == [1, 2]


def test_entries_not_in_the_log_are_appended() -> None:
    stage = Stage(terms=[1])
    reply = only(stage.take(append(1, 1, 1, [1, 1])), AppendReply)
    assert (reply.success, reply.index) == (True, 3)
    assert stage.log_terms() == [1, 1, 1]


def test_a_stale_shorter_append_does_not_delete_what_follows_it() -> None:
    """R13."""
    stage = Stage(terms=[1])
    stage.take(append(1, 1, 1, [1, 1, 1]))
    for stale in (append(1, 1, 1, [1]), append(1, 1, 1, []), append(1, 0, 0, [1, 1])):
        reply = only(stage.take(stale), AppendReply)
        assert reply.success
        assert reply.index == stale.previous_index + len(stale.entries)
        assert stage.log_terms() == [1, 1, 1, 1]


def test_an_append_of_a_deposed_leader_does_not_touch_the_log() -> None:
    """R13."""
    stage = Stage(terms=[1, 3, 3])
    stage.take(append(2, 1, 1, [2], commit=2))
    assert stage.log_terms() == [1, 3, 3]
    assert stage.core.commit == 0


def test_commit_follows_the_leader_but_not_beyond_what_the_append_verified() -> None:
    """Figure 2: min(leaderCommit, index of last new entry)."""
    stage = Stage(terms=[1, 1, 1])
    stage.take(append(2, 1, 1, [], commit=3))
    assert stage.core.commit == 1
    stage.take(append(2, 1, 1, [1], commit=3))
    assert stage.core.commit == 2
    stage.take(append(2, 3, 1, [2], commit=3))
    assert stage.core.commit == 3


def test_commit_never_goes_back() -> None:
    stage = Stage(terms=[1, 1, 1])
    stage.take(append(1, 3, 1, [], commit=3))
    stage.take(append(1, 3, 1, [], commit=1), Heartbeat(1, 2, 1, 2))
    assert stage.core.commit == 3


def test_an_append_below_the_commit_index_is_answered_with_the_commit_index() -> None:
    stage = Stage(terms=[1, 1, 1])
    stage.take(append(1, 3, 1, [], commit=3))
    reply = only(stage.take(append(1, 0, 0, [1])), AppendReply)
    assert (reply.success, reply.index) == (True, 3)
    reply = only(stage.take(append(1, 1, 1, [1, 1, 1])), AppendReply)
    assert (reply.success, reply.index) == (True, 4)


def test_a_committed_entry_is_never_replaced() -> None:
    stage = Stage(terms=[1, 1, 1])
    stage.take(append(1, 3, 1, [], commit=2))
    with pytest.raises(CorruptionError, match="committed here was one of term 1"):
        stage.take(append(2, 0, 0, [2, 2]))
    assert stage.log_terms() == [1, 1, 1]


def test_an_acknowledgement_waits_until_the_entries_are_durable() -> None:
    stage = Stage()
    assert stage.take(append(1, 0, 0, [1, 1]), sync=False) == []
    stage.reboot()
    assert stage.core.last_index == 0
    assert only(stage.take(append(1, 0, 0, [1, 1])), AppendReply).index == 2
    stage.reboot()
    assert stage.core.last_index == 2


def test_a_repeated_append_is_acknowledged_only_when_the_first_copy_is_durable() -> None:
    stage = Stage()
    assert stage.take(append(1, 0, 0, [1]), sync=False) == []
    assert stage.take(append(1, 0, 0, [1]), sync=False) == []
    assert [reply.index for reply in every(stage.run(), AppendReply)] == [1, 1]


def test_an_old_batch_does_not_vouch_for_entries_that_replaced_its_own() -> None:
    """R14: entries written, replaced, and written again while the first write is on its way."""
    stage = Stage()
    stage.take(append(1, 0, 0, [1, 1, 1]), sync=False)
    stage.core.step(append(2, 0, 0, [2, 2]))
    stage.run(sync=False)
    stage.core.step(AppendEntries(1, 3, 3, 0, 0, entries(1, [1, 1, 1]), 0))
    stage.run(sync=False)
    stable = []
    while stage.writing:
        stage.sync(stage.out.append)
        stable.append(stage.core.log.stable_index)
    assert stable == [0, 0, 3]


@pytest.mark.parametrize("terms", [[1, 2, 3], [1, 1, 5]])
def test_a_broken_append_is_refused_whole(terms: list[int]) -> None:
    stage = Stage()
    holes = append(5, 0, 0, terms)
    del holes.entries[1]
    with pytest.raises(ProtocolError):
        stage.core.step(holes)
    with pytest.raises(ProtocolError):
        stage.core.step(append(6, 0, 0, [3, 2]))
    assert stage.core.last_index == 0


def test_a_heartbeat_that_speaks_of_entries_we_acknowledged_but_lack_stops_the_member() -> None:
    """R15."""
    stage = Stage(terms=[1, 1])
    with pytest.raises(CorruptionError, match="data was lost"):
        stage.take(Heartbeat(1, 2, 1, 3))
    assert stage.core.commit == 0


# --- the leader (5.3) --------------------------------------------------------------------------


def test_a_leader_probes_with_one_message_until_the_place_is_found() -> None:
    stage = leader([1, 1])
    first = every(stage.run(), AppendEntries)
    assert [(m.to, m.previous_index, len(m.entries)) for m in first] == [(2, 2, 1), (3, 2, 1)]
    stage.core.propose([b"x"])
    assert every(stage.run(), AppendEntries) == []
    assert [(m.to, m.previous_index) for m in every(stage.tick(), AppendEntries)] == [
        (2, 2),
        (3, 2),
    ]


def test_a_leader_streams_without_waiting_for_replies_once_the_place_is_known() -> None:
    stage = leader()
    stage.run()
    stage.take(accept(stage, 2))
    sent = []
    for payload in (b"a", b"b", b"c"):
        stage.core.propose([payload])
        sent += [m for m in every(stage.run(), AppendEntries) if m.to == 2]
    assert [(m.previous_index, m.entries[0].payload) for m in sent] == [
        (1, b"a"),
        (2, b"b"),
        (3, b"c"),
    ]


def test_a_leader_sends_before_its_own_disk_answers() -> None:
    """Dissertation 10.2.1."""
    stage = leader()
    stage.run()
    stage.take(accept(stage, 2))
    stage.core.propose([b"a"])
    assert only(stage.run(sync=False), AppendEntries).to == 2


def test_proposals_of_one_turn_share_one_message_and_one_batch() -> None:
    stage = leader()
    stage.run()
    stage.take(accept(stage, 2))
    stage.readies.clear()
    assert stage.core.propose([b"a", b"b"]) == 2
    assert stage.core.propose([b"c"]) == 4
    (message,) = every(stage.run(), AppendEntries)
    assert [e.payload for e in message.entries] == [b"a", b"b", b"c"]
    assert [len(r.batch.entries) for r in stage.readies if r.batch] == [3]


def test_the_window_bounds_messages_and_bytes_in_flight() -> None:
    stage = leader(max_inflight_messages=3)
    stage.run()
    stage.take(accept(stage, 2))
    sent = 0
    for _ in range(10):
        stage.core.propose([b"x"])
        sent += len([m for m in every(stage.run(), AppendEntries) if m.to == 2])
    assert sent == 3
    more = every(stage.take(accept(stage, 2, 2)), AppendEntries)
    assert [len(m.entries) for m in more] == [7]
    stage = leader(max_inflight_bytes=100, max_append_bytes=50)
    stage.run()
    stage.take(accept(stage, 2))
    stage.core.propose([b"x" * 40] * 10)
    assert len(every(stage.run(), AppendEntries)) == 3


def test_a_single_entry_larger_than_a_message_is_sent_alone() -> None:
    stage = leader(max_append_bytes=10)
    stage.run()
    stage.take(accept(stage, 2))
    stage.core.propose([b"s", b"L" * 50, b"s"])
    sizes = [[len(e.payload) for e in m.entries] for m in every(stage.run(), AppendEntries)]
    assert sizes == [[1], [50], [1]]


def test_a_refusal_makes_the_leader_go_back_and_try_again_at_once() -> None:
    stage = leader([1, 1, 1])
    stage.run()
    (retry,) = every(stage.take(AppendReply(1, 2, 2, False, 3, 1, 1)), AppendEntries)
    assert (retry.previous_index, retry.previous_term, len(retry.entries)) == (1, 1, 2)


def test_a_late_refusal_is_ignored() -> None:
    """R12."""
    stage = leader([1, 1, 1])
    stage.run()
    stage.take(accept(stage, 2))
    for index in (0, 1, 2, 3):
        stage.take(AppendReply(1, 2, 2, False, index, 0, 0))
    assert stage.core.match_index(2) == 4
    assert stage.core.progress()[2].state == "replicate"
    assert stage.core.regressed == ()


def test_a_lost_append_is_found_within_two_heartbeats_and_sent_again() -> None:
    cluster = Cluster()
    core = cluster.elect(1)
    cluster.drop = lambda m: isinstance(m, AppendEntries) and m.to == 3
    cluster.put(b"lost")
    cluster.drop = lambda _: False
    assert cluster[3].last_index < core.last_index
    cluster.tick(3)
    assert cluster[3].last_index == cluster[3].commit == core.last_index


def test_followers_learn_the_commit_index_without_waiting_for_a_heartbeat() -> None:
    cluster = Cluster()
    cluster.elect(1)
    index = cluster.put(b"x")
    assert [cluster[m].commit for m in (1, 2, 3)] == [index] * 3


def test_only_a_leader_takes_proposals() -> None:
    with pytest.raises(NotLeader):
        Stage().core.propose([b"x"])


def test_the_uncommitted_tail_is_bounded_and_frees_itself_by_commit() -> None:
    """R40."""
    stage = leader(max_uncommitted_bytes=100)
    stage.run()
    stage.take(accept(stage, 2))
    stage.core.propose([b"x" * 60])
    with pytest.raises(UncommittedFull):
        stage.core.propose([b"x" * 30, b"x" * 30])
    assert stage.core.last_index == 2
    assert stage.core.uncommitted_bytes == 60
    stage.run()
    stage.take(accept(stage, 2))
    assert stage.core.uncommitted_bytes == 0
    stage.core.propose([b"x" * 500])  # alone it always fits
    with pytest.raises(UncommittedFull):
        stage.core.propose([b""])


def test_a_leader_never_overwrites_its_own_log() -> None:
    """Leader append-only, figure 3."""
    stage = leader([1, 1])
    before = stage.log_terms()
    stage.run()
    stage.take(AppendReply(1, 2, 2, False, 2, 0, 0), accept(stage, 3), HeartbeatReply(1, 2, 2))
    stage.core.propose([b"x"])
    stage.run()
    assert stage.log_terms()[: len(before)] == before


def test_a_member_that_lost_acknowledged_entries_is_reported_and_counts_no_more() -> None:
    """R33: it was wiped and started again under its id while the leader leads on."""
    cluster = Cluster()
    core = cluster.elect(1)
    cluster.put(b"a", b"b")
    cluster.tick(2)
    cluster.crash(3)
    cluster.stages[3].disk = type(cluster.stages[3].disk)(core.configuration)
    reported: list[int] = []
    turn = cluster.stages[1].turn

    def watching(send: object) -> object:
        ready = turn(send)  # type: ignore[arg-type]
        reported.extend(ready.regressed)
        return ready

    cluster.stages[1].turn = watching  # type: ignore[method-assign,assignment]
    cluster.drop = lambda m: isinstance(m, Heartbeat) and m.to == 3  # or it stops itself (R15)
    cluster.restart(3)
    cluster.put(b"c")
    cluster.tick(3)
    assert core.regressed == (3,)
    assert reported == [3]
    cluster.isolate(2)
    before = core.commit
    core.propose([b"d"])
    cluster.tick(3)
    assert core.commit == before


def test_a_late_refusal_of_an_older_round_is_no_proof_of_lost_entries() -> None:
    """R33 against R12: a delayed refusal contradicts a newer acknowledgement all the time."""
    stage = leader([1, 1, 1])
    stage.run()
    old = AppendReply(1, 2, 2, False, 3, 0, 0, read_round=1)
    stage.take(accept(stage, 2))
    for _ in range(3):
        stage.take(old)
        stage.tick()
    assert stage.core.regressed == ()
    assert stage.core.match_index(2) == 4


# --- commitment (5.3, 5.4.2) ----------------------------------------------------------------------


def test_an_entry_commits_when_a_majority_holds_it_durably() -> None:
    stage = leader()
    stage.run()
    assert stage.core.commit == 0
    stage.take(accept(stage, 2))
    assert stage.core.commit == 1


def test_a_leader_counts_itself_only_when_its_own_disk_has_answered() -> None:
    """R42."""
    stage = leader()
    stage.run(sync=False)
    stage.take(accept(stage, 2), sync=False)
    assert stage.core.commit == 0
    stage.run()
    assert stage.core.commit == 1


def test_a_majority_of_others_commits_before_the_own_disk_but_nothing_is_applied_before_it() -> (
    None
):
    stage = leader()
    stage.run(sync=False)
    stage.readies.clear()
    stage.take(accept(stage, 2), accept(stage, 3), sync=False)
    assert stage.core.commit == 1
    assert [e.index for r in stage.readies for e in r.committed] == []
    stage.run()
    assert [e.index for r in stage.readies for e in r.committed] == [1]


def test_a_single_voter_commits_only_after_its_own_write() -> None:
    """R42."""
    stage = Stage(voters=(1,))
    stage.tick(2 * TIMEOUT)
    stage.core.propose([b"x"])
    stage.run(sync=False)
    assert stage.core.commit == 1
    stage.run()
    assert stage.core.commit == 2


def test_an_entry_of_an_older_term_never_commits_by_counting() -> None:
    """R01, figure 8: on a majority, and still overwritten if the leader crashes now."""
    stage = leader([1, 2])
    stage.run()
    stage.take(accept(stage, 2, 2), accept(stage, 3, 2))
    assert stage.core.commit == 0
    stage.take(accept(stage, 2))
    assert stage.core.commit == 3


def test_figure_8_d_an_older_entry_on_a_majority_is_overwritten() -> None:
    """R01: which is why it was not committed."""
    cluster = Cluster(5, terms={1: [1, 2, 4], 2: [1, 2], 3: [1, 2], 4: [1], 5: [1, 3]})
    for member in (2, 3, 5):  # member 1 led term 4 before it crashed
        cluster.stages[member].disk.hard_state = HardState(4, 1 if member != 5 else 0)
        cluster.restart(member)
    cluster.crash(1)
    cluster.elect(5)
    cluster.restart(1)
    cluster.tick(3)
    assert [cluster.stages[m].log_terms() for m in cluster.stages] == [[1, 3, 5]] * 5


def test_figure_8_e_behind_an_entry_of_its_own_term_it_is_safe() -> None:
    """R01."""
    cluster = Cluster(5, terms={1: [1, 2, 4], 2: [1, 2, 4], 3: [1, 2, 4], 4: [1], 5: [1, 3]})
    cluster.crash(1)
    for _ in range(20):
        cluster.tick(2 * TIMEOUT)
        assert cluster.leaders() in ([], [2], [3])
    assert cluster.stages[5].log_terms()[:3] == [1, 2, 4]


def test_committed_entries_are_handed_out_once_in_order_and_in_bounded_portions() -> None:
    stage = Stage(voters=(1,))
    stage.tick(2 * TIMEOUT)
    stage.readies.clear()
    for _ in range(3):
        stage.core.propose([b"x"] * 900)
    stage.run()
    portions = [[e.index for e in r.committed] for r in stage.readies if r.committed]
    assert max(map(len, portions)) <= 1000
    assert [i for portion in portions for i in portion] == list(range(2, 2702))


def test_committed_entries_come_from_the_disk_after_a_restart() -> None:
    stage = Stage(terms=[1, 1, 1, 2])
    stage.take(append(2, 4, 2, [], commit=4))
    assert [e for r in stage.readies for e in r.committed] == entries(1, [1, 1, 1, 2])


def test_a_new_leader_commits_the_entries_of_older_terms_with_its_first_one() -> None:
    """Raft 8."""
    cluster = Cluster(terms={1: [1, 1], 2: [1], 3: [1]})
    cluster.elect(1)
    assert [cluster[m].commit for m in (1, 2, 3)] == [3, 3, 3]


# --- figure 7 -----------------------------------------------------------------------------------

LEADER_LOG = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]
FOLLOWER_LOGS = {
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("name", FOLLOWER_LOGS)
def test_the_followers_of_figure_7_converge_with_one_refusal_per_conflicting_term(
    name: str,
) -> None:
    """R02."""
    cluster = Cluster(3, terms={1: LEADER_LOG, 2: LEADER_LOG, 3: FOLLOWER_LOGS[name]})
    cluster.stages[1].disk.hard_state = type(cluster.stages[1].disk.hard_state)(7, 0)
    cluster.stages[1].start()
    refusals: list[Message] = []

    def counting(message: Message) -> bool:
        if isinstance(message, AppendReply) and message.sender == 3 and not message.success:
            refusals.append(message)
        return False

    cluster.isolate(3)
    cluster.elect(1)
    cluster.cut.clear()
    cluster.drop = counting
    cluster.tick(4)
    assert cluster.stages[3].log_terms() == [*LEADER_LOG, 8]
    assert cluster[3].commit == 11
    terms_in_conflict = len(set(FOLLOWER_LOGS[name]) - {1}) or 1
    assert len(refusals) <= min(terms_in_conflict, 2)


def test_the_cache_serves_what_the_disk_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """A follower that fell out of the cache is served from the disk, in order, to the end."""
    cluster = Cluster()
    core = cluster.elect(1)
    monkeypatch.setattr(core.log, "_max_cache_bytes", 1000)
    cluster.isolate(3)
    for number in range(300):
        cluster.put(b"%d" % number)
    assert core.log.cached < 100
    reads: list[int] = []
    right = Log._read

    def spying(self: Log, first: int, last: int, size: int) -> tuple[list[Entry], int]:
        reads.append(first)
        return right(self, first, last, size)

    monkeypatch.setattr(Log, "_read", spying)
    cluster.cut.clear()
    cluster.tick(5)
    assert reads
    assert [e.payload for e in cluster.applied[3]] == [e.payload for e in cluster.applied[1]]
