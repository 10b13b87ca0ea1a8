"""A backend that cannot keep up: writes become slower, and nothing else changes."""

import random
from typing import Any

import pytest

from raftkv import limits
from raftkv.errors import TOO_MANY_REQUESTS
from raftkv.kv import commands
from raftkv.kv.machine import Result
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import AppendReply, Forward, ForwardReply, HeartbeatReply
from raftkv.replica.changes import MEMBER_ID
from raftkv.replica.throttle import Throttle
from tests.replica.members import OneMember, member

RATE = limits.STALLED_INTAKE_BYTES_PER_SECOND
SIZE = 64 * limits.KIB


def put(key: bytes, size: int = SIZE) -> bytes:
    """The bytes of a put."""
    return rpc_pb2.PutRequest(key=key, value=bytes(size)).SerializeToString()


class Leader:
    """A leader whose follower 2 acknowledges everything at once, and a clock."""

    def __init__(self) -> None:
        self.one: OneMember = member(1, random.Random(1))
        self.one.lead(2)
        self.replica = self.one.replica
        self.now = 1.0
        self.number = 0
        self.sent: list[Any] = []
        self.replies: list[Any] = []
        self.reads: list[Any] = []
        self.run(0.1)
        self.first = self.replica.core.log.last_index
        self.replies.clear()

    def run(self, seconds: float) -> None:
        """Turns every 20 ms."""
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.turn()

    def turn(self) -> None:
        """Turns until there is nothing left to do."""
        more = True
        while more:
            effects = self.replica.turn(self.now)
            self.sent += [*effects.messages, *effects.after]
            self.replies += effects.replies
            self.reads += effects.reads
            more = effects.more or effects.batch is not None
            if effects.batch is not None:
                self.replica.on_persisted(effects.batch.number)
                core = self.replica.core
                last = core.log.last_index
                self.replica.on_message(AppendReply(1, 2, core.term, True, last))

    def put(self, count: int, size: int = SIZE) -> None:
        """Clients' writes at this member."""
        for _ in range(count):
            self.number += 1
            request = put(b"%06d" % self.number, size)
            assert self.replica.propose(commands.PUT, request, self.number) is None

    def forward(self, number: int) -> None:
        """A write of follower 2's clients."""
        payload = commands.encode(commands.PUT, put(b"f%06d" % number), (2, 9, number))
        proposals = [(number, payload)]
        self.replica.on_message(Forward(1, 2, self.replica.core.term, 9, proposals))

    def appended(self) -> int:
        """Entries since the beginning of the test."""
        return self.replica.core.log.last_index - self.first


def test_writes_are_appended_at_the_stalled_rate_in_their_order_and_all_succeed() -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    leader.put(200)
    leader.turn()
    burst = RATE // 4 // SIZE
    assert 0 < leader.appended() <= burst + 1
    before = leader.appended()
    leader.run(1.0)
    per_second = RATE / SIZE
    assert 0.9 * per_second < leader.appended() - before < 1.1 * per_second
    leader.run(3.0)
    assert [ticket for ticket, _ in leader.replies] == list(range(1, 201))
    assert all(type(result) is Result for _, result in leader.replies)


def test_all_that_waited_goes_at_once_when_the_backend_keeps_up_again() -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    leader.put(150)
    for number in range(1, 151):
        leader.forward(number)
    leader.turn()
    assert leader.appended() < 60
    leader.replica.on_backend(stalling=False)
    leader.turn()
    assert leader.appended() == 300
    leader.put(300)
    leader.turn()
    assert leader.appended() == 600


def test_forwarded_writes_wait_too_and_keep_their_order() -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    for number in range(1, 101):
        leader.forward(number)
    leader.turn()
    assert 0 < leader.appended() <= RATE // 4 // SIZE + 1
    leader.forward(1)  # repeated: must not be taken a second time
    leader.run(3.0)
    assert leader.appended() == 100
    assert not [one for one in leader.sent if type(one) is ForwardReply]


def test_followers_writes_beyond_a_bound_are_refused_the_oldest_first() -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    count = limits.MAX_HELD_BYTES // SIZE + 100
    for number in range(1, count + 1):
        leader.forward(number)
    leader.turn()
    refused = [number for one in leader.sent if type(one) is ForwardReply for number in one.refused]
    codes = {one.code for one in leader.sent if type(one) is ForwardReply}
    taken = leader.appended()
    assert codes == {TOO_MANY_REQUESTS.code}
    assert refused == list(range(taken + 1, taken + 1 + len(refused)))
    assert 50 < len(refused) < 110
    leader.run(8.0)
    assert leader.appended() == count - len(refused)  # each either refused or appended, once


def test_a_leader_that_is_deposed_sends_held_writes_back() -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    for number in range(1, 101):
        leader.forward(number)
    leader.turn()
    taken = leader.appended()
    leader.replica.core.become_follower(3, 3)
    leader.turn()
    (*replies,) = [one for one in leader.sent if type(one) is ForwardReply]
    assert [number for one in replies for number in one.refused] == list(range(taken + 1, 101))
    assert not any(one.code for one in replies)  # to be sent again, no error


@pytest.mark.parametrize("forwarded", [False, True])
def test_a_membership_change_is_not_slowed_down(forwarded: bool) -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    leader.put(100)
    leader.turn()
    request = MEMBER_ID.pack(3)
    if forwarded:
        for number in range(1, 51):
            leader.forward(number)
        payload = commands.encode(commands.MEMBER_REMOVE, request, (2, 9, 51))
        leader.replica.on_message(Forward(1, 2, leader.replica.core.term, 9, [(51, payload)]))
    else:
        leader.replica.change(commands.MEMBER_REMOVE, request, "change")
    leader.turn()
    assert leader.replica.core.configuration.voters == (1, 2)


def test_reads_and_leadership_do_not_notice() -> None:
    leader = Leader()
    leader.replica.on_backend(stalling=True)
    leader.put(500)
    for _ in range(40):
        leader.replica.tick()
        leader.now += 0.02
        leader.turn()
        core = leader.replica.core
        number = core.state.rounds.newest  # type: ignore[union-attr]
        leader.replica.on_message(HeartbeatReply(1, 2, core.term, number))
    leader.replica.read("read")
    leader.turn()
    number = leader.replica.core.state.rounds.newest  # type: ignore[union-attr]
    leader.replica.on_message(HeartbeatReply(1, 2, leader.replica.core.term, number))
    leader.turn()
    assert leader.reads == ["read"]
    assert leader.replica.is_leader


def test_a_follower_forwards_as_ever() -> None:
    one = member(1, random.Random(1))
    one.replica.core.become_follower(2, 2)
    one.replica.on_backend(stalling=True)
    for number in range(50):
        assert one.replica.propose(commands.PUT, put(b"k", 100), number) is None
    one.turn()
    (forward,) = [message for message in one.sent if type(message) is Forward]
    assert len(forward.proposals) == 50


def test_a_write_larger_than_the_allowance_passes_and_later_ones_pay_for_it() -> None:
    throttle = Throttle()
    throttle.stalling = True
    throttle.refill(10.0)
    assert throttle.admits()
    throttle.took(RATE)
    assert not throttle.admits()
    throttle.refill(10.5)
    assert not throttle.admits()
    throttle.refill(10.8)
    assert throttle.admits()


def test_quiet_seconds_are_not_saved_up() -> None:
    throttle = Throttle()
    throttle.stalling = True
    throttle.refill(10.0)
    throttle.refill(99.0)
    throttle.took(RATE // 4)
    assert not throttle.admits()
