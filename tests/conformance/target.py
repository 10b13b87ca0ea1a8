"""A server as the conformance tests see it: one unary call in, one exact answer out."""

from dataclasses import dataclass
from typing import Final, Self

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from raftkv.pb import rpc_pb2

TIMEOUT_SECONDS: Final = 40.0


def _unary_methods() -> dict[str, tuple[str, type[Message]]]:
    """Request message name -> (path, class of the answer), for every unary call of rpc.proto."""
    return {
        method.input_type.full_name: (
            f"/{service.full_name}/{method.name}",
            message_factory.GetMessageClass(method.output_type),
        )
        for service in rpc_pb2.DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not method.client_streaming and not method.server_streaming
    }


METHODS: Final = _unary_methods()


@dataclass(frozen=True)
class Answer:
    """What came back: OK with a message, or a status code's name with its exact text."""

    code: str
    text: str = ""
    message: Message | None = None


class Pending:
    """A call under way."""

    def __init__(self, future: grpc.Future) -> None:
        self._future = future

    def answer(self) -> Answer:
        """Waits for the answer. An error status is an answer too."""
        try:
            return Answer("OK", message=self._future.result())
        except grpc.RpcError as error:
            return Answer(error.code().name, error.details() or "")


class Target:
    """A connection to one node."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.channel = grpc.insecure_channel(
            endpoint,
            [
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._calls = {
            name: self.channel.unary_unary(
                path,
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=answer.FromString,
            )
            for name, (path, answer) in METHODS.items()
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.channel.close()

    def send(self, request: Message) -> Pending:
        """Starts the unary call that takes this request."""
        call = self._calls[request.DESCRIPTOR.full_name]
        return Pending(call.future(request, timeout=TIMEOUT_SECONDS))

    def call(self, request: Message) -> Answer:
        """The answer of the unary call that takes this request."""
        return self.send(request).answer()
