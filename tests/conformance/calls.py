"""Every RPC of the API, from the descriptors, and what a server says to an empty call of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import grpc
from google.protobuf.descriptor import MethodDescriptor

from raftkv.pb import election_pb2, health_pb2, lock_pb2, rpc_pb2

FILES: Final = (rpc_pb2, lock_pb2, election_pb2, health_pb2)
ANSWER_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Rpc:
    """One method. `name` as in the README: "KV.Range"."""

    name: str
    path: str
    client_streams: bool
    server_streams: bool


def every_rpc() -> Iterator[Rpc]:
    """All methods of the public services, in the order of their files."""
    for module in FILES:
        for service in module.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield _rpc(method)


def _rpc(method: MethodDescriptor) -> Rpc:
    service = method.containing_service
    return Rpc(
        name=f"{service.name}.{method.name}",
        path=f"/{service.full_name}/{method.name}",
        client_streams=method.client_streaming,
        server_streams=method.server_streaming,
    )


def status_of_empty_call(channel: grpc.Channel, rpc: Rpc) -> grpc.StatusCode:
    """Sends one empty message and gives the status; OK as soon as a stream answers anything.

    A stream that is open but silent ends with DEADLINE_EXCEEDED.
    """
    try:
        if rpc.client_streams:
            stream = channel.stream_stream(rpc.path)(iter([b""]), timeout=ANSWER_SECONDS)
        elif rpc.server_streams:
            stream = channel.unary_stream(rpc.path)(b"", timeout=ANSWER_SECONDS)
        else:
            channel.unary_unary(rpc.path)(b"", timeout=5 * ANSWER_SECONDS)
            return grpc.StatusCode.OK
        next(stream, None)
        stream.cancel()
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK
