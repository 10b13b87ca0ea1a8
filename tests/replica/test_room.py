"""How many writes a member takes before it answers TOO_MANY_REQUESTS."""

import random

from raftkv.errors import TOO_MANY_REQUESTS
from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import AppendReply
from raftkv.replica.replica import ReplicaSettings
from tests.replica.members import OneMember, member

ROOM = 3
PUT = rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString()


def leader() -> OneMember:
    """Leads term 2 and takes few writes."""
    one = member(1, random.Random(1))
    settings = one.replica.settings
    one.replica.settings = ReplicaSettings(settings.core, max_pending=ROOM)
    one.lead(2)
    return one


def taken(one: OneMember) -> int:
    """How many of many writes are taken; the others must be refused by the one error."""
    answers = [one.replica.propose(commands.PUT, PUT, (number,)) for number in range(2 * ROOM)]
    assert set(answers) <= {None, TOO_MANY_REQUESTS}
    return answers.count(None)


def test_a_burst_is_taken_as_far_as_there_is_room() -> None:
    assert taken(leader()) == ROOM


def test_writes_without_an_answer_keep_their_room_and_give_it_back_when_answered() -> None:
    one = leader()
    assert taken(one) == ROOM
    one.turn()
    assert taken(one) == 0
    core = one.replica.core
    one.replica.on_message(AppendReply(1, 2, core.term, True, core.last_index))
    one.turn()
    assert len(one.replies) == ROOM
    assert taken(one) == ROOM
