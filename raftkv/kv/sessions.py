"""Sessions: a client may repeat a write whose outcome it does not know, and it is applied once.

A session is a lease that SESSION_OPEN granted (`leases`). The client numbers its writes from 1 and
says with each one which sequence is the lowest that it has no answer to. A write may be in the log
several times, through different members and leaders; here the order of the log decides what becomes
of each entry (dissertation 6.3):

    no such session                      not carried out, SESSION_NOT_FOUND: it may have been before
    below the lowest unanswered sequence not carried out, SESSION_PASSED
    answered before                      not carried out, the answer of then
    too far above the lowest one         not carried out, SEQUENCE_TOO_HIGH: may be sent again later
    new                                  carried out, and its answer is kept

The lowest unanswered sequence of a session is the highest that any entry has named. What lies below
it is forgotten, so a client that gives a write up and names a higher one has made sure that the
write is not carried out from then on. An error that was decided when the entry was applied is an
answer like any other, but for LEASE_EXISTS where a member drew the id: no client hears of it, for
the member proposes the same sequence with another one.

At most MAX_KEPT_ANSWERS are kept of a session: as many sequences as it may be ahead of its lowest
unanswered one. Of an answer longer than MAX_KEPT_ANSWER_BYTES, or beyond MAX_ALL_KEPT_BYTES of all
sessions, only the revision is kept, within the text that the repeated write is told. All of this
depends on the log alone, so every member keeps the same.

Rows, big-endian; they go to the backend in one write with what their entry changed:

    `s` session+2^63 u64 | 0 u64         -> version u8 | 0 u8 | lowest unanswered sequence u64
    `s` session+2^63 u64 | sequence u64  -> version u8 | 1 u8 | revision u64 | body
                                          | version u8 | 2 u8 | code u8 | outcome u8 | text
"""

from collections.abc import Iterable, Iterator
from struct import Struct
from struct import error as struct_error
from typing import Final
from zlib import crc32

from raftkv.errors import (
    ALREADY_APPLIED,
    LEASE_EXISTS,
    SEQUENCE_TOO_HIGH,
    SESSION_NOT_FOUND,
    SESSION_PASSED,
    ApiError,
    CorruptionError,
    Outcome,
    ProtocolError,
)
from raftkv.kv.answers import Result
from raftkv.kv.commands import DRAWN_IDS, Triple
from raftkv.kv.encoding import SESSION_ROWS
from raftkv.kv.store import Store
from raftkv.limits import MAX_ALL_KEPT_BYTES, MAX_KEPT_ANSWER_BYTES, MAX_KEPT_ANSWERS

SLICE_ROWS: Final = 200  # of a load: each may have MAX_KEPT_ANSWER_BYTES

_VERSION: Final = 1
_LOWEST, _RESULT, _ERROR = range(3)  # kinds of rows
_NAME: Final = Struct(">cQQ")
_ID_OFFSET: Final = 1 << 63
_LOWEST_ROW: Final = Struct(">BBQ")
_RESULT_ROW: Final = Struct(">BBQ")
_ERROR_ROW: Final = Struct(">BBBB")
_OUTCOMES: Final = (Outcome.DEFINITE, Outcome.UNKNOWN)

Answer = Result | ApiError


class Session:
    """lowest: the lowest sequence that may still be carried out or answered. answers: of those that
    were applied, by sequence.
    """

    __slots__ = ("answers", "lowest")

    def __init__(self) -> None:
        self.lowest = 1
        self.answers: dict[int, Answer] = {}


