"""The operating system's files with faults in front of them (`storage.files.FileSystem`)."""

import os
from random import Random

from jepsen_lite.member.faults import Faults, torn_range
from raftkv.storage.files import REAL, FileSystem, Lock, WritableFile


class _FaultyFile:
    """A file that is written from its beginning.

    in_place: it is overwritten within its size, which needs no room.
    """

    def __init__(self, file: WritableFile, path: str, faults: Faults, in_place: bool) -> None:
        self._file = file
        self._path = path
        self._faults = faults
        self._in_place = in_place

    def write(self, content: bytes) -> None:
        if not self._in_place:
            self._faults.need_room(self._path)
        if content and self._faults.tears():
            self._faults.tear(lambda random: self._write_in_parts(content, random))
        self._file.write(content)

    def _write_in_parts(self, content: bytes, random: Random) -> None:
        """The bytes that are lost are what they were before; behind the old end, zeros."""
        first, last = torn_range(0, len(content), random)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(descriptor, content[:first], 0)
            if last < len(content):
                os.pwrite(descriptor, content[last:], last)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        self._faults.before_sync(self._path)
        self._file.sync()

    def close(self) -> None:
        self._file.close()


class FaultyFiles:
    """All of `FileSystem`, for one member. faults: what goes wrong. fs: what lies below."""

    def __init__(self, faults: Faults, fs: FileSystem = REAL) -> None:
        self._faults = faults
        self._fs = fs

    def exists(self, path: str) -> bool:
        return self._fs.exists(path)

    def names(self, path: str) -> list[str]:
        return self._fs.names(path)

    def read(self, path: str) -> bytes:
        return self._fs.read(path)

    def create(self, path: str) -> WritableFile:
        return _FaultyFile(self._fs.create(path), path, self._faults, in_place=False)

    def overwrite(self, path: str) -> WritableFile:
        return _FaultyFile(self._fs.overwrite(path), path, self._faults, in_place=True)

    def rename(self, old: str, new: str) -> None:
        self._fs.rename(old, new)

    def remove(self, path: str) -> None:
        self._fs.remove(path)

    def remove_tree(self, path: str) -> None:
        self._fs.remove_tree(path)

    def copy_tree(self, source: str, target: str) -> None:
        self._faults.need_room(target)
        self._fs.copy_tree(source, target)

    def make_directory(self, path: str) -> None:
        self._faults.need_room(path)
        self._fs.make_directory(path)

    def sync_directory(self, path: str) -> None:
        self._faults.before_sync(path)
        self._fs.sync_directory(path)

    def tighten(self, path: str) -> None:
        self._fs.tighten(path)

    def lock(self, path: str) -> Lock:
        return self._fs.lock(path)
