"""Making a data directory that begins with a ready-made state instead of an empty one.

    restoring     there while the directory is being filled: no member starts in it
    founded       why the directory was made, for those who ask later (JSON)

The log is empty: the member that starts here makes it begin behind the state's applied index, as
a new cluster's first member does (`server.node`), after the other members have confirmed that they
know no other directory of its.

A directory can also be made within another one and take its place:

    replacement         being filled; a start removes it
    replacement.whole   complete: the next opening puts its files in the place of the old ones

Whatever step of that a crash interrupts, the next opening goes on with it.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from raftkv.errors import CorruptionError
from raftkv.storage.files import REAL, FileSystem, final_errors, read_file, replace_file
from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.logopening import Place, create_log
from raftkv.storage.mark import Mark, MarkValue
from raftkv.storage.records import identity_seed
from raftkv.storage.recovery import (
    FOUNDED,
    REPLACEMENT,
    RESTORING,
    STATE,
    WHOLE_REPLACEMENT,
    Identity,
    write_identity,
)

_MAGIC: Final = b"RKB1"


def found(
    path: str,
    identity: Identity,
    fill: Callable[[str], None],
    story: dict[str, Any],
    *,
    state_number: int = 1,
) -> None:
    """Makes `path`, an empty directory, the data directory of `identity`.

    fill: makes a state's LevelDB, durably, in the empty directory that it is given. story: why the
    directory exists. Raises DiskFailure, and what `fill` raises; then no member starts in it.
    """
    fs, state = REAL, f"{path}/{STATE}{state_number}"
    with final_errors(f"making {path}"):
        fs.create(f"{path}/{RESTORING}").close()
        fs.sync_directory(path)
        fs.make_directory(state)
    fill(state)
    with final_errors(f"making {path}"):
        fs.sync_directory(state)
    whose = (identity.cluster, identity.member, identity.incarnation)
    create_log(Place(fs, LEVELDB, path, identity_seed(*whose)))
    Mark.create(fs, path, MarkValue(1, 0, 0, 0, 0, state_number, 0, 0, 0, *whose))
    replace_file(fs, f"{path}/{FOUNDED}", _MAGIC, json.dumps(story, sort_keys=True).encode())
    write_identity(fs, path, identity)
    with final_errors(f"making {path}"):
        fs.sync_directory(path)
        fs.remove(f"{path}/{RESTORING}")
        fs.sync_directory(path)


def replace(
    path: str,
    identity: Identity,
    fill: Callable[[str], None],
    story: dict[str, Any],
    *,
    state_number: int,
) -> None:
    """Makes a data directory that takes the place of what is in `path` at the next opening.

    path: a data directory that the caller has locked. state_number: of none that is there. Nothing
    has happened yet if this raises. Arguments and errors as of `found`.
    """
    coming = f"{path}/{REPLACEMENT}"
    with final_errors(f"making {coming}"):
        REAL.make_directory(coming)
    found(coming, identity, fill, story, state_number=state_number)
    with final_errors(f"making {coming}"):
        REAL.rename(coming, f"{path}/{WHOLE_REPLACEMENT}")
        REAL.sync_directory(path)


def founding_of(path: str, fs: FileSystem = REAL) -> dict[str, Any]:
    """The story that `found` was told of this directory; empty for others. CorruptionError."""
    if fs.exists(f"{path}/{WHOLE_REPLACEMENT}/{FOUNDED}"):  # the next opening moves it
        path = f"{path}/{WHOLE_REPLACEMENT}"
    if not fs.exists(f"{path}/{FOUNDED}"):
        return {}
    payload = read_file(fs, f"{path}/{FOUNDED}", _MAGIC)
    try:
        story = json.loads(payload)
    except ValueError as error:
        raise CorruptionError(f"{path}/{FOUNDED} is damaged: {error}") from error
    return story if isinstance(story, dict) else {}
