"""Messages between members as bytes.

    Packet    := protobuf message { bytes body = 1; }     what travels in one gRPC message
    body      := message*
    message   := kind u8 | size u32 | to u64 | sender u64 | term u64 | fields    (big-endian)

`size` counts what follows it. The fields of each kind are fixed-size numbers first, then,
for the kinds that have them, lists behind their count u32:

    AppendEntries    previous_index, previous_term, commit, read_round u64 | entries
      entries        count u32 | (length u32 | wire.record entry)*
    InstallSnapshot  index, term u64 | 4 x (count u32 | member u64 *)
    Forward          boot u64 | count u32 | (number u64 | length u32 | payload)*
    ForwardReply     boot u64 | code u32 | count u32 | number u64 * | text (UTF-8, to the end)
    LeaseAsk         boot u64 | (number u64 | kind u8 | lease i64)*
    LeaseTold        boot u64 | (number u64 | ttl_ms i64 | granted_ms u64)*
    StateReport      index, kind, revision, compacted_revision, hash u64

Kinds are never reused. A kind this version does not know is an error, not skipped: a
message of Raft that one side ignores is worse than a connection that is refused.

Each message is decoded within its own `size` and must use all of it, so a damaged length
cannot reach into the next one.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from struct import error as StructError  # noqa: N812
from typing import Any, Final

from raftkv.errors import ProtocolError
from raftkv.raft.messages import (
    REMAINING,
    RENEW,
    AppendEntries,
    AppendReply,
    Forward,
    ForwardReply,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    LeaseAsk,
    LeaseTold,
    Message,
    ReadIndexReply,
    ReadIndexRequest,
    StateReport,
    TimeoutNow,
    VoteReply,
    VoteRequest,
)
from raftkv.raft.types import ENTRY_KINDS, Configuration, Entry, SnapshotMeta

_APPEND: Final = 1
_APPEND_REPLY: Final = 2
_HEARTBEAT: Final = 3
_HEARTBEAT_REPLY: Final = 4
_VOTE: Final = 5
_VOTE_REPLY: Final = 6
_SNAPSHOT: Final = 7
_TIMEOUT_NOW: Final = 8
_READ: Final = 9
_READ_REPLY: Final = 10
_FORWARD: Final = 11
_FORWARD_REPLY: Final = 12
_LEASE_ASK: Final = 13
_LEASE_TOLD: Final = 14
_REPORT: Final = 15

_HEAD: Final = Struct(">BI")
_COUNT: Final = Struct(">I")
_NUMBER: Final = Struct(">Q")
# Kind, size and the fixed fields together: one pack per message.
_append: Final = Struct(">BI7Q")
_append_reply: Final = Struct(">BI3Q?4Q")
_heartbeat: Final = Struct(">BI5Q")
_heartbeat_reply: Final = Struct(">BI4Q")
_vote: Final = Struct(">BI5Q3?")
_vote_reply: Final = Struct(">BI3Q2?")
_snapshot: Final = Struct(">BI5Q")
_timeout_now: Final = Struct(">BI3Q")
_read: Final = Struct(">BI4Q")
_read_reply: Final = Struct(">BI5Q")
_forward: Final = Struct(">BI4QI")
_forward_reply: Final = Struct(">BI4QII")
_lease: Final = Struct(">BI4Q")
_lease_ask: Final = Struct(">QBq")
_lease_answer: Final = Struct(">QqQ")
_report: Final = Struct(">BI8Q")
_entry: Final = Struct(">IQQB")
_proposal: Final = Struct(">QI")
_ENTRY_HEAD_BYTES: Final = 17

_SHORT_HEADS: Final = [bytes((0x0A, length)) for length in range(0x80)]  # of packets

# The entries of the newest AppendEntries: the same list goes to every follower. Held
# together with the list itself, so that its identity cannot be that of a later one; the
# length and last entry guard against a list that grew in between.
_last_entries: tuple[list[Entry], int, Entry | None, bytes] = ([], 0, None, b"\0\0\0\0")


def _encode_entries(entries: list[Entry]) -> bytes:
    global _last_entries
    known, count, last, blob = _last_entries
    if known is entries and count == len(entries) and (not count or last is entries[-1]):
        return blob
    parts = [_COUNT.pack(len(entries))]
    pack = _entry.pack
    for entry in entries:
        payload = entry.payload
        parts.append(
            pack(_ENTRY_HEAD_BYTES + len(payload), entry.index, entry.term, entry.kind) + payload
        )
    blob = b"".join(parts)
    _last_entries = (entries, len(entries), entries[-1] if entries else None, blob)
    return blob


def _encode_append(m: AppendEntries) -> bytes:
    entries = m.entries
    blob = _encode_entries(entries) if entries else b"\0\0\0\0"
    return (
        _append.pack(
            _APPEND,
            _append.size - 5 + len(blob),
            m.to,
            m.sender,
            m.term,
            m.previous_index,
            m.previous_term,
            m.commit,
            m.read_round,
        )
        + blob
    )


def _encode_append_reply(m: AppendReply) -> bytes:
    return _append_reply.pack(
        _APPEND_REPLY,
        57,
        m.to,
        m.sender,
        m.term,
        m.success,
        m.index,
        m.hint_index,
        m.hint_term,
        m.read_round,
    )


def _encode_heartbeat(m: Heartbeat) -> bytes:
    return _heartbeat.pack(_HEARTBEAT, 40, m.to, m.sender, m.term, m.commit, m.read_round)


def _encode_heartbeat_reply(m: HeartbeatReply) -> bytes:
    return _heartbeat_reply.pack(_HEARTBEAT_REPLY, 32, m.to, m.sender, m.term, m.read_round)


def _encode_vote(m: VoteRequest) -> bytes:
    return _vote.pack(
        _VOTE,
        43,
        m.to,
        m.sender,
        m.term,
        m.last_index,
        m.last_term,
        m.pre,
        m.force,
        m.leader_gone,
    )


def _encode_vote_reply(m: VoteReply) -> bytes:
    return _vote_reply.pack(_VOTE_REPLY, 26, m.to, m.sender, m.term, m.granted, m.pre)


def _encode_members(members: Sequence[int]) -> bytes:
    return _COUNT.pack(len(members)) + b"".join(map(_NUMBER.pack, members))


def _encode_snapshot(m: InstallSnapshot) -> bytes:
    meta = m.snapshot
    who = meta.configuration
    lists = b"".join(
        map(_encode_members, (who.voters, who.outgoing, who.learners, who.learners_next))
    )
    head = _snapshot.pack(_SNAPSHOT, 40 + len(lists), m.to, m.sender, m.term, meta.index, meta.term)
    return head + lists


def _encode_timeout_now(m: TimeoutNow) -> bytes:
    return _timeout_now.pack(_TIMEOUT_NOW, 24, m.to, m.sender, m.term)


def _encode_read(m: ReadIndexRequest) -> bytes:
    return _read.pack(_READ, 32, m.to, m.sender, m.term, m.number)


def _encode_read_reply(m: ReadIndexReply) -> bytes:
    return _read_reply.pack(_READ_REPLY, 40, m.to, m.sender, m.term, m.number, m.index)


def _encode_forward(m: Forward) -> bytes:
    parts = [_proposal.pack(number, len(payload)) + payload for number, payload in m.proposals]
    blob = b"".join(parts)
    size = 36 + len(blob)
    return _forward.pack(_FORWARD, size, m.to, m.sender, m.term, m.boot, len(parts)) + blob


def _encode_forward_reply(m: ForwardReply) -> bytes:
    blob = b"".join(map(_NUMBER.pack, m.refused)) + m.text.encode("utf-8", "replace")
    size = _forward_reply.size - 5 + len(blob)
    head = _forward_reply.pack(
        _FORWARD_REPLY, size, m.to, m.sender, m.term, m.boot, m.code, len(m.refused)
    )
    return head + blob


def _encode_lease_ask(m: LeaseAsk) -> bytes:
    blob = b"".join([_lease_ask.pack(*ask) for ask in m.asks])
    return _lease.pack(_LEASE_ASK, 32 + len(blob), m.to, m.sender, m.term, m.boot) + blob


def _encode_lease_told(m: LeaseTold) -> bytes:
    blob = b"".join([_lease_answer.pack(*answer) for answer in m.answers])
    return _lease.pack(_LEASE_TOLD, 32 + len(blob), m.to, m.sender, m.term, m.boot) + blob


def _encode_report(m: StateReport) -> bytes:
    covered = m.revision, m.compacted_revision
    return _report.pack(_REPORT, 64, m.to, m.sender, m.term, m.index, m.kind, *covered, m.hash)


_ENCODERS: Final[dict[type, Callable[[Any], bytes]]] = {
    AppendEntries: _encode_append,
    AppendReply: _encode_append_reply,
    Heartbeat: _encode_heartbeat,
    HeartbeatReply: _encode_heartbeat_reply,
    VoteRequest: _encode_vote,
    VoteReply: _encode_vote_reply,
    InstallSnapshot: _encode_snapshot,
    TimeoutNow: _encode_timeout_now,
    ReadIndexRequest: _encode_read,
    ReadIndexReply: _encode_read_reply,
    Forward: _encode_forward,
    ForwardReply: _encode_forward_reply,
    LeaseAsk: _encode_lease_ask,
    LeaseTold: _encode_lease_told,
    StateReport: _encode_report,
}


def encode_messages(messages: list[Message]) -> bytes:
    """The body of a packet with these messages, in order."""
    encoders = _ENCODERS
    if len(messages) == 1:
        return encoders[type(messages[0])](messages[0])
    return b"".join([encoders[type(message)](message) for message in messages])


# --- decoding: (data, position of the kind byte, end of the message) -> message ----------


def _decode_append(data: bytes, pos: int, end: int) -> Message:
    _, _, to, sender, term, index, previous_term, commit, read_round = _append.unpack_from(
        data, pos
    )
    pos += _append.size
    (count,) = _COUNT.unpack_from(data, pos)
    pos += 4
    if count * (_entry.size) > end - pos:
        raise ProtocolError(f"AppendEntries announces {count} entries, more than fit into it")
    entries: list[Entry] = []
    unpack = _entry.unpack_from
    for _ in range(count):
        length, entry_index, entry_term, kind = unpack(data, pos)
        start = pos + 21
        pos += 4 + length
        if length < _ENTRY_HEAD_BYTES or pos > end:
            raise ProtocolError(f"an entry of {length} bytes does not fit into its message")
        if kind not in ENTRY_KINDS:
            raise ProtocolError(f"log entry {entry_index} has the unknown kind {kind}")
        entries.append(Entry(entry_index, entry_term, kind, data[start:pos]))
    _at_end(pos, end)
    return AppendEntries(to, sender, term, index, previous_term, entries, commit, read_round)


def _decode_append_reply(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _append_reply.size, end)
    return AppendReply(*_append_reply.unpack_from(data, pos)[2:])


def _decode_heartbeat(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _heartbeat.size, end)
    return Heartbeat(*_heartbeat.unpack_from(data, pos)[2:])


def _decode_heartbeat_reply(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _heartbeat_reply.size, end)
    return HeartbeatReply(*_heartbeat_reply.unpack_from(data, pos)[2:])


def _decode_vote(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _vote.size, end)
    return VoteRequest(*_vote.unpack_from(data, pos)[2:])


def _decode_vote_reply(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _vote_reply.size, end)
    return VoteReply(*_vote_reply.unpack_from(data, pos)[2:])


def _decode_numbers(data: bytes, pos: int, end: int, count: int) -> tuple[tuple[int, ...], int]:
    if count * 8 > end - pos:
        raise ProtocolError(f"a message announces {count} numbers, more than fit into it")
    return Struct(f">{count}Q").unpack_from(data, pos), pos + count * 8


def _decode_snapshot(data: bytes, pos: int, end: int) -> Message:
    _, _, to, sender, term, index, snapshot_term = _snapshot.unpack_from(data, pos)
    pos += _snapshot.size
    lists: list[tuple[int, ...]] = []
    for _ in range(4):
        (count,) = _COUNT.unpack_from(data, pos)
        members, pos = _decode_numbers(data, pos + 4, end, count)
        lists.append(members)
    _at_end(pos, end)
    meta = SnapshotMeta(index, snapshot_term, Configuration(*lists))
    return InstallSnapshot(to, sender, term, meta)


def _decode_timeout_now(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _timeout_now.size, end)
    return TimeoutNow(*_timeout_now.unpack_from(data, pos)[2:])


def _decode_read(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _read.size, end)
    return ReadIndexRequest(*_read.unpack_from(data, pos)[2:])


def _decode_read_reply(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _read_reply.size, end)
    return ReadIndexReply(*_read_reply.unpack_from(data, pos)[2:])


def _decode_forward(data: bytes, pos: int, end: int) -> Message:
    _, _, to, sender, term, boot, count = _forward.unpack_from(data, pos)
    pos += _forward.size
    if count * _proposal.size > end - pos:
        raise ProtocolError(f"Forward announces {count} proposals, more than fit into it")
    proposals: list[tuple[int, bytes]] = []
    last = -1
    for _ in range(count):
        number, length = _proposal.unpack_from(data, pos)
        start = pos + _proposal.size
        pos = start + length
        if pos > end:
            raise ProtocolError(f"a proposal of {length} bytes does not fit into its message")
        if number <= last:
            raise ProtocolError("the numbers of forwarded proposals do not grow")
        last = number
        proposals.append((number, data[start:pos]))
    _at_end(pos, end)
    return Forward(to, sender, term, boot, proposals)


def _decode_forward_reply(data: bytes, pos: int, end: int) -> Message:
    _, _, to, sender, term, boot, code, count = _forward_reply.unpack_from(data, pos)
    numbers, pos = _decode_numbers(data, pos + _forward_reply.size, end, count)
    try:
        text = data[pos:end].decode()
    except UnicodeDecodeError:
        raise ProtocolError("the text of a ForwardReply is not UTF-8") from None
    return ForwardReply(to, sender, term, boot, list(numbers), code, text)


def _decode_lease_ask(data: bytes, pos: int, end: int) -> Message:
    _, _, to, sender, term, boot = _lease.unpack_from(data, pos)
    asks = list(_lease_ask.iter_unpack(_rest(data, pos, end)))
    for _, kind, _ in asks:
        if kind != RENEW and kind != REMAINING:
            raise ProtocolError("a LeaseAsk asks for something that this member does not know")
    return LeaseAsk(to, sender, term, boot, asks)


def _decode_lease_told(data: bytes, pos: int, end: int) -> Message:
    _, _, to, sender, term, boot = _lease.unpack_from(data, pos)
    return LeaseTold(to, sender, term, boot, list(_lease_answer.iter_unpack(_rest(data, pos, end))))


def _decode_report(data: bytes, pos: int, end: int) -> Message:
    _at_end(pos + _report.size, end)
    return StateReport(*_report.unpack_from(data, pos)[2:])


def _rest(data: bytes, pos: int, end: int) -> bytes:
    """What follows the fixed fields of a message about leases."""
    if pos + _lease.size > end:
        raise ProtocolError("a peer message is shorter or longer than its fields")
    return data[pos + _lease.size : end]


def _at_end(pos: int, end: int) -> None:
    if pos != end:
        raise ProtocolError("a peer message is shorter or longer than its fields")


_DECODERS: Final[dict[int, Callable[[bytes, int, int], Message]]] = {
    _APPEND: _decode_append,
    _APPEND_REPLY: _decode_append_reply,
    _HEARTBEAT: _decode_heartbeat,
    _HEARTBEAT_REPLY: _decode_heartbeat_reply,
    _VOTE: _decode_vote,
    _VOTE_REPLY: _decode_vote_reply,
    _SNAPSHOT: _decode_snapshot,
    _TIMEOUT_NOW: _decode_timeout_now,
    _READ: _decode_read,
    _READ_REPLY: _decode_read_reply,
    _FORWARD: _decode_forward,
    _FORWARD_REPLY: _decode_forward_reply,
    _LEASE_ASK: _decode_lease_ask,
    _LEASE_TOLD: _decode_lease_told,
    _REPORT: _decode_report,
}


def decode_messages(data: bytes) -> list[Message]:
    """The messages of a packet's body, in order. Raises ProtocolError for anything malformed."""
    messages: list[Message] = []
    pos = 0
    total = len(data)
    try:
        while pos < total:
            kind, size = _HEAD.unpack_from(data, pos)
            end = pos + 5 + size
            if end > total:
                raise ProtocolError(f"a peer message of {size} bytes is cut off")
            decode = _DECODERS.get(kind)
            if decode is None:
                raise ProtocolError(
                    f"unknown kind {kind} of a peer message: "
                    "the sender runs a version that this member does not understand"
                )
            messages.append(decode(data, pos, end))
            pos = end
    except StructError:
        raise ProtocolError("a peer message is cut off") from None
    return messages


def pack(body: bytes) -> bytes:
    """A serialized Packet { bytes body = 1; }."""
    length = len(body)
    if length < 0x80:
        return _SHORT_HEADS[length] + body
    head = bytearray(b"\x0a")
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def unpack(packet: bytes) -> bytes:
    """The body of a serialized Packet; empty for an empty one, as protobuf has it.

    Raises ProtocolError if there is anything but this one field.
    """
    if not packet:
        return b""
    if len(packet) < 0x82 and packet[:2] == _SHORT_HEADS[len(packet) - 2]:
        return packet[2:]
    if packet[0] != 0x0A:
        raise ProtocolError("a peer packet does not start with its body")
    length = shift = 0
    pos = 1
    while True:
        if pos >= len(packet) or shift > 28:
            raise ProtocolError("a peer packet has a broken length")
        byte = packet[pos]
        pos += 1
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    if pos + length != len(packet):
        raise ProtocolError("a peer packet is shorter or longer than its length says")
    return packet[pos:]
