"""Brings pairs into a store, so that doing it twice changes nothing the second time.

Batches of keys are read, compared, and written by one transaction, in which every key's put
stands under the condition that the key is still as it was read. So nothing that somebody else
writes meanwhile is overwritten unseen: such a key is read and judged again. A write whose outcome
is not known is simply repeated, since what it has done makes the second one find nothing to do.

What happens to a key that is there with another value is the caller's choice, a `Guard`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from raftkv.cli.connection import OUTCOME_UNKNOWN_TEXT, CallFailed, Connection
from raftkv.cli.exits import CtlError
from raftkv.cli.pairlines import Pair
from raftkv.pb import rpc_pb2

OVERWRITE: Final = "overwrite"
KEEP: Final = "keep"
FAIL: Final = "fail"
BATCH_KEYS: Final = 64
BATCH_BYTES: Final = 512 * 1024
ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class Guard:
    """on_conflict: OVERWRITE, KEEP or FAIL for a key that is there with another value.

    unchanged_since: a key that was written after this revision fails the import whatever
    on_conflict says; 0: never. dry_run: nothing is written.
    """

    on_conflict: str = OVERWRITE
    unchanged_since: int = 0
    dry_run: bool = False


@dataclass(slots=True)
class Tally:
    """What became of the pairs. same: were so already. kept: there with another value."""

    written: int = 0
    same: int = 0
    kept: int = 0


@dataclass(frozen=True, slots=True)
class Numbered:
    """A pair and the line that it stands on."""

    line: int
    pair: Pair


def batches(pairs: Iterable[Numbered]) -> Iterator[list[Numbered]]:
    """At most BATCH_KEYS and about BATCH_BYTES each; no key twice in one."""
    batch: list[Numbered] = []
    keys: set[bytes] = set()
    size = 0
    for one in pairs:
        own = len(one.pair.key) + len(one.pair.value)
        full = len(batch) >= BATCH_KEYS or size + own > BATCH_BYTES
        if batch and (full or one.pair.key in keys):
            yield batch
            batch, keys, size = [], set(), 0
        batch.append(one)
        keys.add(one.pair.key)
        size += own
    if batch:
        yield batch


def bring_in(
    connection: Connection,
    pairs: Iterable[Numbered],
    guard: Guard,
    tally: Tally,
    progress: Callable[[int], None],
) -> None:
    """All pairs, in order; `tally` counts as they are done. Errors: CtlError, naming the line."""
    for batch in batches(pairs):
        try:
            _bring(connection, batch, guard, tally)
        except CallFailed as error:
            lines = _lines(batch)
            raise CtlError(f"{lines}: {error.text}", error.exit_code) from None
        progress(batch[-1].line)


def _lines(batch: Sequence[Numbered]) -> str:
    first, last = batch[0].line, batch[-1].line
    return f"line {first}" if first == last else f"lines {first} to {last}"


def _bring(connection: Connection, batch: list[Numbered], guard: Guard, tally: Tally) -> None:
    left = batch
    for _ in range(ATTEMPTS):
        wanted = _judge(left, _mod_revisions(connection, left), guard, tally)
        if guard.dry_run:
            tally.written += len(wanted)
            return
        if not wanted:
            return
        try:
            done = _write(connection, wanted)
        except CallFailed as error:
            if not error.text.endswith(OUTCOME_UNKNOWN_TEXT):
                raise
            done = [False] * len(wanted)  # the next look tells
        tally.written += sum(done)
        left = [one for (one, _), well in zip(wanted, done, strict=True) if not well]
        if not left:
            return
    raise CallFailed("somebody else keeps writing the same keys, or the servers do not answer")


def _mod_revisions(
    connection: Connection, batch: Sequence[Numbered]
) -> list[rpc_pb2.RangeResponse]:
    request = rpc_pb2.TxnRequest()
    for one in batch:
        request.success.append(
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=one.pair.key))
        )
    reply = connection.read("KV/Txn", request, rpc_pb2.TxnResponse)
    return [one.response_range for one in reply.responses]


def _judge(
    batch: Sequence[Numbered],
    found: Sequence[rpc_pb2.RangeResponse],
    guard: Guard,
    tally: Tally,
) -> list[tuple[Numbered, int]]:
    """(what to write, the modification revision it must have, 0: not there). Errors: CtlError."""
    wanted = []
    for one, reply in zip(batch, found, strict=True):
        there = reply.kvs[0] if reply.kvs else None
        if there is None:
            wanted.append((one, 0))
        elif there.value == one.pair.value:
            tally.same += 1
        elif guard.unchanged_since and there.mod_revision > guard.unchanged_since:
            raise CtlError(
                f"line {one.line}: the key was written at revision {there.mod_revision}, "
                f"after {guard.unchanged_since}"
            )
        elif guard.on_conflict == FAIL:
            raise CtlError(f"line {one.line}: the key is there with another value")
        elif guard.on_conflict == KEEP:
            tally.kept += 1
        else:
            wanted.append((one, there.mod_revision))
    return wanted


def _write(connection: Connection, wanted: Sequence[tuple[Numbered, int]]) -> list[bool]:
    """Which of them were written; the others have changed since they were read."""
    request = rpc_pb2.TxnRequest()
    for one, revision in wanted:
        condition = rpc_pb2.Compare(
            target=rpc_pb2.Compare.MOD,
            result=rpc_pb2.Compare.EQUAL,
            key=one.pair.key,
            mod_revision=revision,
        )
        put = rpc_pb2.PutRequest(key=one.pair.key, value=one.pair.value)
        inner = rpc_pb2.TxnRequest(
            compare=[condition], success=[rpc_pb2.RequestOp(request_put=put)]
        )
        request.success.append(rpc_pb2.RequestOp(request_txn=inner))
    reply = connection.write("KV/Txn", request, rpc_pb2.TxnResponse)
    return [one.response_txn.succeeded for one in reply.responses]
