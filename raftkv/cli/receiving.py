"""A member's snapshot, received into a file and compared with its hash."""

import hashlib
from typing import BinaryIO, Final

from raftkv.cli.connection import Connection, error_text
from raftkv.cli.exits import INTERRUPTED, CtlError
from raftkv.cli.terminal import Progress
from raftkv.pb import rpc_pb2

HASH_BYTES: Final = 32
BLOCK_BYTES: Final = 512  # a snapshot has a multiple of it, then its hash
PATH: Final = "/etcdserverpb.Maintenance/Snapshot"


def receive(connection: Connection, endpoint: str, file: BinaryIO) -> None:
    """Writes what the member sends, and checks it. Errors: CtlError, OSError."""
    import grpc

    request = iter([rpc_pb2.SnapshotRequest()])
    # No "hasleader": a member that has lost the others can still be saved.
    call = connection.stream(endpoint, PATH, request, rpc_pb2.SnapshotResponse, wants_leader=False)
    digest, tail, size = hashlib.sha256(), b"", 0
    try:
        with Progress("saving", None) as bar:
            for piece in call:
                file.write(piece.blob)
                size += len(piece.blob)
                tail += piece.blob  # the last bytes may be the hash: they are not hashed yet
                if len(tail) > HASH_BYTES:
                    digest.update(memoryview(tail)[:-HASH_BYTES])
                    tail = tail[-HASH_BYTES:]
                bar.to(size, size + piece.remaining_bytes)
    except grpc.RpcError as error:
        raise CtlError(error_text(error, endpoint), INTERRUPTED) from None
    if size % BLOCK_BYTES != HASH_BYTES:
        raise CtlError(f"sha256 checksum not found [bytes: {size}]", INTERRUPTED)
    if digest.digest() != tail:
        raise CtlError(f"expected sha256 {tail.hex()}, got {digest.hexdigest()}", INTERRUPTED)
