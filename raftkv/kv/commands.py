"""The envelope of a NORMAL entry: what kind of command it is and who asked for it.

    payload := flags u8 | command u8 | [origin] | [session] | request
    origin  := member u64 | boot u64 | number u64              (flag ORIGIN)
    session := client i64 | sequence u64 | lowest unanswered u64  (flag SESSION)

Big-endian. `request` runs to the end and is the client's own protobuf message, unchanged, so that
a put costs no second encoding between the client and the disk of every member.

The origin names the member that took the command from its client, that member's process (boot) and
a number that grows within the process. A member recognises its own commands by it when it applies
them, whoever was leader when they were appended. The session lets a client repeat a command that
ended UNKNOWN: (client, sequence) is applied once (dissertation 6.3; `sessions`). It is packed where
the request is made: on its way to the log a command in a session is one whose number has IN_SESSION
added and whose request begins with the session's bytes.
"""

from struct import Struct
from typing import Final, NamedTuple

from raftkv.errors import ProtocolError

# Key-value commands. The request is the etcd message of the same name.
PUT: Final = 1
DELETE_RANGE: Final = 2
TXN: Final = 3
COMPACT: Final = 4
# Members. The request is an encoded `members.Member`.
PUBLISH: Final = 8  # name, client URLs and incarnation of a member that has started
# Changes of the configuration: on their way to the leader, and in a CONFIG entry's context. The
# request of MEMBER_UPDATE and of additions is a `members.Member`, of MEMBER_REPLACE the id u64 of
# who goes and the `members.Member` that comes, of the others a member id u64.
MEMBER_UPDATE: Final = 9  # new peer URLs; the configuration stays
MEMBER_ADD: Final = 10
LEARNER_ADD: Final = 11
MEMBER_REMOVE: Final = 12
MEMBER_PROMOTE: Final = 13
MEMBER_REPLACE: Final = 14  # removes a member that is gone and adds a learner, in one step
# Leases. `leases` has the layouts of their requests.
LEASE_GRANT: Final = 16
LEASE_REVOKE: Final = 17
LEASE_CHECKPOINT: Final = 18  # what is left of some, or that they were renewed
LEASE_EXPIRE: Final = 19  # what the leader's clock has decided
PUT_WITH_TTL: Final = 20  # a lease and the put of its only key
SESSION_OPEN: Final = 21  # a lease that is a session (`sessions`)
LEASE_GRANT_DRAWN: Final = 22  # LEASE_GRANT of an id that the proposing member drew
# Upkeep (`upkeep`). The requests of the first and the last are the etcd messages.
ALARM: Final = 24
SPACE: Final = 25  # the quota, and what compactions have removed (`space`)
CHECK: Final = 26  # compare the members' states as they are behind this entry
DOWNGRADE: Final = 27
# Numbers kept for what is built on top of this machine.
AUTH: Final = 32  # 32 to 63

# The proposing member drew the lease's id. If it is taken, the member proposes again with another.
DRAWN_IDS: Final = (LEASE_GRANT_DRAWN, PUT_WITH_TTL, SESSION_OPEN)

ORIGIN: Final = 1
SESSION: Final = 2
IN_SESSION: Final = 256  # added to a command: the session's bytes are in front of its request
_TRIPLE: Final = Struct(">QQQ")
_SESSION_TRIPLE: Final = Struct(">qQQ")
_HEAD_BYTES: Final = 2
_SIZE: Final = _TRIPLE.size

# Bytes before the request, by flags.
REQUEST_AT: Final = (
    _HEAD_BYTES,
    _HEAD_BYTES + _SIZE,
    _HEAD_BYTES + _SIZE,
    _HEAD_BYTES + 2 * _SIZE,
)
PROCESS: Final = slice(_HEAD_BYTES, _HEAD_BYTES + 16)  # an origin's member and boot
_pack = _TRIPLE.pack
_unpack = _TRIPLE.unpack_from
_plain_heads: Final = tuple(bytes((n >> 8 << 1, n & 255)) for n in range(2 * IN_SESSION))
_origin_heads: Final = tuple(bytes((ORIGIN | head[0], head[1])) for head in _plain_heads)

Triple = tuple[int, int, int]


class Command(NamedTuple):
    """A decoded envelope."""

    command: int
    request: bytes
    origin: Triple | None
    session: Triple | None


def encode(
    command: int, request: bytes, origin: Triple | None = None, session: Triple | None = None
) -> bytes:
    """The payload of an entry.

    command: one of this module's numbers, also with IN_SESSION. request: the client's message.
    origin: (member, boot, number). session: (client, sequence, lowest unanswered sequence).
    """
    if session is None:
        if origin is None:
            return _plain_heads[command] + request
        return _origin_heads[command] + _pack(*origin) + request
    if origin is None:
        return bytes((SESSION, command)) + session_bytes(*session) + request
    head = bytes((ORIGIN | SESSION, command))
    return head + _pack(*origin) + session_bytes(*session) + request


def session_bytes(session: int, sequence: int, lowest: int) -> bytes:
    """What stands in front of the request of a command with IN_SESSION.

    session: id of a session, signed. sequence: of the command. lowest: the lowest sequence that
    the client has no answer to.
    """
    return _SESSION_TRIPLE.pack(session, sequence, lowest)


def session(payload: bytes, at: int) -> Triple:
    """(session id, sequence, lowest unanswered sequence) of a payload with the flag SESSION, whose
    request begins at `at`.
    """
    found: Triple = _SESSION_TRIPLE.unpack_from(payload, at - _SIZE)
    return found


def decode(payload: bytes) -> Command:
    """The envelope in `payload`. Raises ProtocolError for unknown flags or too few bytes."""
    at = request_at(payload)
    flags = payload[0]
    origin: Triple | None = None
    asked: Triple | None = None
    if flags & ORIGIN:
        origin = _unpack(payload, _HEAD_BYTES)
    if flags & SESSION:
        asked = session(payload, at)
    return Command(payload[1], payload[at:], origin, asked)


def request_at(payload: bytes) -> int:
    """The place of the request's first byte. Raises ProtocolError as `decode` does."""
    if len(payload) < _HEAD_BYTES or payload[0] > ORIGIN | SESSION:
        raise ProtocolError(f"not a command: {payload[:8]!r}")
    at = REQUEST_AT[payload[0]]
    if len(payload) < at:
        raise ProtocolError(f"a command's head has {len(payload)} bytes, {at} needed")
    return at


def process(member: int, boot: int) -> bytes:
    """What `payload[PROCESS]` is if the command's origin is this process. Without an origin the
    same bytes may be there by chance: ask `origin` then.
    """
    return _pack(member, boot, 0)[:16]


def origin(payload: bytes) -> Triple | None:
    """Who asked: (member, boot, number), None if the command names no origin."""
    if len(payload) >= _HEAD_BYTES + _SIZE and payload[0] & ORIGIN:
        found: Triple = _unpack(payload, _HEAD_BYTES)
        return found
    return None
