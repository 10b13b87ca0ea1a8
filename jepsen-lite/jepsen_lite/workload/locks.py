"""Locks by leases, with and without fencing, whose holders are sometimes stopped.

A holder writes a key that only holders may write. Now and then it stands still between deciding to
write and writing, longer than its lease lives, as a process does that is stopped or collects
garbage: nobody renews the lease meanwhile, another one gets the lock, and the first one wakes and
writes. With fencing each write is guarded by the holder's token, and the late one is refused.
Without, it is carried out: no lock service can prevent that (Kleppmann 2016; Jepsen, etcd 3.4.3),
so `lock-unfenced` is expected to be found unsafe.
"""

import asyncio
from typing import Any, ClassVar, Final, NamedTuple

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, each_process
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Options, Workload
from jepsen_lite.workload.calls import perform
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import learning
from raftkv.client.aio.recipes.lock import Holding
from raftkv.client.errors import ClientError
from raftkv.errors import Outcome

TTL_SECONDS: Final = 2  # the shortest that etcd grants with its default timeouts
STALL_SECONDS: Final = 3.2  # longer than a lease that nobody renews lives
STALLED: Final = 0.05  # part of the writes
WAIT_SHARE: Final = 0.8  # of an operation's time, for a lock


class Place(NamedTuple):
    """Where a process is. lock: that it holds, "" for none. writes: left before it releases."""

    lock: str = ""
    writes: int = 0


class Lock(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "lock"
    summary: ClassVar[str] = "locks by leases; writes under them are guarded by the token"
    fenced: ClassVar[bool] = True

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._held: dict[int, Holding] = {}

    # --- what is done ---------------------------------------------------------------------
    def generator(self) -> Generator:
        """Each process: acquire, write some times, release."""
        return each_process(learning(self._next, _learn, Place()))

    def _next(self, number: int, place: Place, context: Context) -> Wish:
        random = context.random
        if not place.lock:
            locks = max(1, min(self.options.keys, self.options.concurrency // 2))
            lock = f"{self.prefix}lock/{int(random.random() * locks)}"
            return {"f": "acquire", "value": {"lock": lock}}
        if not place.writes:
            return {"f": "release", "value": {"lock": place.lock}}
        value: dict[str, Any] = {"lock": place.lock, "value": f"{context.free[0]}-{number}"}
        if random.random() < STALLED:
            value["stall"] = STALL_SECONDS
        return {"f": "write", "value": value}

    # --- doing it -------------------------------------------------------------------------
    async def close(self, session: Session, process: int) -> None:
        """The session goes, and with it what it held."""
        self._held.pop(process, None)

    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        if op.f == "acquire":
            return await self._acquire(session, op)
        holding = self._held.get(op.process)
        if holding is None:
            return op.done("fail", error="it holds no lock")
        if op.f == "release":
            del self._held[op.process]
            await holding.release()
            return op.done("ok", {**op.value, "token": holding.fencing_token})
        return await self._write(session, op, holding)

    async def _acquire(self, session: Session, op: Op) -> Op:
        patience = self.options.timeout_seconds * WAIT_SHARE
        lock = session.lock(op.value["lock"], ttl=TTL_SECONDS)
        holding = await lock.acquire(patience)
        self._held[op.process] = holding
        token = holding.fencing_token
        value = {**op.value, "token": token, "key": holding.key.decode(), "revision": token}
        return op.done("ok", value)

    async def _write(self, session: Session, op: Op, holding: Holding) -> Op:
        token = holding.fencing_token
        value = {**op.value, "token": token, "key": self._guarded(op.value["lock"])}
        if "stall" in value:
            holding.lease.detach()
            await asyncio.sleep(value["stall"])
        put = ["put", value["key"], value["value"]]
        own = [[holding.key.decode(), "create_revision", "=", token]] if self.fenced else []
        try:
            written = await perform(
                session, {"f": "txn", "compares": own, "success": [put], "failure": []}
            )
        except ClientError as error:
            if error.outcome is Outcome.DEFINITE:
                raise
            return op.done("info", value, error=f"{type(error).__name__}: {error}")
        value["revision"] = written["revision"]
        value["succeeded"] = written["succeeded"]
        return op.done("ok", value)

    def _guarded(self, lock: str) -> str:
        """What only the holder of this lock should write."""
        return f"{self.prefix}guarded/{lock.rpartition('/')[2]}"

    def checkers(self) -> dict[str, Checker]:
        """Tokens, guarded writes and hold intervals; the revision witness."""
        return judges("lock", "witness")


class LockUnfenced(Lock):
    """The same without tokens: what it writes may come too late."""

    name: ClassVar[str] = "lock-unfenced"
    summary: ClassVar[str] = "the same without fencing: unsafe, and to be found so"
    fenced: ClassVar[bool] = False


def _learn(place: Place, event: Op) -> Place:
    if event.type == "invoke":
        return place
    if event.type == "info" or event.f == "release":
        return Place()
    if event.f == "acquire":
        if event.type == "ok":
            return Place(event.value["lock"], 1 + event.value["token"] % 3)
        return place
    if event.type == "fail" or not event.value.get("succeeded"):
        return place._replace(writes=0)
    return place._replace(writes=place.writes - 1)
