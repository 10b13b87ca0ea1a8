"""A client of HTTP that sends exactly the bytes it is told to, and reads the answers."""

import socket
from typing import Final, NamedTuple, Self

SECONDS: Final = 30.0


class Answer(NamedTuple):
    """status: the whole status line. headers: in lower case. body: without its chunks' borders."""

    status: str
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> int:
        """The number in the status line."""
        return int(self.status.split()[1])


def request(
    path: str, body: bytes | str = b"", *, method: str = "POST", headers: str = "", host: str = "x"
) -> bytes:
    """The bytes of a request. headers: whole lines, each with its end."""
    data = body.encode() if isinstance(body, str) else body
    return (
        f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {len(data)}\r\n\r\n"
    ).encode() + data


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Writes bytes."""
        self._socket.sendall(data)

    def half_close(self) -> None:
        """Says that no more comes."""
        self._socket.shutdown(socket.SHUT_WR)

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise EOFError(self._rest)
        self._rest += data

    def line(self) -> bytes:
        """The next line without its end. Raises EOFError."""
        while b"\n" not in self._rest:
            self._more()
        line, _, self._rest = self._rest.partition(b"\n")
        return line.rstrip(b"\r")

    def take(self, count: int) -> bytes:
        """The next bytes. Raises EOFError."""
        while len(self._rest) < count:
            self._more()
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def some(self) -> bytes:
        """Whatever has come, at least a byte. Raises EOFError."""
        if not self._rest:
            self._more()
        return self.take(len(self._rest))

    def rest(self) -> bytes:
        """Everything until the server closes."""
        try:
            while True:
                self._more()
        except (EOFError, ConnectionResetError):
            return self.take(len(self._rest))

    def head(self) -> tuple[str, dict[str, str]]:
        """A status line and fields."""
        status, headers = self.line().decode("latin-1"), {}
        while line := self.line().decode("latin-1"):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers

    def chunk(self) -> bytes:
        """The next chunk of a body; b"" is its end."""
        size = int(self.line(), 16)
        data = self.take(size)
        self.take(2)
        return data

    def answer(self, method: str = "POST") -> Answer:
        """A whole answer."""
        status, headers = self.head()
        if status.split()[1] == "100":
            status, headers = self.head()
        if method == "HEAD":
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            body = b"".join(iter(self.chunk, b""))
        elif "content-length" in headers:
            body = self.take(int(headers["content-length"]))
        else:
            body = self.rest()
        return Answer(status, headers, body)


def ask(port: int, data: bytes) -> Answer:
    """Sends one request on a connection of its own."""
    with Wire(port) as wire:
        wire.send(data)
        return wire.answer(data.split(b" ", 1)[0].decode("latin-1"))


def post(port: int, path: str, body: bytes | str = b"", headers: str = "") -> Answer:
    """One call of the gateway."""
    return ask(port, request(path, body, headers=headers))


def get(port: int, path: str, headers: str = "") -> Answer:
    """One page."""
    return ask(port, request(path, method="GET", headers=headers))
