"""When writes that came back to waiting go out again: at once, and not over and over."""

import random

from raftkv import limits
from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import AppendEntries, Forward, ForwardReply, Heartbeat
from raftkv.raft.types import NOOP, Entry
from raftkv.replica.effects import Effects
from tests.replica.members import OneMember, member


def put(key: bytes, size: int = 1) -> bytes:
    """The bytes of a put."""
    return rpc_pb2.PutRequest(key=key, value=bytes(size)).SerializeToString()


def turns(one: OneMember) -> list[Effects]:
    """Turns as a driver runs them: as long as the last one says that there is more."""
    done: list[Effects] = []
    while True:
        assert len(done) < 50
        effects = one.replica.turn(1.0)
        done.append(effects)
        if effects.batch is not None:
            one.replica.on_persisted(effects.batch.number)
        elif not effects.more:
            return done


def forwards(effects: list[Effects]) -> list[Forward]:
    """What was forwarded in these turns."""
    return [message for one in effects for message in one.messages if type(message) is Forward]


def deposed(count: int, size: int = 1) -> OneMember:
    """Led term 3 with `count` writes that nobody else has; follows member 2 in term 4."""
    one = member(1, random.Random(1))
    one.lead(3)
    for number in range(count):
        assert one.replica.propose(commands.PUT, put(b"%d" % number, size), number) is None
    one.turn()
    assert len(one.replica.writes.pending.local) == count
    return one


def test_writes_of_a_lost_leadership_go_to_the_new_leader_without_waiting_for_a_tick() -> None:
    one = deposed(3)
    one.replica.on_message(AppendEntries(1, 2, 4, 1, 1, [Entry(2, 4, NOOP, b"")], 2))
    (forward,) = forwards(turns(one))
    assert forward.term == 4
    assert len(forward.proposals) == 3
    assert not one.replica.writes.pending.waiting


def test_a_member_that_leads_again_appends_its_own_old_writes_without_waiting_for_a_tick() -> None:
    one = deposed(3)
    one.replica.on_message(AppendEntries(1, 2, 4, 1, 1, [Entry(2, 4, NOOP, b"")], 1))
    turns(one)  # replaced here, but not known to be committed
    assert len(one.replica.writes.pending.local) == 3
    one.lead(5)
    turns(one)
    assert one.replica.core.log.last_index == 3
    one.replica.core.commit_to(3)
    one.replica.core.dirty = True
    turns(one)
    assert one.replica.core.log.last_index == 6
    assert [local[0] for local in one.replica.writes.pending.local] == [4, 5, 6]


def test_all_of_them_go_although_one_message_does_not_hold_them() -> None:
    size = limits.MAX_APPEND_BYTES // 3
    one = deposed(8, size)
    one.replica.on_message(AppendEntries(1, 2, 4, 1, 1, [Entry(2, 4, NOOP, b"")], 2))
    sent = forwards(turns(one))
    assert len(sent) > 1
    assert sum(len(forward.proposals) for forward in sent) == 8


def test_without_a_leader_nobody_is_kept_busy_by_writes_that_wait() -> None:
    one = deposed(3)
    one.replica.on_message(AppendEntries(1, 2, 4, 1, 1, [Entry(2, 4, NOOP, b"")], 2))
    one.replica.on_message(Heartbeat(1, 3, 5, 2, 0))  # member 3 leads by now
    one.replica.core.set_leader(0)
    assert forwards(turns(one)) == []
    assert len(one.replica.writes.pending.waiting) == 3


def test_a_leader_that_sends_writes_back_is_not_asked_again_before_the_next_tick() -> None:
    one = deposed(3)
    one.replica.on_message(AppendEntries(1, 2, 4, 1, 1, [Entry(2, 4, NOOP, b"")], 2))
    (forward,) = forwards(turns(one))
    numbers = [number for number, _ in forward.proposals]
    one.replica.on_message(ForwardReply(1, 2, 4, forward.boot, numbers))
    assert forwards(turns(one)) == []
    one.replica.tick()
    (again,) = forwards(turns(one))
    assert len(again.proposals) == 3
