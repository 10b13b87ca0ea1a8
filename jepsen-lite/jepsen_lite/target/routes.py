"""The links of members that have networks of their own: what the router between them does.

A cut from A to B is a rule of the router's: packets from A's address to B's vanish, without a word
to either end, in one direction. So nobody knows of it: connections stay, a dialler waits for an
answer, and TCP sends again, later and later, until the rule is gone.

Slow and lossy links are the kernel's network emulator (netem) on the router's way to a member, for
the packets of one other member: here packets are truly lost, and delays cost no throughput.
"""

import threading
from collections.abc import Iterable, Sequence
from typing import Final

from jepsen_lite.target.netns import Kernel

Pair = tuple[int, int]
RULE: Final = "pref 100 from {source} to {sink} blackhole"
BANDS: Final = 16  # of the kernel's prio; the first is everybody's
MOST_EMULATED: Final = BANDS - 1


class Routes:
    """A `target.base.NetworkFaults`. hub: the router's namespace. addresses: of the members.

    device(i) is the router's interface towards member i. Its methods may be called by any thread.
    """

    def __init__(self, kernel: Kernel, hub: str, addresses: Sequence[str]) -> None:
        self._kernel = kernel
        self._hub = hub
        self._addresses = list(addresses)
        self._lock = threading.Lock()
        self._cut: dict[Pair, None] = {}
        self._delay_seconds: dict[Pair, float] = {}
        self._loss: dict[Pair, float] = {}

    def cut(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        """Drops everything from sources to targets, one way. Errors: TargetError."""
        self._cut_all(_pairs(sources, targets))

    def partition(self, side: Iterable[int], other_side: Iterable[int]) -> None:
        """Cuts both ways between two sets. Errors: TargetError."""
        pairs = _pairs(side, other_side)
        self._cut_all([*pairs, *((b, a) for a, b in pairs)])

    def _cut_all(self, pairs: Sequence[Pair]) -> None:
        with self._lock:
            fresh = [pair for pair in dict.fromkeys(pairs) if pair not in self._cut]
            self._kernel.batch(self._hub, [f"rule add {self._rule(pair)}" for pair in fresh])
            self._cut.update(dict.fromkeys(fresh))

    def _rule(self, pair: Pair) -> str:
        source, sink = pair
        return RULE.format(source=self._addresses[source], sink=self._addresses[sink])

    def delay(self, sources: Iterable[int], targets: Iterable[int], seconds: float) -> None:
        """Packets arrive so much later; 0 = at once again. Errors: TargetError."""
        with self._lock:
            pairs = _pairs(sources, targets)
            self._delay_seconds |= dict.fromkeys(pairs, seconds)
            self._emulate({sink for _, sink in pairs})

    def loss(self, sources: Iterable[int], targets: Iterable[int], share: float) -> None:
        """This share of the packets is lost, 0..1. Errors: TargetError."""
        with self._lock:
            pairs = _pairs(sources, targets)
            self._loss |= dict.fromkeys(pairs, share)
            self._emulate({sink for _, sink in pairs})

    def _emulate(self, sinks: Iterable[int]) -> None:
        for sink in sorted(sinks):
            self._kernel.attempt(
                "tc", "-n", self._hub, *f"qdisc del dev {device(sink)} root".split()
            )
            self._kernel.batch(self._hub, self._emulation(sink), tool="tc")

    def _emulation(self, sink: int) -> list[str]:
        """The commands of `tc` for all that is slow or lossy on the way to this member."""
        found: list[str] = []
        for source, address in enumerate(self._addresses):
            seconds = self._delay_seconds.get((source, sink), 0.0)
            share = self._loss.get((source, sink), 0.0)
            if not seconds and not share:
                continue
            band = f"{source + 2:x}"
            found += [
                f"filter add dev {device(sink)} parent 1: protocol ip prio {source + 1} "
                f"u32 match ip src {address}/32 flowid 1:{band}",
                f"qdisc add dev {device(sink)} parent 1:{band} "
                f"netem delay {seconds * 1e3:g}ms loss {share * 100:g}%",
            ]
        if not found:
            return []
        all_to_first = " ".join("0" * BANDS)
        root = f"qdisc add dev {device(sink)} root handle 1: prio bands {BANDS} priomap"
        return [f"{root} {all_to_first}", *found]

    def heal(self) -> None:
        """Ends every cut, delay and loss. Errors: TargetError."""
        with self._lock:
            slowed = {sink for _, sink in (*self._delay_seconds, *self._loss)}
            cut = list(self._cut)
            self._delay_seconds.clear()
            self._loss.clear()
            self._cut.clear()
            self._kernel.batch(self._hub, [f"rule del {self._rule(pair)}" for pair in cut])
            self._emulate(slowed)


def device(member: int) -> str:
    """The router's interface towards a member."""
    return f"member{member}"


def _pairs(sources: Iterable[int], targets: Iterable[int]) -> list[Pair]:
    others = list(targets)
    return [(one, other) for one in sources for other in others if one != other]
