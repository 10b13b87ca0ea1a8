"""Members compare their states while they serve: who is wrong is named (M19, M20)."""

import random
from contextlib import suppress
from typing import Any

import pytest

from raftkv.errors import CORRUPT as CORRUPT_CLUSTER
from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.alarms import CORRUPT, NOSPACE
from raftkv.kv.answers import HashResult
from raftkv.kv.machine import Result
from raftkv.kv.space import Told, space_request
from raftkv.kv.upkeep import ROWS
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.messages import StateReport
from raftkv.raft.roles import Refusal
from raftkv.raft.types import Configuration
from raftkv.replica.audit import Audit, Said, judge
from raftkv.replica.caretaker import UpkeepSettings
from raftkv.replica.effects import Effects
from raftkv.replica.replica import Replica
from tests.replica.lease_cluster import Cluster

THREE = Configuration((1, 2, 3))
CHECKING = UpkeepSettings(check_seconds=2.0)
CHECKING_ROWS = UpkeepSettings(check_seconds=2.0, rows_seconds=5.0)

A, B, C = (0, 0, 1), (0, 0, 2), (0, 0, 3)


# --- the judgement ------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reports", "wrong", "divided"),
    [
        ({}, [], False),
        ({1: A}, [], False),
        ({1: A, 2: A}, [], False),
        ({1: A, 2: A, 3: A}, [], False),
        ({1: A, 2: A, 3: B}, [3], False),
        ({1: B, 2: A, 3: A}, [1], False),  # the leader itself
        ({1: A, 2: B}, [], False),  # the third will tell
        ({1: A, 2: B, 3: C}, [], True),
    ],
)
def test_a_majority_of_the_voters_says_what_is_right(
    reports: dict[int, Said], wrong: list[int], divided: bool
) -> None:
    assert judge(reports, THREE) == (wrong, divided)


def test_two_members_that_differ_have_no_majority() -> None:
    assert judge({1: A, 2: B}, Configuration((1, 2))) == ([], True)


def test_a_learner_is_judged_and_does_not_judge() -> None:
    who = Configuration((1, 2, 3), learners=(4, 5))
    assert judge({1: A, 2: A, 4: B}, who).wrong == [4]
    assert judge({1: A, 4: B, 5: B}, who) == ([], False)
    assert judge({1: A, 2: B, 3: C, 4: A}, who) == ([], True)


def test_a_stranger_is_not_judged() -> None:
    assert judge({1: A, 2: A, 9: B}, THREE) == ([], False)


def test_reports_about_different_things_are_neither_equal_nor_different() -> None:
    """M20: another revision, or another compaction in between."""
    covered, other = (10, 5, 1), (10, 7, 2)
    assert judge({1: covered, 2: covered, 3: other}, THREE) == ([], False)
    assert judge({1: covered, 2: other}, Configuration((1, 2))) == ([], False)
    same_hash = (10, 7, 1)
    assert judge({1: covered, 2: same_hash, 3: (11, 7, 1)}, THREE) == ([], False)


def test_nobody_is_judged_while_the_members_change() -> None:
    joint = Configuration((1, 2, 3), (1, 2, 4))
    assert judge({1: A, 2: A, 3: B}, joint) == ([], False)


def test_reports_about_an_older_check_come_too_late() -> None:
    audit = Audit()
    audit.began(10, ROWS)
    audit.note(StateReport(1, 2, 1, 9, ROWS, *A))
    audit.note(StateReport(1, 3, 1, 99, 7, *A))
    assert not audit._reports
    audit.note(StateReport(1, 2, 1, 11, ROWS, *A))
    assert audit._reports, "that member has applied more than this one"


# --- whole members --------------------------------------------------------------------
class Checked(Cluster):
    """A cluster whose drivers hash rows and compact, in one go."""

    def _execute(self, number: int, replica: Replica, effects: Effects) -> None:
        super()._execute(number, replica, effects)
        machine, caretaker = replica.machine, replica.caretaker
        while machine.compact_slice():
            pass
        wanted, caretaker.rows_wanted = caretaker.rows_wanted, None
        if wanted is not None:
            found = _rows_hash(machine.hash_kv(wanted[1]))
            if isinstance(found, HashResult):
                covered = found.hash_revision, found.compacted_revision
                caretaker.rows_hashed(wanted[0], *covered, found.hash)

    def write(self, at: int = 1, value: bytes = b"v") -> Any:
        """Puts a key through a member; the answer."""
        ticket = ("put", random.random())
        request = pb.PutRequest(key=b"k", value=value).SerializeToString()
        assert self.members[at].propose(commands.PUT, request, ticket) is None
        self.settle()
        self.run(1.0, until=lambda: ticket in self.answers)
        return self.answers[ticket]

    def move(self, to: int) -> None:
        """Another member leads."""
        lead = self.leader()
        assert lead is not None
        lead.core.transfer(to)
        self.run(5.0, until=lambda: self.members[to].is_leader)

    def disarm(self, member: int, at: int = 1) -> None:
        """Takes back a CORRUPT alarm."""
        request = pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, memberID=member)
        request.alarm = pb.CORRUPT
        self.members[at].propose(commands.ALARM, request.SerializeToString(), ("disarm", member))
        self.settle()

    def alarms(self, at: int = 1) -> list[tuple[int, int]]:
        """What a member knows to be raised."""
        return self.members[at].machine.alarms.raised()

    def rot(self, number: int) -> None:
        """A bit flips in the newest version of the key, where it is stored."""
        machine = self.members[number].machine
        machine.flush()
        name, row = list(machine.backend.scan(b"r", b"s"))[-1]
        machine.backend.write([(name, row[:-1] + bytes((row[-1] ^ 1,)))])


