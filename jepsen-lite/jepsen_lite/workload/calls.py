"""Single calls of the store, described in JSON as histories have them, carried out.

`jepsen_lite.checker.values` has the forms; here is the way from such a description to a call of
the client, and from its answer to the completed description. Workloads whose operations make
several calls put these completed descriptions under "calls".
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from jepsen_lite.session import Session
from raftkv.client.errors import ClientError
from raftkv.client.keys import prefix_end
from raftkv.client.results import DeleteResult, KeyValue, PutResult, RangeResult, TxnResult
from raftkv.client.txn import Compare, Delete, Get, Operation, Put, Txn, key
from raftkv.errors import Outcome

Call = dict[str, Any]

_OPERATORS: Final[Mapping[str, Callable[[Any, Any], Compare]]] = {
    "=": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    ">": lambda left, right: left > right,
}


def end_of(prefix: str) -> str:
    """The first key behind all that begin with this one (which ends with an ASCII character)."""
    return prefix_end(prefix.encode()).decode()


def item(kv: KeyValue) -> Call:
    """A key as it was read."""
    found: Call = {
        "key": _text(kv.key),
        "value": _text(kv.value),
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "create_revision": kv.create_revision,
    }
    if kv.lease:
        found["lease"] = kv.lease
    return found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


async def perform(session: Session, call: Mapping[str, Any]) -> Call:
    """Carries out a call that has its "f"; returns it with the answer. Errors: ClientError."""
    return await _CALLS[call["f"]](session, dict(call))


async def reading(session: Session, call: Mapping[str, Any]) -> Call:
    """As `perform`, of a call that changes nothing, in front of one that does.

    Errors: ClientError; none leaves an outcome unknown, for nothing was written.
    """
    try:
        return await perform(session, call)
    except ClientError as error:
        error.outcome = Outcome.DEFINITE
        raise


# --- reads ------------------------------------------------------------------------------
async def _get(session: Session, call: Call) -> Call:
    found = await session.get(
        call["key"], revision=call.get("at", 0), serializable=call.get("serializable", False)
    )
    kv = found.kv
    call["revision"] = found.revision
    call["value"] = None if kv is None else _text(kv.value)
    call["mod_revision"] = found.mod_revision
    call["version"] = found.version
    call["create_revision"] = found.create_revision
    if kv is not None and kv.lease:
        call["lease"] = kv.lease
    return call


async def _range(session: Session, call: Call) -> Call:
    found = await session.get_range(
        call["key"], call["end"], limit=call.get("limit", 0), revision=call.get("at", 0)
    )
    return {
        **call,
        "revision": found.revision,
        "kvs": [item(kv) for kv in found],
        "count": found.count,
        "more": found.more,
    }


# --- writes -----------------------------------------------------------------------------
async def _put(session: Session, call: Call) -> Call:
    written = await session.put(call["key"], call["value"], lease=call.get("lease"))
    call["revision"] = written.revision
    return call


async def _delete(session: Session, call: Call) -> Call:
    if "end" in call:
        answer = await session.delete_range(call["key"], call["end"])
    else:
        answer = await session.delete(call["key"])
    return {**call, "revision": answer.revision, "deleted": answer.deleted}


async def _cas(session: Session, call: Call) -> Call:
    name = call["key"]
    subject = key(name)
    if "guard" in call:
        condition = subject.mod_revision == call["guard"]
    elif call["expected"] is None:
        condition = subject.missing()
    else:
        condition = subject.value == call["expected"]
    answer = await session.txn(
        Txn().when(condition).then(Put(name, call["value"])).otherwise(Get(name))
    )
    call["revision"] = answer.revision
    call["succeeded"] = answer.succeeded
    if not answer.succeeded:
        found = answer.results[0]
        assert isinstance(found, RangeResult), "the answer to a Get"
        call["seen"] = _text(found[0].value) if len(found) else None
    return call


async def _compact(session: Session, call: Call) -> Call:
    answer = await session.compact(call["at"])
    return {**call, "revision": answer.header.revision}


# --- transactions -----------------------------------------------------------------------
def transaction(call: Mapping[str, Any]) -> Txn:
    """The transaction that a description stands for."""
    compares = [
        _OPERATORS[operator](getattr(key(name), target), operand)
        for name, target, operator, operand in call.get("compares", ())
    ]
    return (
        Txn()
        .when(*compares)
        .then(*map(_operation, call.get("success", ())))
        .otherwise(*map(_operation, call.get("failure", ())))
    )


def _operation(words: list[Any]) -> Operation:
    kind, *rest = words
    if kind == "get":
        return Get(rest[0])
    if kind == "range":
        return Get(rest[0], rest[1])
    if kind == "put":
        return Put(rest[0], rest[1], lease=rest[2] if len(rest) > 2 else None)
    assert kind == "delete", kind
    return Delete(rest[0], rest[1] if len(rest) > 1 else b"")


async def _txn(session: Session, call: Call) -> Call:
    answer = await session.txn(transaction(call))
    branch = call.get("success" if answer.succeeded else "failure", ())
    responses = [
        _response(words, result) for words, result in zip(branch, answer.results, strict=True)
    ]
    return {
        **call,
        "revision": answer.revision,
        "succeeded": answer.succeeded,
        "responses": responses,
    }


def _response(words: list[Any], result: RangeResult | PutResult | DeleteResult | TxnResult) -> Any:
    if isinstance(result, RangeResult):
        kvs = [item(kv) for kv in result]
        if words[0] == "range":
            return kvs
        return kvs[0] if kvs else None
    return result.deleted if isinstance(result, DeleteResult) else None


_CALLS: Final[Mapping[str, Callable[[Session, Call], Awaitable[Call]]]] = {
    "get": _get,
    "read": _get,
    "range": _range,
    "put": _put,
    "write": _put,
    "delete": _delete,
    "cas": _cas,
    "txn": _txn,
    "compact": _compact,
}