class Sessions:
    """Every session that exists.

    repeated: how many entries were answered without being carried out, since this state was opened.
    """

    __slots__ = ("_store", "by_id", "kept_bytes", "repeated")

    def __init__(self, store: Store) -> None:
        self._store = store
        self.by_id: dict[int, Session] = {}
        self.kept_bytes = 0  # bodies and texts
        self.repeated = 0

    def __len__(self) -> int:
        return len(self.by_id)

    # --- its lease ---------------------------------------------------------------
    def begin(self, number: int) -> None:
        """The lease of a new session was granted."""
        self.by_id[number] = Session()

    def end(self, number: int) -> None:
        """The lease of a session is over, which was hashed: so is what was kept."""
        session = self.by_id.pop(number)
        if session.lowest > 1:
            self._store.pending.append((row_name(number, 0), None))
        self._drop(number, session, session.answers)

    # --- applying ----------------------------------------------------------------
    def repeat(self, asked: Triple) -> Answer | None:
        """What an entry is answered that must not be carried out; None: it is a new one, so carry
        it out and `keep` its answer.

        asked: session id, sequence, lowest unanswered sequence. Raises ProtocolError for what no
        member proposes.
        """
        number, sequence, lowest = asked
        if not 1 <= lowest <= sequence:
            raise ProtocolError(
                f"no proposer asks for sequence {sequence} with {lowest} unanswered"
            )
        answer = self._judge(number, sequence, lowest)
        if answer is None:
            return None
        self.repeated += 1
        session = self.by_id.get(number)
        if session is not None and answer is not SEQUENCE_TOO_HIGH:
            self._advance(number, session, lowest)
        if isinstance(answer, ApiError):
            self._store.hash = crc32(answer.text.encode(), self._store.hash)
        return answer

    def _judge(self, number: int, sequence: int, lowest: int) -> Answer | None:
        if sequence - lowest >= MAX_KEPT_ANSWERS:
            return SEQUENCE_TOO_HIGH
        session = self.by_id.get(number)
        if session is None:
            return SESSION_NOT_FOUND
        if sequence < session.lowest:
            return SESSION_PASSED
        return session.answers.get(sequence)

    def keep(self, asked: Triple, answer: Answer, command: int) -> None:
        """A new entry of this command was carried out, with this answer. Its session may have ended
        by it.
        """
        number, sequence, lowest = asked
        session = self.by_id.get(number)
        if session is None:
            return
        self._advance(number, session, lowest)
        if answer is LEASE_EXISTS and command in DRAWN_IDS:
            return
        if isinstance(answer, Result) and not self._fits(len(answer.body)):
            answer = ALREADY_APPLIED.with_text(
                f"raftkv: already applied at revision {answer.revision}; its answer was too large "
                "to keep"
            )
        session.answers[sequence] = answer
        assert len(session.answers) <= MAX_KEPT_ANSWERS
        self.kept_bytes += _size(answer)
        self._record(row_name(number, sequence), answer_row(answer))

    def _fits(self, size: int) -> bool:
        return size <= MAX_KEPT_ANSWER_BYTES and self.kept_bytes + size <= MAX_ALL_KEPT_BYTES

    def _advance(self, number: int, session: Session, lowest: int) -> None:
        """The client has the answers to everything below `lowest`."""
        if lowest <= session.lowest:
            return
        session.lowest = lowest
        self._record(row_name(number, 0), _LOWEST_ROW.pack(_VERSION, _LOWEST, lowest))
        self._drop(number, session, [one for one in session.answers if one < lowest])

    def _drop(self, number: int, session: Session, sequences: Iterable[int]) -> None:
        for sequence in list(sequences):
            self.kept_bytes -= _size(session.answers.pop(sequence))
            self._store.pending.append((row_name(number, sequence), None))

    def _record(self, name: bytes, value: bytes) -> None:
        self._store.pending.append((name, value))
        self._store.hash = crc32(value, crc32(name, self._store.hash))

    # --- loading -----------------------------------------------------------------
    def load(self, numbers: Iterable[int]) -> Iterator[None]:
        """Fill this from the rows; pauses after every slice of them.

        numbers: ids of the leases that are sessions. Raises CorruptionError for a row that cannot
        be read, and for one of a session that is not there: nothing would ever drop it.
        """
        for number in numbers:
            self.begin(number)
        for count, (name, value) in enumerate(self._store.backend.scan(*SESSION_ROWS), 1):
            self._load_row(name, value)
            if count % SLICE_ROWS == 0:
                yield

    def _load_row(self, name: bytes, value: bytes) -> None:
        number, sequence, content = parse_row(name, value)
        session = self.by_id.get(number)
        if session is None:
            raise CorruptionError(f"an answer is kept of session {number}, which does not exist")
        if isinstance(content, int):
            session.lowest = content
        else:
            session.answers[sequence] = content
            self.kept_bytes += _size(content)


def _size(answer: Answer) -> int:
    """What counts of an answer against MAX_ALL_KEPT_BYTES."""
    return len(answer.body) if isinstance(answer, Result) else len(answer.text.encode())


# --- rows ------------------------------------------------------------------------
def row_name(session: int, sequence: int) -> bytes:
    """The key of an answer's row; sequence 0: of the row of the lowest unanswered sequence."""
    return _NAME.pack(b"s", session + _ID_OFFSET, sequence)


def answer_row(answer: Answer) -> bytes:
    """The value of an answer's row."""
    if isinstance(answer, Result):
        return _RESULT_ROW.pack(_VERSION, _RESULT, answer.revision) + answer.body
    outcome = _OUTCOMES.index(answer.outcome)
    return _ERROR_ROW.pack(_VERSION, _ERROR, answer.code, outcome) + answer.text.encode()


def parse_row(name: bytes, value: bytes) -> tuple[int, int, Answer | int]:
    """Session id, sequence, and the answer, or with sequence 0 the lowest unanswered sequence.

    Raises CorruptionError for a row that this version did not write.
    """
    try:
        _, session, sequence = _NAME.unpack(name)
        version, kind = value[:2]
        content: Answer | int
        if kind == _LOWEST:
            content = _LOWEST_ROW.unpack(value)[2]
        elif kind == _RESULT:
            revision = _RESULT_ROW.unpack_from(value)[2]
            content = Result(revision, value[_RESULT_ROW.size :])
        else:
            _, _, code, outcome = _ERROR_ROW.unpack_from(value)
            content = ApiError(code, value[_ERROR_ROW.size :].decode(), _OUTCOMES[outcome])
        well = version == _VERSION and kind <= _ERROR and (sequence == 0) == (kind == _LOWEST)
    except (struct_error, ValueError, IndexError):
        well = False
    if not well:
        raise CorruptionError(f"the row {name!r} holds no answer that this version knows")
    return session - _ID_OFFSET, sequence, content