def _rows_hash(steps: Any) -> HashResult | ApiError:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = end.value
            assert isinstance(found, HashResult | ApiError)
            return found


@pytest.mark.parametrize("wrong", [2, 3])
def test_a_follower_whose_state_differs_is_named_and_steps_back_while_the_others_serve(
    wrong: int,
) -> None:
    """M19."""
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.members[wrong].machine.store.hash ^= 1 << 7
    cluster.run(5.0, until=lambda: len(cluster.alarms()) == 1)
    for number in (1, 2, 3):
        assert cluster.alarms(number) == [(CORRUPT, wrong)]
        assert cluster.members[number].caretaker.condemned == (number == wrong)
    assert isinstance(cluster.write(), Result)
    cluster.members[wrong].core.campaign()
    cluster.run(3.0)
    assert cluster.members[1].is_leader, "who is wrong does not stand for election"


def test_a_leader_whose_state_differs_names_itself_and_hands_over() -> None:
    """M19: the judge may be the culprit."""
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.members[1].machine.store.hash ^= 1
    cluster.run(5.0, until=lambda: cluster.members[1].caretaker.condemned)
    cluster.run(5.0, until=lambda: cluster.leader() not in (None, cluster.members[1]))
    assert isinstance(cluster.write(2), Result)
    assert cluster.alarms(3) == [(CORRUPT, 1)]


def test_reads_that_wait_on_a_member_that_is_condemned_are_refused() -> None:
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.members[3].machine.store.hash ^= 1
    # It hears everything, but its questions do not get through.
    cluster.run(1.0)
    cluster.members[3].read(("read", 1))
    cluster.members[3].reading.ask(7)
    cluster.run(5.0, until=lambda: cluster.members[3].caretaker.condemned)
    assert cluster.answers[("read", 1)] is CORRUPT_CLUSTER


def test_a_state_that_went_wrong_once_stays_wrong_and_is_found_again_when_disarmed() -> None:
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.members[2].machine.store.hash ^= 1
    cluster.run(5.0, until=lambda: len(cluster.alarms()) == 1)
    cluster.disarm(2)
    assert not cluster.members[2].caretaker.condemned
    cluster.write()
    cluster.run(5.0, until=lambda: cluster.alarms() == [(CORRUPT, 2)])
    assert cluster.members[2].caretaker.condemned


@pytest.mark.parametrize("wrong", [1, 2, 3])
def test_a_row_that_rots_where_it_is_stored_is_found_by_comparing_rows(wrong: int) -> None:
    """M19: nothing was applied differently, so the rolling hashes are equal."""
    cluster = Checked(upkeep=CHECKING_ROWS)
    cluster.elect(1)
    cluster.write()
    cluster.rot(wrong)
    cluster.run(4.0)
    assert not cluster.alarms(), "the rolling hash cannot know"
    cluster.run(10.0, until=lambda: len(cluster.alarms(2)) > 0)
    assert cluster.alarms(2) == [(CORRUPT, wrong)]


def test_a_version_that_went_wrong_in_memory_shows_as_soon_as_it_is_used() -> None:
    """M19: a bit of a cached record, as the next write of the key reads it."""
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    store = cluster.members[2].machine.store
    framed, row_id, create_revision, version, lease = store.cache[b"k"]
    store.cache[b"k"] = framed, row_id, create_revision, version ^ 4, lease
    cluster.write()
    cluster.run(5.0, until=lambda: len(cluster.alarms()) == 1)
    assert cluster.alarms() == [(CORRUPT, 2)]


def test_three_different_states_stop_all_writes_and_condemn_nobody() -> None:
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.members[2].machine.store.hash ^= 1
    cluster.members[3].machine.store.hash ^= 2
    cluster.run(5.0, until=lambda: len(cluster.alarms()) == 1)
    assert cluster.alarms(3) == [(CORRUPT, 0)]
    assert not any(one.caretaker.condemned for one in cluster.members.values())
    assert cluster.write() is CORRUPT_CLUSTER
    cluster.disarm(0)
    assert isinstance(cluster.write(), Result)


