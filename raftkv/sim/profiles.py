"""What a run is like: drawn from its seed, so that a seed alone repeats a run.

`draw_profile` is the mixed load, `watch_profile` the one made for watches; `sim.swarm` draws the
profiles of long runs.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Final

from raftkv.sim.clients import Load
from raftkv.sim.cluster import Timing
from raftkv.sim.episodes import round_of
from raftkv.sim.faults import KINDS
from raftkv.sim.world import MILLISECOND, SECOND

if TYPE_CHECKING:
    from raftkv.sim.swarm import Swarm

WATCHES: Final = "watches"  # what a run can do without
LEASES: Final = "leases"
SESSIONS: Final = "sessions"  # not without leases
WATCH_KINDS: Final = 8  # kinds of faults in one run of the load for watches


@dataclass(frozen=True, slots=True)
class Profile:
    """What a run is like.

    fault_us: length of one fault phase. rounds: how many phases. watchers: clients that watch.
    holders: clients that hold leases. viewers: clients of the load that is made for watches; with
    them every fault has its turn. sessions: clients that repeat their writes. asked_ttls: clients
    put with a TTL and ask what is left of leases, if there are holders. least_operations: per
    virtual second. swarm: of a long run, with named episodes and liveness phases (`sim.swarm`).
    """

    nodes: int
    timing: Timing
    load: Load
    kinds: tuple[str, ...]
    rounds: int
    fault_us: int
    watchers: int = 0
    holders: int = 0
    viewers: int = 0
    sessions: int = 0
    asked_ttls: bool = True
    least_operations: float = 2.0
    swarm: "Swarm | None" = None

    def describe(self) -> str:
        """One line of what was drawn."""
        timing, load, swarm = self.timing, self.load, self.swarm
        words = [
            f"{self.nodes} members, election {timing.election_ticks} x "
            f"{timing.tick_us // MILLISECOND} ms, link {timing.latency_us / MILLISECOND:g} ms, "
            f"fsync {timing.fsync_us / MILLISECOND:g} ms, requests "
            f"{timing.request_timeout_seconds:g} s, checkpoint {timing.snapshot_count}, kept "
            f"{timing.catch_up_entries}, append {timing.max_append_bytes} x "
            f"{timing.max_inflight_messages}, cache {timing.max_log_cache_bytes}",
            f"{load.clients} clients think {load.think_us // MILLISECOND} ms, wait "
            f"{load.timeout_us / SECOND:g} s, values {load.value_bytes}, watchers {self.watchers}, "
            f"holders {self.holders}, sessions {self.sessions}, viewers {self.viewers}",
        ]
        if swarm is not None:
            words.append(f"faults every {swarm.pause_us / SECOND:g} s, lasting x {swarm.lasting:g}")
        words.append(", ".join(self.kinds))
        return "; ".join(words)

    def phases(self) -> Iterator[tuple[int, int]]:
        """Number, from 1, and length of every fault phase that is to be."""
        if self.swarm is None:
            for number in range(1, self.rounds + 1):
                yield number, self.fault_us
            return
        left_us = self.swarm.total_us
        wanted = {round_of(name) for name in self.swarm.only or ()}
        for number in range(1, self.rounds + 1):
            if self.swarm.only is None or number in wanted:
                yield number, min(left_us, self.fault_us)
            left_us -= self.fault_us


def draw_profile(
    seed: int, nodes: int = 0, seconds: float = 20.0, without: Collection[str] = ()
) -> Profile:
    """The profile of a seed. nodes: 3 or 5, 0: drawn. seconds: virtual time of fault phases.

    without: kinds of faults that are as if they did not exist; likewise `WATCHES`, `LEASES` and
        `SESSIONS`: nobody watches, holds leases, or repeats writes in sessions.
    """
    random = Random(f"{seed}/profile")
    drawn_nodes = random.choice((3, 3, 5))
    timing = Timing(
        tick_us=random.choice((20, 50, 100)) * MILLISECOND,
        snapshot_count=random.choice((20, 60, 200, 1000)),
        catch_up_entries=random.choice((5, 20, 100)),
    )
    tight = Random(f"{seed}/limits")  # small windows and caches: other ways through the code
    timing = replace(
        timing,
        max_append_bytes=tight.choice((300, 5_000, 1_000_000)),
        max_inflight_messages=tight.choice((1, 4, 512)),
        max_log_cache_bytes=tight.choice((1_000, 20_000, 1_000_000)),
        max_uncommitted_bytes=tight.choice((20_000, 1_000_000)),
    )
    load = Load(
        clients=random.randint(4, 12),
        think_us=random.choice((30, 70, 120)) * MILLISECOND,
        timeout_us=random.choice((1, 3, 10)) * SECOND,
        value_bytes=random.choice((0, 0, 0, 2000)),
        compact=random.choice((0, 1, 4)),
    )
    kinds = draw_kinds(seed, without)
    rounds = max(1, round(seconds / random.uniform(4, 9)))
    watchers = 0 if WATCHES in without else Random(f"{seed}/watchers").randint(2, 8)
    holders = 0 if LEASES in without else Random(f"{seed}/holders").randint(1, 6)
    sessions = Random(f"{seed}/sessions").randint(0, 2)
    if SESSIONS in without or not holders:
        sessions = 0
    fault_us = int(seconds * SECOND / rounds)
    members = nodes or drawn_nodes
    return Profile(
        members, timing, load, kinds, rounds, fault_us, watchers, holders, sessions=sessions
    )


def watch_profile(
    seed: int, nodes: int = 0, seconds: float = 20.0, without: Collection[str] = ()
) -> Profile:
    """Like `draw_profile`, but with a load that is made for watches and more kinds of faults."""
    drawn = draw_profile(seed, nodes, seconds, without)
    random = Random(f"{seed}/watch profile")
    timing = replace(
        drawn.timing,
        snapshot_count=random.choice((100, 400, 2000)),
        max_uncommitted_bytes=1_000_000,
        slice_units=random.choice(((60, 500, 2500), (2500,), (300, 10_000))),
        published=(30, 200, 1500),
    )
    load = replace(drawn.load, clients=3, think_us=100 * MILLISECOND, value_bytes=0, compact=0)
    kinds = [kind for kind in KINDS if kind not in without]
    chosen = tuple(sorted(random.sample(kinds, min(WATCH_KINDS, len(kinds)))))
    return replace(
        drawn,
        timing=timing,
        load=load,
        kinds=chosen,
        watchers=min(drawn.watchers, 2),
        viewers=random.randint(10, 20),
        sessions=0,
    )


def draw_kinds(seed: int, without: Collection[str] = ()) -> tuple[str, ...]:
    """The faults of a seed, two at least, from those that are not in `without`.

    Each kind is drawn by itself: a new one in the table leaves the others of a pinned seed
    as they were.
    """
    kinds = [kind for kind in KINDS if kind not in without]
    chances = {kind: Random(f"{seed}/kind/{kind}").random() for kind in kinds}
    likely = sorted(kinds, key=lambda kind: chances[kind])
    return tuple(sorted(kind for kind in kinds if kind in likely[:2] or chances[kind] < 0.2))
