"""Clients of a real cluster, and what they were told, in the form that the checkers read.

Every write leaves its operation's identity in a value, whatever it was and whichever branch
of a transaction was taken. So the order of all commands that were ever committed can be read
from the store itself afterwards: exactly one identity per revision.
"""

import asyncio
import time
from collections.abc import Sequence
from random import Random
from typing import Final

from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.sim.operations import (
    Compare,
    Delete,
    Deleted,
    Found,
    Get,
    KeyValue,
    Logged,
    Operation,
    Outcome,
    Put,
    PutDone,
    Request,
    Response,
    Txn,
    TxnDone,
)
from tests.integration.calls import CallFailed, Wire

KEYS: Final = tuple(b"k%d" % one for one in range(5))
FIRST: Final = b"k"  # all keys of the workload: k0.. and the losers' l0..
AFTER: Final = b"m"
CALL_SECONDS: Final = 2.5
KV: Final = "/etcdserverpb.KV/"


def now_us() -> int:
    """Microseconds of this machine's steady clock."""
    return time.monotonic_ns() // 1000


def random_request(random: Random, identity: int, seen: dict[bytes, int]) -> Request:
    """Any request. seen: the newest mod revision that this client knows of each key."""
    key = random.choice(KEYS)
    value = b"%d" % identity
    kind = random.random()
    if kind < 0.3:
        return Put(key, value)
    if kind < 0.55:
        return Get(key)
    if kind < 0.65:
        return Get(FIRST, AFTER)
    if kind < 0.7:
        return Get(key, serializable=True)
    compare = Compare(key, mod_revision=seen.get(key, 0))
    lost = (Put(b"l%d" % KEYS.index(key), value), Get(key))
    if kind < 0.9:
        return Txn((compare,), (Put(key, value), Get(random.choice(KEYS))), lost)
    return Txn((compare,), (Delete(key), Put(b"l9", value)), lost)


# --- to and from the API ----------------------------------------------------------


def _get(request: Get) -> rpc_pb2.RangeRequest:
    return rpc_pb2.RangeRequest(
        key=request.key,
        range_end=request.end,
        revision=request.revision,
        serializable=request.serializable,
    )


def _part(part: Put | Get | Delete) -> rpc_pb2.RequestOp:
    if isinstance(part, Put):
        return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=part.key, value=part.value))
    if isinstance(part, Get):
        return rpc_pb2.RequestOp(request_range=_get(part))
    delete = rpc_pb2.DeleteRangeRequest(key=part.key, range_end=part.end)
    return rpc_pb2.RequestOp(request_delete_range=delete)


def _compare(compare: Compare) -> rpc_pb2.Compare:
    return rpc_pb2.Compare(
        result=rpc_pb2.Compare.EQUAL,
        target=rpc_pb2.Compare.MOD,
        key=compare.key,
        mod_revision=compare.mod_revision,
    )


def _key_value(pair: kv_pb2.KeyValue) -> KeyValue:
    return KeyValue(
        pair.key, pair.value, pair.create_revision, pair.mod_revision, pair.version, pair.lease
    )


def _found(reply: rpc_pb2.RangeResponse) -> Found:
    return Found(tuple(_key_value(pair) for pair in reply.kvs), reply.count, reply.more)


def _answer(reply: rpc_pb2.ResponseOp) -> PutDone | Found | Deleted:
    kind = reply.WhichOneof("response")
    if kind == "response_put":
        return PutDone()
    if kind == "response_range":
        return _found(reply.response_range)
    return Deleted(reply.response_delete_range.deleted)


async def ask(wire: Wire, request: Request, seconds: float) -> tuple[int, Response]:
    """One request; the answer's revision and the answer. Errors: CallFailed."""
    if isinstance(request, Put):
        put = rpc_pb2.PutRequest(key=request.key, value=request.value)
        done = await wire.call(KV + "Put", put, rpc_pb2.PutResponse, seconds)
        return done.header.revision, PutDone()
    if isinstance(request, Get):
        found = await wire.call(KV + "Range", _get(request), rpc_pb2.RangeResponse, seconds)
        return found.header.revision, _found(found)
    assert isinstance(request, Txn)
    txn = rpc_pb2.TxnRequest(
        compare=[_compare(one) for one in request.compares],
        success=[_part(one) for one in request.success],
        failure=[_part(one) for one in request.failure],
    )
    told = await wire.call(KV + "Txn", txn, rpc_pb2.TxnResponse, seconds)
    answers = tuple(_answer(one) for one in told.responses)
    return told.header.revision, TxnDone(told.succeeded, answers)


