"""Files that survive a power cut, and the seam through which this package reaches the disk.

A small file is replaced whole: write a temporary neighbour, fsync it, rename it over the old
one, fsync the directory. Before the rename the old file is intact, after it the new one; the
directory's fsync makes the rename itself durable. Layout of such a file (big-endian):

    file := magic 4 bytes | length u32 | crc32 u32 of the payload | payload

Everything that touches the disk outside LevelDB goes through `FileSystem`, one method per
system call that can fail or be the last one before a crash, so that tests can stop at every
boundary, inject errors at every one, and lose whatever was not synced.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from struct import Struct
from typing import Final, Protocol
from zlib import crc32

from raftkv.errors import CorruptionError, DirectoryLocked, DiskFailure, StorageError

HEADER: Final = Struct(">4sII")
_CHECKED_MAGIC: Final = b"RKC1"


class WritableFile(Protocol):
    """An open file that is written from its beginning."""

    def write(self, content: bytes) -> None:
        """Writes all of `content` at the file's beginning. OSError if it cannot."""

    def sync(self) -> None:
        """Returns when the content is durable. OSError if it is not."""

    def close(self) -> None:
        """Releases the file; says nothing about durability."""


class Lock(Protocol):
    """A held lock on a directory."""

    def release(self) -> None:
        """Gives the lock back."""


class FileSystem(Protocol):
    """The system calls of this package. Paths are absolute or relative strings; OSError."""

    def exists(self, path: str) -> bool: ...
    def names(self, path: str) -> list[str]: ...
    def read(self, path: str) -> bytes: ...
    def create(self, path: str) -> WritableFile: ...
    def overwrite(self, path: str) -> WritableFile: ...
    def rename(self, old: str, new: str) -> None: ...
    def remove(self, path: str) -> None: ...
    def remove_tree(self, path: str) -> None: ...
    def copy_tree(self, source: str, target: str) -> None: ...
    def make_directory(self, path: str) -> None: ...
    def sync_directory(self, path: str) -> None: ...
    def tighten(self, path: str) -> None: ...
    def lock(self, path: str) -> Lock: ...


class _RealFile:
    """A file descriptor. fsync goes to the descriptor that wrote, which sees its errors."""

    def __init__(self, path: str, flags: int) -> None:
        self._descriptor = os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, content: bytes) -> None:
        view = memoryview(content)
        done = 0
        while done < len(view):
            done += os.pwrite(self._descriptor, view[done:], done)

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class _RealLock:
    """flock: bound to the open file, so the kernel gives it back however the process ends."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise DirectoryLocked(f"{path} is held by another process") from error
            raise

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class RealFileSystem:
    """The operating system's files. Stateless."""

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def create(self, path: str) -> WritableFile:
        return _RealFile(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)

    def overwrite(self, path: str) -> WritableFile:
        return _RealFile(path, os.O_RDWR)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def remove(self, path: str) -> None:
        os.unlink(path)

    def remove_tree(self, path: str) -> None:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)

    def copy_tree(self, source: str, target: str) -> None:
        shutil.copytree(source, target)

    def make_directory(self, path: str) -> None:
        os.mkdir(path, 0o700)

    def sync_directory(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def tighten(self, path: str) -> None:
        """Takes a directory's rights from group and others; refuses one that is not ours."""
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            raise StorageError(f"{path} is a symbolic link; name the directory itself")
        if not stat.S_ISDIR(status.st_mode):
            raise StorageError(f"{path} is not a directory")
        if status.st_uid != os.geteuid():
            raise StorageError(
                f"{path} belongs to user {status.st_uid}, this process runs as {os.geteuid()}"
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.chmod(path, 0o700)

    def lock(self, path: str) -> Lock:
        return _RealLock(path)


REAL: Final = RealFileSystem()


def parent_of(path: str) -> str:
    """The directory that holds `path`."""
    return os.path.dirname(path.rstrip("/")) or ("/" if path.startswith("/") else ".")


@contextmanager
def final_errors(doing: str) -> Iterator[None]:
    """Turns an OSError into DiskFailure, which says what was being done."""
    try:
        yield
    except OSError as error:
        raise DiskFailure(f"{doing} failed: {error}") from error


def replace_file(fs: FileSystem, path: str, magic: bytes, payload: bytes) -> None:
    """Puts `payload` into the file at `path`, durable when it returns.

    Raises DiskFailure; then the file holds the old or the new content, whole.
    """
    temporary = path + ".tmp"
    with final_errors(f"writing {path}"):
        file = fs.create(temporary)
        try:
            file.write(HEADER.pack(magic, len(payload), crc32(payload)) + payload)
            file.sync()
        finally:
            file.close()
        fs.rename(temporary, path)
        fs.sync_directory(parent_of(path))


def unwrap(content: bytes, magic: bytes, path: str) -> bytes:
    """The payload within the bytes of a file, or CorruptionError."""
    if len(content) < HEADER.size:
        raise CorruptionError(f"{path} has {len(content)} bytes: too few")
    found, length, crc = HEADER.unpack_from(content)
    payload = content[HEADER.size : HEADER.size + length]
    if found != magic or len(payload) != length or crc32(payload) != crc:
        raise CorruptionError(f"{path} is damaged")
    return payload


def read_file(fs: FileSystem, path: str, magic: bytes) -> bytes:
    """The payload that `replace_file` wrote; CorruptionError if damaged or missing."""
    try:
        content = fs.read(path)
    except OSError as error:
        raise CorruptionError(f"{path} cannot be read: {error}") from error
    return unwrap(content, magic, path)


def write_checked(path: str, payload: bytes, fs: FileSystem = REAL) -> None:
    """Puts `payload` into a file of its own kind, as `replace_file` does. Raises DiskFailure."""
    replace_file(fs, path, _CHECKED_MAGIC, payload)


def read_checked(path: str, fs: FileSystem = REAL) -> bytes:
    """What `write_checked` put there, empty if there is no file. Raises CorruptionError."""
    return read_file(fs, path, _CHECKED_MAGIC) if fs.exists(path) else b""
