"""Who asks for progress is answered also when those go away for whom it was waited."""

from typing import Any, cast

import pytest

from raftkv.kv import commands
from raftkv.kv.watches import Watcher
from raftkv.pb import rpc_pb2
from raftkv.raft.types import NORMAL, Entry
from tests.server.test_publication_orders import Bench


class Stream:
    """A stream without watches of its own that asks for progress."""

    def __init__(self, bench: Bench) -> None:
        self.answers: list[int] = []
        self._watches = bench.hub.watches

    def settled(self) -> bool:
        """As `WatchStream.settled`."""
        if self._watches.amid_publication:
            return False
        self.answers.append(self._watches.revision)
        return True


def _put(bench: Bench, key: bytes) -> None:
    request = rpc_pb2.PutRequest(key=key).SerializeToString()
    index = bench.machine.applied_index + 1
    bench.machine.apply(Entry(index, 1, NORMAL, commands.encode(commands.PUT, request)))


@pytest.mark.parametrize("deferred", [False, True])
def test_progress_is_answered_although_the_last_watcher_goes_amid_a_publication(
    deferred: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W04: the slices that were to come have nothing to tell any more."""
    bench = Bench(1, monkeypatch)
    hub = bench.hub
    hub.watches._published = 1
    sink = cast(Any, bench.sinks[0])
    sink._act = lambda: None
    watchers = [Watcher(sink, one, b"a") for one in range(5)]
    for watcher in watchers:
        sink.told[watcher] = []
        hub.add(watcher)
    for _ in range(2 if deferred else 1):
        _put(bench, b"a")
        hub.publish(bench.machine.take_changes(), waiting=False)
        hub.publish_now()
    assert hub.watches.amid_publication
    stream = Stream(bench)
    assert not stream.settled()
    hub.await_settled(stream)
    bench.loop.run()
    assert stream.answers == []
    hub.retire(watchers)
    for _ in range(5):
        bench.loop.now += 1
        bench.loop.run()
    assert len(stream.answers) == 1
    assert not hub.watches.unfinished
