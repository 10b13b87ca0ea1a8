"""A snapshot file: the state of one member at one applied index, checked before it is trusted.

    file    := head | part* | end | zeros up to a multiple of 512 | SHA-256 of everything before
    head    := "raftkv snapshot\n" | version u16 | length u32 | description (JSON) | crc32 u32
    part    := "F" | length of name u16 | size u64 | name | content
    end     := "E" | parts u32 | bytes of all contents u64                      (big-endian)

The parts are the files of a LevelDB without a write-ahead log (`tables`), which holds the rows of
the state machine. The description says what they stand for; its crc32 covers the head before it.

A file has 512 n + 32 bytes: that is what `etcdctl snapshot save` asks of what it receives. Nothing
in a file is used before its whole hash was compared, and no name in it leads anywhere but into the
directory that it is unpacked into.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any, BinaryIO, Final
from zlib import crc32

from raftkv.errors import CorruptionError, DiskFailure
from raftkv.storage.files import final_errors

MAGIC: Final = b"raftkv snapshot\n"
VERSION: Final = 1
BLOCK_BYTES: Final = 512
HASH_BYTES: Final = 32
READ_BYTES: Final = 1024 * 1024
MAX_DESCRIPTION_BYTES: Final = 1024 * 1024
_HEAD: Final = Struct(">16sHI")
_CRC: Final = Struct(">I")
_PART: Final = Struct(">cHQ")
_END: Final = Struct(">cIQ")
_NAME: Final = re.compile(r"CURRENT|MANIFEST-\d{6,20}|\d{6,20}\.(?:ldb|sst)")
_BOLT_MAGIC: Final = b"\xed\xda\x0c\xed"  # of a bbolt file, behind the head of its first page
_BOLT_AT: Final = 16


@dataclass(frozen=True, slots=True)
class Part:
    """One file within a snapshot. at: where its content begins. size: in bytes."""

    name: str
    at: int
    size: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a checked snapshot file holds.

    description: of whoever made it. digest: the SHA-256 of everything before it. hash: CRC-32 of
    the same bytes. size: of the file without its hash, as etcdctl counts.
    """

    path: str
    description: dict[str, Any]
    parts: tuple[Part, ...]
    digest: bytes
    hash: int
    size: int


class SnapshotSource:
    """The bytes of a snapshot of a directory of files that nobody changes, read in order.

    total_bytes: of the whole file, its hash included.
    """

    def __init__(self, directory: str, description: dict[str, Any]) -> None:
        """Raises DiskFailure."""
        self._directory = directory
        self._pieces = self._plan(description)
        self._digest = sha256()
        self._open: BinaryIO | None = None
        self._left = 0  # of the file that is being read

    def _plan(self, description: dict[str, Any]) -> list[bytes | str]:
        """Pieces in their order: bytes, or the name of a file. Sets `total_bytes`."""
        text = json.dumps(description, sort_keys=True).encode()
        head = _HEAD.pack(MAGIC, VERSION, len(text)) + text
        pieces: list[bytes | str] = [head + _CRC.pack(crc32(head))]
        size, content_bytes, names = len(head) + _CRC.size, 0, []
        with final_errors(f"reading {self._directory}"):
            for name in sorted(os.listdir(self._directory)):
                if _NAME.fullmatch(name) is None:
                    continue
                names.append(name)
                file_bytes = os.path.getsize(f"{self._directory}/{name}")
                part = _PART.pack(b"F", len(name), file_bytes) + name.encode()
                pieces += (part, name)
                size += len(part) + file_bytes
                content_bytes += file_bytes
        end = _END.pack(b"E", len(names), content_bytes)
        end += bytes(-(size + len(end)) % BLOCK_BYTES)
        self.total_bytes = size + len(end) + HASH_BYTES
        return [*pieces, end, b""]  # b"": the hash

    def read(self, size: int = READ_BYTES) -> bytes:
        """The next bytes, `size` or less; empty at the end. Long calls only, for a thread.

        Raises DiskFailure, CorruptionError (a file is shorter than it was).
        """
        chunk = self._next(size)
        if not chunk and self._pieces and self._pieces[0] == b"":
            self._pieces.clear()
            return self._digest.digest()
        self._digest.update(chunk)
        return chunk

    def _next(self, size: int) -> bytes:
        with final_errors(f"reading {self._directory}"):
            while self._open is None and self._pieces:
                piece = self._pieces[0]
                if isinstance(piece, bytes):
                    if piece:
                        del self._pieces[0]
                    return piece
                del self._pieces[0]
                path = f"{self._directory}/{piece}"
                self._left = os.path.getsize(path)
                if self._left:
                    self._open = open(path, "rb")  # noqa: SIM115 closed where it ends
            if self._open is None:
                return b""
            chunk = self._open.read(min(self._left, size))
            self._left -= len(chunk)
            if not chunk:
                raise CorruptionError(f"{self._open.name} has become shorter")
            if not self._left:
                self.close()
            return chunk

    def close(self) -> None:
        """Ends the reading."""
        if self._open is not None:
            self._open.close()
            self._open = None


