"""Many renewals at once, and the order in which leases end, as the clock of leases has them."""

import pytest

from raftkv.raft.messages import REMAINING, RENEW
from raftkv.replica.effects import LeaseAnswer
from raftkv.replica.lessor import CLEARING, Lessor, Question, Reply, renewed
from tests.replica.test_lessor import ELECTION, Bench


def renew_all(lessor: Lessor, *questions: Question) -> tuple[list[Reply], list[Question]]:
    """(answers, questions that were left)."""
    replies: list[Reply] = []
    rest = lessor.renew_running(list(questions), replies)
    return replies, rest


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.lead()
    bench.turn()
    return bench


def test_renewals_of_running_clocks_are_answered_and_others_left_in_their_order(
    bench: Bench,
) -> None:
    bench.grant(1, 2)
    bench.turn()
    running = (RENEW, 1, "a"), (RENEW, 2, "b"), (RENEW, 1, "c")
    others = (REMAINING, 1, "d"), (RENEW, 99, "e")
    replies, rest = renew_all(
        bench.lessor, running[0], others[0], running[1], others[1], running[2]
    )
    assert replies == [(ticket, LeaseAnswer(lease, 10, 10)) for _, lease, ticket in running]
    assert rest == list(others)
    assert bench.lessor.renewed == 3


def test_a_renewal_among_many_moves_the_end_and_the_checkpoint(bench: Bench) -> None:
    """M07: a lease that is renewed is not silent."""
    bench.grant(1)
    bench.run(4)
    renew_all(bench.lessor, (RENEW, 1, "a"))
    assert bench.left(1) == pytest.approx(10)
    bench.run(4)
    assert not bench.proposed
    bench.run(1.2)
    assert len(bench.proposed) == 1


def test_a_lease_with_a_checkpoint_or_a_proposed_end_is_left_to_the_log(bench: Bench) -> None:
    """M07, M08: neither is answered before an entry has decided."""
    bench.grant(1, 2)
    bench.run(6)
    question = (RENEW, 1, "a")
    assert renew_all(bench.lessor, question) == ([], [question])
    bench.renew(1)
    assert bench.lessor._clocks[1].stage == CLEARING
    assert renew_all(bench.lessor, question) == ([], [question])
    bench.turn()
    bench.turn()  # tells the clock what the first one has applied
    assert renew_all(bench.lessor, question)[1] == []
    bench.holding = True
    bench.run(5)
    ending = (RENEW, 2, "b")
    assert renew_all(bench.lessor, ending) == ([], [ending])


@pytest.mark.parametrize(
    ("granted_ms", "seconds"), [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2), (60_000, 60)]
)
def test_a_renewal_says_whole_seconds_and_0_only_for_no_lease(
    granted_ms: int, seconds: int
) -> None:
    assert renewed(5, granted_ms) == (5, seconds, seconds)


def test_leases_end_in_the_order_that_the_clock_gives_also_before_their_clocks_begin(
    bench: Bench,
) -> None:
    bench.grant(1, ttl=30)
    bench.grant(2, ttl=20)
    bench.grant(3, ttl=25)
    bench.turn()
    machine = bench.machine

    def order() -> list[int]:
        return [one.id for one in sorted(machine.leases, key=bench.lessor.expiry)]

    assert order() == [2, 3, 1]
    bench.now += ELECTION / 4
    bench.renew(2)
    assert order() == [2, 3, 1]
    bench.run(6)
    bench.renew(2)
    assert order() == [3, 2, 1]
    before = {lease.id: bench.lessor.expiry(lease) for lease in machine.leases}
    assert before[1] - bench.lessor.time == pytest.approx(bench.left(1))
    bench.lead()  # nothing is loaded yet
    assert order() == [2, 3, 1]
    unloaded = [bench.lessor.expiry(lease) for lease in machine.leases]
    while bench.turn():
        pass
    assert [bench.lessor.expiry(lease) for lease in machine.leases] == unloaded
