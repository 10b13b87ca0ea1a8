"""One suite for every backend: LevelDB and memory do what a sorted dict does."""

import shutil
import tempfile
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftkv.errors import DiskFailure
from raftkv.kv.backend import View
from raftkv.storage.backend import Engine, Row, StateBackend
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.memory import MemoryBackend, MemoryDisk, MemoryEngine

KEYS = st.binary(max_size=3).map(lambda key: key.replace(b"\xff", b"\xfe"))
ROWS = st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=4)), max_size=12)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), ROWS),
        st.tuples(st.just("view"), st.none()),
        st.tuples(st.just("sync"), st.none()),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=12,
)


class Shelf:
    """A state backend that can be closed and opened again."""

    def __init__(self, kind: str) -> None:
        self.engine: Engine
        if kind == "leveldb":
            self.path = tempfile.mkdtemp()
            self.engine = LEVELDB
        else:
            disk = MemoryDisk()
            disk.make_directory("state")
            disk.sync_directory("")
            self.path = "state"
            self.engine = MemoryEngine(disk)
        self.backend = self.engine.open_state(self.path, buffer_bytes=1 << 16, create=True)

    def reopen(self) -> None:
        self.backend.sync()
        self.backend.close()
        self.backend = self.engine.open_state(self.path, buffer_bytes=1 << 16)

    def close(self) -> None:
        self.backend.close()
        if self.engine is LEVELDB:
            shutil.rmtree(self.path)


@pytest.fixture(params=["leveldb", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def backend(kind: str) -> Iterator[StateBackend]:
    shelf = Shelf(kind)
    yield shelf.backend
    shelf.close()


def check(view: View, model: dict[bytes, bytes], random: Random) -> None:
    """Every way of reading agrees with the model."""
    ordered = sorted(model.items())
    assert list(view.scan(b"", b"\xff")) == ordered
    assert list(view.scan(b"", b"\xff", reverse=True)) == ordered[::-1]
    for _ in range(3):
        start, stop = random.randbytes(random.randint(0, 2)), random.randbytes(2)
        within = [row for row in ordered if start <= row[0] < stop]
        assert list(view.scan(start, stop)) == within
        assert list(view.scan(start, stop, reverse=True)) == within[::-1]
        assert view.get(start) == model.get(start)
        behind = [row for row in ordered if row[0] >= start]
        assert view.seek(start) == (behind[0] if behind else None)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, seed=st.integers(0, 1000))
def test_a_backend_agrees_with_a_sorted_dict(
    kind: str, steps: list[tuple[str, list[Row] | None]], seed: int
) -> None:
    shelf, random = Shelf(kind), Random(seed)
    model: dict[bytes, bytes] = {}
    views: list[tuple[View, dict[bytes, bytes]]] = []
    try:
        for step, rows in steps:
            if step == "write":
                assert rows is not None
                shelf.backend.write(rows)
                for key, value in rows:
                    if value is None:
                        model.pop(key, None)
                    else:
                        model[key] = value
            elif step == "view":
                views.append((shelf.backend.view(), dict(model)))
            elif step == "sync":
                shelf.backend.sync()
            elif step == "compact":
                shelf.backend.compact(b"", b"\xff")
            else:
                for view, _ in views:
                    view.close()
                views = []
                shelf.reopen()
            check(shelf.backend, model, random)
            for view, then in views:
                check(view, then, random)
        for view, _ in views:
            view.close()
    finally:
        shelf.close()


def test_a_scan_shows_the_rows_as_they_were_when_it_began(backend: StateBackend) -> None:
    backend.write([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
    rows = backend.scan(b"a", b"z")
    backend.write([(b"b", None), (b"bb", b"new")])
    assert list(rows) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]


def test_rows_of_one_write_are_applied_in_order(backend: StateBackend) -> None:
    backend.write([(b"k", b"1"), (b"k", None), (b"k", b"2"), (b"gone", b"x"), (b"gone", None)])
    assert list(backend.scan(b"", b"\xff")) == [(b"k", b"2")]


def test_a_backend_counts_its_bytes_and_does_not_stall_when_idle(backend: StateBackend) -> None:
    before = backend.size()
    backend.write([(b"%d" % i, bytes(1000)) for i in range(100)])
    backend.sync()
    assert backend.size() > before
    assert not backend.stalling()


def test_an_empty_range_has_no_rows(backend: StateBackend) -> None:
    backend.write([(b"a", b"1")])
    assert list(backend.scan(b"b", b"a")) == []
    assert list(backend.scan(b"a", b"a")) == []
    assert list(backend.scan(b"b", b"a", reverse=True)) == []


def test_memory_returns_to_the_last_sync_at_a_crash() -> None:
    backend = MemoryBackend.alone()
    backend.write([(b"a", b"1")])
    backend.sync()
    backend.write([(b"a", b"2"), (b"b", b"2")])
    backend.write([(b"c", b"3")])
    backend.crash()
    assert list(backend.scan(b"", b"\xff")) == [(b"a", b"1")]


def test_memory_keeps_a_prefix_of_whole_writes_at_a_random_crash() -> None:
    seen = set()
    for seed in range(40):
        backend = MemoryBackend.alone()
        backend.write([(b"n", b"0")])
        backend.sync()
        for number in range(1, 4):
            backend.write([(b"n", b"%d" % number), (b"m", b"%d" % number)])
        backend.crash(Random(seed))
        n, m = backend.get(b"n"), backend.get(b"m")
        assert m == (None if n == b"0" else n), "all rows of a write or none"
        seen.add(n)
    assert seen == {b"0", b"1", b"2", b"3"}


def test_a_store_of_before_a_crash_changes_nothing() -> None:
    disk = MemoryDisk()
    disk.make_directory("state")
    disk.sync_directory("")
    backend = MemoryEngine(disk).open_state("state", buffer_bytes=0, create=True)
    disk.crash()
    with pytest.raises(DiskFailure):
        backend.write([(b"a", b"1")])
