"""Registers: reads, writes and compare-and-swaps of single keys, each key judged by itself.

Keys are left for fresh ones after about `OPS_PER_KEY` operations, because the search for an order
costs more than linear time in the operations of a key. A swap expects what some process has seen
lately, so that many of them succeed.
"""

from typing import ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import perform
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import learning

OPS_PER_KEY: Final = 300
REMEMBERED: Final = 64  # keys whose last value is known; the oldest are forgotten

Seen = dict[str, str]


class Register(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "register"
    summary: ClassVar[str] = "read, write and compare-and-swap single keys"
    reads: ClassVar[frozenset[str]] = frozenset({"read"})

    def generator(self) -> Generator:
        """Reads (40 %), writes and swaps (30 % each)."""
        seen: Seen = {}
        return learning(self._next, _learn, seen)

    def _next(self, number: int, seen: Seen, context: Context) -> Wish:
        random = context.random
        keys = max(self.options.keys, 1)
        group, slot = number // (keys * OPS_PER_KEY), int(random.random() * keys)
        name = f"{self.prefix}r{group * keys + slot}"
        lot = random.random()
        if lot < 0.4:
            return {"f": "read", "value": {"key": name}}
        if lot < 0.7:
            return {"f": "write", "value": {"key": name, "value": f"w{number}"}}
        return {
            "f": "cas",
            "value": {"key": name, "expected": seen.get(name), "value": f"c{number}"},
        }

    async def invoke(self, session: Session, op: Op) -> Op:
        """One call of the store."""
        answer = await perform(session, {"f": op.f, **op.value})
        del answer["f"]
        return op.done("ok", answer)

    def checkers(self) -> dict[str, Checker]:
        """The revision witness, and the search for an order of each key's operations."""
        return judges("witness", "linear")


def _learn(seen: Seen, event: Op) -> Seen:
    """The value that each key was seen to have last."""
    if event.type != "ok" or not isinstance(event.value, dict) or "key" not in event.value:
        return seen
    value = event.value
    found = value.get("seen") if value.get("succeeded") is False else value["value"]
    if found is None or seen.get(value["key"]) == found:
        return seen
    kept = {**seen, value["key"]: found}
    if len(kept) > REMEMBERED:
        del kept[next(iter(kept))]
    return kept
