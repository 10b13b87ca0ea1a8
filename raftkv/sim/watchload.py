"""A load made for watches: many viewers, bursts of writes, a compaction every 100 ms.

* Viewers (`sim.streams`) watch about forty keys, many of them the same ones, with all options.
* Writers send bursts of puts, deletions and transactions, now and then a flood of more than a
  thousand writes, preferably while a viewer does not read, so that its watches need long scans.
* The compactor asks every 100 virtual milliseconds for a compaction up to some revisions before the
  newest one, or one further than the last. How many changes every second or so: with many of them
  slow watches come through, with few they are cancelled with the compacted revision.

At the end every watch, over all its connections, is compared with the committed log.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from random import Random
from typing import TYPE_CHECKING, Final

from raftkv.kv.watchindex import FROM_KEY, prefix_end
from raftkv.sim.clients import Clients
from raftkv.sim.decoding import Decoder
from raftkv.sim.invariants import InvariantBroken
from raftkv.sim.operations import Compact, Compare, Delete, Put, Request, Txn
from raftkv.sim.proofs import Proofs
from raftkv.sim.streams import Viewer
from raftkv.sim.validators import validate
from raftkv.sim.watch_records import Asked, History, WatchRecord, joined
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster

KEYS: Final = 40
WRITER: Final = 4_000_000  # client numbers of writers and the compactor
COMPACTION_US: Final = 100 * MILLISECOND
KEPT_REVISIONS: Final = (0, 5, 300, 2500, 2500, 6000)  # one is drawn now and then
BURST_US: Final = 80 * MILLISECOND
BURSTS: Final = (1, 3, 10, 30)
FLOODS: Final = (300, 1300)
CROWD: Final = 1500  # so many that wait for an answer: no more writes


def key_of(number: int) -> bytes:
    """One of the keys."""
    return b"w/%02d" % number


# What is watched: some keys, some ranges, everything. Several times the same: groups.
RANGES: Final = (
    *((key_of(number), b"") for number in (0, 0, 0, 1, 7, 39)),
    *((prefix, prefix_end(prefix)) for prefix in (b"w/", b"w/", b"w/0", b"w/1", b"w/2", b"w")),
    (key_of(3), key_of(17)),
    (key_of(3), key_of(17)),
    (key_of(10), key_of(11)),
    (key_of(5), key_of(35)),
    (key_of(20), FROM_KEY),
    (b"l", FROM_KEY),
    (b"k", b"n"),
    (b"\0", FROM_KEY),
)


class WatchLoad:
    """See the module's docstring. counts: what happened. checked: by validator, how much."""

    def __init__(self, cluster: "Cluster", clients: Clients, viewers: int) -> None:
        self.world = cluster.world
        self.cluster = cluster
        self.running = False
        self.counts: Counter[str] = Counter()
        self.checked: Counter[str] = Counter()
        self.decoder = Decoder()
        self._clients = clients
        self._random: Random = self.world.stream("watch load")
        self._viewers = [Viewer(self, number) for number in range(viewers)]
        self._watches: list[list[WatchRecord]] = []
        self._kept = KEPT_REVISIONS[-1]
        self._compacted = 0

    def start(self) -> None:
        """Everybody begins."""
        if not self._viewers:
            return
        self.running = True
        for viewer in self._viewers:
            viewer.begin()
        self._burst()
        self._compact()
        self._draw_kept()

    def stop(self) -> None:
        """No more writes and compactions."""
        self.running = False

    def calm(self) -> None:
        """Everybody reads, stays, and is at a member that stays."""
        for viewer in self._viewers:
            viewer.read_again()
            if viewer.member and viewer.member not in self.cluster.goal:
                viewer.leave()

    def members(self) -> list[int]:
        """Whom a viewer may ask."""
        return self.cluster.members if self.running else self.cluster.goal

    # --- what is watched ------------------------------------------------------------------
    def draw_asked(self, random: Random, start: int | None) -> Asked:
        """A WatchCreateRequest. start: the revision to start at; None: drawn."""
        newest = self._clients.newest_revision
        if start is None:
            past = random.choice((1, 50, 50, 1500, self._kept, newest))
            oldest = max(newest - past, 1)
            start = random.choice((0, oldest, random.randint(oldest, newest), newest + past // 30))
        key, end = random.choice(RANGES)
        kind = random.random()
        return Asked(
            key,
            end,
            start,
            prev_kv=random.random() < 0.4,
            no_put=kind < 0.08,
            no_delete=0.08 < kind < 0.16,
            fragment=random.random() < 0.5,
        )

    def keep(self, records: list[WatchRecord]) -> None:
        """The connections of a watch that is over."""
        self._watches.append(records)

    # --- writes ------------------------------------------------------------------------------
    def flood(self) -> None:
        """Very many writes at once."""
        self._write(self._random.choice(FLOODS))

    def _burst(self) -> None:
        if self.running:
            self._write(self._random.choice(BURSTS))
            self.world.after(int(self._random.expovariate(1.0) * BURST_US), self._burst)

    def _write(self, count: int) -> None:
        clients, random = self._clients, self._random
        leader = self.cluster.leader()
        member = random.choice(self.cluster.members)
        if leader is not None and random.random() < 0.7:
            member = leader.member
        for _ in range(count):
            if not self.running or len(clients.waiting) >= CROWD:
                return
            clients.ask(WRITER, member, self._draw_request())

    def _draw_request(self) -> Request:
        random, drawn = self._random, self._random.random()
        value = b"%d" % (len(self._clients.history) + 1)
        if drawn < 0.03:
            value = value.ljust(random.randrange(3000), b".")
        key = key_of(random.randrange(KEYS))
        if drawn < 0.8:
            return Put(key, value)
        if drawn < 0.88:
            return Delete(key)
        if drawn < 0.9:
            first = random.randrange(KEYS - 8)
            return Delete(key_of(first), key_of(first + random.randint(1, 8)))
        several = random.sample(range(KEYS), random.choice((2, 4, 30)))
        puts = tuple(Put(key_of(one), value) for one in sorted(several))
        return Txn((Compare(key, mod_revision=0),), (Delete(key), *_without(puts, key)), puts)

    # --- compactions ----------------------------------------------------------------------------
    def _compact(self) -> None:
        if not self.running:
            return
        newest = self._clients.newest_revision
        revision = min(max(newest - self._kept, self._compacted + 1), newest)
        if revision > self._compacted:
            self._compacted = revision
            self.counts["compactions asked"] += 1
            member = self._random.choice(self.cluster.members)
            self._clients.ask(WRITER + 1, member, Compact(revision))
        self.world.after(COMPACTION_US, self._compact)

    def _draw_kept(self) -> None:
        self._kept = self._random.choice(KEPT_REVISIONS)
        if self.running:
            self.world.after(int(self._random.expovariate(1.0) * SECOND), self._draw_kept)

    # --- the end ----------------------------------------------------------------------------------
    def check(self, history: History) -> None:
        """Raises InvariantBroken if a watch was not told what the committed log has."""
        for viewer in self._viewers:
            viewer.finish()
        self.counts["watches"] = len(self._watches)
        hubs = [node.hub for node in self.cluster.nodes.values()]
        self.counts["full sinks met"] = sum(hub.stalls for hub in hubs)
        self.counts["states received under watches"] = sum(hub.replaced for hub in hubs)
        self.counts["compactions"] = len(history.compactions)
        self.counts["revisions"] = history.revisions[-1] if history.revisions else 0
        proofs = Proofs(history)
        whole = validate(map(joined, self._watches), history, complete=True, proofs=proofs)
        sessions: Iterator[WatchRecord] = chain.from_iterable(
            records for records in self._watches if len(records) > 1
        )
        parts = validate(sessions, history, proofs=proofs)
        self.checked += whole.checked
        self.counts["events checked"] = whole.events
        self.counts["events of resumed watches checked again"] = parts.events
        findings = whole.findings + parts.findings
        if findings:
            first = findings[0]
            raise InvariantBroken(f"watch {first.validator}", f"{first.watch}: {first.text}")


def _without(puts: tuple[Put, ...], key: bytes) -> tuple[Put, ...]:
    return tuple(put for put in puts if put.key != key)
