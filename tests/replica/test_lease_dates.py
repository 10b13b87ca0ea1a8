"""What a change of the leader gives back to a lease: since when it is silent, however many led."""

from functools import partial

import pytest

from raftkv.kv import commands
from raftkv.kv.leases import checkpoint_request
from raftkv.kv.machine import StateMachine
from raftkv.replica import served
from raftkv.replica.lessor import WAIT, Lessor
from raftkv.replica.served import Served
from tests.replica.lease_cluster import ELECTION_SECONDS, Cluster
from tests.replica.test_lessor import ELECTION, TICK, Bench, leading


def test_a_leadership_that_renewed_nothing_gives_nothing_back() -> None:
    """M07: ten leaders, none of whom sees a silence of half a TTL."""
    bench = leading()
    bench.grant(7, 8, ttl=8)
    bench.run(2)
    for _ in range(10):
        bench.lead()
        bench.run(2)
        bench.renew(8)
        bench.turn()
        assert bench.renew(8) == 8
        if 7 not in bench.machine.leases:
            break
    # Its leader was replaced after 2 s; the next one's beginning is when it was renewed last.
    assert 60 - 0.1 <= bench.now <= 50 + 2 + 8 + 1.1 * ELECTION + ELECTION + 0.4
    assert 8 in bench.machine.leases


def test_the_first_renewal_under_each_leader_is_in_the_log_and_no_other_is() -> None:
    """M07: who leads next knows by it in whose time the lease was renewed last."""
    bench = leading()
    bench.grant(*range(1, 11), ttl=20)
    for lease in range(1, 11):
        assert bench.renew(lease) == 20  # its own grants are in the log
    assert bench.proposed == []
    for _ in range(3):
        bench.lead()
        bench.proposed.clear()
        for lease in range(1, 11):
            assert bench.renew(lease) == WAIT
        bench.turn()
        index = bench.machine.applied_index
        assert {one.renewed_index for one in bench.machine.leases} == {index}
        for _ in range(4):
            bench.run(4)
            assert all(bench.renew(lease) == 20 for lease in range(1, 11))
        assert bench.count(commands.LEASE_CHECKPOINT) == len(bench.proposed) == 1


def test_a_renewal_under_the_leader_before_counts_from_the_end_of_its_leadership() -> None:
    """M07: only the leader before knows how often it renewed; nobody loses the lease early."""
    bench = leading()
    bench.grant(7, ttl=8)
    for _ in range(5):
        bench.run(3)
        assert bench.renew(7) == 8
    last = bench.now
    bench.lead()
    bench.run(3)
    bench.lead()
    bench.run(3)
    assert bench.left(7) == pytest.approx(8 + 1.1 * ELECTION - 6, abs=0.01)
    bench.ends(7, 8)
    assert last + 8 <= bench.now <= last + 8 + 1.1 * ELECTION + 0.4


def test_a_process_that_has_just_started_counts_from_its_start() -> None:
    """M07: it does not know when its state came about."""
    bench = leading()
    bench.grant(7, 8, ttl=20)
    bench.run(16)
    assert 4_700 <= bench.machine.leases.by_id[7].remaining_ms <= 5_001
    bench.machine.flush()
    bench.machine = StateMachine(bench.machine.backend, 7)
    bench.lessor = Lessor(ELECTION, ELECTION / 2)
    bench.lead()
    bench.turn()
    assert bench.left(7) == pytest.approx(5, abs=0.31)


def test_a_state_of_another_member_counts_from_its_arrival() -> None:
    """M07, M08: its checkpoint may be a newer one than what was dated before."""
    bench = leading()
    bench.grant(7, ttl=20)
    bench.run(11)
    bench.lessor.end()
    bench.run(3)
    bench.lessor.advance(bench.now, bench.machine)
    for left_ms in (0, 9000):
        request = checkpoint_request(bench.machine.applied_index, [(7, left_ms)])
        bench.apply(commands.LEASE_CHECKPOINT, request)
    bench.machine.flush()
    bench.machine = StateMachine(bench.machine.backend, 7)
    bench.lessor.advance(bench.now, bench.machine)
    bench.lead()
    assert bench.left(7) == pytest.approx(9, abs=0.01)


