"""A range read in pages of one revision.

The first page settles the revision (unless one is asked for), and every other page is read there,
so what comes is the state of one moment however long the reading takes. A compaction beyond that
revision ends it with an error, never with a gap.
"""

from collections.abc import Iterator
from typing import Final

from raftkv.cli.connection import CallFailed, Connection
from raftkv.pb import kv_pb2, rpc_pb2

PAGE_KEYS: Final = 500
EVERYTHING: Final = b"\0"  # as a range's end: no end
COMPACTED_TEXT: Final = "etcdserver: mvcc: required revision has been compacted"


class Pages:
    """The pairs of a range.

    key, range_end: as in RangeRequest. revision: 0 for the newest; `begin` settles it.
    count: of pairs in the range; known after `begin`.
    """

    def __init__(
        self,
        connection: Connection,
        key: bytes,
        range_end: bytes,
        revision: int = 0,
        keys_only: bool = False,
    ) -> None:
        self.revision = revision
        self.count = 0
        self._connection = connection
        self._key, self._range_end = key, range_end
        self._keys_only = keys_only

    def begin(self) -> "Pages":
        """Reads the first page. Errors: CallFailed."""
        self._page = self._read(self._key)
        self.revision = self.revision or self._page.header.revision
        self.count = self._page.count
        return self

    def pairs(self) -> Iterator[kv_pb2.KeyValue]:
        """In the order of their keys, after `begin`. Errors: CallFailed."""
        page = self._page
        while True:
            yield from page.kvs
            if not page.more:
                return
            page = self._read(page.kvs[-1].key + b"\0")

    def _read(self, start: bytes) -> rpc_pb2.RangeResponse:
        request = rpc_pb2.RangeRequest(
            key=start,
            range_end=self._range_end,
            revision=self.revision,
            limit=PAGE_KEYS,
            keys_only=self._keys_only,
        )
        return self._connection.read("KV/Range", request, rpc_pb2.RangeResponse)


def compacted_revision(connection: Connection) -> int | None:
    """The revision that history was forgotten up to; 0: none. None: the server does not say.

    At that revision the state can still be read. Errors: CallFailed.
    """
    from raftkv.pb import inspect_pb2

    try:
        reply = connection.read(
            "/raftkv.v1.Inspect/Inspect",
            inspect_pb2.InspectRequest(),
            inspect_pb2.InspectResponse,
        )
    except CallFailed as error:
        if error.text.startswith("rpc error: code = Unimplemented"):
            return None
        raise
    return reply.compacted_revision
