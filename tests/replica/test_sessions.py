"""Writes in sessions on their way through members: forwarded, sent again, in two logs (C01)."""

from typing import Any

import pytest

from raftkv.errors import ApiError
from raftkv.kv import commands
from raftkv.kv.leases import grant_request
from raftkv.kv.machine import Result
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import Forward
from tests.replica.lease_cluster import Cluster

SESSION = 77
KEY = b"k"


class Repeating(Cluster):
    """Three members, the first one leads, and a session."""

    def __init__(self) -> None:
        super().__init__()
        self.elect(1)
        self.write(1, "open", commands.SESSION_OPEN, grant_request(SESSION, 60_000))
        self.settle()
        assert isinstance(self.answers["open"], Result)

    def write(self, at: int, ticket: Any, command: int, request: bytes) -> None:
        """Proposes a command at a member."""
        assert self.members[at].propose(command, request, ticket) is None

    def put(self, at: int, ticket: Any, sequence: int = 1, lowest: int = 1) -> None:
        """Proposes a put of KEY in the session."""
        request = rpc_pb2.PutRequest(key=KEY, value=b"v").SerializeToString()
        head = commands.session_bytes(SESSION, sequence, lowest)
        self.write(at, ticket, commands.PUT + commands.IN_SESSION, head + request)

    def versions(self) -> list[int]:
        """How often each member has carried out a put of KEY."""
        records = [one.machine.store.latest(KEY) for one in self.members.values()]
        return [0 if record is None else record[3] for record in records]


def test_a_forwarded_write_has_origin_and_session_in_its_envelope() -> None:
    """So its member recognises it, and whoever applies it knows what it repeats."""
    cluster = Repeating()
    cluster.put(2, "forwarded", 3, 2)
    cluster.settle()
    (forward,) = (one for one in cluster.sent if type(one) is Forward)
    ((number, payload),) = forward.proposals
    found = commands.decode(payload)
    assert found.origin == (2, cluster.members[2].boot, number)
    assert found.session == (SESSION, 3, 2)
    assert found.command == commands.PUT
    assert rpc_pb2.PutRequest.FromString(found.request).key == KEY
    assert isinstance(cluster.answers["forwarded"], Result)


@pytest.mark.parametrize("first", [1, 2, 3])
@pytest.mark.parametrize("again", [1, 2, 3])
def test_a_repetition_gets_the_answer_of_the_first_attempt_at_any_member(
    first: int, again: int
) -> None:
    cluster = Repeating()
    cluster.put(first, "first")
    cluster.settle()
    cluster.write(3, "other", commands.PUT, rpc_pb2.PutRequest(key=b"x").SerializeToString())
    cluster.put(again, "again")
    cluster.settle()
    assert cluster.answers["again"] == cluster.answers["first"] == Result(2, b"")
    assert cluster.versions() == [1, 1, 1]


def test_a_repetition_while_the_first_attempt_is_in_the_log_of_its_leader_only() -> None:
    """The repetition is carried out by the next leader; the first attempt comes behind it."""
    cluster = Repeating()
    cluster.isolate(1)
    cluster.put(1, "first")
    cluster.settle()
    assert cluster.members[1].core.last_index > cluster.members[1].core.commit
    cluster.elect(2)
    cluster.put(3, "again")
    cluster.settle()
    assert isinstance(cluster.answers["again"], Result)
    assert "first" not in cluster.answers
    cluster.heal()
    cluster.run(5, until=lambda: "first" in cluster.answers)
    # It was sent again to the new leader, which found it carried out.
    assert cluster.answers["first"] == cluster.answers["again"]
    cluster.run(1)
    assert cluster.versions() == [1, 1, 1]


def test_a_forward_that_is_held_up_finds_the_write_carried_out() -> None:
    """The first attempt goes through a follower whose message is late; the client has moved on."""
    cluster = Repeating()
    cluster.held.add((2, 1))
    cluster.put(2, "first")
    cluster.settle()
    cluster.put(3, "again")
    cluster.settle()
    assert isinstance(cluster.answers["again"], Result)
    cluster.put(3, "next", 2, 2)  # it has the answer to the first one
    cluster.settle()
    cluster.release()
    cluster.run(1)
    refused = cluster.answers["first"]
    assert isinstance(refused, ApiError)
    assert "below the session's lowest unanswered" in refused.text
    assert cluster.versions() == [2, 2, 2]


def test_attempts_of_one_turn_are_one_write() -> None:
    cluster = Repeating()
    for attempt in range(5):
        cluster.put(1, attempt)
    cluster.settle()
    assert {cluster.answers[attempt] for attempt in range(5)} == {Result(2, b"")}
    assert cluster.entries(commands.PUT) == 5
    assert cluster.versions() == [1, 1, 1]


def test_all_members_go_the_same_way() -> None:
    """Repetitions, refusals and plain puts mixed, in runs of different lengths."""
    cluster = Repeating()
    for number in range(60):
        at = 1 + number % 3
        cluster.put(at, ("put", number), 1 + number // 4, max(1, number // 5))
        plain = rpc_pb2.PutRequest(key=b"x%d" % number, value=b"v").SerializeToString()
        cluster.write(1, ("plain", number), commands.PUT, plain)
        if number % 7 == 0:
            cluster.settle()
    cluster.run(1)
    assert len({one.machine.state_hash for one in cluster.members.values()}) == 1
    assert len(set(cluster.versions())) == 1
    answers = [cluster.answers["put", number] for number in range(60)]
    carried_out = {one.revision for one in answers if isinstance(one, Result)}
    assert cluster.versions()[0] == len(carried_out) > 10