def test_time_without_a_leader_does_not_count() -> None:
    """M07, M10: nobody could have renewed it."""
    bench = leading()
    bench.grant(7, ttl=8)
    bench.run(5)
    bench.lessor.end()
    for _ in range(300):
        bench.now += TICK
        bench.lessor.advance(bench.now, bench.machine, led=False)
    bench.lead()
    assert bench.left(7) == pytest.approx(3, abs=0.21)


def test_a_new_leader_hears_those_who_waited_for_it_before_it_ends_a_lease() -> None:
    bench = leading()
    bench.grant(7, 8, ttl=8)
    bench.run(7.9)
    bench.lead()
    bench.run(0.5)
    assert bench.left(7) == 0
    assert bench.renew(7) == WAIT
    bench.turn()
    assert bench.renew(7) == 8
    bench.run(1)
    assert list(bench.machine.leases.by_id) == [7]


def test_only_so_many_ends_of_leaderships_are_kept_and_what_is_older_counts_from_a_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served, "MAX_TERMS", 3)
    bench = Bench()
    dates = Served(pause_seconds=0.5)
    for _ in range(6):
        bench.term += 1
        for lease in (1, 2):
            bench.grant(bench.term * 10 + lease)
            dates.advance(bench.now, bench.machine, led=True)
            bench.now += TICK
    # Terms 6 to 11 with entries 2 to 13, the last of each known 0.2 s later than its term began.
    ended = [dates.leadership_ended_at(index) for index in range(2, 14)]
    assert ended == sorted(ended)
    assert ended[:6] == [pytest.approx(0.6)] * 6
    assert ended[6:] == [pytest.approx(one) for one in (0.8, 0.8, 1.0, 1.0, 1.1, 1.1)]


def test_what_is_left_is_told_of_leases_of_before_when_an_entry_says_it_once_for_all() -> None:
    """M06: other members may count such a lease from an earlier moment."""
    bench = leading()
    bench.grant(1, 2, 3, ttl=20)
    assert bench.told(1) == 20  # its grant is this leadership's
    bench.lead()
    bench.run(4)
    bench.holding = True
    assert [bench.told(lease) for lease in (1, 2, 2)] == [WAIT] * 3
    bench.turn()
    assert [bench.told(lease) for lease in (1, 2)] == [WAIT] * 2
    bench.turn()
    assert bench.count(commands.LEASE_CHECKPOINT) == len(bench.proposed) == 1
    bench.commit()
    told = [bench.told(lease) for lease in (1, 2)]
    left = [bench.machine.leases.by_id[lease].remaining_ms / 1000 for lease in (1, 2)]
    assert told == pytest.approx(left, abs=0.002)
    assert not bench.machine.leases.by_id[3].remaining_ms
    assert bench.told(404) == -1
    bench.turn()
    assert len(bench.proposed) == 1


def test_what_is_left_waits_for_a_refused_entry_and_not_longer_than_the_lease_lives() -> None:
    """M06"""
    bench = leading()
    bench.grant(1, 2, ttl=4)
    bench.lead()
    bench.refusing = True
    assert bench.told(1) == WAIT
    bench.turn()
    bench.refusing = False
    bench.turn()
    assert 4 < bench.machine.leases.by_id[1].remaining_ms / 1000 <= 4 + 1.1 * ELECTION + 0.001
    assert bench.told(1) == 4
    bench.holding = True
    bench.run(6)
    assert (bench.told(1), bench.told(2)) == (0, 0)


def test_a_renewal_of_this_leadership_says_what_is_left() -> None:
    """M06"""
    bench = leading()
    bench.grant(1, ttl=20)
    bench.lead()
    assert bench.renew(1) == WAIT
    assert bench.told(1) == WAIT
    bench.turn()
    assert bench.renew(1) == 20
    assert bench.told(1) == 20
    assert bench.count(commands.LEASE_CHECKPOINT) == len(bench.proposed) == 1


