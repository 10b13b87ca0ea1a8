"""Moving a whole state from one member to another (Raft 7), as a stream of checked chunks.

    chunk  := crc32 u32 of the rest | number u32, from 0 | kind u8 | body       (big-endian)
    HEADER := version u16 | cluster u64 | meta
    ROWS   := (key length u32 | value length u32 | key | value)+, keys ascending over all chunks
    END    := rows u64 | sha256 of the rest of every chunk before, in order

`meta` is the caller's: what the state stands for. Nobody holds more than one chunk: the sender
reads rows behind the last key it sent, the receiver writes each chunk's rows into a state that
nobody uses yet. A transfer that was cut continues at the receiver's `next_number`, from the
same sender, as long as it lies within the last chunks sent.

A stream from another cluster, with a chunk missing, repeated, reordered, damaged or invented,
or without its end, raises ProtocolError: the receiver's fresh state is then thrown away.
"""

import struct
from collections import deque
from collections.abc import Iterator
from hashlib import sha256
from struct import Struct
from typing import Final, Protocol
from zlib import crc32

from raftkv import limits
from raftkv.errors import ProtocolError
from raftkv.storage.backend import Row, StateBackend, View

VERSION: Final = 1
HEADER: Final = 0
ROWS: Final = 1
END: Final = 2
BEHIND_ALL_KEYS: Final = b"\xff\xff"  # the state machine's keys are all smaller
REMEMBERED_CHUNKS: Final = 128
MAX_CHUNK_BYTES: Final = limits.MAX_PEER_MESSAGE_BYTES
_CRC: Final = Struct(">I")
_CHUNK: Final = Struct(">IB")
_HEADER: Final = Struct(">HQ")
_ROW: Final = Struct(">II")
_END: Final = Struct(">Q32s")


