"""Bytes of keys, rows and replies, without protobuf objects.

Varints, tags and messages are protobuf's (encoding spec). A KeyValue (mvccpb) is written with its
fields in the order 1 to 6 and zero fields left out, so equal values have equal bytes everywhere:

    KeyValue := 0A key | 10 create_revision | 18 mod_revision | 20 version | 2A value | 30 lease

It is kept *framed*: `12 length KeyValue`. Field 2 is `kvs` of RangeResponse, `prev_kv` of
PutResponse and `kv` of Event, so a reply is a join of stored bytes.

A row id is `revision << 32 | sub`: one version of one key; sub counts the writes of one revision
from 0. On disk it has 12 bytes, big-endian.

Rows:

    a                                -> index, term, revision, compacted, hash, bytes written
    c                                -> configuration
    d                                -> version that a downgrade leads to (`upkeep`)
    g                                -> compaction: finished revision, next row, bytes removed
    k escaped-key 00 00 inverse-id   -> "", 01 if that version is a deletion, or 02 lease u64
    l lease                          -> Lease (`leases` has the layout)
    n member                         -> Member
    o type member                    -> flags of an alarm (`alarms` has the layout)
    q                                -> quota and bytes reclaimed (`space` has the layout)
    r id                             -> previous id | kind u8 | framed KeyValue
    s session sequence               -> what is kept of a session (`sessions` has the layout)
    x member                         -> "" (a removed member)

Escaping turns every 00 of a key into 00 FF, so that with the end mark 00 00 the order of rows is
the order of keys, and within a key the newest version comes first (inverse id = 2^96 - 1 - id).
The previous id is that of the version which this one replaced, 0 if the key did not exist.
"""

from struct import Struct
from typing import Final, NamedTuple

SUB_BITS: Final = 32
SUB_MASK: Final = (1 << SUB_BITS) - 1
ID_BYTES: Final = 12
ID_MAX: Final = (1 << (8 * ID_BYTES)) - 1
NO_ID: Final = bytes(ID_BYTES)
U64: Final = (1 << 64) - 1

APPLIED_ROW: Final = b"a"
CONFIGURATION_ROW: Final = b"c"
COMPACTION_ROW: Final = b"g"
KEY_ROWS: Final = (b"k", b"l")
LEASE_ROWS: Final = (b"l", b"m")
MEMBER_ROWS: Final = (b"n", b"o")
ALARM_ROWS: Final = (b"o", b"p")
SPACE_ROW: Final = b"q"
DOWNGRADE_ROW: Final = b"d"
REVISION_ROWS: Final = (b"r", b"s")
SESSION_ROWS: Final = (b"s", b"t")
REMOVED_ROWS: Final = (b"x", b"y")
APPLIED: Final = Struct(">QQQqQQ")
COMPACTION: Final = Struct(">Q12sQ")

PUT_ROW: Final = 0
DELETE_ROW: Final = 1
DELETION_MARK: Final = b"\x01"  # a pointer row's value
_LEASE_MARK: Final = b"\x02"
ROW_HEAD_BYTES: Final = ID_BYTES + 1
# Plus a row id, as a number of 13 bytes: a revision row's key.
REVISION_ROW_TAG: Final = ord("r") << (8 * ID_BYTES)

# Varints below 2^14, and the first 14 bits of longer ones.
SMALL_VARINTS: Final = [
    bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(1 << 14)
]
LOW_GROUPS: Final = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(1 << 14)]
# Tag and length of a framed KeyValue, by its length: the sizes of nearly all.
FRAME_HEADS: Final = [b"\x12" + size for size in SMALL_VARINTS[:4096]]


class KeyValue(NamedTuple):
    """mvccpb.KeyValue."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    value: bytes
    lease: int


def varint(n: int) -> bytes:
    """`n` as a varint; a negative number as its 64-bit two's complement."""
    if n < 16384:
        if n >= 0:
            return SMALL_VARINTS[n]
    elif n < 268435456:
        return LOW_GROUPS[n & 16383] + SMALL_VARINTS[n >> 14]
    n &= U64
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    out.append(n)
    return bytes(out)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned varint at `at` and the place behind it."""
    byte = data[at]
    if byte < 128:
        return byte, at + 1
    n = byte & 127
    shift = 7
    while True:
        at += 1
        byte = data[at]
        n |= (byte & 127) << shift
        if byte < 128:
            return n & U64, at + 1
        shift += 7


def signed(n: int) -> int:
    """An unsigned 64-bit number read as int64."""
    return n - (1 << 64) if n >> 63 else n


def bytes_field(tag: int, value: bytes) -> bytes:
    """A length-delimited field; `tag` is the whole tag byte."""
    return b"%c%b%b" % (tag, varint(len(value)), value)


def key_field(key: bytes) -> bytes:
    """Field 1 of a KeyValue."""
    return b"\x0a%b%b" % (varint(len(key)), key)


def value_field(value: bytes) -> bytes:
    """Field 5 of a KeyValue, nothing for an empty value."""
    return b"\x2a%b%b" % (varint(len(value)), value) if value else b""


def lease_field(lease: int) -> bytes:
    """Field 6 of a KeyValue, nothing for no lease."""
    return b"\x30" + varint(lease) if lease else b""


def frame(kv: bytes) -> bytes:
    """A KeyValue's bytes as field 2."""
    size = len(kv)
    return (FRAME_HEADS[size] if size < 4096 else b"\x12" + varint(size)) + kv


