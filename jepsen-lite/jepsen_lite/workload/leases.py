"""Bounds of leases: a key must be there as long as its lease was promised, and go soon after.

Each process grants a lease, hangs a key on it, renews it some times and then lets it run out or
revokes it, reading the key all the while. Lease ids are chosen by the process, so that an operation
names its lease even if it was never answered.

Where faults never pause long enough, few leases show how late they end. So behind the faults each
process lets one more run out.
"""

from typing import Any, ClassVar, Final, NamedTuple

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, each_process, stagger
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import perform
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import learning
from raftkv.client.errors import ClientError, OutcomeUnknown, Unavailable
from raftkv.pb import rpc_pb2

KEEP_ALIVE: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
TTL_SECONDS: Final = (2, 3)  # in turn
PAUSE_SECONDS: Final = 0.2  # of a process between two operations, in the mean
RENEWALS: Final = 4  # at most
LAST: Final = 0x800000  # the number of a process's lease in the final phase
LOOKS: Final = 100  # at a key that does not go, before the next lease


class Stage(NamedTuple):
    """How far a process is with its lease; 0: it has none.

    granted: it was answered. bound: a key hangs on it. renewals, looks: how many there were.
    ended: revoked, or found to be over.
    """

    lease: int = 0
    granted: bool = False
    bound: bool = False
    renewals: int = 0
    looks: int = 0
    ended: bool = False


class Leases(Workload):
    """See the module's docstring."""

    name: ClassVar[str] = "lease"
    summary: ClassVar[str] = "how long leases and their keys live"
    reads: ClassVar[frozenset[str]] = frozenset({"get"})

    def generator(self) -> Generator:
        """Each process goes through the life of one lease after the other."""
        return each_process(stagger(PAUSE_SECONDS, learning(self._next, _learn, Stage())))

    def final_generator(self) -> Generator:
        """Each process lets one lease run out, with nothing wrong any more."""
        return each_process(stagger(PAUSE_SECONDS, learning(self._last, _learn, Stage())))

    def _last(self, number: int, stage: Stage, context: Context) -> Wish | None:
        if not stage.lease:
            fresh = _id_of(self.options.seed, context.free[0], LAST)
            wish: Wish = {"f": "grant", "value": {"lease": fresh, "ttl": TTL_SECONDS[0]}}
            return None if number else wish
        if stage.bound:
            return {"f": "get", "value": {"key": self._key(stage.lease)}}
        return self._put(stage.lease)

    def _key(self, lease: int) -> str:
        return f"{self.prefix}lease/{lease:x}"

    def _put(self, lease: int) -> Wish:
        value = {"key": self._key(lease), "value": f"{lease:x}", "lease": lease}
        return {"f": "put", "value": value}

    def _next(self, number: int, stage: Stage, context: Context) -> Wish:
        lease, random = stage.lease, context.random
        if not lease or not stage.granted:
            fresh = _id_of(self.options.seed, context.free[0], number)
            ttl = TTL_SECONDS[int(random.random() * len(TTL_SECONDS))]
            return {"f": "grant", "value": {"lease": fresh, "ttl": ttl}}
        if not stage.bound:
            return self._put(lease)
        if not stage.ended and stage.renewals < lease % (RENEWALS + 1) and random.random() < 0.5:
            return {"f": "keepalive", "value": {"lease": lease}}
        if not stage.ended and lease % 4 == 0 and random.random() < 0.2:
            return {"f": "revoke", "value": {"lease": lease}}
        return {"f": "get", "value": {"key": self._key(lease)}}

    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        value: dict[str, Any] = {**op.value}
        if op.f in ("put", "get"):
            answer = await perform(session, {"f": op.f, **value})
            del answer["f"]
            return op.done("ok", answer)
        if op.f == "grant":
            granted = await session.grant(value["ttl"], id=value["lease"])
            return op.done("ok", {**value, "ttl": granted.ttl})
        if op.f == "revoke":
            answered = await session.revoke(value["lease"])
            return op.done("ok", {**value, "revision": answered.header.revision})
        ttl = await _renewed(session, value["lease"])
        if ttl <= 0:
            return op.done("fail", error="there is no such lease")
        return op.done("ok", {**value, "ttl": ttl})

    def checkers(self) -> dict[str, Checker]:
        """The bounds, and the revision witness."""
        return judges("lease", "witness")


async def _renewed(session: Session, lease: int) -> int:
    """Asks once for a renewal; the TTL in seconds, 0 if the lease is gone.

    Errors: ClientError, always of unknown outcome: who has no answer may have been heard.
    """
    # The client renews leases for its users all by itself; here a single question is asked.
    async with await session.stream(KEEP_ALIVE, rpc_pb2.LeaseKeepAliveResponse) as stream:
        await stream.write(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        try:
            answer = await stream.read(session.timeout)
        except ClientError:
            answer = None
        if answer is None:
            await stream.give_up()
            raise OutcomeUnknown(Unavailable("the renewal was not answered"))
    return int(answer.TTL)


def _id_of(seed: int, process: int, number: int) -> int:
    """A lease id that no other process and no other run with another seed takes."""
    return ((seed & 0x3FFF) << 44 | (process & 0xFFFFF) << 24 | number & 0xFFFFFF) + 1


def _learn(stage: Stage, event: Op) -> Stage:
    if event.type == "invoke":
        return stage
    if event.type == "info":
        return Stage()
    ok = event.type == "ok"
    if event.f == "grant":
        return Stage(event.value["lease"], granted=True) if ok else Stage()
    if event.f == "put":
        return stage._replace(bound=True) if ok else Stage()
    if event.f == "keepalive":
        return stage._replace(renewals=stage.renewals + 1, ended=not ok)
    if event.f == "revoke":
        return stage._replace(ended=ok or stage.ended)
    looks = stage.looks + 1
    gone = ok and event.value["value"] is None
    return Stage() if gone or looks > LOOKS else stage._replace(looks=looks)