class Digest(Protocol):
    """A running hash of hashlib."""

    def update(self, content: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def copy(self) -> "Digest": ...


class StateSender:
    """Cuts the rows of a view into chunks.

    rows: number of rows sent so far. payload_bytes: of their keys and values.
    """

    def __init__(
        self,
        view: View,
        meta: bytes,
        cluster: int,
        *,
        chunk_bytes: int = limits.SNAPSHOT_CHUNK_BYTES,
    ) -> None:
        """view: stays open until the transfer ends; the caller closes it. meta: given to the
        receiver. chunk_bytes: a chunk ends with the row that reaches this."""
        self.rows = 0
        self.payload_bytes = 0
        self._view = view
        self._meta = meta
        self._cluster = cluster
        self._chunk_bytes = chunk_bytes
        # Where chunk `number` begins: (number, last key before it, hash and rows before it).
        self._starts: deque[tuple[int, bytes, Digest, int]] = deque(
            [(0, b"", sha256(), 0)], maxlen=REMEMBERED_CHUNKS
        )
        self._behind_end = -1  # the number behind the END chunk, once that was made

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The chunks from number `start` on; each step reads one chunk's rows, no more.

        start: 0, or the `next_number` of a receiver that took a part from this same sender.
        None if the receiver has the end. Raises ProtocolError if that chunk is not remembered
        any more.
        """
        if start == self._behind_end:
            return
        known = [place for place in self._starts if place[0] == start]
        if not known:
            raise ProtocolError(f"a state transfer cannot continue at chunk {start}")
        while self._starts[-1][0] > start:
            self._starts.pop()
        number, last_key, digest, self.rows = known[0]
        digest = digest.copy()
        if number == 0:
            body = _HEADER.pack(VERSION, self._cluster) + self._meta
            yield self._chunk(number, HEADER, body, last_key, digest)
            number = 1
        while True:
            body, last_key = self._next_rows(last_key)
            if not body:
                break
            yield self._chunk(number, ROWS, body, last_key, digest)
            number += 1
        assert self._view.seek(BEHIND_ALL_KEYS) is None, "keys are below ff ff"
        rest = _CHUNK.pack(number, END) + _END.pack(self.rows, digest.digest())
        self._behind_end = number + 1
        yield _CRC.pack(crc32(rest)) + rest

    def _chunk(self, number: int, kind: int, body: bytes, last_key: bytes, digest: Digest) -> bytes:
        rest = _CHUNK.pack(number, kind) + body
        digest.update(rest)
        self._starts.append((number + 1, last_key, digest.copy(), self.rows))
        return _CRC.pack(crc32(rest)) + rest

    def _next_rows(self, last_key: bytes) -> tuple[bytes, bytes]:
        """One chunk's rows behind `last_key`, and its own last key; empty at the end."""
        parts: list[bytes] = []
        size = 0
        start = last_key + b"\x00" if last_key else b""
        for key, value in self._view.scan(start, BEHIND_ALL_KEYS):
            parts += (_ROW.pack(len(key), len(value)), key, value)
            size += _ROW.size + len(key) + len(value)
            self.rows += 1
            self.payload_bytes += len(key) + len(value)
            last_key = key
            if size >= self._chunk_bytes:
                break
        return b"".join(parts), last_key


class StateReceiver:
    """Checks chunks and writes their rows into a fresh state.

    meta: what the sender said the state stands for; b"" before the first chunk.
    next_number: of the chunk that must come next. complete: the end was seen and all is well.
    """

    def __init__(self, backend: StateBackend, cluster: int) -> None:
        """backend: empty and used by nobody else (`DataDirectory.new_state`)."""
        self.meta = b""
        self.next_number = 0
        self.rows = 0
        self.complete = False
        self._backend = backend
        self._cluster = cluster
        self._last_key = b""
        self._digest = sha256()

    def add(self, chunk: bytes) -> None:
        """Takes the next chunk. Raises ProtocolError (throw the state away), DiskFailure."""
        if self.complete:
            raise ProtocolError("a state transfer goes on behind its end")
        if not _CRC.size + _CHUNK.size <= len(chunk) <= MAX_CHUNK_BYTES:
            raise ProtocolError(f"a chunk of a state transfer has {len(chunk)} bytes")
        rest = chunk[_CRC.size :]
        if crc32(rest) != _CRC.unpack_from(chunk)[0]:
            raise ProtocolError(f"chunk {self.next_number} of a state transfer is damaged")
        number, kind = _CHUNK.unpack_from(rest)
        if number != self.next_number:
            raise ProtocolError(
                f"a state transfer lacks chunk {self.next_number}: chunk {number} came"
            )
        if (kind == HEADER) != (number == 0) or kind > END:
            raise ProtocolError(f"chunk {number} of a state transfer has kind {kind}")
        body = rest[_CHUNK.size :]
        try:
            if kind == HEADER:
                self._begin(body)
            elif kind == ROWS:
                self._write(body)
            else:
                self._end(body)
        except struct.error as error:
            raise ProtocolError(f"chunk {number} of a state transfer is cut short") from error
        self._digest.update(rest)
        self.next_number += 1

    def finish(self) -> StateBackend:
        """The complete state. Its rows are durable after its `sync`, which `switch_state` calls;
        to keep that short, call `sync` in a thread before. Raises ProtocolError if cut short."""
        if not self.complete:
            raise ProtocolError(f"a state transfer ended before chunk {self.next_number}")
        return self._backend

    def abandon(self) -> None:
        """Closes the unfinished state; its directory is removed before the next one is made."""
        self._backend.close()

    def _begin(self, body: bytes) -> None:
        version, cluster = _HEADER.unpack_from(body)
        if version != VERSION:
            raise ProtocolError(f"a state transfer has the unknown version {version}")
        if cluster != self._cluster:
            raise ProtocolError(f"a state transfer comes from the other cluster {cluster:x}")
        self.meta = body[_HEADER.size :]

    def _write(self, body: bytes) -> None:
        if not body:
            raise ProtocolError("a chunk of rows in a state transfer has none")
        rows: list[Row] = []
        at, last_key = 0, self._last_key
        while at < len(body):
            key_bytes, value_bytes = _ROW.unpack_from(body, at)
            at += _ROW.size
            key = body[at : at + key_bytes]
            at += key_bytes + value_bytes
            if at > len(body):
                raise ProtocolError("a row of a state transfer is cut short")
            if not last_key < key < BEHIND_ALL_KEYS:
                raise ProtocolError("rows of a state transfer are out of order")
            rows.append((key, body[at - value_bytes : at]))
            last_key = key
        self._backend.write(rows)
        self._last_key = last_key
        self.rows += len(rows)

    def _end(self, body: bytes) -> None:
        rows, digest = _END.unpack(body)
        if rows != self.rows or digest != self._digest.digest():
            raise ProtocolError("the hash of a state transfer does not match what arrived")
        self.complete = True
