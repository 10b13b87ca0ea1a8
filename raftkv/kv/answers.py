"""What the state machine answers: a revision for the header, and every field but the header."""

from typing import NamedTuple


class Result(NamedTuple):
    """A successful answer: the revision for its header, and every field but the header."""

    revision: int
    body: bytes


class HashResult(NamedTuple):
    """HashKV's answer."""

    hash: int
    compacted_revision: int
    hash_revision: int


class Status(NamedTuple):
    """What Maintenance.Status tells about the store. Sizes in bytes."""

    db_size: int
    db_size_in_use: int
    keys: int
