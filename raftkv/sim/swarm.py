"""Profiles of long runs: swarm settings, drawn per seed.

What a simulator always does the same way it never finds bugs behind. So each seed draws more than
what happens: which kinds of faults are there at all (few, some or all), how often they come and how
long they last, how many members there are, how fast ticks, disks and links are, how small logs,
windows and caches, how patient members and clients, who asks what how often, and who watches, holds
leases or repeats writes. `Profile.describe` is one line of it, printed with every seed.

Everything here is drawn from streams of its own, so the mixed profile of a seed (`sim.profiles`),
on which these build, stays what it is.

`swarm_profile` draws the load as well, from one operation in some seconds per client to hundreds a
second. `calm_profile` has a server's own timing (100 ms ticks, elections after 1 s) and a light
load: a few operations per virtual second, which is what most clusters see most of the time, and
which passes much virtual time in little real time.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from raftkv.sim.clients import Load
from raftkv.sim.cluster import Timing
from raftkv.sim.faults import KINDS, LASTS
from raftkv.sim.profiles import LEASES, SESSIONS, WATCHES, Profile, draw_profile
from raftkv.sim.world import MILLISECOND, SECOND

CALM_OPERATIONS: Final = 1.0  # per virtual second at least, or the run fails
LEAST_KINDS: Final = 2
LASTING: Final = (0.1, 0.25, 0.5, 1.0, 2.0)
AT_A_TIME: Final = (0.5, 1.0, 1.0, 2.0, 4.0)  # faults, on the average of a fault phase
MEAN_LASTS_US: Final = int(sum(LASTS) / len(LASTS) / 2 * SECOND)
_SMALL_BYTES: Final = 5_000  # below: one entry per frame, so links and disks stay fast


@dataclass(frozen=True, slots=True)
class Swarm:
    """How faults come.

    pause_us: mean time from one fault to the next. lasting: factor on how long they last.
    total_us: of all fault phases together. only: names of the episodes (`sim.episodes`) that
    happen; None: all.
    """

    pause_us: int
    lasting: float
    total_us: int
    only: frozenset[str] | None = None

    def has(self, name: str) -> bool:
        """May this episode happen?"""
        return self.only is None or name in self.only


def swarm_profile(
    seed: int, nodes: int = 0, seconds: float = 20.0, without: Collection[str] = ()
) -> Profile:
    """The profile of a seed of a long run. Parameters: `profiles.draw_profile`."""
    drawn = draw_profile(seed, nodes, seconds, without)
    random = Random(f"{seed}/swarm")
    lasting = random.choice(LASTING)
    pause_us = int(lasting * MEAN_LASTS_US / random.choice(AT_A_TIME))
    fault_us = int(random.uniform(4, 9) * SECOND)
    timing = _draw_timing(drawn.timing, random)
    load = _draw_load(drawn.load, random)
    present = [random.random() < chance for chance in (0.6, 0.7, 0.6)]
    holders = drawn.holders if present[1] else 0
    return replace(
        drawn,
        timing=timing,
        load=load,
        kinds=_draw_kinds(seed, without),
        rounds=-(-int(seconds * SECOND) // fault_us),
        fault_us=fault_us,
        watchers=drawn.watchers if present[0] else 0,
        holders=holders,
        sessions=drawn.sessions if present[2] and holders else 0,
        least_operations=CALM_OPERATIONS,
        swarm=Swarm(pause_us, lasting, int(seconds * SECOND)),
    )


def calm_profile(
    seed: int, nodes: int = 0, seconds: float = 20.0, without: Collection[str] = ()
) -> Profile:
    """Like `swarm_profile`, but with a server's timing, few faults and a light load."""
    drawn = swarm_profile(seed, nodes, seconds, without)
    random = Random(f"{seed}/calm")
    timing = replace(drawn.timing, tick_us=100 * MILLISECOND, election_ticks=10)
    load = replace(
        drawn.load,
        clients=random.randint(2, 4),
        think_us=random.choice((700, 1000, 1500)) * MILLISECOND,
    )
    assert drawn.swarm is not None
    pause_us = random.choice((1, 2, 4)) * SECOND
    return replace(
        drawn,
        timing=timing,
        load=load,
        watchers=min(drawn.watchers, 1),
        holders=min(drawn.holders, 1),
        sessions=0,
        swarm=replace(drawn.swarm, pause_us=pause_us),
        asked_ttls=False,
    )


def _draw_kinds(seed: int, without: Collection[str]) -> tuple[str, ...]:
    """Few kinds, some, or all of them; each is drawn by itself, as in `profiles.draw_kinds`."""
    kinds = [kind for kind in KINDS if kind not in without]
    chances = {kind: Random(f"{seed}/swarm/kind/{kind}").random() for kind in kinds}
    share = Random(f"{seed}/swarm/kinds").choice((0.1, 0.2, 0.4, 1.0))
    likely = sorted(kinds, key=lambda kind: chances[kind])[:LEAST_KINDS]
    return tuple(sorted(kind for kind in kinds if kind in likely or chances[kind] < share))


def _draw_timing(drawn: Timing, random: Random) -> Timing:
    election_ticks = random.choice((10, 10, 20)) if drawn.tick_us < 100 * MILLISECOND else 10
    latency_us = random.choice((300, 300, 2_000, 10_000))
    fsync_us = random.choice((400, 400, 3_000, 10_000))
    request_timeout_seconds = random.choice((1.0, 3.0, 7.0))
    if drawn.max_append_bytes < _SMALL_BYTES or drawn.max_inflight_messages < 2:
        latency_us, fsync_us = 300, 400  # or who is behind needs longer than a recovery may take
    return replace(
        drawn,
        election_ticks=election_ticks,
        latency_us=latency_us,
        fsync_us=fsync_us,
        request_timeout_seconds=request_timeout_seconds,
    )


def _draw_load(drawn: Load, random: Random) -> Load:
    """Who asks how often, and a mix of what is asked with some of it left out."""
    clients, think_us = random.choice(
        (
            (drawn.clients, drawn.think_us),
            (random.randint(8, 16), 30 * MILLISECOND),
            *((random.randint(2, 6), 300 * MILLISECOND) for _ in range(3)),
            *((random.randint(2, 6), 1000 * MILLISECOND) for _ in range(3)),
        )
    )
    gone = [
        name for name in ("get", "serializable", "span", "delete", "multi") if random.random() < 0.2
    ]
    weights = dict.fromkeys(gone, 0)
    for name in ("put", "swap"):
        weights[name] = getattr(drawn, name) * random.choice((1, 1, 3))
    return replace(drawn, clients=clients, think_us=think_us, **weights)


def present(profile: Profile) -> tuple[str, ...]:
    """What this run has of what it could do without."""
    pairs = ((WATCHES, profile.watchers), (LEASES, profile.holders), (SESSIONS, profile.sessions))
    return tuple(name for name, number in pairs if number)
