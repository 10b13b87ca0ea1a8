"""The leader's clock of leases alone, over a real state machine and a log that commits at once."""

import struct
import time
from collections.abc import Callable

import pytest

from raftkv.kv import commands
from raftkv.kv.leases import Lease, grant_request, revoke_request
from raftkv.kv.machine import Bootstrap, StateMachine
from raftkv.kv.members import Member
from raftkv.pb import rpc_pb2
from raftkv.raft.membership import plain
from raftkv.raft.types import NOOP, NORMAL, Entry
from raftkv.replica.contact import NEVER, Contact
from raftkv.replica.lessor import SLICE, WAIT, Lessor
from raftkv.replica.wheel import FARTHEST_SECONDS, Wheel
from raftkv.storage.memory import MemoryBackend

ELECTION = 1.0
TICK = 0.1


class Bench:
    """A lessor that leads term 5. holding: its proposals are not committed yet."""

    def __init__(self) -> None:
        bootstrap = Bootstrap(plain((1,)), [Member(1)], 1, 1)
        self.machine = StateMachine(MemoryBackend.alone(), 7, bootstrap=bootstrap)
        self.now = 50.0
        self.term = 5
        self.lessor = Lessor(ELECTION, ELECTION / 2)
        self.proposed: list[tuple[int, bytes]] = []
        self.refusing = self.holding = False
        self._waiting: list[tuple[int, bytes]] = []

    def lead(self) -> None:
        """A new leadership begins now."""
        self.term += 1
        index = self.machine.applied_index + 1
        self.machine.apply(Entry(index, self.term, NOOP, b""))
        self.lessor.end()
        self.lessor.advance(self.now, self.machine)
        self.lessor.begin(self.term, self.machine)

    def apply(self, command: int, request: bytes) -> None:
        """An entry of this term is committed and applied."""
        index = self.machine.applied_index + 1
        payload = commands.encode(command, request)
        self.machine.apply(Entry(index, self.term, NORMAL, payload))

    def grant(self, *leases: int, ttl: float = 10) -> None:
        """Grants leases."""
        for lease in leases:
            self.apply(commands.LEASE_GRANT, grant_request(lease, round(ttl * 1000)))

    def propose(self, command: int, request: bytes) -> bool:
        """What the lessor is given."""
        if self.refusing:
            return False
        self.proposed.append((command, request))
        self._waiting.append((command, request))
        return True

    def turn(self) -> bool:
        """One turn of a leader in contact with its quorum."""
        lessor = self.lessor
        lessor.advance(self.now, self.machine)
        if lessor.clearing:
            lessor.clear(self.machine, self.propose)
        more = lessor.work(self.machine, self.propose)
        more = lessor.load(self.machine) or more
        if not self.holding:
            self.commit()
        return more

    def commit(self) -> None:
        """What was proposed is applied."""
        waiting, self._waiting = self._waiting, []
        for command, request in waiting:
            self.apply(command, request)

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> None:
        """Turns at every tick for so long."""
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            while self.turn():
                pass
            if each is not None:
                each()

    def renew(self, lease: int) -> float:
        """A keepalive."""
        self.lessor.advance(self.now, self.machine)
        return self.lessor.renew(lease, self.machine)

    def left(self, lease: int) -> float:
        """Seconds that are left."""
        self.lessor.advance(self.now, self.machine)
        return self.lessor.remaining(lease, self.machine)[0]

    def told(self, lease: int) -> float:
        """What may be answered of it, or WAIT."""
        self.lessor.advance(self.now, self.machine)
        return self.lessor.tell(lease, self.machine)[0]

    def ends(self, lease: int, within: float) -> float:
        """Runs until a lease is gone; returns after how long."""
        began = self.now
        while lease in self.machine.leases:
            assert self.now < began + within, "it does not end"
            self.run(TICK)
        return self.now - began

    def count(self, command: int) -> int:
        """How many entries were proposed."""
        return sum(one == command for one, _ in self.proposed)


def leading() -> Bench:
    """A bench whose lessor leads."""
    bench = Bench()
    bench.lead()
    return bench


def expired(request: bytes) -> tuple[int, list[int]]:
    """Term and leases of an expiry."""
    ids = [one for (one,) in struct.iter_unpack(">q", request[16:])]
    return struct.unpack(">Q", request[:8])[0], ids


# --- deadlines -------------------------------------------------------------------


def test_a_lease_ends_after_its_ttl_and_not_before() -> None:
    bench = leading()
    bench.grant(7, ttl=3)
    assert 3 <= bench.ends(7, 5) <= 3.4


