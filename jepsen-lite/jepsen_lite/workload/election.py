"""Elections: some campaign, lead for a while and resign, others observe who leads."""

import asyncio
from typing import Any, ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, each_process, reserve
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Options, Workload
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import learning, numbered
from raftkv.client.aio.recipes.election import Term
from raftkv.client.lifetime import now

TTL_SECONDS: Final = 2
WAIT_SHARE: Final = 0.8  # of an operation's time, for a campaign
OBSERVED_SECONDS: Final = 1.0
LED_SECONDS: Final = 0.05


class Election(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "election"
    summary: ClassVar[str] = "campaign, resign, observe"
    reads: ClassVar[frozenset[str]] = frozenset({"observe"})

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._terms: dict[int, Term] = {}

    def generator(self) -> Generator:
        """A quarter of the processes observe; each other one campaigns and resigns."""
        observers = max(1, self.options.concurrency // 4)
        candidates = each_process(learning(self._next, _learn, ""))
        return reserve(observers, numbered(self._observe), candidates)

    def _election(self, context: Context) -> str:
        elections = max(1, min(self.options.keys, self.options.concurrency // 4))
        return f"{self.prefix}election/{int(context.random.random() * elections)}"

    def _observe(self, number: int, context: Context) -> Wish:
        return {"f": "observe", "value": {"election": self._election(context)}}

    def _next(self, number: int, leads: str, context: Context) -> Wish:
        if leads:
            return {"f": "resign", "value": {"election": leads}}
        value = f"{context.free[0]}-{number}"
        return {"f": "campaign", "value": {"election": self._election(context), "value": value}}

    async def close(self, session: Session, process: int) -> None:
        """The session goes, and with it what it led."""
        self._terms.pop(process, None)

    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        if op.f == "observe":
            return await self._observed(session, op)
        if op.f == "campaign":
            return await self._campaign(session, op)
        term = self._terms.pop(op.process, None)
        if term is None:
            return op.done("fail", error="it does not lead")
        await asyncio.sleep(LED_SECONDS)
        await term.resign()
        return op.done("ok", {**op.value, "token": term.fencing_token})

    async def _campaign(self, session: Session, op: Op) -> Op:
        patience = self.options.timeout_seconds * WAIT_SHARE
        election = session.election(op.value["election"], ttl=TTL_SECONDS)
        term = await election.campaign(op.value["value"], patience)
        self._terms[op.process] = term
        token = term.fencing_token
        value = {**op.value, "token": token, "key": term.key.decode(), "revision": token}
        return op.done("ok", value)

    async def _observed(self, session: Session, op: Op) -> Op:
        """Who led, as it changed, for a while."""
        seen: list[dict[str, Any]] = []
        end = now() + OBSERVED_SECONDS
        async with session.election(op.value["election"]).observe() as observation:
            while now() < end:
                try:
                    leader = await observation.next(max(end - now(), 0.001))
                except TimeoutError:
                    break
                seen.append(
                    {
                        "token": leader.create_revision,
                        "revision": leader.mod_revision,
                        "value": leader.text,
                    }
                )
        return op.done("ok", {**op.value, "seen": seen})

    def checkers(self) -> dict[str, Checker]:
        """One leader at a time, by the store's revisions, and observers that see them in order."""
        return judges("election")


def _learn(leads: str, event: Op) -> str:
    if event.type == "invoke" or event.f == "observe":
        return leads
    won = event.type == "ok" and event.f == "campaign"
    return str(event.value["election"]) if won else ""
