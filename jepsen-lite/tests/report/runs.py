"""Histories of runs that never were, for reports to be made of."""

import heapq
from random import Random

from jepsen_lite.history import History, Op

SECOND = 1_000_000_000


def busy_history(calls: int, seconds: float = 60.0, seed: int = 1) -> History:
    """So many calls of ten threads; those between a quarter and half of the time go badly."""
    random = Random(seed)
    ops: list[Op] = []
    under_way: list[tuple[int, int, Op]] = []
    free = list(range(10))
    now = 0.0
    for number in range(calls):
        now += random.expovariate(calls / seconds)
        while under_way and (under_way[0][0] <= now * SECOND or not free):
            end_ns, process, begun = heapq.heappop(under_way)
            now = max(now, end_ns / SECOND)
            bad = seconds / 4 < now < seconds / 2 and random.random() < 0.05
            kind = random.choice(("fail", "info")) if bad else "ok"
            value = {**begun.value, "revision": len(ops)}
            ops.append(Op(process, kind, begun.f, value, end_ns, len(ops), "no answer" * bad))
            free.append(process + 10 if kind == "info" else process)
        process = free.pop(0)
        f = random.choice(("read", "write", "cas"))
        value = {"key": f"k{number % 5}", "value": f"v{number}"}
        begun = Op(process, "invoke", f, value, int(now * SECOND), len(ops))
        ops.append(begun)
        latency = random.lognormvariate(-6, 0.8) * min(1.0, 400 * seconds / calls)
        heapq.heappush(under_way, (int((now + latency) * SECOND), process, begun))
    return History(ops)


def written(*lines: tuple[int, str, str, object]) -> History:
    """A history of (process, type, f, value), a millisecond apart."""
    return History(
        Op(process, kind, f, value, place * 1_000_000, place)
        for place, (process, kind, f, value) in enumerate(lines)
    )