def test_a_renewal_gives_the_whole_ttl_again() -> None:
    bench = leading()
    bench.grant(7, ttl=3)
    for _ in range(5):
        bench.run(1.4)
        assert bench.renew(7) == 3
        assert bench.left(7) == 3
    assert 3 <= bench.ends(7, 5) <= 3.4


def test_a_new_leader_adds_an_election_timeout_and_a_tenth_to_every_deadline() -> None:
    bench = Bench()
    bench.grant(7, 8, ttl=3)
    bench.now += 1000
    bench.lead()
    bench.turn()
    assert bench.left(7) == 3  # more than was granted is never shown
    bench.run(0.5)
    assert bench.renew(8) == WAIT  # the first renewal by this leader goes to the log
    bench.turn()
    assert bench.renew(8) == 3  # from now on, and without an addition
    assert 3 <= bench.ends(8, 5) <= 3.4
    assert 7 in bench.machine.leases
    bench.ends(7, 2)
    assert 1054.1 <= bench.now <= 1054.5


def test_what_a_lease_has_left_is_never_more_than_it_was_granted_nor_less_than_nothing() -> None:
    bench = leading()
    bench.grant(7, ttl=2)
    bench.run(2)
    bench.refusing = True
    bench.run(3)
    assert bench.left(7) == 0
    assert bench.lessor.remaining(404, bench.machine) == (-1, 0)


def test_a_lease_that_was_revoked_and_granted_again_has_a_new_clock() -> None:
    bench = leading()
    bench.grant(7, ttl=3)
    bench.run(2)
    bench.apply(commands.LEASE_REVOKE, revoke_request(7))
    bench.grant(7, ttl=5)
    assert bench.left(7) == 5
    assert 5 <= bench.ends(7, 7) <= 5.4


def test_a_member_that_leads_no_more_forgets_every_deadline() -> None:
    """M06."""
    bench = leading()
    bench.grant(7, ttl=2)
    bench.turn()
    bench.lessor.end()
    assert bench.lessor.term == 0
    bench.now += 100
    bench.lead()
    assert 3 <= bench.ends(7, 5) <= 3.5


# --- checkpoints -------------------------------------------------------------------


def test_only_silent_leases_are_checkpointed_and_all_of_a_turn_in_one_entry() -> None:
    """M07."""
    bench = leading()
    bench.grant(*range(1, 101), ttl=20)

    def keep_alive() -> None:
        for lease in range(1, 51):
            assert bench.renew(lease) == 20

    bench.run(11, each=keep_alive)
    assert bench.count(commands.LEASE_CHECKPOINT) == 1
    left = {one.id: one.remaining_ms for one in bench.machine.leases}
    assert all(left[lease] == 0 for lease in range(1, 51))
    assert all(9_800 <= left[lease] <= 10_001 for lease in range(51, 101))
    bench.run(5, each=keep_alive)
    assert bench.count(commands.LEASE_CHECKPOINT) == 2
    assert 4_700 <= next(iter(bench.machine.leases.by_id.values())).remaining_ms + 4_900 <= 5_001
    assert bench.machine.leases.by_id[60].remaining_ms <= 5_001


def test_a_new_leader_counts_from_the_checkpoint_and_so_does_the_third() -> None:
    """M07."""
    bench = leading()
    bench.grant(7, ttl=20)
    bench.run(10.5)
    for _ in range(3):
        bench.now += 3
        bench.lead()
        bench.run(0.5)
    # The time of the leaderships counts, that of a process that stood still does not.
    assert 8.1 <= bench.left(7) <= 8.5
    assert 8.1 <= bench.ends(7, 12) <= 8.9


def test_a_checkpointed_lease_is_renewed_only_when_an_entry_has_cleared_that() -> None:
    """M07."""
    bench = leading()
    bench.grant(*range(1, 11), ttl=20)
    bench.run(11)
    before = bench.count(commands.LEASE_CHECKPOINT)
    bench.holding = True
    for lease in range(1, 11):
        assert bench.renew(lease) == WAIT
        assert bench.renew(lease) == WAIT  # asked twice, cleared once
    bench.turn()
    bench.turn()
    assert bench.count(commands.LEASE_CHECKPOINT) == before + 1
    assert bench.renew(3) == WAIT
    bench.commit()
    assert bench.renew(3) == 20
    assert bench.machine.leases.by_id[3].remaining_ms == 0
    bench.holding = False
    assert bench.ends(3, 22) >= 20


def test_a_renewal_that_meets_a_checkpoint_on_its_way_waits_too() -> None:
    """M07: a member that leads next may have that checkpoint, so it must have the clearing too."""
    bench = leading()
    bench.grant(7, ttl=20)
    bench.holding = True
    bench.run(10.2)
    assert bench.count(commands.LEASE_CHECKPOINT) == 1
    assert bench.machine.leases.by_id[7].remaining_ms == 0
    assert bench.renew(7) == WAIT
    bench.holding = False
    bench.commit()
    assert bench.renew(7) == WAIT
    bench.turn()
    assert bench.renew(7) == 20