def test_a_member_that_is_cut_off_or_slow_is_not_judged() -> None:
    """M20: who has not reported is neither right nor wrong, and is judged when it is back."""
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.isolate(3)
    cluster.members[3].machine.store.hash ^= 1
    cluster.write()
    cluster.run(10.0)
    assert not cluster.alarms()
    cluster.heal()
    cluster.run(3.0)
    cluster.elect(1)
    cluster.write()
    cluster.run(10.0, until=lambda: cluster.alarms() == [(CORRUPT, 3)])


def test_equal_members_are_never_named_whatever_happens() -> None:
    for seed in range(5):
        source = random.Random(seed)
        cluster = Checked(seed=seed, upkeep=UpkeepSettings(200_000, 0.5, 1.5))
        cluster.elect(1)
        for number in range(60):
            lead = cluster.leader() or cluster.members[1]
            action = source.random()
            if action < 0.1:
                revision = pb.CompactionRequest(revision=lead.machine.revision)
                lead.propose(commands.COMPACT, revision.SerializeToString(), ("compact", number))
            elif action < 0.2:
                cluster.isolate(source.choice((1, 2, 3)))
            elif action < 0.35:
                cluster.heal()
            elif action < 0.4 and lead.is_leader:
                with suppress(Refusal):
                    lead.core.transfer(source.choice((1, 2, 3)))
            else:
                request = pb.PutRequest(key=b"k%d" % (number % 3), value=b"v" * 5_000)
                lead.propose(commands.PUT, request.SerializeToString(), ("p", number))
            cluster.run(0.5)
        cluster.heal()
        cluster.run(5.0)
        raised = {alarm for number in cluster.members for alarm in cluster.alarms(number)}
        assert not {alarm for alarm in raised if alarm[0] == CORRUPT}
        hashes = {one.machine.state_hash for one in cluster.members.values()}
        assert len(hashes) == 1
        assert cluster.entries(commands.CHECK) > 3


def test_an_idle_cluster_compares_nothing() -> None:
    cluster = Checked(upkeep=CHECKING)
    cluster.elect(1)
    cluster.write()
    cluster.run(10.0)
    before = cluster.members[1].core.last_index
    cluster.run(20.0)
    assert cluster.members[1].core.last_index == before
    assert cluster.entries(commands.CHECK) == 1


# --- the quota ------------------------------------------------------------------------
def test_the_leader_tells_its_quota_and_what_was_removed_each_once() -> None:
    cluster = Checked(upkeep=UpkeepSettings(quota_bytes=50_000))
    cluster.elect(1)
    cluster.run(2.0)
    assert cluster.entries(commands.SPACE) == 1
    assert cluster.members[3].machine.space.told.quota_bytes == 50_000
    while cluster.write(value=b"v" * 4_000) != Result:
        if cluster.alarms():
            break
    assert cluster.alarms(2) == [(NOSPACE, 1)]
    request = pb.CompactionRequest(revision=cluster.members[1].machine.revision)
    cluster.members[2].propose(commands.COMPACT, request.SerializeToString(), "compact")
    cluster.settle()
    cluster.run(3.0, until=lambda: not cluster.alarms(3))
    assert cluster.entries(commands.SPACE) == 2
    assert isinstance(cluster.write(value=b"v" * 4_000), Result)


def test_a_new_leader_with_the_same_quota_says_nothing_and_with_another_its_own() -> None:
    cluster = Checked(upkeep=UpkeepSettings(quota_bytes=50_000))
    cluster.elect(1)
    cluster.run(2.0)
    cluster.move(2)
    cluster.run(2.0)
    assert cluster.entries(commands.SPACE, 2) == 1
    cluster.members[3].caretaker._settings = UpkeepSettings(quota_bytes=70_000)
    cluster.move(3)
    cluster.run(2.0)
    told = {one.machine.space.told for one in cluster.members.values()}
    assert {(one.member, one.quota_bytes) for one in told} == {(3, 70_000)}


def test_a_quota_that_a_stranger_has_told_is_told_anew() -> None:
    """Its member was removed, or the state is that of another cluster's backup."""
    cluster = Checked(upkeep=UpkeepSettings(quota_bytes=50_000))
    cluster.elect(1)
    cluster.members[1].propose(commands.SPACE, space_request(Told(99, 50_000)), "stranger")
    cluster.run(2.0)
    assert cluster.members[2].machine.space.told.member == 1


def test_a_cluster_without_quotas_keeps_its_log_free_of_them() -> None:
    cluster = Checked(upkeep=UpkeepSettings(quota_bytes=0))
    cluster.elect(1)
    cluster.write()
    cluster.run(5.0)
    assert not cluster.entries(commands.SPACE)
