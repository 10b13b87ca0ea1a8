"""A history seen key by key, as registers for the search of `sim.wgl`.

A store is linearizable only if every key of it is (Herlihy and Wing 1990), so an
operation on several keys is checked on each of them alone: what it did there is
what a register would have done. Only "k" keys are looked at (`sim.clients`): their
compares are on values, so nothing here trusts a revision. Old reads by revision and
serializable reads promise nothing about now and are left out.
"""

from collections.abc import Sequence

from raftkv.sim.operations import (
    Compare,
    Delete,
    Found,
    Get,
    Operation,
    Outcome,
    Put,
    Txn,
    TxnDone,
)
from raftkv.sim.wgl import Action, Interval, Read, Swap, Write


def registers_of(history: Sequence[Operation]) -> dict[bytes, list[Interval]]:
    """The intervals of every "k" key, in the order of the history."""
    registers: dict[bytes, list[Interval]] = {}
    for operation in history:
        if operation.outcome is Outcome.DEFINITE:
            continue
        seen = _action(operation)
        if seen is not None:
            key, action = seen
            interval = Interval(operation.called_us, operation.returned_us, action)
            registers.setdefault(key, []).append(interval)
    return registers


def _action(operation: Operation) -> tuple[bytes, Action] | None:
    """What `operation` did to its "k" key; None if it says nothing about one."""
    request, response = operation.request, operation.response
    if isinstance(request, Put):
        return _on_k(request.key, Write(request.value))
    if isinstance(request, Delete):
        return _on_k(request.key, Write(None))
    if isinstance(request, Get):
        plain = not (request.serializable or request.revision or request.end)
        if plain and isinstance(response, Found):
            return _on_k(request.key, Read(_only_value(response)))
        return None
    if isinstance(request, Txn):
        return _swap(request, response if isinstance(response, TxnDone) else None)
    return None


def _on_k(key: bytes, action: Action) -> tuple[bytes, Action] | None:
    return (key, action) if key.startswith(b"k") else None


def _only_value(found: Found) -> bytes | None:
    return found.keys[0].value if found.keys else None


def _swap(request: Txn, response: TxnDone | None) -> tuple[bytes, Action] | None:
    compare, change = request.compares[0], request.success[0]
    if not compare.key.startswith(b"k") or not isinstance(change, Put):
        return None
    assert compare.value is not None or compare == Compare(compare.key)
    if response is None:
        return compare.key, Swap(compare.value, change.value, None, None)
    if response.succeeded:
        return compare.key, Swap(compare.value, change.value, True, None)
    found = response.responses[0]
    assert isinstance(found, Found)
    return compare.key, Swap(compare.value, change.value, False, _only_value(found))
