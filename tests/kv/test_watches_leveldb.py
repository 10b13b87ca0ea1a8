"""The hub of watches on the real LevelDB, with compaction running between the slices."""

from pathlib import Path
from random import Random

from raftkv.kv.watches import Watcher
from raftkv.storage.leveldb import LevelBackend
from tests.kv.adapter import machine
from tests.kv.watching import Recorder, Town, compact, delete, put


def test_history_is_complete_while_compaction_runs_through_it(tmp_path: Path) -> None:
    """W06, W09: each watcher gets all from its start on, or a cancel with the right revision."""
    random = Random(3)
    level = LevelBackend(str(tmp_path / "state"), create=True, buffer_bytes=64 << 10)
    try:
        town = Town(machine(level, cache_bytes=3000))
        first = town.watch(b"\0", b"\0", prev_kv=True)
        for _ in range(150):
            keys = [b"%02d" % random.randrange(40) for _ in range(10)]
            town.turn(*[put(key, random.randbytes(40)) for key in keys], delete(b"1", b"12"))
        everything = town.sink.events(first)
        watchers = [
            town.watch(b"\0", b"\0", start, prev_kv=True, sink=Recorder())
            for start in range(1, town.revision, 50)
        ]
        for revision in range(200, 1400, 100):
            town.hub.catch_up(300)
            town.turn(compact(revision))
            town.driver.machine.compact_slice(rows=150)
        town.settle()
        cancelled = [_check(watcher, everything) for watcher in watchers].count(True)
        assert 0 < cancelled < len(watchers)
    finally:
        level.close()


def _check(watcher: Watcher, everything: list) -> bool:  # type: ignore[type-arg]
    """Was it cancelled? What came before that, or all, must be right."""
    sink = watcher.sink
    assert isinstance(sink, Recorder)
    got = sink.events(watcher)
    wanted = [one for one in everything if one.kv.mod_revision >= watcher.start_revision]
    cancelled = watcher in sink.cancels
    if cancelled:
        last = got[-1].kv.mod_revision if got else watcher.start_revision - 1
        assert last + 1 < sink.cancels[watcher]
        wanted = wanted[: len(got)]
    assert [one.kv for one in got] == [one.kv for one in wanted]
    # The live watcher had every prev_kv; one from history may lack those that were compacted.
    assert all(one.previous in (None, two.previous) for one, two in zip(got, wanted, strict=True))
    return cancelled