def test_a_lease_that_waits_to_be_cleared_does_not_end_meanwhile() -> None:
    """M08."""
    bench = leading()
    bench.grant(7, ttl=4)
    bench.run(3)
    bench.holding = True
    assert bench.renew(7) == WAIT
    bench.run(3)
    assert bench.count(commands.LEASE_EXPIRE) == 0
    bench.commit()
    assert bench.renew(7) == 4


# --- expiry -------------------------------------------------------------------------


def test_a_lease_whose_end_is_proposed_answers_nothing_until_that_is_decided() -> None:
    """M08."""
    bench = leading()
    bench.grant(7, ttl=2)
    bench.holding = True
    bench.run(2.5)
    assert bench.count(commands.LEASE_EXPIRE) == 1
    assert bench.renew(7) == WAIT
    assert bench.left(7) == 0
    bench.run(5)
    assert bench.renew(7) == WAIT
    assert bench.count(commands.LEASE_EXPIRE) == 1
    bench.commit()
    assert bench.renew(7) == 0
    assert bench.left(7) == -1


def test_an_expiry_names_the_term_that_decided_it_and_is_void_in_another() -> None:
    """M09."""
    bench = leading()
    bench.grant(7, ttl=2)
    bench.holding = True
    bench.run(2.5)
    (request,) = [one for command, one in bench.proposed if command == commands.LEASE_EXPIRE]
    assert expired(request) == (bench.term, [7])
    bench.term += 1
    bench.commit()
    assert 7 in bench.machine.leases


def test_a_refused_expiry_is_proposed_again_and_the_lease_may_be_renewed_until_then() -> None:
    bench = leading()
    bench.grant(7, 8, ttl=2)
    bench.refusing = True
    bench.run(3)
    assert bench.renew(8) == 2
    bench.refusing = False
    bench.run(0.3)
    assert list(bench.machine.leases.by_id) == [8]


def test_an_expiry_entry_is_bounded_by_leases_and_by_keys() -> None:
    bench = leading()
    bench.grant(*range(1, 131), ttl=2)
    for lease, keys in ((1, 600), (2, 500), (3, 20)):
        for key in range(keys):
            put = rpc_pb2.PutRequest(key=b"%d/%d" % (lease, key), value=b"v", lease=lease)
            bench.apply(commands.PUT, put.SerializeToString())
    bench.run(3)
    groups = [
        expired(one)[1] for command, one in bench.proposed if command == commands.LEASE_EXPIRE
    ]
    assert sorted(lease for group in groups for lease in group) == list(range(1, 131))
    assert max(map(len, groups)) <= 64
    assert not any(2 in group and 3 in group and group[0] not in (2, 3) for group in groups)
    assert len(bench.machine.store.index) == 0


def test_ten_thousand_leases_that_end_in_one_second_go_at_a_thousand_per_second() -> None:
    """O03: and whoever renews meanwhile is answered at once."""
    bench = leading()
    bench.grant(*range(1, 10_001), ttl=5)
    bench.grant(*range(20_001, 20_101), ttl=12)
    bench.run(4.9)
    left = []

    def keep_alive() -> None:
        left.append(len(bench.machine.leases) - 100)
        for lease in range(20_001, 20_101):
            assert bench.renew(lease) == 12

    bench.run(12, each=keep_alive)
    assert left[-1] == 0
    assert len(bench.machine.leases) == 100
    for second in range(11):
        gone = left[second * 10] - left[min(second * 10 + 10, len(left) - 1)]
        assert gone <= 1_200
    assert 90 <= sum(count > 0 for count in left) <= 115


def test_a_lease_that_is_due_but_not_proposed_can_still_be_renewed() -> None:
    """O03."""
    bench = leading()
    bench.grant(*range(1, 3_001), ttl=2)
    bench.grant(9_999, ttl=2)
    bench.run(2.3)
    alive = [one.id for one in bench.machine.leases]
    assert 9_999 in alive
    while bench.renew(9_999) == WAIT:
        bench.turn()
    assert bench.renew(9_999) == 2
    bench.run(1.5)
    assert 9_999 in bench.machine.leases


# --- stopped processes and clocks -----------------------------------------------------


def test_the_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """M10."""
    bench = leading()
    bench.grant(7, ttl=5)
    bench.run(3)
    bench.now += 30
    bench.turn()
    assert 1.9 <= bench.left(7) <= 2.1
    assert 1.9 <= bench.ends(7, 4) <= 2.4