def encode_kv(kv: KeyValue) -> bytes:
    """The framed bytes of `kv`."""
    key, create, mod, version, value, lease = kv
    parts = [key_field(key) if key else b""]
    for tag, number in ((b"\x10", create), (b"\x18", mod), (b"\x20", version)):
        if number:
            parts.append(tag + varint(number))
    parts.append(value_field(value))
    parts.append(lease_field(lease))
    return frame(b"".join(parts))


def decode_kv(framed: bytes) -> KeyValue:
    """The KeyValue in framed bytes that this module made."""
    _, at = read_varint(framed, 1)
    end = len(framed)
    key = value = b""
    create = mod = version = lease = 0
    while at < end:
        tag = framed[at]
        number, at = read_varint(framed, at + 1)
        if tag == 0x0A:
            key = framed[at : at + number]
            at += number
        elif tag == 0x2A:
            value = framed[at : at + number]
            at += number
        elif tag == 0x10:
            create = number
        elif tag == 0x18:
            mod = number
        elif tag == 0x20:
            version = number
        else:
            assert tag == 0x30, f"a stored KeyValue has the tag {tag}"
            lease = signed(number)
    return KeyValue(key, create, mod, version, value, lease)


def framed_key(framed: bytes) -> bytes:
    """Only the key of a framed KeyValue."""
    _, at = read_varint(framed, 1)
    length, at = read_varint(framed, at + 1)
    return framed[at : at + length]


def framed_value(framed: bytes) -> bytes:
    """Only the value of a framed KeyValue."""
    _, at = read_varint(framed, 1)
    end = len(framed)
    if at < end and framed[at] == 0x0A:
        size, at = read_varint(framed, at + 1)
        at += size
    while at < end and framed[at] < 0x2A:  # the revisions and the version
        at += 2
        while framed[at - 1] > 127:
            at += 1
    if at == end or framed[at] != 0x2A:
        return b""
    size, at = read_varint(framed, at + 1)
    return framed[at : at + size]


# --- rows --------------------------------------------------------------------
def escape(key: bytes) -> bytes:
    """`key` with every 00 followed by FF, then 00 00: ordered as the keys are, prefix-free."""
    # 0 in key: Python first tries to read b"\0" as a number, which takes ten times as long.
    return (key.replace(b"\0", b"\0\xff") if 0 in key else key) + b"\0\0"


def unescape(escaped: bytes) -> bytes:
    """The key that `escape` made into `escaped`."""
    key = escaped[:-2]
    return key.replace(b"\0\xff", b"\0") if 0 in key else key


def key_row(key: bytes, row_id: int) -> bytes:
    """The key of the pointer row of one version."""
    return b"k%b%b" % (escape(key), (ID_MAX - row_id).to_bytes(ID_BYTES, "big"))


def key_row_start(key: bytes) -> bytes:
    """Before every version of `key` and of greater keys."""
    return b"k" + escape(key)


def key_row_stop(key: bytes) -> bytes:
    """Behind every version of `key`, before any greater key's."""
    return b"k" + escape(key)[:-1] + b"\x01"


def parse_key_row(row: bytes) -> tuple[bytes, int]:
    """Key and row id of a pointer row."""
    key = row[1:-14]
    if 0 in key:
        key = key.replace(b"\0\xff", b"\0")
    return key, ID_MAX - int.from_bytes(row[-ID_BYTES:], "big")


def lease_mark(lease: int) -> bytes:
    """The pointer row's value for a version that is attached to a lease."""
    return _LEASE_MARK + (lease & U64).to_bytes(8, "big")


def marked_lease(mark: bytes) -> int:
    """The lease in a pointer row's value, 0 for none."""
    return int.from_bytes(mark[1:], "big", signed=True) if mark[:1] == _LEASE_MARK else 0


def revision_row(row_id: int) -> bytes:
    """The key of the row that holds a version."""
    return (REVISION_ROW_TAG + row_id).to_bytes(ID_BYTES + 1, "big")


def parse_revision_row(row: bytes) -> int:
    """The row id of a revision row's key."""
    return int.from_bytes(row[1:], "big")


# --- replies -----------------------------------------------------------------
def header(cluster: int, member: int, revision: int, term: int) -> bytes:
    """Field 1 of an etcd response: the ResponseHeader, tag and length included."""
    return finish_header(header_prefix(cluster, member), revision, term)


def header_prefix(cluster: int, member: int) -> bytes:
    """The part of a header that never changes on one member (cluster_id, member_id)."""
    out = b"\x08" + varint(cluster) if cluster else b""
    return out + b"\x10" + varint(member) if member else out


def finish_header(prefix: bytes, revision: int, term: int) -> bytes:
    """`header` from its constant prefix: one varint or two per reply."""
    body = prefix
    if revision:
        body += b"\x18" + varint(revision)
    if term:
        body += b"\x20" + varint(term)
    return b"\x0a%b%b" % (varint(len(body)), body)


def revision_header(revision: int) -> bytes:
    """The header of a response inside a txn: only the revision."""
    field = b"\x18" + varint(revision)
    return b"\x0a%c%b" % (len(field), field)
