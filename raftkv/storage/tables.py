"""The tables of a LevelDB that is in use, as a second directory that nobody changes.

Tables never change once they are written; LevelDB only adds and removes whole ones. So a copy of
all rows as they were at one moment is a second name (a hard link) for each table that was live
then, beside a copy of the list of live tables. It takes no space until LevelDB would have removed
a table, and its cost does not depend on how much is in them. What is in memory only is not in the
copy: `StateBackend.sync` comes before.

The list is the MANIFEST that CURRENT names. Another thread of LevelDB may change the tables
meanwhile; but live tables are never removed, so if the list reads the same before and after every
table that is there was linked, all live ones were among them, else the copy begins again. Surplus
ones do no harm; whoever opens the copy is rid of them, and LevelDB refuses a list that lacks a
table. After an opening the list is short, and `prune` removes what it does not name.

The MANIFEST is a log of edits in LevelDB's format (`waltail` has that of its fragments; all numbers
here are varints):

    edit := (1 comparator | 2 log | 3 next file | 4 sequence | 5 level, key
             | 6 level, table: gone | 7 level, table, size, key, key: new | 9 log)*
"""

import os
import re
import shutil
from contextlib import suppress
from struct import Struct
from typing import Final

from raftkv.errors import CorruptionError, DiskFailure
from raftkv.storage.files import REAL, final_errors
from raftkv.storage.waltail import BLOCK_BYTES, HEAD_BYTES, LAST, WHOLE

CURRENT: Final = "CURRENT"
ATTEMPTS: Final = 100  # a change of the tables takes longer than all links
_TABLE: Final = re.compile(r"\d+\.(?:ldb|sst)")
_FRAGMENT: Final = Struct("<IHB")
_KEY_TAGS: Final = (5,)
_NUMBER_TAGS: Final = (2, 3, 4, 9)


def link_tables(source: str, target: str) -> None:
    """Makes the directory `target` hold the rows that the tables of `source` hold now.

    source: a LevelDB that may be in use. target: may exist, empty. Raises CorruptionError,
    DiskFailure.
    """
    with final_errors(f"copying the tables of {source}"):
        with suppress(FileExistsError):
            REAL.make_directory(target)
        for _ in range(ATTEMPTS):
            before = _read_list(source)
            for name in os.listdir(source):
                if _TABLE.fullmatch(name):
                    with suppress(FileNotFoundError):  # not live any more
                        _link(source, target, name)
            if _read_list(source) == before:
                name, edits = before
                _write(f"{target}/{name}", edits)
                _write(f"{target}/{CURRENT}", name.encode() + b"\n")
                return
    raise DiskFailure(f"the tables of {source} change faster than they can be copied")


def prune(directory: str) -> None:
    """Removes everything but the live tables and their list from a LevelDB that is closed.

    Raises CorruptionError, DiskFailure.
    """
    name, edits = _read_list(directory)
    kept = {CURRENT, name}
    for number in live_tables(edits, directory):
        kept |= {f"{number:06d}.ldb", f"{number:06d}.sst"}  # LevelDB has called them .sst once
    with final_errors(f"pruning {directory}"):
        for other in REAL.names(directory):
            if other not in kept:
                REAL.remove(f"{directory}/{other}")


def live_tables(edits: bytes, directory: str) -> dict[int, int]:
    """Size in bytes by number of the tables that a MANIFEST lists. Raises CorruptionError."""
    live: dict[tuple[int, int], int] = {}
    try:
        for record in _records(edits):
            _carry_out(record, live)
    except (IndexError, ValueError) as error:
        raise CorruptionError(f"the list of tables in {directory} is damaged: {error}") from error
    return {number: size for (_, number), size in live.items()}


def _read_list(directory: str) -> tuple[str, bytes]:
    """The MANIFEST's name and content."""
    try:
        name = REAL.read(f"{directory}/{CURRENT}").decode("ascii", "replace").strip()
        return name, REAL.read(f"{directory}/{os.path.basename(name)}")
    except OSError as error:
        text = f"the list of tables in {directory} cannot be read: {error}"
        raise CorruptionError(text) from error


def _link(source: str, target: str, name: str) -> None:
    with suppress(FileExistsError):  # of an attempt before
        try:
            os.link(f"{source}/{name}", f"{target}/{name}")
        except PermissionError:  # a file system without links
            shutil.copyfile(f"{source}/{name}", f"{target}/{name}")


def _write(path: str, content: bytes) -> None:
    file = REAL.create(path)
    try:
        file.write(content)
    finally:
        file.close()


# --- the format of a MANIFEST ---------------------------------------------------


def _records(content: bytes) -> list[bytes]:
    """The whole records of a LevelDB log."""
    records: list[bytes] = []
    parts: list[bytes] = []
    at = 0
    while at + HEAD_BYTES <= len(content):
        left = BLOCK_BYTES - at % BLOCK_BYTES
        if left < HEAD_BYTES:
            at += left
            continue
        _, size, kind = _FRAGMENT.unpack_from(content, at)
        at += HEAD_BYTES
        if kind == 0 or at + size > len(content):
            break
        parts.append(content[at : at + size])
        at += size
        if kind in (WHOLE, LAST):
            records.append(b"".join(parts))
            parts = []
    return records


def _carry_out(record: bytes, live: dict[tuple[int, int], int]) -> None:
    """Takes one edit over. Raises IndexError or ValueError for bytes that are none."""
    at = 0
    while at < len(record):
        tag, at = _varint(record, at)
        if tag == 1:
            at = _behind_text(record, at)
        elif tag in _NUMBER_TAGS:
            _, at = _varint(record, at)
        elif tag in _KEY_TAGS:
            _, at = _varint(record, at)
            at = _behind_text(record, at)
        elif tag == 6:
            level, at = _varint(record, at)
            number, at = _varint(record, at)
            live.pop((level, number), None)
        elif tag == 7:
            level, at = _varint(record, at)
            number, at = _varint(record, at)
            live[level, number], at = _varint(record, at)
            at = _behind_text(record, _behind_text(record, at))
        else:
            raise ValueError(f"unknown tag {tag}")
    if at != len(record):
        raise ValueError("an edit is cut short")


def _varint(record: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = record[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def _behind_text(record: bytes, at: int) -> int:
    size, at = _varint(record, at)
    return at + size
