"""Writes that are applied once: from a call's metadata to a proposal in a session.

    raftkv-session      the session's id (`raftkv.v1.Sessions`), decimal, signed
    raftkv-sequence     the write's number in the session, decimal, 1 or more
    raftkv-unanswered   the lowest sequence that the client has no answer to, 1 to raftkv-sequence

All three or none. What becomes of such a write is decided where it is applied (`kv.sessions`): a
repetition may come through another member while the first attempt is still in some log.
"""

import re
from collections.abc import Mapping
from typing import Final

from raftkv.errors import SEQUENCE_TOO_HIGH, SESSION_MALFORMED, ApiError
from raftkv.kv.commands import IN_SESSION, session_bytes
from raftkv.limits import MAX_KEPT_ANSWERS
from raftkv.replica.effects import Ticket
from raftkv.server.services.context import Context
from raftkv.wire.grpc import RequestHead

_MAX_ID: Final = (1 << 63) - 1
_ID: Final = re.compile(rb"-?[0-9]{1,19}").fullmatch
_SEQUENCE: Final = re.compile(rb"[0-9]{1,19}").fullmatch


def propose_once(
    context: Context, head: RequestHead, command: int, request: bytes, ticket: Ticket
) -> ApiError | None:
    """`Replica.propose`, in the session that the call's metadata names, if it names one."""
    if not head.in_session:
        return context.propose(command, request, ticket)
    session = read_session(head.metadata)
    if isinstance(session, ApiError):
        return session
    return context.propose(command + IN_SESSION, session + request, ticket)


def read_session(metadata: Mapping[bytes, bytes]) -> bytes | ApiError:
    """What stands in front of a request in a session (`commands.session_bytes`).

    metadata: of the call. Errors: SESSION_MALFORMED; SEQUENCE_TOO_HIGH, which spares the log an
    entry that would not be carried out.
    """
    number = metadata.get(b"raftkv-session", b"")
    first = metadata.get(b"raftkv-sequence", b"")
    second = metadata.get(b"raftkv-unanswered", b"")
    if _ID(number) is None or _SEQUENCE(first) is None or _SEQUENCE(second) is None:
        return SESSION_MALFORMED
    session, sequence, lowest = int(number), int(first), int(second)
    if not -_MAX_ID - 1 <= session <= _MAX_ID or not 1 <= lowest <= sequence <= _MAX_ID:
        return SESSION_MALFORMED
    if sequence - lowest >= MAX_KEPT_ANSWERS:
        return SEQUENCE_TOO_HIGH
    return session_bytes(session, sequence, lowest)