def test_what_was_said_before_the_process_was_stopped_is_said_anew() -> None:
    """M06, M10: its own time stood still, that of the others did not. Nor does it help that an
    entry of before the stop is applied only now.
    """
    bench = leading()
    bench.grant(1, ttl=20)
    bench.lead()
    bench.holding = True
    assert bench.told(1) == WAIT
    bench.turn()
    bench.now += 5
    assert bench.told(1) == WAIT
    bench.turn()
    assert bench.count(commands.LEASE_CHECKPOINT) == 2
    bench.apply(*bench.proposed[0])
    assert bench.told(1) == WAIT
    bench.apply(*bench.proposed[1])
    assert bench.told(1) == 20
    bench.now += 5
    assert bench.told(1) == WAIT
    bench.turn()
    bench.apply(*bench.proposed[2])
    assert bench.told(1) == 20
    assert bench.count(commands.LEASE_CHECKPOINT) == 3


def test_a_stop_does_not_matter_to_a_lease_that_was_renewed_under_this_leader() -> None:
    """M06: who leads next adds to its time."""
    bench = leading()
    bench.grant(1, ttl=20)
    bench.run(3)
    bench.now += 5
    assert bench.told(1) == pytest.approx(17, abs=0.11)
    assert not bench.proposed


# --- a cluster -----------------------------------------------------------------------------


def leads(cluster: Cluster, *members: int) -> bool:
    """Does one of them lead?"""
    return any(cluster.members[one].is_leader for one in members)


def overrun(change: str, reign_seconds: float, ttl: int, changes: int, renewed: float) -> float:
    """Seconds by which a lease outlives its TTL that was renewed for the last time `renewed`
    seconds after its grant, with a change of the leader every `reign_seconds`.
    """
    cluster = Cluster()
    cluster.elect(1)
    cluster.grant(7, ttl)
    if renewed:
        cluster.run(renewed)
        assert cluster.renew(7) is not None
    began = cluster.now
    for _ in range(changes):
        cluster.run(reign_seconds)
        if cluster.ended:
            break
        leader = cluster.leader()
        assert leader is not None
        number = leader.member
        if change == "transfer":
            leader.core.transfer(1 + number % 3)
            cluster.run(0.5, until=partial(leads, cluster, 1 + number % 3))
        else:
            cluster.isolate(number)
            others = [one for one in cluster.members if one != number]
            cluster.run(6, until=partial(leads, cluster, *others))
            cluster.heal()
    cluster.run(ttl + 6, until=lambda: bool(cluster.ended))
    return cluster.ended[0][0] - began - ttl


@pytest.mark.parametrize("renewed", [0.0, 2.0])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.45])
@pytest.mark.parametrize("change", ["transfer", "isolate"])
def test_a_silent_lease_overruns_by_half_its_ttl_and_an_election_however_many_leaders_come(
    change: str, share: float, renewed: float
) -> None:
    """M07: a leader every so many TTLs, ten times; 0.25 is the quarter that once renewed it for
    ever. The time in which nobody led does not count: an election timeout or two per isolation.
    """
    ttl = 40
    late = overrun(change, share * ttl, ttl, 10, renewed)
    leaderless = 0.2 if change == "transfer" else 2.5 * ELECTION_SECONDS
    reigns = min(10, round(1 / share))
    assert late >= 0
    assert late <= share * ttl + 2.1 * ELECTION_SECONDS + 0.5 + reigns * leaderless


def hand_over(cluster: Cluster, number: int) -> None:
    """Member `number` leads next."""
    leader = cluster.leader()
    assert leader is not None
    leader.core.transfer(number)
    cluster.run(3, until=partial(leads, cluster, number))
    cluster.run(0.3)


def test_a_lease_lives_as_long_as_any_leader_has_told() -> None:
    """M06: member 3 hears of the second leadership later than member 1, and leads between."""
    cluster = Cluster()
    cluster.elect(1)
    cluster.grant(7, 20)
    cluster.isolate(3)
    hand_over(cluster, 2)
    cluster.run(6)
    cluster.heal()
    cluster.run(0.5)
    hand_over(cluster, 3)
    answer = cluster.remaining(7, at=3)
    told_until = cluster.now + answer.ttl_seconds
    assert answer.ttl_seconds >= 19
    hand_over(cluster, 1)
    cluster.run(40, until=lambda: bool(cluster.ended))
    assert told_until <= cluster.ended[0][0] <= told_until + 2.1 * ELECTION_SECONDS + 1
