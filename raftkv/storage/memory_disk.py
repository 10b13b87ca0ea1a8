"""A disk in memory: files, directories, and a model of what a power cut takes from them.

 * A file's content is durable once synced, its name once the directory was synced.
 * A committed log batch is durable, as LevelDB's synced writes are.
 * State rows are durable as of the last `sync`, or of any later write: LevelDB makes tables
   whenever its buffer is full, so a random crash keeps a random prefix of the later writes.

`crash` does what a power cut does; every object opened on the disk before is dead afterwards.
Deterministic: all randomness comes from the `Random` given to `crash`.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from errno import EEXIST, EIO, ENOENT, ENOTEMPTY
from random import Random
from typing import TypeAlias

from raftkv.errors import CorruptionError, DirectoryLocked
from raftkv.storage.backend import Row
from raftkv.storage.files import Lock, WritableFile


class SortedRows:
    """An ordered dict of bytes that many pictures can share: copied when written under one."""

    __slots__ = ("keys", "rows", "shared")

    def __init__(self, rows: dict[bytes, bytes], keys: list[bytes]) -> None:
        self.rows = rows
        self.keys = keys
        self.shared = False

    def picture(self) -> "SortedRows":
        """The rows as they are now; cheap until the next write."""
        self.shared = True
        return SortedRows(self.rows, self.keys)

    def apply(self, rows: list[Row]) -> None:
        """Changes rows in order; pictures taken before stay as they were."""
        if self.shared:
            self.rows, self.keys, self.shared = dict(self.rows), list(self.keys), False
        mine, keys = self.rows, self.keys
        for key, value in rows:
            if value is None:
                if mine.pop(key, None) is not None:
                    del keys[bisect_left(keys, key)]
            else:
                if key not in mine:
                    if not keys or key > keys[-1]:
                        keys.append(key)
                    else:
                        insort(keys, key)
                mine[key] = value

    def seek(self, key: bytes) -> tuple[bytes, bytes] | None:
        """The first row at or behind `key`."""
        at = bisect_left(self.keys, key)
        return (self.keys[at], self.rows[self.keys[at]]) if at < len(self.keys) else None

    def scan(self, start: bytes, stop: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, stop). Over a picture: what is written meanwhile is not seen."""
        rows, keys = self.rows, self.keys
        span = range(bisect_left(keys, start), bisect_left(keys, stop))
        return ((keys[at], rows[keys[at]]) for at in (reversed(span) if reverse else span))


class _File:
    __slots__ = ("content", "durable")

    def __init__(self) -> None:
        self.content = b""
        self.durable = b""


class StoreDirectory:
    """Names and, for a row store, its rows.

    journal: writes of state rows since the last sync. damaged: the next paranoid opening
    complains, as LevelDB does about a torn last batch.
    """

    __slots__ = ("damaged", "durable", "entries", "journal", "rows", "stored")

    def __init__(self) -> None:
        self.entries: dict[str, _Node] = {}
        self.durable: dict[str, _Node] = {}
        self.rows: SortedRows | None = None
        self.stored = SortedRows({}, [])
        self.journal: list[list[Row]] = []
        self.damaged = False

    def lose_rows(self, kept: int) -> None:
        """Goes back to the rows of the last sync and the first `kept` writes after it."""
        if self.rows is None:
            return
        for rows in self.journal[:kept]:
            self.stored.apply(rows)
        self.journal = []
        self.rows = self.stored.picture()
        self.rows.shared = True


_Node: TypeAlias = _File | StoreDirectory


def _copied(found: StoreDirectory) -> StoreDirectory:
    """A copy with all directories below, nothing of it durable."""
    copy = StoreDirectory()
    if found.rows is not None:
        copy.rows = SortedRows(dict(found.rows.rows), list(found.rows.keys))
        copy.stored = copy.rows.picture()
        copy.stored.shared = True
    copy.damaged = found.damaged
    for name, child in found.entries.items():
        if isinstance(child, StoreDirectory):
            copy.entries[name] = _copied(child)
    return copy


def _tear(log: StoreDirectory) -> None:
    """Damages the last write of the newest segment that has one."""
    written = [
        child
        for _, child in sorted(log.entries.items())
        if isinstance(child, StoreDirectory) and child.rows is not None and child.rows.rows
    ]
    if written:
        written[-1].damaged = True


def _missing(path: str) -> OSError:
    return FileNotFoundError(ENOENT, "no such file or directory", path)


