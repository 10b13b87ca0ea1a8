"""How a log entry becomes bytes, on disk and between members alike.

    entry   := index u64 | term u64 | kind u8 | payload      (big-endian)

The payload runs to the end, so whoever stores or sends an entry keeps its length.
"""

from struct import Struct
from typing import Final

from raftkv.errors import ProtocolError
from raftkv.raft.types import ENTRY_KINDS, Entry

HEAD: Final = Struct(">QQB")
_pack = HEAD.pack
_unpack = HEAD.unpack_from


def encode_entry(entry: Entry) -> bytes:
    """The bytes of one entry."""
    return _pack(entry.index, entry.term, entry.kind) + entry.payload


def decode_entry(data: bytes) -> Entry:
    """The entry that `encode_entry` made into `data`.

    Raises ProtocolError for too few bytes or an unknown kind: an entry that this
    version does not understand must stop the member, never be skipped.
    """
    if len(data) < HEAD.size:
        raise ProtocolError(f"a log entry has {len(data)} bytes, at least {HEAD.size} needed")
    index, term, kind = _unpack(data)
    if kind not in ENTRY_KINDS:
        raise ProtocolError(f"log entry {index} has the unknown kind {kind}")
    return Entry(index, term, kind, data[HEAD.size :])
