"""One call to one server over a plain socket: enough to ask who leads, without grpcio.

Importing grpcio would cost more than starting a node, and its channels keep threads. This
is the wire package's client half on a blocking socket: connect, one unary call, close.
"""

import socket
import time
from typing import Final, TypeVar

from google.protobuf.message import Message

from raftkv.errors import Code
from raftkv.pb import rpc_pb2
from raftkv.wire.h2_client import ClientConnection

_READ_BYTES: Final = 64 * 1024
_Answer = TypeVar("_Answer", bound=Message)


class CallFailed(Exception):
    """The call had no good answer. code: its gRPC status; UNAVAILABLE without a connection."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class _Caller:
    """The handler of one call (wire.h2_client.ClientHandler)."""

    def __init__(self) -> None:
        self.answer = b""
        self.ended: tuple[int, str] | None = None

    def headers(self, stream: int) -> None:
        """Nothing to do."""

    def message(self, stream: int, message: bytes) -> None:
        """The answer."""
        self.answer = message

    def finished(self, stream: int, code: int, text: str) -> None:
        """The call's status."""
        self.ended = (code, text)


def call(
    address: tuple[str, int],
    path: str,
    request: Message,
    answer: type[_Answer],
    timeout_seconds: float,
) -> _Answer:
    """A unary call of `path` ("/package.Service/Method"). Raises CallFailed."""
    deadline = time.monotonic() + timeout_seconds
    caller = _Caller()
    connection = ClientConnection(caller, f"{address[0]}:{address[1]}".encode())
    connection.request(
        path.encode(), request.SerializeToString(), end=True, timeout=timeout_seconds
    )
    try:
        with socket.create_connection(address, timeout_seconds) as sock:
            while caller.ended is None:
                sock.sendall(connection.take_output())
                sock.settimeout(max(deadline - time.monotonic(), 0.001))
                chunk = sock.recv(_READ_BYTES)
                if not chunk:
                    raise CallFailed(Code.UNAVAILABLE, "the connection was closed")
                connection.receive(chunk, 0.0)
    except TimeoutError:
        raise CallFailed(Code.DEADLINE_EXCEEDED, f"no answer in {timeout_seconds:g} s") from None
    except OSError as error:
        raise CallFailed(Code.UNAVAILABLE, error.strerror or str(error)) from None
    code, text = caller.ended
    if code != Code.OK:
        raise CallFailed(code, text)
    return answer.FromString(caller.answer)


def status(address: tuple[str, int], timeout_seconds: float) -> rpc_pb2.StatusResponse:
    """What a member says of itself: its id, term and whom it follows. Raises CallFailed."""
    path, request = "/etcdserverpb.Maintenance/Status", rpc_pb2.StatusRequest()
    return call(address, path, request, rpc_pb2.StatusResponse, timeout_seconds)


def read(address: tuple[str, int], timeout_seconds: float) -> rpc_pb2.RangeResponse:
    """A linearizable read at a member, which a majority must confirm. Raises CallFailed."""
    request = rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0", limit=1, keys_only=True)
    return call(address, "/etcdserverpb.KV/Range", request, rpc_pb2.RangeResponse, timeout_seconds)


def leases(address: tuple[str, int], timeout_seconds: float) -> list[int]:
    """The ids of all leases. Raises CallFailed."""
    path, request = "/etcdserverpb.Lease/LeaseLeases", rpc_pb2.LeaseLeasesRequest()
    reply = call(address, path, request, rpc_pb2.LeaseLeasesResponse, timeout_seconds)
    return [lease.ID for lease in reply.leases]


def clear(address: tuple[str, int], timeout_seconds: float) -> None:
    """Revokes all leases, then deletes all keys; writes nothing if there are none. CallFailed.

    timeout_seconds: for each of the calls.
    """
    for lease in leases(address, timeout_seconds):
        path, revoke = "/etcdserverpb.Lease/LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=lease)
        try:
            call(address, path, revoke, rpc_pb2.LeaseRevokeResponse, timeout_seconds)
        except CallFailed as failure:
            if failure.code != Code.NOT_FOUND:  # it has expired meanwhile
                raise
    if read(address, timeout_seconds).kvs:
        path = "/etcdserverpb.KV/DeleteRange"
        delete = rpc_pb2.DeleteRangeRequest(key=b"\0", range_end=b"\0")
        call(address, path, delete, rpc_pb2.DeleteRangeResponse, timeout_seconds)
