"""The nemesis: which fault happens when, drawn from the seed.

A fault is a function that does its harm at once and returns how to undo it. The
nemesis starts faults at random times during a fault phase, undoes each after a random
time, and undoes everything at the phase's end. Each run enables a random subset of
the kinds (swarm testing): many combinations meet over many seeds, and rare ones are
not drowned by the loud ones.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from raftkv.sim.network import ROUGH, SLOW_LINK, STORM, milder
from raftkv.sim.world import MILLISECOND, SECOND, World

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster

Undo: TypeAlias = Callable[[], None]
# Does its harm and returns how to undo it; None if nothing was done.
Fault: TypeAlias = "Callable[[Cluster, Random], Undo | None]"


def done() -> None:
    """The undoing of what needs none."""


# --- network ------------------------------------------------------------------


def cut_pairs(cluster: "Cluster", pairs: list[tuple[int, int]]) -> Undo:
    """Cut these directed links until undone."""
    pairs = [pair for pair in pairs if pair[0] != pair[1] and pair in cluster.network.links]
    for pair in pairs:
        cluster.network.cut(*pair)
    cluster.links_changed(pairs)

    def undo() -> None:
        for pair in pairs:
            cluster.network.mend(*pair)
        cluster.links_changed(pairs)

    return undo


def _between(left: list[int], right: list[int]) -> list[tuple[int, int]]:
    return [pair for a in left for b in right for pair in ((a, b), (b, a))]


def partition(cluster: "Cluster", random: Random) -> Undo | None:
    """Split the members into two groups that do not hear each other."""
    members = cluster.members
    random.shuffle(members)
    size = random.randint(1, max(1, len(members) - 1))
    return cut_pairs(cluster, _between(members[:size], members[size:]))


def isolate_leader(cluster: "Cluster", random: Random) -> Undo | None:
    """Cut the leader off from everyone."""
    leader = cluster.leader()
    if leader is None:
        return None
    return cut_pairs(cluster, _between([leader.member], cluster.members))


def isolate_one(cluster: "Cluster", random: Random) -> Undo | None:
    """R05: cut any member off from everyone."""
    return cut_pairs(cluster, _between([random.choice(cluster.members)], cluster.members))


def deaf_leader(cluster: "Cluster", random: Random) -> Undo | None:
    """R07: the leader can send but not receive."""
    leader = cluster.leader()
    if leader is None:
        return None
    return cut_pairs(cluster, [(other, leader.member) for other in cluster.members])


def mute_leader(cluster: "Cluster", random: Random) -> Undo | None:
    """The leader can receive but not send."""
    leader = cluster.leader()
    if leader is None:
        return None
    return cut_pairs(cluster, [(leader.member, other) for other in cluster.members])


def one_way(cluster: "Cluster", random: Random) -> Undo | None:
    """Cut some directed links at random."""
    pairs = [(a, b) for a in cluster.members for b in cluster.members if random.random() < 0.3]
    return cut_pairs(cluster, pairs)


def bridge(cluster: "Cluster", random: Random) -> Undo | None:
    """R08, R10: two groups that only one member hears and reaches both of."""
    members = cluster.members
    random.shuffle(members)
    middle = len(members) // 2
    return cut_pairs(cluster, _between(members[:middle], members[middle + 1 :]))


def flap(cluster: "Cluster", random: Random) -> Undo | None:
    """R11: some links go up and down every 0.5 to 2 election timeouts."""
    members = cluster.members
    pairs = [(a, b) for a in members for b in members if a != b and random.random() < 0.4]
    ended = False
    undo: Undo | None = None

    def turn() -> None:
        nonlocal undo
        if ended:
            return
        if undo is not None:
            undo()
            undo = None
        else:
            undo = cut_pairs(cluster, pairs)
        pause_us = random.randint(cluster.election_us // 2, 2 * cluster.election_us)
        cluster.world.after(pause_us, turn)

    def end() -> None:
        nonlocal ended
        ended = True
        if undo is not None:
            undo()

    turn()
    return end


class Usurpation:
    """Leaders fall one after the other, and an earlier one comes back.

    A leader that falls is cut off, at first mostly in both directions: it goes on appending
    what its clients ask. Its successor falls at its election, mostly before its first message
    leaves, and appends as well. Then the earlier one is heard again and may win: its entries
    are of an older term than those that the successor has at the same indexes.
    """

    def __init__(self, cluster: "Cluster", random: Random, first: int) -> None:
        self._cluster = cluster
        self._random = random
        self._fallen: dict[int, Undo] = {}  # in the order of falling
        self._left = random.choice((1, 1, 2, 3))  # successors that will fall
        self._ended = False
        cluster.election_watchers.append(self._elected)
        self._fall(first, both=random.random() < 0.8)

    def _elected(self, member: int) -> None:
        """A new leader: called before anything that it has to say leaves it."""
        if not self._left or member in self._fallen:
            return
        random, world = self._random, self._cluster.world
        self._left -= 1
        earlier = next(iter(self._fallen), None)
        delay_us = 0 if random.random() < 0.8 else random.randrange(20 * MILLISECOND)
        both = random.random() < 0.4
        if delay_us:
            world.after(delay_us, self._fall, member, both)
        else:
            self._fall(member, both)
        if earlier is not None:
            pause_us = int(random.uniform(0.1, 1.5) * self._cluster.election_us)
            world.after(pause_us, self._rise, earlier)

    def _fall(self, member: int, both: bool) -> None:
        if self._ended or member in self._fallen:
            return
        members = self._cluster.members
        pairs = [(member, other) for other in members]
        if both:
            pairs += [(other, member) for other in members]
        self._fallen[member] = cut_pairs(self._cluster, pairs)
        if self._cluster.clients is not None:  # so many that their indexes overlap
            self._cluster.clients.rush(member, self._random.randint(1, 6))

    def _rise(self, member: int) -> None:
        undo = self._fallen.pop(member, None)
        if undo is not None:
            undo()

    def end(self) -> None:
        """Everyone is heard again."""
        self._ended = True
        self._cluster.election_watchers.remove(self._elected)
        for member in list(self._fallen):
            self._rise(member)


def usurp(cluster: "Cluster", random: Random) -> Undo | None:
    """R14: quick changes of leaders, of which each has appended what nobody else has."""
    leader = cluster.leader()
    if leader is None or cluster.election_watchers:
        return None
    return Usurpation(cluster, random, leader.member).end


def bad_weather(cluster: "Cluster", random: Random) -> Undo | None:
    """R12: loss, duplicates, reordering and delay spikes on every link."""
    network = cluster.network
    before = network.weather
    worst = random.choice((ROUGH, ROUGH, STORM, SLOW_LINK))
    network.set_weather(milder(worst, random.random()))

    def undo() -> None:
        network.set_weather(before)

    return undo


# --- processes ----------------------------------------------------------------


def crash_one(cluster: "Cluster", random: Random) -> Undo | None:
    """Power cut of one member; it starts again later."""
    return _crash(cluster, [random.choice(cluster.members)])


def crash_leader(cluster: "Cluster", random: Random) -> Undo | None:
    """Power cut of the leader."""
    leader = cluster.leader()
    return None if leader is None else _crash(cluster, [leader.member])


def crash_some(cluster: "Cluster", random: Random) -> Undo | None:
    """Power cut of several members at once."""
    members = cluster.members
    return _crash(cluster, random.sample(members, random.randint(1, len(members))))


def crash_all(cluster: "Cluster", random: Random) -> Undo | None:
    """D03: power cut of every member at once."""
    return _crash(cluster, cluster.members)


def _crash(cluster: "Cluster", members: list[int]) -> Undo | None:
    crashed = [member for member in members if cluster.nodes[member].up]
    for member in crashed:
        cluster.nodes[member].crash()

    def undo() -> None:
        for member in crashed:
            cluster.nodes[member].start()

    return undo if crashed else None


def pause_one(cluster: "Cluster", random: Random) -> Undo | None:
    """R18, R44: a process stands still (SIGSTOP, garbage collection) and goes on."""
    leader = cluster.leader()
    member = random.choice(cluster.members)
    if leader is not None and random.random() < 0.6:
        member = leader.member
    node = cluster.nodes[member]
    if not node.up or node.paused:
        return None
    node.pause()
    return node.resume


# --- disks and clocks ---------------------------------------------------------


def slow_disk(cluster: "Cluster", random: Random) -> Undo | None:
    """D14: every fsync of one member takes 20 ms to 2 s longer."""
    disk = cluster.nodes[_leader_or_any(cluster, random)].disk
    disk.slow_us = random.choice((20, 100, 500, 2000)) * MILLISECOND

    def undo() -> None:
        disk.slow_us = 0

    return undo


def stalled_disk(cluster: "Cluster", random: Random) -> Undo | None:
    """D15: fsyncs of one member do not end."""
    disk = cluster.nodes[_leader_or_any(cluster, random)].disk
    disk.stall()
    return disk.release


def broken_disk(cluster: "Cluster", random: Random) -> Undo | None:
    """D10: the next fsync of one member fails; its process must stop."""
    node = cluster.nodes[_leader_or_any(cluster, random)]
    if not node.up:
        return None
    node.disk.broken = True

    def undo() -> None:
        node.disk.broken = False
        if not node.up:
            node.start()

    return undo


def clock_rate(cluster: "Cluster", random: Random) -> Undo | None:
    """R19, R20: one member's clock runs up to 20 % fast or slow."""
    node = cluster.nodes[random.choice(cluster.members)]
    node.clock.rate = random.uniform(0.8, 1.2)

    def undo() -> None:
        node.clock.rate = 1.0

    return undo


