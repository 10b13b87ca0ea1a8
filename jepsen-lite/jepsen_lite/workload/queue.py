"""A queue: items are keys, the oldest of which is taken by a transaction that deletes it.

Every item goes to one process at most, and after the faults the rest is drained, so that none is
lost either.
"""

from typing import ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, reserve
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import Call, item, perform
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import back_off, learning, numbered
from raftkv.client.errors import ClientError
from raftkv.client.txn import SortBy
from raftkv.errors import Outcome

ATTEMPTS: Final = 12
DRAINED: Final = 50  # items at once; each is a compare and a deletion of one transaction
DRAINS: Final = 100_000


class Queue(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "queue"
    summary: ClassVar[str] = "enqueue items, dequeue each once"

    def generator(self) -> Generator:
        """As many dequeues as items."""
        return numbered(_next)

    def final_generator(self) -> Generator:
        """One process drains until nothing is left."""
        return reserve(1, learning(_drain, _drained, False), None)

    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        if op.f == "enqueue":
            element = op.value["element"]
            call = {"f": "put", "key": f"{self.prefix}q{element:09}", "value": str(element)}
            written = await perform(session, call)
            return op.done("ok", {**op.value, "revision": written["revision"], "calls": [written]})
        if op.f == "drain":
            return await self._drain(session, op)
        return await self._dequeue(session, op)

    async def _dequeue(self, session: Session, op: Op) -> Op:
        for attempt in range(ATTEMPTS):
            if attempt:
                await back_off(op, attempt)
            found, revision = await self._oldest(session, 1)
            if not found:
                return op.done("ok", {"element": None, "revision": revision})
            taken = await _take(session, found)
            if taken["succeeded"]:
                element = int(found[0]["value"])
                value = {"element": element, "revision": taken["revision"], "calls": [taken]}
                return op.done("ok", value)
        return op.done("fail", error=f"overtaken {ATTEMPTS} times")

    async def _drain(self, session: Session, op: Op) -> Op:
        found, revision = await self._oldest(session, DRAINED)
        if not found:
            return op.done("ok", {"elements": [], "revision": revision})
        taken = await _take(session, found)
        if not taken["succeeded"]:
            return op.done("fail", error="overtaken")
        elements = [int(kv["value"]) for kv in found]
        value = {"elements": elements, "revision": taken["revision"], "calls": [taken]}
        return op.done("ok", value)

    async def _oldest(self, session: Session, limit: int) -> tuple[list[Call], int]:
        """The first items by their age. Errors: ClientError; nothing was written."""
        try:
            found = await session.get_prefix(
                f"{self.prefix}q", limit=limit, sort_by=SortBy.CREATE_REVISION
            )
        except ClientError as error:
            error.outcome = Outcome.DEFINITE
            raise
        return [item(kv) for kv in found], found.revision

    def checkers(self) -> dict[str, Checker]:
        """Whether each item came out once, and the revision witness."""
        return judges("queue", "witness")


async def _take(session: Session, items: list[Call]) -> Call:
    return await perform(
        session,
        {
            "f": "txn",
            "compares": [[kv["key"], "mod_revision", "=", kv["mod_revision"]] for kv in items],
            "success": [["delete", kv["key"]] for kv in items],
            "failure": [],
        },
    )


def _next(number: int, context: Context) -> Wish:
    if context.random.random() < 0.5:
        return {"f": "enqueue", "value": {"element": number}}
    return {"f": "dequeue", "value": {}}


def _drain(number: int, is_empty: bool, context: Context) -> Wish | None:
    if is_empty or number >= DRAINS:
        return None
    return {"f": "drain", "value": {}}


def _drained(is_empty: bool, event: Op) -> bool:
    if event.f != "drain" or event.type != "ok":
        return is_empty
    return is_empty or not event.value["elements"]