class MemoryDisk:
    """The platter of one member. Implements FileSystem and Engine.

    before: called with a word for each operation that changes anything, and may raise: OSError
        to inject an error, anything else to stop right there. Row stores turn an OSError into
        DiskFailure. None: nothing is called.
    fail_writes: every change raises EIO from now on.
    """

    def __init__(self) -> None:
        self.before: Callable[[str], None] | None = None
        self.fail_writes = False
        self._root = StoreDirectory()
        self._locks: dict[str, int] = {}
        self.boot = 0  # number of crashes so far

    # --- power ---------------------------------------------------------------

    def crash(self, random: Random | None = None, *, torn: bool = False) -> None:
        """Takes what was not durable.

        random: decides how much of the later state writes LevelDB had made tables of by itself;
            None: nothing. torn: a log batch was being written: the next opening finds the log
            damaged at its end and has to rewrite it.
        """
        self.boot += 1
        self._locks.clear()
        self._forget(self._root, random, torn)

    def kill(self) -> None:
        """The process dies and the machine goes on: all that was written to files stays, synced or
        not. State rows since the last sync were in the process's memory."""
        self.boot += 1
        self._locks.clear()
        directories = [self._root]
        while directories:
            node = directories.pop()
            node.lose_rows(0)
            directories += [one for one in node.entries.values() if isinstance(one, StoreDirectory)]

    def tear(self, path: str) -> None:
        """Only the first half of what was written to a file since its last sync is durable."""
        file = self._node(path)
        assert isinstance(file, _File)
        half = len(file.content) // 2
        file.durable = file.content[:half] + file.durable[half:]

    def _forget(self, node: StoreDirectory, random: Random | None, torn: bool) -> None:
        node.entries = dict(node.durable)
        node.lose_rows(random.randint(0, len(node.journal)) if random and node.journal else 0)
        for name, child in node.entries.items():
            if isinstance(child, _File):
                child.content = child.durable
            else:
                self._forget(child, random, torn)
                if torn and name == "log":
                    _tear(child)

    def changing(self, what: str) -> None:
        """Called before every change; raises what a test or the simulator wants to happen."""
        if self.fail_writes:
            raise OSError(EIO, "input/output error", what)
        if self.before is not None:
            self.before(what)

    # --- files ---------------------------------------------------------------

    def _walk(self, path: str) -> _Node | None:
        node: _Node | None = self._root
        for name in path.strip("/").split("/"):
            if name and name != ".":
                if not isinstance(node, StoreDirectory):
                    return None
                node = node.entries.get(name)
        return node

    def _node(self, path: str) -> _Node:
        node = self._walk(path)
        if node is None:
            raise _missing(path)
        return node

    def directory(self, path: str) -> StoreDirectory:
        """The directory at `path`. OSError if there is none."""
        node = self._node(path)
        if not isinstance(node, StoreDirectory):
            raise _missing(path)
        return node

    def _parent(self, path: str) -> tuple[StoreDirectory, str]:
        above, _, name = path.strip("/").rpartition("/")
        return self.directory(above), name

    def exists(self, path: str) -> bool:
        return self._walk(path) is not None

    def names(self, path: str) -> list[str]:
        return sorted(self.directory(path).entries)

    def read(self, path: str) -> bytes:
        node = self._node(path)
        if not isinstance(node, _File):
            raise _missing(path)
        return node.content

    def create(self, path: str) -> WritableFile:
        self.changing(f"create {path}")
        parent, name = self._parent(path)
        file = parent.entries.get(name)
        if not isinstance(file, _File):
            file = parent.entries[name] = _File()
        file.content = b""
        return MemoryHandle(self, file, path)

    def overwrite(self, path: str) -> WritableFile:
        node = self._node(path)
        if not isinstance(node, _File):
            raise _missing(path)
        return MemoryHandle(self, node, path)

    def rename(self, old: str, new: str) -> None:
        self.changing(f"rename {old}")
        node = self._node(old)
        target = self._walk(new)
        if isinstance(target, StoreDirectory) and (target.entries or target.rows is not None):
            raise OSError(ENOTEMPTY, "directory not empty", new)
        parent, name = self._parent(old)
        del parent.entries[name]
        parent, name = self._parent(new)
        parent.entries[name] = node

    def remove(self, path: str) -> None:
        self.changing(f"remove {path}")
        self._node(path)
        parent, name = self._parent(path)
        del parent.entries[name]

    def remove_tree(self, path: str) -> None:
        self.remove(path)

    def copy_tree(self, source: str, target: str) -> None:
        self.changing(f"copy {source}")
        parent, name = self._parent(target)
        parent.entries[name] = _copied(self.directory(source))

    def make_directory(self, path: str) -> None:
        self.changing(f"mkdir {path}")
        if self._walk(path) is not None:
            raise FileExistsError(EEXIST, "file exists", path)
        parent, name = self._parent(path)
        parent.entries[name] = StoreDirectory()

    def sync_directory(self, path: str) -> None:
        self.changing(f"syncdir {path}")
        node = self.directory(path)
        node.durable = dict(node.entries)

    def tighten(self, path: str) -> None:
        self.directory(path)

    def lock(self, path: str) -> Lock:
        if path in self._locks:
            raise DirectoryLocked(f"{path} is held by another process")
        self._locks[path] = self.boot
        parent, name = self._parent(path)
        parent.entries.setdefault(name, _File())
        return _MemoryLock(self._locks, path, self.boot)

    def store(self, path: str, create: bool) -> StoreDirectory:
        """The row store in a directory; `create`: an empty one. CorruptionError if none."""
        node = self.directory(path)
        if create:
            node.rows, node.stored = SortedRows({}, []), SortedRows({}, [])
        if node.rows is None:
            raise CorruptionError(f"{path} cannot be opened: it holds no rows")
        return node


class _MemoryLock:
    def __init__(self, locks: dict[str, int], path: str, boot: int) -> None:
        self._locks, self._path, self._boot = locks, path, boot

    def release(self) -> None:
        if self._locks.get(self._path) == self._boot:
            del self._locks[self._path]


class MemoryHandle:
    """An open file."""

    def __init__(self, disk: MemoryDisk, file: _File, path: str) -> None:
        self._disk, self._file, self._path = disk, file, path

    def write(self, content: bytes) -> None:
        self._disk.changing(f"write {self._path}")
        self._file.content = content + self._file.content[len(content) :]

    def sync(self) -> None:
        self._disk.changing(f"sync {self._path}")
        self._file.durable = self._file.content

    def close(self) -> None:
        return