# --- administration -----------------------------------------------------------


def transfer(cluster: "Cluster", random: Random) -> Undo | None:
    """R35: the leader is asked to hand over to any member."""
    return done if cluster.transfer_leadership(random.choice(cluster.members)) else None


def replace_member(cluster: "Cluster", random: Random) -> Undo | None:
    """A member is removed and a new one joins as a learner and is promoted."""
    return done if cluster.replace_member(random.choice(cluster.goal)) else None


def wipe_member(cluster: "Cluster", random: Random) -> Undo | None:
    """R33: a member loses its directory and must be replaced."""
    return done if cluster.wipe(random.choice(cluster.goal)) else None


def _leader_or_any(cluster: "Cluster", random: Random) -> int:
    leader = cluster.leader()
    if leader is not None and random.random() < 0.6:
        return leader.member
    return random.choice(cluster.members)


KINDS: Final[Mapping[str, Fault]] = {
    "partition": partition,
    "isolate leader": isolate_leader,
    "isolate one": isolate_one,
    "deaf leader": deaf_leader,
    "mute leader": mute_leader,
    "one way": one_way,
    "bridge": bridge,
    "flap": flap,
    "usurp": usurp,
    "bad weather": bad_weather,
    "crash one": crash_one,
    "crash leader": crash_leader,
    "crash some": crash_some,
    "crash all": crash_all,
    "pause": pause_one,
    "slow disk": slow_disk,
    "stalled disk": stalled_disk,
    "broken disk": broken_disk,
    "clock rate": clock_rate,
    "transfer": transfer,
    "replace member": replace_member,
    "wipe member": wipe_member,
}


