"""etcdserverpb.Maintenance: Snapshot, Hash and Defragment: what is done with the state as a whole.

Snapshot streams a copy of the state (`server.backup`): the copy is made in the housekeeping thread
and read in another one, a quarter of a megabyte at a time, hash included; the event loop only
frames what was read. At most `SENT_AHEAD_BYTES` wait for a slow client, and at most a few snapshots
are under way; the tables of a copy take disk space only once the state has replaced them. While the
member has other work, a snapshot's reading and framing take one part in `BUSY_SHARE` of a processor
(`pace`): on the machine where it is saved, whoever writes the file needs about twice as much.

Hash covers the rows of this member as they lie here. Equal members can differ in it, by how far
they have removed compacted history; HashKV is what may be compared.

Defragment merges the state's tables range by range in the housekeeping thread, so that checkpoints
come in between, and the member goes on serving: nothing is blocked, unlike in etcd.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, cast
from zlib import crc32

from google.protobuf.message import DecodeError

import raftkv
from raftkv import limits
from raftkv.errors import NO_LEADER, TOO_MANY_REQUESTS, ApiError, Code, StorageError
from raftkv.kv.encoding import (
    APPLIED_ROW,
    COMPACTION_ROW,
    KEY_ROWS,
    SUB_BITS,
    bytes_field,
    key_row_start,
    revision_row,
    varint,
)
from raftkv.pb import rpc_pb2
from raftkv.raft.types import NOBODY
from raftkv.server.backup import StateCopies, StateCopy
from raftkv.server.clients import ClientProtocol
from raftkv.server.logformats import duration
from raftkv.server.pace import Pace
from raftkv.server.routes import Call, Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.server.slices import LongRead
from raftkv.storage.backend import StateBackend
from raftkv.storage.snapshots import BEHIND_ALL_KEYS
from raftkv.wire.grpc import RequestHead

log = logging.getLogger("raftkv.snapshots")

SENT_AHEAD_BYTES: Final = limits.MIB
BUSY_SHARE: Final = 10
PIECE_ROWS: Final = 50_000  # that are merged in one go
HASH_ROWS: Final = 1_000  # of a slice
_VERSION: Final = bytes_field(0x22, raftkv.ETCD_VERSION.encode())
_NO_SNAPSHOT: Final = ApiError(Code.INTERNAL, "etcdserver: the snapshot cannot be made")


class BackupService:
    """Three calls of the Maintenance service of one member."""

    def __init__(self, context: Context, wall_clock_ns: Callable[[], int] = time.time_ns) -> None:
        driver = context.driver
        directory = driver.directory
        self.context = context
        self.wall_clock_ns = wall_clock_ns
        self.copies = StateCopies(directory.path, directory.identity)
        self.readers = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self.under_way = 0
        self._defragmenting: list[tuple[ClientProtocol, int]] = []

    def register(self, routes: Routes) -> None:
        """Adds the service's paths."""
        routes.streams[b"/etcdserverpb.Maintenance/Snapshot"] = self.snapshot
        routes.unary[b"/etcdserverpb.Maintenance/Hash"] = self.hash
        routes.unary[b"/etcdserverpb.Maintenance/Defragment"] = self.defragment

    def snapshot(self, client: ClientProtocol, stream: int, head: RequestHead) -> Call:
        """A Snapshot call begins."""
        return SnapshotCall(self, client, stream, head)

    # --- Hash -------------------------------------------------------------------

    def hash(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """Maintenance.Hash, in slices."""
        error = self.context.refusal(head)
        if error is None:
            done = partial(self._hashed, client, stream)
            error = self.context.driver.slices.add(LongRead(client, stream, self._hashing, done))
        if error is not None:
            client.fail(stream, error)

    def _hashing(self) -> Generator[None, None, int]:
        view, _ = self.context.replica.machine.snapshot_view()
        try:
            value = 0
            for number, (key, row) in enumerate(view.scan(b"", BEHIND_ALL_KEYS), 1):
                # How far the removal of old rows has come changes while nothing else does.
                if key not in (APPLIED_ROW, COMPACTION_ROW):
                    value = crc32(row, crc32(key, value))
                if number % HASH_ROWS == 0:
                    yield
            return value
        finally:
            view.close()

    def _hashed(self, client: ClientProtocol, stream: int, found: int | ApiError) -> None:
        if isinstance(found, ApiError):
            client.fail(stream, found)
        else:
            reply = rpc_pb2.HashResponse(hash=found)
            client.reply(stream, self.context.header_now() + reply.SerializeToString())
        client.driver.mark_dirty(client)

    # --- Defragment -------------------------------------------------------------

    def defragment(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Maintenance.Defragment: answered, like in etcd without a header, when all is merged."""
        error = self.context.refusal(head)
        if error is not None:
            client.fail(stream, error)
            return
        self._defragmenting.append((client, stream))
        if len(self._defragmenting) == 1:
            self.context.driver.timings.defragmenting = True
            self._merge(self._pieces(), time.perf_counter(), len(self._defragmenting))

    def _pieces(self) -> Iterator[tuple[bytes, bytes]]:
        """The whole state in ranges of about `PIECE_ROWS` rows."""
        store = self.context.replica.machine.store
        index = store.index
        index.settle()
        ranks = range(PIECE_ROWS, len(index), PIECE_ROWS)
        keys = [key for rank in ranks for key in index.slice(rank, rank + 1)]
        at = b""
        for name in map(key_row_start, keys):
            yield at, name
            at = name
        yield at, KEY_ROWS[1]
        at = KEY_ROWS[1]
        last = store.revision
        for revision in range(max(store.compacted, 0), last, PIECE_ROWS):
            name = revision_row(revision << SUB_BITS)
            yield at, name
            at = name
        yield at, BEHIND_ALL_KEYS

    def _merge(self, pieces: Iterator[tuple[bytes, bytes]], began: float, asked: int) -> None:
        piece = next(pieces, None)
        driver = self.context.driver
        if piece is not None:
            compact = driver.replica.machine.backend.compact
            driver.keep_house(partial(compact, *piece), lambda _: self._merge(pieces, began, asked))
            return
        seconds = time.perf_counter() - began
        driver.timings.defragment_seconds.note(seconds)
        log.info("defragmented", extra={"took": duration(seconds)})
        served, self._defragmenting = self._defragmenting[:asked], self._defragmenting[asked:]
        for client, stream in served:
            if client.connection.is_open(stream):
                client.reply(stream, b"")
                driver.mark_dirty(client)
        driver.timings.defragmenting = bool(self._defragmenting)
        if self._defragmenting:  # who asked meanwhile wants what was deleted meanwhile to go, too
            self._merge(self._pieces(), time.perf_counter(), len(self._defragmenting))


class SnapshotCall:
    """One Snapshot call: a copy of the state, then its bytes."""

    def __init__(
        self, service: BackupService, client: ClientProtocol, stream: int, head: RequestHead
    ) -> None:
        self._service = service
        self._driver = service.context.driver
        self._client = client
        self._stream = stream
        self._head = head
        self._asked = False
        self._copy: StateCopy | None = None
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._over = False
        self._sent_bytes = 0
        self._answer_head = b""
        self._pace = Pace(lambda: self._driver.work_done, self._driver.loop.time)

    # --- what the client says ---------------------------------------------------

    def message(self, message: bytes) -> None:
        """The request."""
        if self._asked:
            return
        self._asked = True
        context, service = self._service.context, self._service
        try:
            rpc_pb2.SnapshotRequest.FromString(message)
        except DecodeError:
            self._refuse(CANNOT_DECODE)
            return
        if b"hasleader" in self._head.metadata and context.replica.leader == NOBODY:
            self._refuse(NO_LEADER)
        elif service.under_way >= limits.MAX_SNAPSHOTS:
            self._refuse(TOO_MANY_REQUESTS)
        else:
            service.under_way += 1
            machine = context.replica.machine
            machine.flush()
            state = cast(StateBackend, machine.backend)
            now = service.wall_clock_ns()
            self._driver.keep_house(lambda: service.copies.take(state, now), self._taken)

    def half_closed(self) -> None:
        """The client has nothing more to say."""

    def cancelled(self) -> None:
        """The client is gone, or has waited long enough."""
        self._over = True
        if self._task is not None:
            self._task.cancel()

    def writable(self) -> None:
        """The client has taken what was sent."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # --- the work ---------------------------------------------------------------

    def _taken(self, found: object) -> None:
        if isinstance(found, StateCopy):
            self._copy = found
            if not self._over:
                self._task = self._driver.loop.create_task(self._send_all(found))
                self._task.add_done_callback(lambda _: self._release())
                return
        elif not self._over:
            log.warning("a snapshot could not be made: %s", found)
            self._finish(_NO_SNAPSHOT.with_text(f"{_NO_SNAPSHOT.text}: {found}"))
        self._release()

    def _release(self) -> None:
        self._service.under_way -= 1
        if self._copy is not None:
            self._service.readers.submit(self._copy.close)

    async def _send_all(self, copy: StateCopy) -> None:
        loop, connection = self._driver.loop, self._client.connection
        began = time.perf_counter()
        self._answer_head = self._service.context.header(copy.applied.revision)
        try:
            reading = loop.run_in_executor(self._service.readers, _read, copy)
            while (part := await reading)[0]:
                reading = loop.run_in_executor(self._service.readers, _read, copy)
                worked_seconds = part[1] + self._frame(copy, part[0])
                rest_seconds = self._pace.rest_seconds(worked_seconds, BUSY_SHARE)
                if rest_seconds:
                    await asyncio.sleep(rest_seconds)
                while connection.queued(self._stream) > SENT_AHEAD_BYTES:
                    self._room = loop.create_future()
                    await self._room
        except StorageError as error:
            log.warning("a snapshot broke off: %s", error)
            self._finish(_NO_SNAPSHOT.with_text(f"{_NO_SNAPSHOT.text}: {error}"))
            return
        assert self._sent_bytes == copy.total_bytes, "a snapshot has the size that was announced"
        took = time.perf_counter() - began
        self._driver.timings.snapshot_seconds.note(took)
        log.info("sent a snapshot", extra={"bytes": copy.total_bytes, "took": duration(took)})
        self._finish(None)

    def _frame(self, copy: StateCopy, blob: bytes) -> float:
        """Sends the next bytes; the processor time that this took, in seconds."""
        began = time.thread_time()
        self._sent_bytes += len(blob)
        remaining = copy.total_bytes - self._sent_bytes
        left = b"\x10" + varint(remaining) if remaining else b""
        parts = (self._answer_head, left, varint(len(blob)), blob, _VERSION)
        self._client.connection.send(self._stream, b"%b%b\x1a%b%b%b" % parts)
        self._client.flush()  # a turn for every blob would cost as much again
        return time.thread_time() - began

    def _refuse(self, error: ApiError) -> None:
        self._over = True
        self._finish(error)

    def _finish(self, error: ApiError | None) -> None:
        if error is None:
            self._client.connection.finish(self._stream)
        else:
            self._client.fail(self._stream, error)
        self._client.routes.finished(self._client, self._stream)
        self._driver.mark_dirty(self._client)


def _read(copy: StateCopy) -> tuple[bytes, float]:
    """The next bytes of a copy, and the processor time that reading them took, in seconds."""
    began = time.thread_time()
    blob = copy.read()
    return blob, time.thread_time() - began