# --- the clients --------------------------------------------------------------------


class Clients:
    """Several clients that each do one operation after the other. history: all of them."""

    def __init__(self, ports: Sequence[int], random: Random) -> None:
        self.history: list[Operation] = []
        self.stopped = False
        self._ports = ports
        self._random = random

    async def run(self, count: int) -> None:
        """Runs `count` clients until `stopped`."""
        seeds = [self._random.getrandbits(64) for _ in range(count)]
        await asyncio.gather(*(self._run(one, Random(seed)) for one, seed in enumerate(seeds)))

    async def _run(self, client: int, random: Random) -> None:
        wire: Wire | None = None
        member = 0
        seen: dict[bytes, int] = {}
        while not self.stopped:
            if wire is None or not wire.usable or random.random() < 0.01:
                if wire is not None:
                    wire.close()
                member = random.randrange(len(self._ports))
                try:
                    wire = await Wire.connect(self._ports[member])
                except CallFailed:
                    wire = None
                    await asyncio.sleep(0.02)
                    continue
            if not await self._operate(client, member, wire, random, seen):
                wire.close()
            await asyncio.sleep(random.random() * 0.01)
        if wire is not None:
            wire.close()

    async def _operate(
        self, client: int, member: int, wire: Wire, random: Random, seen: dict[bytes, int]
    ) -> bool:
        """One operation; False if the connection should be given up."""
        identity = len(self.history) + 1
        request = random_request(random, identity, seen)
        operation = Operation(identity, client, member, request, now_us())
        self.history.append(operation)
        try:
            revision, response = await ask(wire, request, CALL_SECONDS)
        except CallFailed as failure:
            operation.error = str(failure)
            if failure.definite:
                operation.outcome = Outcome.DEFINITE
                operation.returned_us = now_us()
            return failure.definite
        operation.returned_us = now_us()
        operation.outcome = Outcome.OK
        operation.revision, operation.response = revision, response
        _remember(seen, request, revision, response)
        return True

    def resumed_after(self, moment_us: int, member: int | None) -> int | None:
        """When the first write that was called after `moment_us` was acknowledged.

        member: whose answers do not count. None: no such write yet.
        """
        times = [
            one.returned_us
            for one in self.history
            if one.called_us > moment_us
            and one.outcome is Outcome.OK
            and one.returned_us is not None
            and not isinstance(one.request, Get)
            and one.member != member
        ]
        return min(times, default=None)


def _remember(seen: dict[bytes, int], request: Request, revision: int, response: Response) -> None:
    if isinstance(request, Put):
        seen[request.key] = revision
    elif isinstance(request, Get) and isinstance(response, Found) and not request.end:
        seen[request.key] = response.keys[0].mod_revision if response.keys else 0
    elif isinstance(response, TxnDone) and isinstance(request, Txn):
        key = request.compares[0].key
        if response.succeeded:
            seen[key] = revision if isinstance(request.success[0], Put) else 0
        else:
            found = response.responses[1]
            assert isinstance(found, Found)
            seen[key] = found.keys[0].mod_revision if found.keys else 0


# --- the order of all commands ----------------------------------------------------------


async def read_order(port: int) -> list[tuple[KeyValue, ...]]:
    """What a member has at every revision from 2 to its newest (item 0 is revision 2)."""
    wire = await Wire.connect(port)
    newest, _ = await ask(wire, Get(FIRST, AFTER), 30.0)
    states: list[tuple[KeyValue, ...]] = []
    for start in range(2, newest + 1, 200):
        asked = [
            ask(wire, Get(FIRST, AFTER, revision, serializable=True), 30.0)
            for revision in range(start, min(start + 200, newest + 1))
        ]
        for _, response in await asyncio.gather(*asked):
            assert isinstance(response, Found)
            states.append(response.keys)
    wire.close()
    return states


def order_of(states: Sequence[tuple[KeyValue, ...]], history: Sequence[Operation]) -> list[Logged]:
    """The committed commands in order. Errors: AssertionError for a revision with no writer."""
    log = []
    for revision, state in enumerate(states, 2):
        written = {int(pair.value) for pair in state if pair.mod_revision == revision}
        assert len(written) == 1, f"revision {revision} was made by operations {written}"
        identity = written.pop()
        assert identity <= len(history), f"revision {revision} has unknown operation {identity}"
        log.append(Logged(revision, identity, history[identity - 1].request))
    return log
