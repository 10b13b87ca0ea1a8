"""Who dials: the member behind a connection to a peer port, read from its first bytes.

All members dial another one at the same address, its advertised peer URL. So a proxy in between
learns who is at the other end from what is said first: a stream's metadata names its sender, an
Identify request names the asking member or its peer URLs.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from google.protobuf.message import DecodeError

from raftkv.pb import peer_pb2
from raftkv.server.links import IDENTIFY_PATH, link_limits
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection

STRANGER: Final = -1  # instead of an index: somebody who is none of the first members
_UNARY: Final = frozenset({IDENTIFY_PATH})


class MemberNames:
    """Finds the index of the member that opened a connection.

    members: member ids of the first members, in order. urls: their advertised peer URLs, in order.
    """

    def __init__(self, members: Iterable[int], urls: Iterable[str]) -> None:
        self._by_id: dict[int, int] = {number: index for index, number in enumerate(members)}
        self._by_url: Mapping[str, int] = {url: index for index, url in enumerate(urls)}

    def learn(self, member: int, index: int) -> None:
        """Another member id stands for this index from now on: its member was replaced."""
        self._by_id[member] = index

    def __call__(self, first_bytes: bytes) -> int | None:
        """The dialling member's index or STRANGER; None while the bytes do not say it yet."""
        reader = _Reader()
        connection = ServerConnection(reader, _UNARY, link_limits())
        connection.receive(first_bytes, 0.0)
        if reader.sender in self._by_id:
            return self._by_id[reader.sender]
        for url in reader.urls:
            if url in self._by_url:
                return self._by_url[url]
        return STRANGER if reader.called or connection.closing else None


class _Reader:
    """The handler that only looks (wire.grpc.ServerHandler)."""

    def __init__(self) -> None:
        self.called = False
        self.sender = 0
        self.urls: list[str] = []

    def unary(self, stream: int, head: RequestHead, message: bytes) -> None:
        """Identify."""
        self.called = True
        try:
            request = peer_pb2.IdentifyRequest.FromString(message)
        except DecodeError:
            return
        self.sender = request.member_id
        self.urls = list(request.peer_urls)

    def opened(self, stream: int, head: RequestHead) -> None:
        """A stream of messages."""
        self.called = True
        try:
            self.sender = int(head.metadata.get(b"raftkv-member", b"0"), 16)
        except ValueError:
            return

    def message(self, stream: int, message: bytes) -> None:
        """Of no interest."""

    def half_closed(self, stream: int) -> None:
        """Of no interest."""

    def cancelled(self, stream: int) -> None:
        """Of no interest."""

    def writable(self, stream: int) -> None:
        """Of no interest."""
