"""The mark: what a member must not forget even if its log does, in two copies.

Two files, `mark.a` and `mark.b`, hold the same value. It is the truth for term and vote, names
the current state directory, and remembers how far the log was once known to be durable. A log
that is recovered with less than that has lost something that was acknowledged.

    payload := sequence u64 | term u64 | vote u64 | last_term u64 | last_index u64
             | state u64 | next_state u64 | next_term u64 | next_index u64
             | cluster u64 | member u64 | incarnation u64            (big-endian)

An update overwrites copy a in place, syncs it, then does the same with copy b: two syncs and no
change of directory or size, so it needs no free space. A crash tears at most one copy while the
other is whole. Of two whole copies the one with the larger sequence wins: a caller that was
answered has both. One whole copy is enough; none is a reason to refuse to vote.
"""

from struct import Struct
from threading import Lock
from typing import Final, NamedTuple
from zlib import crc32

from raftkv.errors import CorruptionError
from raftkv.storage.files import (
    HEADER,
    FileSystem,
    WritableFile,
    final_errors,
    read_file,
    replace_file,
)

MAGIC: Final = b"RKM1"
NAMES: Final = ("mark.a", "mark.b")
_VALUE: Final = Struct(">12Q")


class MarkValue(NamedTuple):
    """One value of the mark.

    sequence: grows by one with every update.
    term, vote: Raft's hard state.
    last_term, last_index: the log was durable up to here.
    state: number of the current state directory.
    next_state, next_term, next_index: the state directory that becomes the current one as soon
        as the log is reset to an anchor at next_index; next_state 0: none.
    cluster, member, incarnation: whose mark this is.
    """

    sequence: int
    term: int
    vote: int
    last_term: int
    last_index: int
    state: int
    next_state: int
    next_term: int
    next_index: int
    cluster: int
    member: int
    incarnation: int


class Mark:
    """Both copies of the mark of one open directory. Safe to update from any thread.

    syncs: fsyncs made so far.
    """

    def __init__(self, fs: FileSystem, directory: str, value: MarkValue) -> None:
        self.value = value
        self.syncs = 0
        self._directory = directory
        self._guard = Lock()
        self._files: list[WritableFile] = []
        with final_errors(f"opening the mark in {directory}"):
            for name in NAMES:
                self._files.append(fs.overwrite(f"{directory}/{name}"))

    @staticmethod
    def create(fs: FileSystem, directory: str, value: MarkValue) -> None:
        """Makes both copies durable. Raises DiskFailure."""
        for name in NAMES:
            replace_file(fs, f"{directory}/{name}", MAGIC, _VALUE.pack(*value))

    @staticmethod
    def load(fs: FileSystem, directory: str) -> "Mark":
        """Opens the mark; both copies hold the same value when it returns.

        Raises CorruptionError if no copy is whole, DiskFailure if the repair cannot be written.
        """
        values: list[MarkValue] = []
        problems: list[str] = []
        for name in NAMES:
            path = f"{directory}/{name}"
            try:
                payload = read_file(fs, path, MAGIC)
                if len(payload) != _VALUE.size:
                    raise CorruptionError(f"{path} is damaged")
                values.append(MarkValue._make(_VALUE.unpack(payload)))
            except CorruptionError as error:
                problems.append(str(error))
        if not values:
            raise CorruptionError(
                "both copies of the mark, which hold term and vote, are unusable: "
                + "; ".join(problems)
            )
        value = max(values)
        for name in NAMES:
            if not fs.exists(f"{directory}/{name}"):
                replace_file(fs, f"{directory}/{name}", MAGIC, _VALUE.pack(*value))
        mark = Mark(fs, directory, value)
        # A copy may be torn, older, or seen only in a cache that a failed fsync left behind.
        mark.update()
        return mark

    def update(
        self,
        *,
        hard_state: tuple[int, int] | None = None,
        last: tuple[int, int] | None = None,
        state: int | None = None,
        coming: tuple[int, int, int] | None = None,
    ) -> None:
        """Writes and syncs both copies with the given changes.

        hard_state: (term, vote). last: (term, index). state: number of the current state
        directory. coming: (state number, term, index) of the one staged, (0, 0, 0) for none.
        Raises DiskFailure: final.
        """
        with self._guard:
            old = self.value
            term, vote = hard_state if hard_state is not None else (old.term, old.vote)
            assert term >= old.term, "a term never goes back (Raft fig. 2)"
            last_term, last_index = last if last is not None else (old.last_term, old.last_index)
            next_state, next_term, next_index = coming if coming is not None else old[6:9]
            self.value = value = MarkValue(
                old.sequence + 1,
                term,
                vote,
                last_term,
                last_index,
                old.state if state is None else state,
                next_state,
                next_term,
                next_index,
                *old[9:],
            )
            payload = _VALUE.pack(*value)
            content = HEADER.pack(MAGIC, len(payload), crc32(payload)) + payload
            with final_errors(f"writing the mark in {self._directory}"):
                for file in self._files:
                    file.write(content)
                    file.sync()
                    self.syncs += 1

    def close(self) -> None:
        """Releases both files."""
        for file in self._files:
            file.close()
        self._files.clear()