def check_snapshot(path: str, *, skip_hash: bool = False) -> Snapshot:
    """Reads a whole snapshot file and says what is in it.

    skip_hash: take it although its hash does not match. Raises CorruptionError for anything but a
    whole snapshot of this format, DiskFailure if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(_BOLT_AT + len(_BOLT_MAGIC))
            if start[: len(MAGIC)] != MAGIC:
                raise CorruptionError(_stranger(path, start))
            if size % BLOCK_BYTES != HASH_BYTES:
                raise CorruptionError(f"{path} is cut short: it has {size} bytes")
            file.seek(0)
            digest, crc = _hashes(file, size - HASH_BYTES)
            told = file.read(HASH_BYTES)
            if told != digest and not skip_hash:
                raise CorruptionError(
                    f"{path} is damaged: its SHA-256 is {digest.hex()}, it should be {told.hex()}"
                )
            file.seek(0)
            description, parts = _structure(path, file, size - HASH_BYTES)
    except OSError as error:
        raise DiskFailure(f"{path} cannot be read: {error.strerror or error}") from error
    return Snapshot(path, description, parts, digest, crc, size - HASH_BYTES)


def _stranger(path: str, start: bytes) -> str:
    if start[_BOLT_AT:] == _BOLT_MAGIC:
        return (
            f"{path} is a snapshot of etcd (a bbolt file), which raftkv does not read: restore it "
            "to an etcd with etcdutl, then copy its keys with raftctl export and raftctl import"
        )
    return f"{path} is no snapshot of raftkv"


def _hashes(file: BinaryIO, size: int) -> tuple[bytes, int]:
    digest, crc = sha256(), 0
    left = size
    while left:
        chunk = file.read(min(left, READ_BYTES))
        if not chunk:
            raise OSError("it became shorter")
        digest.update(chunk)
        crc = crc32(chunk, crc)
        left -= len(chunk)
    return digest.digest(), crc


def _structure(path: str, file: BinaryIO, size: int) -> tuple[dict[str, Any], tuple[Part, ...]]:
    """The description and the parts. `size`: where the hash begins. Raises CorruptionError."""
    head = _exactly(path, file, _HEAD.size)
    _, version, length = _HEAD.unpack(head)
    if version != VERSION:
        raise CorruptionError(f"{path} has the unknown version {version}; a newer raftkv made it")
    if length > MAX_DESCRIPTION_BYTES:
        raise CorruptionError(f"{path} is damaged: its description has {length} bytes")
    text = _exactly(path, file, length)
    if _CRC.pack(crc32(head + text)) != _exactly(path, file, _CRC.size):
        raise CorruptionError(f"{path} is damaged: its head does not match its checksum")
    try:
        description = json.loads(text)
    except ValueError as error:
        raise CorruptionError(f"{path} is damaged: {error}") from error
    if not isinstance(description, dict):
        raise CorruptionError(f"{path} is damaged: its description is none")
    return description, tuple(_parts(path, file, size))


def _parts(path: str, file: BinaryIO, size: int) -> Iterator[Part]:
    seen: dict[str, None] = {}
    content_bytes = 0
    while True:
        head = _exactly(path, file, _PART.size)
        if head[:1] == b"E":
            head += _exactly(path, file, _END.size - _PART.size)
            if _END.unpack(head)[1:] != (len(seen), content_bytes):
                raise CorruptionError(f"{path} is damaged: it lacks parts")
            if not 0 <= size - file.tell() < BLOCK_BYTES:
                raise CorruptionError(f"{path} is damaged: it goes on behind its end")
            return
        kind, length, part_bytes = _PART.unpack(head)
        name = _exactly(path, file, length).decode("ascii", "replace")
        at = file.tell()
        if kind != b"F" or _NAME.fullmatch(name) is None or name in seen or part_bytes > size - at:
            raise CorruptionError(f"{path} is damaged: it has the impossible part {name[:40]!r}")
        seen[name] = None
        content_bytes += part_bytes
        file.seek(at + part_bytes)
        yield Part(name, at, part_bytes)


def _exactly(path: str, file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise CorruptionError(f"{path} is cut short")
    return found


def unpack(snapshot: Snapshot, directory: str) -> None:
    """Writes the parts of a checked snapshot into an empty directory, each synced.

    Raises DiskFailure; CorruptionError if the file has changed since it was checked.
    """
    digest = sha256()
    with final_errors(f"unpacking {snapshot.path}"), open(snapshot.path, "rb") as file:
        for part in snapshot.parts:
            digest.update(file.read(part.at - file.tell()))
            _copy_part(file, part, f"{directory}/{part.name}", digest)
        digest.update(file.read(snapshot.size - file.tell()))
    if digest.digest() != snapshot.digest:
        raise CorruptionError(f"{snapshot.path} was changed while it was unpacked")


def _copy_part(file: BinaryIO, part: Part, path: str, digest: Any) -> None:
    with open(path, "xb") as target:
        left = part.size
        while left:
            chunk = file.read(min(left, READ_BYTES))
            if not chunk:
                break  # the hash tells
            digest.update(chunk)
            target.write(chunk)
            left -= len(chunk)
        target.flush()
        os.fsync(target.fileno())
