"""A member's life in small: everything it does to its disk, and what it may conclude from it.

`live` runs it on a place; `Promises` is what the member told others (acknowledged entries, term
and vote). Wherever the life is cut, `check` opens the directory again and holds it to them.
"""

from dataclasses import dataclass, field

from raftkv.kv.backend import Row
from raftkv.raft.types import Entry
from raftkv.storage.backend import StateBackend
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import Place, batch, entries, meta

APPLIED = b"applied"


@dataclass
class Promises:
    """acked: (term, index) of the newest acknowledged entry. log: every entry ever handed to the
    disk, newest per index. hard: newest (term, vote) that a message depended on."""

    acked: tuple[int, int] = (0, 0)
    hard: tuple[int, int] = (0, 0)
    log: dict[int, set[int]] = field(default_factory=dict)
    kept: list[Entry] = field(default_factory=list)


def rows_for(first: int, last: int) -> list[Row]:
    """What applying entries first..last writes, with the applied index in the same write."""
    rows: list[Row] = [(b"k%d" % (index % 7), b"%d" % index) for index in range(first, last + 1)]
    return [*rows, (APPLIED, b"%d" % last)]


def state_at(index: int) -> dict[bytes, bytes]:
    """All rows of a state that has applied everything up to `index`."""
    return {key: value for key, value in rows_for(1, index) if value is not None} if index else {}


def applied_of(state: StateBackend) -> int:
    """The applied index in a state's rows."""
    return int(state.get(APPLIED) or 0)


class Life:
    """Runs steps on an open directory and remembers what was promised."""

    def __init__(self, place: Place, promises: Promises) -> None:
        self.promises = promises
        self.place = place
        self.directory: DataDirectory | None = None
        self.number = 0
        self.term = 0

    @property
    def open(self) -> DataDirectory:
        assert self.directory is not None
        return self.directory

    def start(self) -> None:
        self.directory = self.place.open()
        self.number = 0
        self.replay()

    def replay(self) -> None:
        applied = applied_of(self.open.state)
        self.open.check_applied(applied)
        last = self.open.log.last_index
        if last > applied:
            self.open.state.write(rows_for(applied + 1, last))

    def append(self, count: int, term: int, truncate_from: int = 0) -> None:
        log, promises = self.open.log, self.promises
        first = (truncate_from or log.last_index + 1) if log.last_index else 1
        new = entries(first, first + count - 1, term)
        for entry in new:
            promises.log.setdefault(entry.index, set()).add(entry.term)
        self.number += 1
        hard = (term, term % 3) if term != self.term else None
        self.term = term
        log.write([batch(self.number, new, hard=hard, truncate_from=truncate_from)])
        if hard:
            promises.hard = hard
        promises.acked = (term, log.last_index)

    def apply(self) -> None:
        applied, last = applied_of(self.open.state), self.open.log.last_index
        if last > applied:
            self.open.state.write(rows_for(applied + 1, last))

    def checkpoint(self) -> None:
        self.open.state.sync()
        applied = applied_of(self.open.state)
        index = applied - 3
        if index > self.open.log.first_index:
            self.open.log.truncate_front(index, self.open.log.term(index))

    def install(self, term: int, index: int) -> None:
        state = self.open.new_state()
        state.write(list(state_at(index).items()))
        state.sync()
        snapshot = meta(term, index)
        self.open.switch_state(state, snapshot)
        self.number += 1
        self.open.log.write([batch(self.number, reset=(term, index), hard=(term, 1))])
        self.promises.hard = (term, 1)
        self.promises.acked = (term, index)
        self.term = term
        self.open.drop_old_states()

    def stop(self) -> None:
        self.open.close()


def live(life: Life) -> None:
    """Every kind of step, each at least once before and after a restart."""
    life.start()
    life.append(5, 1)
    life.append(3, 1)
    life.apply()
    life.open.log.write_mark_behind(force=True)
    life.append(4, 2)
    life.append(2, 3, truncate_from=11)
    life.apply()
    life.checkpoint()
    life.append(3, 4)
    life.install(5, 40)
    life.append(2, 5)
    life.apply()
    life.stop()
    life.start()
    life.append(6, 6)
    life.apply()
    life.checkpoint()
    life.open.log.write_mark_behind(force=True)
    life.stop()


def check(place: Place, promises: Promises) -> None:
    """Opens the directory: everything promised is kept, nothing was made up, all of it fits."""
    directory = place.open()
    found = directory.recovered
    assert (found.last_term, found.last_index) >= promises.acked
    assert found.hard_state.term >= promises.hard[0]
    if found.hard_state.term == promises.hard[0]:
        assert found.hard_state.vote == promises.hard[1]
    log = directory.log
    for entry in log.entries(log.first_index, log.last_index, 1 << 40):
        assert entry == entries(entry.index, entry.index, entry.term)[0]
        assert entry.term in promises.log[entry.index]
    applied = applied_of(directory.state)
    directory.check_applied(applied)
    assert dict(directory.state.scan(b"", b"\xff")) == state_at(applied)
    # And the member can go on.
    log.write([batch(1, entries(log.last_index + 1, log.last_index + 1, 9), hard=(9, 1))])
    directory.close()
    again = place.open()
    assert (again.recovered.last_term, again.recovered.hard_state.term) == (9, 9)
    again.close()
