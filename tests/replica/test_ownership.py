"""Which applied entries are a member's own: index and term must both match."""

import random

from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import AppendEntries
from raftkv.raft.types import NOOP, NORMAL, Entry
from tests.replica.members import member


def put(key: bytes) -> bytes:
    """The bytes of a put."""
    return rpc_pb2.PutRequest(key=key, value=b"v").SerializeToString()


def test_an_older_terms_entry_at_the_index_of_an_own_entry_is_not_taken_for_it() -> None:
    """Leader of term 3 appends a write at index 3 and never commits it; the leader of term 4
    has an entry of term 2 there. That entry's result is nobody's answer here.
    """
    one = member(1, random.Random(1))
    one.lead(3)
    assert one.replica.propose(commands.PUT, put(b"own"), "own") is None
    one.turn()
    assert one.replica.writes.pending.local[0][:2] == (3, 3)
    other = [
        Entry(2, 2, NORMAL, commands.encode(commands.PUT, put(b"a"))),
        Entry(3, 2, NORMAL, commands.encode(commands.PUT, put(b"b"))),
    ]
    one.replica.on_message(AppendEntries(1, 2, 4, 1, 1, other, 3))
    one.turn()
    assert one.replica.machine.applied_index == 3
    assert one.replies == []
    one.replica.on_message(AppendEntries(1, 2, 4, 3, 2, [Entry(4, 4, NOOP, b"")], 4))
    one.turn()
    one.turn()
    # The new term's entry decides: the write is in no log and goes to the new leader.
    assert one.replies == []
    assert not one.replica.writes.pending.local
    assert [write.ticket for write in one.replica.writes.pending.forwarded.values()] == ["own"]
