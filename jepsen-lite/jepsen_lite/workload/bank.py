"""A bank: transfers between accounts by guarded transactions; the total never changes.

The accounts are made by the first operations ("open", one transaction that succeeds once).
"""

from typing import ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, limit, phases, until_ok
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Options, Workload
from jepsen_lite.workload.calls import Call, end_of, perform, reading
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import back_off, numbered

BALANCE: Final = 100  # of each account at the beginning
LARGEST: Final = 5  # transfer
ATTEMPTS: Final = 12
OPENINGS: Final = 200


class Bank(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "bank"
    summary: ClassVar[str] = "transfers between accounts, reads of all balances"
    reads: ClassVar[frozenset[str]] = frozenset({"read"})

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._accounts = [f"{self.prefix}a{number}" for number in range(max(options.keys, 2))]

    def generator(self) -> Generator:
        """The accounts are opened; then transfers, and reads (30 %)."""
        opening = numbered(lambda *_: {"f": "open", "value": {}})
        return phases(limit(OPENINGS, until_ok(opening)), numbered(self._next))

    def final_generator(self) -> Generator:
        """One read that is answered."""
        return limit(50, until_ok(numbered(lambda *_: {"f": "read", "value": {}})))

    def _next(self, number: int, context: Context) -> Wish:
        random = context.random
        if random.random() < 0.3:
            return {"f": "read", "value": {}}
        source, target = random.sample(self._accounts, 2)
        amount = 1 + int(random.random() * LARGEST)
        return {"f": "transfer", "value": {"from": source, "to": target, "amount": amount}}

    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        if op.f == "open":
            return await self._open(session, op)
        if op.f == "read":
            return await self._read(session, op)
        return await self._transfer(session, op)

    async def _open(self, session: Session, op: Op) -> Op:
        first = self._accounts[0]
        opened = await perform(
            session,
            {
                "f": "txn",
                "compares": [[first, "create_revision", "=", 0]],
                "success": [["put", name, str(BALANCE)] for name in self._accounts],
                "failure": [],
            },
        )
        return op.done("ok", {"revision": opened["revision"], "calls": [opened]})

    async def _read(self, session: Session, op: Op) -> Op:
        first = f"{self.prefix}a"
        found = await perform(session, {"f": "range", "key": first, "end": end_of(first)})
        return op.done(
            "ok",
            {
                "accounts": {kv["key"]: int(kv["value"]) for kv in found["kvs"]},
                "revision": found["revision"],
                "calls": [found],
            },
        )

    async def _transfer(self, session: Session, op: Op) -> Op:
        source, target, amount = op.value["from"], op.value["to"], op.value["amount"]
        for attempt in range(ATTEMPTS):
            if attempt:
                await back_off(op, attempt)
            at_source, at_target = await _both(session, source, target)
            if at_source is None or at_target is None:
                return op.done("fail", error="an account is missing")
            left = int(at_source["value"]) - amount
            if left < 0:
                return op.done("fail", error="the balance is too small")
            written = await perform(
                session,
                {
                    "f": "txn",
                    "compares": [
                        [kv["key"], "mod_revision", "=", kv["mod_revision"]]
                        for kv in (at_source, at_target)
                    ],
                    "success": [
                        ["put", source, str(left)],
                        ["put", target, str(int(at_target["value"]) + amount)],
                    ],
                    "failure": [],
                },
            )
            if written["succeeded"]:
                value = {**op.value, "revision": written["revision"], "calls": [written]}
                return op.done("ok", value)
        return op.done("fail", error=f"overtaken {ATTEMPTS} times")

    def checkers(self) -> dict[str, Checker]:
        """The sum of all balances, and the revision witness."""
        return judges("bank", "witness")


async def _both(session: Session, source: str, target: str) -> tuple[Call | None, Call | None]:
    """Two accounts at one revision; None: it is not there. Errors: ClientError, nothing written."""
    found = await reading(
        session,
        {"f": "txn", "compares": [], "success": [["get", source], ["get", target]], "failure": []},
    )
    at_source, at_target = found["responses"]
    return at_source, at_target
