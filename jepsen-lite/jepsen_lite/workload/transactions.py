"""What append and wr share: transactions of small operations on a few keys, read then guarded.

All keys are read in one transaction; what is to be written goes into a second one that succeeds
only if none of them has changed since. So an answered transaction was carried out as a whole at
its own revision. One that was overtaken begins anew a few times and then fails: it did nothing.
"""

from abc import abstractmethod
from typing import Any, ClassVar, Final

from jepsen_lite.generator import Context, Generator, Wish
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import Call, perform, reading
from jepsen_lite.workload.steps import back_off, numbered
from raftkv.client.errors import ClientError
from raftkv.errors import Outcome

ATTEMPTS: Final = 12
LONGEST: Final = 4  # small operations in one transaction
WRITES_PER_KEY: Final = 100  # about; then a fresh key takes its place

Micro = list[Any]  # [what, key, element or value]


class Transactions(Workload):
    """See the module's docstring."""

    write: ClassVar[str]  # name of the small operation that writes
    reads: ClassVar[frozenset[str]] = frozenset()

    def generator(self) -> Generator:
        """Transactions of 1 to 4 small operations on `keys` live keys."""
        return numbered(self._next)

    def _next(self, number: int, context: Context) -> Wish:
        random = context.random
        keys = max(self.options.keys, 1)
        micros: list[Micro] = []
        for place in range(1 + int(random.random() * LONGEST)):
            # Half of the small operations write, and there are 2.5 in the mean.
            age = number * 1.25 / keys / WRITES_PER_KEY
            slot = int(random.random() * keys)
            # Slots move on one after the other, so that live keys are of different ages.
            generation = int(age + slot / keys)
            name = f"{self.prefix}{generation * keys + slot}"
            if random.random() < 0.5:
                micros.append(["r", name, None])
            else:
                micros.append([self.write, name, self.fresh(number * LONGEST + place)])
        return {"f": "txn", "value": {"txn": micros}}

    async def invoke(self, session: Session, op: Op) -> Op:
        """Reads, then writes what follows from it."""
        micros: list[Micro] = op.value["txn"]
        names = list(dict.fromkeys(name for _, name, _ in micros))
        for attempt in range(ATTEMPTS):
            if attempt:
                await back_off(op, attempt)
            read = await self._read(session, names)
            found = dict(zip(names, read["responses"], strict=True))
            done, writes = self.apply(micros, found)
            value: dict[str, Any] = {"txn": done, **self.told(micros, found)}
            if not writes:
                return op.done("ok", {**value, "revision": read["revision"], "calls": [read]})
            written = await self._write(session, op, read, found, writes)
            if isinstance(written, Op):
                return written
            if written["succeeded"]:
                value["revision"] = written["revision"]
                return op.done("ok", {**value, "calls": [read, written]})
        return op.done("fail", error=f"overtaken {ATTEMPTS} times")

    @staticmethod
    async def _read(session: Session, names: list[str]) -> Call:
        call = {"f": "txn", "compares": [], "success": [["get", name] for name in names]}
        return await reading(session, {**call, "failure": []})

    @staticmethod
    async def _write(
        session: Session, op: Op, read: Call, found: dict[str, Any], writes: dict[str, str]
    ) -> Call | Op:
        call = {
            "f": "txn",
            "compares": [
                [name, "mod_revision", "=", kv["mod_revision"] if kv else 0]
                for name, kv in found.items()
            ],
            "success": [["put", name, value] for name, value in writes.items()],
            "failure": [],
        }
        try:
            return await perform(session, call)
        except ClientError as error:
            if error.outcome is Outcome.DEFINITE:
                raise
            unknown = {**call, "type": "info"}
            value = {**op.value, "calls": [read, unknown]}
            return op.done("info", value, error=f"{type(error).__name__}: {error}")

    @abstractmethod
    def fresh(self, number: int) -> int | str:
        """What is written by the small operation of this number; nothing else ever writes it."""

    @abstractmethod
    def apply(
        self, micros: list[Micro], found: dict[str, Any]
    ) -> tuple[list[Micro], dict[str, str]]:
        """The small operations with what they read, and what is to be written by key."""

    def told(self, micros: list[Micro], found: dict[str, Any]) -> dict[str, Any]:
        """What else the answer tells."""
        return {}
