"""A set: each element is a key of its own; reading it reads all keys at one revision.

Reads become rare while the set grows, so that all reads together cost about as much as the adds.
"""

from typing import Any, ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, limit, until_ok
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import end_of, perform
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import numbered

FIRST_READS: Final = 40  # adds between two reads at the beginning
GROWTH: Final = 10  # then a read each time that the set has grown by this part
PAGE: Final = 1000  # keys
LAST_READS: Final = 50  # attempts at reading the set after the faults


class Set(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "set"
    summary: ClassVar[str] = "add elements, read all of them"
    reads: ClassVar[frozenset[str]] = frozenset({"read"})

    def generator(self) -> Generator:
        """Adds, and a read now and then."""
        return numbered(_next)

    def final_generator(self) -> Generator:
        """One read that is answered."""
        return limit(LAST_READS, until_ok(numbered(lambda *_: {"f": "read", "value": {}})))

    async def invoke(self, session: Session, op: Op) -> Op:
        """One put, or a range read in pages of one revision."""
        if op.f == "add":
            element = op.value["element"]
            call = {"f": "put", "key": f"{self.prefix}s{element:09}", "value": str(element)}
            written = await perform(session, call)
            return op.done("ok", {**op.value, "revision": written["revision"], "calls": [written]})
        return op.done("ok", await self._read(session))

    async def _read(self, session: Session) -> dict[str, Any]:
        first, end = f"{self.prefix}s", end_of(f"{self.prefix}s")
        elements: list[int] = []
        revision = 0
        while True:
            page = {"f": "range", "key": first, "end": end, "limit": PAGE, "at": revision}
            found = await perform(session, page)
            revision = revision or found["revision"]
            elements += [int(kv["value"]) for kv in found["kvs"]]
            if not found["more"]:
                return {"elements": elements, "revision": revision}
            first = found["kvs"][-1]["key"] + "\0"

    def checkers(self) -> dict[str, Checker]:
        """Whether the set has what was added, and the revision witness."""
        return judges("set", "witness")


def _next(number: int, context: Context) -> Wish:
    if number % (FIRST_READS + number // GROWTH) == FIRST_READS - 1:
        return {"f": "read", "value": {}}
    return {"f": "add", "value": {"element": number}}
