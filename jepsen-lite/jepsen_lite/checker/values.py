"""What the values of operations look like that the checkers read.

Every value is a JSON object. An `invoke` has what was asked for; a completion has the same and the
answer (so a completion alone says everything). Members in [brackets] may be missing.

Single calls of the store, for `witness` and, key by key, `linear` (f: "read" is "get", "write" is
"put"):

    get     key [at] [serializable]          + revision value mod_revision version create_revision
                                               [lease]; value null: there is no such key
    range   key end [at] [limit]             + revision kvs [count] [more]; an item has
                                               key value mod_revision version
                                               create_revision [lease]
    put     key value [lease]                + revision
    delete  key [end]                        + revision [deleted]
    cas     key value, and expected (a value, null: no key) or guard (a mod_revision, 0: no key)
                                             + revision succeeded [seen]; seen: the value where it
                                               failed, if that was read in the same transaction
    txn     compares success failure         + revision succeeded [responses]
            compares: [[key, target, operator, operand], ...], target one of value version
            create_revision mod_revision lease, operator one of = != < >; success and failure:
            [["get", key], ["range", key, end], ["put", key, value], ["delete", key], ["delete",
            key, end], ...]; responses: per operation the get's value and revisions as an item or
            null, the range's list of items, null for a put, the number of deleted keys

Higher workloads may say which calls of the store stood behind an operation: member "calls", a list
of objects like those above, each with its "f" (and "type" where it is not "ok"). The witness checks
these as well; real time is that of the operation.

    append  f txn     txn: [["append", key, element], ["r", key, [elements] or null], ...]
                      [revision]
    wr      f txn     txn: [["w", key, value], ["r", key, value or null], ...] [revision]
                      [versions: {key: mod_revision} of what was read]
    set     f add     element                                                        [revision]
            f read    + elements                                                     [revision]
    queue   f enqueue element      f dequeue + element (null: was empty)
            f drain  + elements ([]: was empty)
    counter f add     delta        f read    + total
    bank    f transfer from to amount        f read + accounts: {name: balance}
            f open   the accounts are made by the one transaction in its "calls"
    unique  f generate + id
    lock    f acquire lock         + token [key] [revision]    token: create_revision of the key
                                     that the holder put; key: that key, in the lock's prefix
            f release lock [token]
            f write   lock token key value   + revision succeeded     a write under the lock
    elect   f campaign election    + token [key] [revision]
            f resign  election [token]
            f observe election     + seen: [{token [revision] [value]}, ...] in the order they came
    lease   f grant   ttl (s)      + lease ttl [revision]      f keepalive lease  + ttl
            f put     key value lease + revision               f revoke lease
            f get     as above; reads of keys with a lease show how long it lived
    watch   f watch   name asked received [cancel_asked]
            asked: {key [end] [start_revision] [prev_kv] [no_put] [no_delete] [fragment]}
            received: ["created", revision] | ["events", [event, ...], fragment?, compacted?] |
                      ["progress", revision] | ["cancelled", compact_revision, reason]
            event: {key value mod_revision version create_revision [lease] [prev: item or null]},
            value null: a deletion. Several operations with one name: a watch and its resumptions.
            [beside: the same but for the name, of other watches on the same stream]
    compact f compact at          + revision
    cache   f cache   prefix [catch_up] + revision kvs   what a list-and-watch cache held at its
                                                         revision; catch_up: not an old one
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from jepsen_lite.history import Call, Op

SHOWN: Final = 120  # characters of a value that are worth reading


def answer(call: Call) -> dict[str, Any] | None:
    """What the call was answered; None if it was not answered "ok" (or has no object for it)."""
    end = call.end
    if end is None or end.type != "ok" or not isinstance(end.value, dict):
        return None
    return end.value


def asked(call: Call) -> dict[str, Any]:
    """What the call asked for; an empty object if that was not an object."""
    value = call.invoke.value
    return value if isinstance(value, dict) else {}


def ended_ns(call: Call) -> float:
    """When it was answered, in nanoseconds since the run began; infinite: nobody knows."""
    end = call.end
    return float("inf") if end is None or end.type == "info" else end.time_ns


def place(call: Call) -> int:
    """The history index that names the call to a reader: of its completion, if it has one."""
    return call.invoke.index if call.end is None else call.end.index


def show(value: Any) -> str:
    """A value in a sentence."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 20]}... ({len(text)} characters)"


def seconds(time_ns: float) -> str:
    """A time of the run in a sentence."""
    return f"{time_ns / 1e9:.3f} s"


def shown_op(op: Op) -> str:
    """An operation in a sentence: who, what, when."""
    return f"Process {op.process}'s {op.f} of {seconds(op.time_ns)}"


def of_kind(calls: Sequence[Call], *names: str) -> Iterator[Call]:
    """The calls with one of these f."""
    for call in calls:
        if call.invoke.f in names:
            yield call
