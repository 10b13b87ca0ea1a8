"""Short names for what the tests of sessions do to a machine."""

from typing import Any

from raftkv.errors import ApiError
from raftkv.kv import commands, leases
from raftkv.kv.backend import Row
from raftkv.kv.encoding import SESSION_ROWS
from raftkv.kv.machine import StateMachine
from raftkv.pb import rpc_pb2 as pb
from tests.kv.adapter import Driver
from tests.kv.leasing import ok

SESSION = 77
Asked = tuple[int, int, int]  # session, sequence, lowest unanswered


def payload(command: int, request: bytes, asked: Asked) -> bytes:
    """An entry's payload."""
    return commands.encode(command, request, None, asked)


def opened(session: int = SESSION, driver: Driver | None = None) -> Driver:
    """A machine on which a session is open."""
    driver = driver or Driver()
    ok(begin(driver, session))
    return driver


def begin(driver: Driver, session: int, ttl_ms: int = 60_000) -> Any:
    """SESSION_OPEN."""
    return driver.command(commands.SESSION_OPEN, leases.grant_request(session, ttl_ms))


def put(
    driver: Driver, sequence: int, lowest: int = 1, session: int = SESSION, **fields: Any
) -> Any:
    """A put in a session; of the key "k" if nothing is said."""
    request = pb.PutRequest(**({"key": b"k", "value": b"v"} | fields)).SerializeToString()
    return driver.entry(payload(commands.PUT, request, (session, sequence, lowest)))


def once(driver: Driver, command: int, request: bytes, sequence: int, lowest: int = 1) -> Any:
    """Any command in the session."""
    return driver.entry(payload(command, request, (SESSION, sequence, lowest)))


def version(subject: StateMachine, key: bytes = b"k") -> int:
    """How often a key was put since it was created; 0: it does not exist."""
    record = subject.store.latest(key)
    return 0 if record is None else record[3]


def session_rows(subject: StateMachine) -> list[tuple[bytes, bytes]]:
    """What the backend has of sessions."""
    subject.flush()
    return list(subject.backend.scan(*SESSION_ROWS))


def pending_session_rows(subject: StateMachine) -> list[Row]:
    """Rows of sessions that the backend does not have yet."""
    return [row for row in subject.store.pending if row[0][:1] == b"s"]


def kept(subject: StateMachine, session: int = SESSION) -> dict[int, Any]:
    """What a session keeps, with errors as what they say."""
    return {
        sequence: (answer.code, answer.text, answer.outcome)
        if isinstance(answer, ApiError)
        else answer
        for sequence, answer in subject.sessions.by_id[session].answers.items()
    }
