"""A request, and its way back: what pages see of a connection, whether HTTP/1.1 or HTTP/2."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]
Fields: TypeAlias = tuple[Field, ...]

TEXT: Final[Field] = (b"Content-Type", b"text/plain; charset=utf-8")
JSON: Final[Field] = (b"Content-Type", b"application/json")
NOSNIFF: Final[Field] = (b"X-Content-Type-Options", b"nosniff")
OF_TEXT: Final[Fields] = (TEXT, NOSNIFF)

REASONS: Final = {
    **{status.value: status.phrase.encode() for status in HTTPStatus},
    413: b"Request Entity Too Large",
}


class Request:
    """What a client asks for.

    method: as it was written. path: percent-decoded, without the query. query: behind the "?",
    as it was written. headers: lower-case names; repeated values are joined by ", ". secure:
    it came over TLS.
    """

    __slots__ = ("headers", "method", "path", "query", "secure")

    def __init__(
        self, method: bytes, path: str, query: str, headers: dict[bytes, bytes], secure: bool
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.secure = secure

    @property
    def host(self) -> str:
        """The host that was asked for, without its port, as text."""
        host = self.headers.get(b"host", b"").decode("latin-1")
        if host.startswith("["):
            return host[1:].partition("]")[0]
        return host.rpartition(":")[0] if host.count(":") == 1 else host


class Exchange(Protocol):
    """One request's way back. Whatever is said after its end is dropped.

    extra: fields that go into the head besides those of `respond` and `begin`.
    """

    extra: Fields

    def respond(self, status: int, fields: Fields, body: bytes) -> None:
        """The whole answer."""

    def begin(self, status: int, fields: Fields) -> None:
        """The head of an answer whose length is not known; `write_all` and `end` follow."""

    def write_all(self, pieces: Iterable[bytes]) -> None:
        """Pieces of the body, none of them empty."""

    def end(self) -> None:
        """The answer is complete."""

    def queued_bytes(self) -> int:
        """What the client has not taken yet."""

    @property
    def is_open(self) -> bool:
        """Whether the client still waits for (more of) the answer."""


class Receiver(Protocol):
    """Who hears a request's body and answers.

    streams: the body may take as long as the client likes.
    lasting: the answer may, so a client that says no more counts as gone.
    """

    streams: bool

    @property
    def lasting(self) -> bool:
        """See the class."""

    def piece(self, data: bytes) -> None:
        """The next bytes of the body."""

    def ended(self) -> None:
        """The body is complete."""

    def lost(self) -> None:
        """The client is gone: nothing can be answered."""

    def writable(self) -> None:
        """The client has taken most of what was written."""


class Answered:
    """The receiver of a request that was answered by its head: its body is skipped."""

    streams = False
    lasting = False

    def piece(self, data: bytes) -> None:
        """Of no interest."""

    def ended(self) -> None:
        """Of no interest."""

    def lost(self) -> None:
        """There is nothing to give up."""

    def writable(self) -> None:
        """All was written."""


ANSWERED: Final = Answered()


def plain_error(status: int, text: str = "") -> tuple[int, Fields, bytes]:
    """An error as Go's http.Error writes it; without a text it says the status."""
    words = text.encode() if text else REASONS[status]
    return status, OF_TEXT, words + b"\n"
