"""What a turn tells about the writes that it applied."""

import random

from raftkv.kv import commands
from raftkv.kv.store import Change
from raftkv.kv.watches import Watcher, Watches
from raftkv.pb import rpc_pb2
from raftkv.raft.messages import AppendReply
from tests.kv.watching import Recorder
from tests.replica.members import OneMember, member


def leader() -> OneMember:
    one = member(1, random.Random(1))
    one.lead(2)
    return one


def changes_of(one: OneMember, keys: list[bytes]) -> list[Change]:
    """Puts of these keys, committed with member 2; the changes that the turns told."""
    for key in keys:
        request = rpc_pb2.PutRequest(key=key, value=b"v").SerializeToString()
        assert one.replica.propose(commands.PUT, request, (key,)) is None
    told: list[Change] = []
    for _ in range(3):
        effects = one.replica.turn(1.0)
        told += effects.changes
        if effects.batch is not None:
            last = effects.batch.entries[-1].index
            one.replica.on_persisted(effects.batch.number)
            one.replica.on_message(AppendReply(1, 2, 2, True, last))
    return told


def test_a_turn_carries_what_it_changed_once_while_somebody_watches() -> None:
    one = leader()
    one.replica.on_message(AppendReply(1, 2, 2, True, one.replica.core.log.last_index))
    assert changes_of(one, [b"before"]) == []
    hub = Watches(one.replica.machine)
    sink = Recorder()
    watcher = Watcher(sink, 0, b"a", b"b")
    hub.add(watcher)
    told = changes_of(one, [b"a1", b"a2", b"x"])
    assert [change.key for change in told] == [b"a1", b"a2", b"x"]
    hub.publish(told, one.replica.machine.revision)
    assert sink.short(watcher) == [(b"a1", 3, False), (b"a2", 4, False)]
    assert hub.seen(watcher) == 5
    hub.remove(watcher)
    assert changes_of(one, [b"after"]) == []
