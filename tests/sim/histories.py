"""Histories that are linearizable by construction, for the tests of the checkers."""

from random import Random

from raftkv.sim.model import Model
from raftkv.sim.operations import (
    Compact,
    Compare,
    Delete,
    Get,
    Logged,
    Operation,
    Outcome,
    Put,
    Request,
    Txn,
)
from raftkv.sim.wgl import Interval, Read, Swap, Write, step

KEYS = (b"a", b"b", b"c")


def random_request(random: Random, identity: int) -> Request:
    """Any request; values are unique per operation."""
    key = random.choice(KEYS)
    value = b"v%d" % identity
    choice = random.randrange(10)
    if choice < 3:
        return Put(key, value)
    if choice < 6:
        return Get(key) if random.random() < 0.8 else Get(b"a", b"d")
    if choice < 7:
        return Delete(key)
    if choice < 8:
        return Compact(random.randrange(1, 6))
    expected = b"v%d" % random.randrange(max(1, identity))
    return Txn((Compare(key, value=expected),), (Put(key, value),), (Get(key),))


def linearizable_history(
    seed: int, *, operations: int = 40, clients: int = 5, unknown: float = 0.1
) -> tuple[list[Logged], list[Operation]]:
    """A log and a history that one member without faults could have made.

    Every operation takes effect at one instant between its call and its return.
    """
    random = Random(seed)
    free_at = [0] * clients
    drafts = []
    for identity in range(1, operations + 1):
        client = random.randrange(clients)
        called = free_at[client] + random.randrange(1, 20)
        point = called + random.randrange(1, 30)
        returned = point + random.randrange(1, 30)
        free_at[client] = returned
        drafts.append((point, identity, client, called, returned))
    model, log, history = Model(), [], []
    for point, identity, client, called, returned in sorted(drafts):
        request = random_request(random, identity)
        lost = random.random() < unknown
        operation = Operation(identity, client, 1, request, called)
        history.append(operation)
        if isinstance(request, Get):
            operation.revision = model.revision
            operation.response = model.get(request, model.revision)
        elif lost and random.random() < 0.5:
            continue  # never reached the log
        else:
            log.append(Logged(point, identity, request))
            done = model.apply(request)
            operation.revision, operation.response = done.revision, done.response
            if done.response is None:
                operation.outcome, operation.returned_us = Outcome.DEFINITE, returned
                operation.error = done.refusal
                continue
        if lost:
            operation.revision, operation.response = 0, None
            continue
        operation.outcome, operation.returned_us = Outcome.OK, returned
    return log, history


def register_history(
    seed: int, *, operations: int = 40, clients: int = 5, unknown: float = 0.1
) -> list[Interval]:
    """A linearizable history of one register."""
    random = Random(seed)
    free_at = [0] * clients
    drafts = []
    for number in range(operations):
        client = random.randrange(clients)
        called = free_at[client] + random.randrange(1, 20)
        point = called + random.randrange(1, 30)
        returned = point + random.randrange(1, 30)
        free_at[client] = returned
        drafts.append((point, number, called, returned))
    state: bytes | None = None
    written: list[bytes | None] = [None]
    intervals = []
    for _, number, called, returned in sorted(drafts):
        value = b"v%d" % number
        lost = random.random() < unknown
        action: Read | Write | Swap
        choice = random.randrange(4)
        if choice < 2:
            action = Read(state)
        elif choice < 3:
            action = Write(value if random.random() < 0.8 else None)
        else:
            expected = random.choice(written[-3:])
            held = expected == state
            action = Swap(expected, value, None if lost else held, None if held or lost else state)
        applied = not (lost and random.random() < 0.5)
        if applied:
            _, state = step(state, action)
            if not isinstance(action, Read):
                written.append(value)
        intervals.append(Interval(called, None if lost else returned, action))
    return intervals