def test_after_a_stop_nothing_ends_before_its_clients_could_be_heard() -> None:
    """M10: it was about to end when the process was stopped."""
    bench = leading()
    bench.grant(7, ttl=5)
    bench.run(4.9)
    bench.now += 30
    bench.turn()
    bench.run(0.8)
    assert bench.count(commands.LEASE_EXPIRE) == 0
    while bench.renew(7) == WAIT:
        bench.turn()
    assert bench.ends(7, 7) >= 5


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_a_jump_of_the_clock_neither_ends_a_lease_nor_makes_it_immortal(jump: float) -> None:
    """R20."""
    bench = leading()
    bench.grant(7, ttl=5)
    bench.run(2)
    bench.now += jump
    bench.turn()
    assert 2.5 <= bench.ends(7, 5) <= 3.5


# --- cost --------------------------------------------------------------------------------


def test_a_renewal_costs_the_wheel_nothing() -> None:
    """Each lease is looked at about once per half a TTL, however often it is renewed."""
    bench = leading()
    bench.grant(*range(1, 501), ttl=10)
    looks = 0

    class Counting(Wheel):  # type: ignore[type-arg]
        __slots__ = ()

        def take(self, now: float, most: int) -> list[object]:
            nonlocal looks
            taken = super().take(now, most)
            looks += len(taken)
            return taken

    counting: Counting = Counting(bench.now)
    bench.lessor._wheel = counting
    renewals = 0

    def keep_alive() -> None:
        nonlocal renewals
        for lease in range(1, 501):
            assert bench.renew(lease) == 10
            renewals += 1

    bench.run(60, each=keep_alive)
    assert renewals == 300_000
    assert looks <= 500 * 14
    assert bench.proposed == []


def test_a_leader_begins_a_hundred_thousand_clocks_in_slices() -> None:
    """No turn stalls, and every question is answered rightly before its clock was begun."""
    bench = Bench()
    by_id = bench.machine.leases.by_id
    by_id.update((lease, Lease(lease, 60_000)) for lease in range(1, 100_001))
    took: list[float] = []
    for _ in range(3):
        started = time.thread_time()
        bench.lead()
        took.append(time.thread_time() - started)
    assert min(took) < 0.05
    bench.now += 5
    assert bench.renew(100_000) == WAIT
    assert bench.left(99_999) == 60
    turns = 1
    slices: list[float] = []
    while True:
        started = time.thread_time()
        more = bench.turn()
        slices.append(time.thread_time() - started)
        if not more:
            break
        turns += 1
    assert turns >= 100_000 // SLICE
    assert sorted(slices)[len(slices) // 2] < 0.02
    bench.now -= 5  # the lot is there, each once
    assert len(bench.lessor._wheel) == 100_000


def test_a_hundred_thousand_live_leases_cost_less_than_a_tenth_of_a_core() -> None:
    """A minute of them, each with a TTL of a minute and renewed three times."""
    bench = Bench()
    by_id = bench.machine.leases.by_id
    by_id.update((lease, Lease(lease, 60_000)) for lease in range(1, 100_001))
    bench.lead()
    started = time.thread_time()
    for tick in range(600):
        first = tick * 500 % 100_000
        for lease in range(first + 1, first + 501):
            bench.lessor.renew(lease, bench.machine)
        bench.run(TICK)
    assert time.thread_time() - started < 6
    assert len(bench.proposed) == bench.count(commands.LEASE_CHECKPOINT) == 200  # 500 in each


def test_revoked_leases_leave_the_wheel_long_before_their_ttl() -> None:
    bench = leading()
    for lease in range(1, 1_001):
        bench.grant(lease, ttl=1_000_000)
        bench.apply(commands.LEASE_REVOKE, revoke_request(lease))
        bench.turn()
    bench.grant(5_000, ttl=1_000_000)
    bench.run(FARTHEST_SECONDS + 1)
    assert len(bench.lessor._wheel) == 1


# --- contact ------------------------------------------------------------------------------


def test_contact_is_dated_by_the_sending_and_never_too_late() -> None:
    contact = Contact()
    assert contact.sent_at(1.0, 0) == NEVER
    contact.mark(1.0, 4)
    assert contact.sent_at(9.0, 4) == NEVER  # round 4 may have been sent before
    contact.mark(2.0, 5)
    contact.mark(3.0, 5)  # round 6 begins later than this
    contact.mark(4.0, 6)
    assert contact.sent_at(9.0, 5) == 1.0
    assert contact.sent_at(9.0, 5) == 1.0
    assert contact.sent_at(9.0, 6) == 3.0
    assert contact.sent_at(9.0, 60) == 4.0


def test_a_member_that_is_a_quorum_alone_is_always_in_contact() -> None:
    assert Contact().sent_at(9.0, 1 << 62) == 9.0
