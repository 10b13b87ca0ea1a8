"""A counter: adds by compare-and-put, reads."""

from typing import ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, limit, until_ok
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import perform, reading
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import back_off, numbered

ATTEMPTS: Final = 12
LARGEST: Final = 5  # of what is added at once, either way


class Counter(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "counter"
    summary: ClassVar[str] = "add to a number, read it"
    reads: ClassVar[frozenset[str]] = frozenset({"read"})

    def generator(self) -> Generator:
        """Adds, and as many reads."""
        return numbered(_next)

    def final_generator(self) -> Generator:
        """One read that is answered."""
        return limit(50, until_ok(numbered(lambda *_: {"f": "read", "value": {}})))

    async def invoke(self, session: Session, op: Op) -> Op:
        """A read; for an add, a put behind it that nothing may have come before."""
        name = f"{self.prefix}counter"
        for attempt in range(ATTEMPTS):
            if attempt:
                await back_off(op, attempt)
            found = await reading(session, {"f": "get", "key": name})
            total = int(found["value"] or 0)
            if op.f == "read":
                value = {"total": total, "revision": found["revision"], "calls": [found]}
                return op.done("ok", value)
            written = await perform(
                session,
                {
                    "f": "cas",
                    "key": name,
                    "guard": found["mod_revision"],
                    "value": str(total + op.value["delta"]),
                },
            )
            if written["succeeded"]:
                value = {**op.value, "revision": written["revision"], "calls": [found, written]}
                return op.done("ok", value)
        return op.done("fail", error=f"overtaken {ATTEMPTS} times")

    def checkers(self) -> dict[str, Checker]:
        """Whether each total is one that the adds allow, and the revision witness."""
        return judges("counter", "witness")


def _next(number: int, context: Context) -> Wish:
    random = context.random
    if random.random() < 0.5:
        return {"f": "read", "value": {}}
    # More up than down, so that the total says how many adds there were.
    delta = 1 + int(random.random() * LARGEST)
    return {"f": "add", "value": {"delta": -delta if random.random() < 0.25 else delta}}