PAUSE_US: Final = 700 * MILLISECOND  # mean, between two faults
EVEN_PAUSE_US: Final = 450 * MILLISECOND  # where each kind has its turn
LASTS: Final = (0.1, 0.5, 1.5, 4.0)  # one is drawn: seconds that a fault may last at most

# Faults that need some elections to unfold last at least that many election timeouts.
LEAST_ELECTIONS: Final[Mapping[str, int]] = {"usurp": 6}


class Nemesis:
    """Starts and undoes faults.

    kinds: the enabled ones. even: each of them in turn, instead of one drawn from all.
    counts: how often each was begun. struck: how often it could do its harm.

    Everything is drawn from one stream, in the order of events; `sim.episodes` has the nemesis
    whose faults can be left out one by one.
    """

    def __init__(
        self, world: World, cluster: "Cluster", kinds: list[str], *, even: bool = False
    ) -> None:
        self.kinds = kinds
        self.counts: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self._deck: list[str] | None = [] if even else None
        self._world = world
        self._cluster = cluster
        self._random = world.stream("nemesis")
        self._active: dict[int, tuple[str, Undo]] = {}
        self._next = 0
        self._running = False

    def begin(self, number: int) -> None:
        """Fault phase `number` begins."""
        self._running = True
        self._world.after(self._random.randrange(200 * MILLISECOND), self._act)

    def end(self) -> None:
        """The phase ends: every fault is undone, newest first."""
        self._running = False
        for number in sorted(self._active, reverse=True):
            self._undo(number)

    def _act(self) -> None:
        if not self._running:
            return
        random, world = self._random, self._world
        kind = self._draw()
        undo = self._strike(kind, random)
        if undo is None and self._deck is not None:
            self._deck.insert(0, kind)  # again, behind the others
        if undo is not None and undo is not done:
            lasts_us = int(random.choice(LASTS) * random.random() * SECOND)
            self._undo_later(kind, undo, lasts_us)
        pause_us = PAUSE_US if self._deck is None else EVEN_PAUSE_US
        world.after(int(random.expovariate(1.0) * pause_us), self._act)

    def _strike(self, kind: str, random: Random) -> Undo | None:
        undo = KINDS[kind](self._cluster, random)
        self.counts[kind] += 1
        self._world.record("fault", kind)
        if undo is not None:
            self.struck[kind] += 1
        return undo

    def _undo_later(self, kind: str, undo: Undo, lasts_us: int) -> None:
        self._next += 1
        self._active[self._next] = (kind, undo)
        least_us = LEAST_ELECTIONS.get(kind, 0) * self._cluster.election_us
        self._world.after(max(lasts_us, least_us) + MILLISECOND, self._undo, self._next)

    def _draw(self) -> str:
        if self._deck is None:
            return self._random.choice(self.kinds)
        if not self._deck:
            self._deck = list(self.kinds)
            self._random.shuffle(self._deck)
        return self._deck.pop()

    def _undo(self, number: int) -> None:
        active = self._active.pop(number, None)
        if active is not None:
            self._world.record("undo", active[0])
            active[1]()
