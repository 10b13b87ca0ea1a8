"""Ways in which a minority stays broken while the majority has to go on (R05, R07, R08, R11, R18).

Each breaks one member at once, goes on breaking it, and returns how to end that. None touches
another member or a link between two others.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Final, TypeAlias

from raftkv.sim.faults import Undo, cut_pairs
from raftkv.sim.world import SECOND

if TYPE_CHECKING:
    from raftkv.sim.cluster import Cluster

Break: TypeAlias = "Callable[[Cluster, int, Random], Undo]"


def down(cluster: "Cluster", member: int, random: Random) -> Undo:
    """Power cut; it stays off."""
    node = cluster.nodes[member]
    node.crash()
    return node.start


def cut_off(cluster: "Cluster", member: int, random: Random) -> Undo:
    """No frames in either direction."""
    return cluster.isolate(member)


def deaf(cluster: "Cluster", member: int, random: Random) -> Undo:
    """R07: it sends but does not receive."""
    return cut_pairs(cluster, [(other, member) for other in cluster.nodes])


def mute(cluster: "Cluster", member: int, random: Random) -> Undo:
    """It receives but does not send."""
    return cut_pairs(cluster, [(member, other) for other in cluster.nodes])


def half_cut(cluster: "Cluster", member: int, random: Random) -> Undo:
    """R08, R10: it reaches only some of the others, mostly not the leader."""
    leader = cluster.leader()
    others = [other for other in cluster.members if other != member]
    lost = random.sample(others, random.randint(1, max(1, len(others) - 1)))
    if leader is not None and leader.member != member and random.random() < 0.8:
        lost = [leader.member, *(one for one in lost if one != leader.member)]
    return cut_pairs(cluster, [pair for one in lost for pair in ((one, member), (member, one))])


def paused(cluster: "Cluster", member: int, random: Random) -> Undo:
    """R18: SIGSTOP, for the whole time."""
    node = cluster.nodes[member]
    node.pause()
    return node.resume


def stalled_disk(cluster: "Cluster", member: int, random: Random) -> Undo:
    """D15: its fsyncs do not end."""
    disk = cluster.nodes[member].disk
    disk.stall()
    return disk.release


def slow_disk(cluster: "Cluster", member: int, random: Random) -> Undo:
    """D14: its fsyncs take up to 2 s."""
    disk = cluster.nodes[member].disk
    disk.slow_us = int(random.uniform(0.1, 2.0) * SECOND)

    def undo() -> None:
        disk.slow_us = 0

    return undo


def _again_and_again(
    cluster: "Cluster",
    random: Random,
    turn: Callable[[bool], None],
    shortest: float,
    longest: float,
) -> Undo:
    """Calls turn(True), turn(False), ... each after so many election timeouts; ends with False."""
    ended = False

    def act(broken: bool) -> None:
        if ended:
            return
        turn(broken)
        pause_us = int(random.uniform(shortest, longest) * cluster.election_us)
        cluster.world.after(pause_us, act, not broken)

    def end() -> None:
        nonlocal ended
        ended = True
        turn(False)

    act(True)
    return end


def crash_loop(cluster: "Cluster", member: int, random: Random) -> Undo:
    """It loses power again and again, soon after it has started."""
    node = cluster.nodes[member]

    def turn(broken: bool) -> None:
        if broken:
            node.crash()
        else:
            node.start()

    return _again_and_again(cluster, random, turn, 0.1, 2.0)


def flapping(cluster: "Cluster", member: int, random: Random) -> Undo:
    """R11: its links go down and up again."""
    undo: Undo | None = None

    def turn(broken: bool) -> None:
        nonlocal undo
        if undo is not None:
            undo()
            undo = None
        if broken:
            undo = cluster.isolate(member)

    return _again_and_again(cluster, random, turn, 0.5, 2.0)


BREAKS: Final[Mapping[str, Break]] = {
    "down": down,
    "cut off": cut_off,
    "deaf": deaf,
    "mute": mute,
    "half cut": half_cut,
    "paused": paused,
    "stalled disk": stalled_disk,
    "slow disk": slow_disk,
    "crash loop": crash_loop,
    "flapping": flapping,
}
