"""Short names for what the fact tests do: requests below a prefix of their own, and answers."""

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from raftkv.pb import rpc_pb2
from tests.conformance.target import Target

M = TypeVar("M", bound=Message)

INVALID = "INVALID_ARGUMENT"
OUT_OF_RANGE = "OUT_OF_RANGE"
FUTURE = (OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
COMPACTED = (OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
NO_KEY = (INVALID, "etcdserver: key is not provided")
KEY_NOT_FOUND = (INVALID, "etcdserver: key not found")
DUPLICATE_KEY = (INVALID, "etcdserver: duplicate key given in txn request")
TOO_MANY_OPS = (INVALID, "etcdserver: too many operations in txn request")
TOO_LARGE = (INVALID, "etcdserver: request is too large")
VALUE_PROVIDED = (INVALID, "etcdserver: value is provided")
LEASE_PROVIDED = (INVALID, "etcdserver: lease is provided")
NO_LEASE = ("NOT_FOUND", "etcdserver: requested lease not found")

NO_SUCH_LEASE = 4711

Op = rpc_pb2.RequestOp
Compare = rpc_pb2.Compare
Range = rpc_pb2.RangeRequest


class Store:
    """One server, and the keys below `prefix`, which no other test touches."""

    def __init__(self, target: Target, prefix: bytes) -> None:
        self.target = target
        self.prefix = prefix

    def key(self, name: str = "") -> bytes:
        """A key of this test."""
        return self.prefix + name.encode()

    @property
    def end(self) -> bytes:
        """The range end behind all keys of this test."""
        return self.prefix[:-1] + bytes([self.prefix[-1] + 1])

    def call(self, request: Message, kind: type[M]) -> M:
        """The answer, which must be OK and of this class."""
        answer = self.target.call(request)
        assert answer.code == "OK", (str(request)[:300], answer.code, answer.text)
        assert isinstance(answer.message, kind)
        return answer.message

    def fails(self, request: Message) -> tuple[str, str]:
        """The status code's name and text of a call that must fail."""
        answer = self.target.call(request)
        assert answer.code != "OK", (str(request)[:300], str(answer.message)[:300])
        return answer.code, answer.text

    # --- calls ----------------------------------------------------------------

    def put(self, name: str, value: bytes = b"", **options: Any) -> rpc_pb2.PutResponse:
        return self.call(self.put_of(name, value, **options), rpc_pb2.PutResponse)

    def range(self, name: str = "", **options: Any) -> rpc_pb2.RangeResponse:
        """Of one key, or with no name of all keys of this test."""
        return self.call(self.range_of(name, **options), rpc_pb2.RangeResponse)

    def delete(self, name: str = "", **options: Any) -> rpc_pb2.DeleteRangeResponse:
        """Of one key, or with no name of all keys of this test."""
        return self.call(self.delete_of(name, **options), rpc_pb2.DeleteRangeResponse)

    def txn(
        self,
        *success: rpc_pb2.RequestOp,
        compare: Sequence[rpc_pb2.Compare] = (),
        failure: Sequence[rpc_pb2.RequestOp] = (),
    ) -> rpc_pb2.TxnResponse:
        request = rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure)
        return self.call(request, rpc_pb2.TxnResponse)

    def compact(self, revision: int) -> rpc_pb2.CompactionResponse:
        request = rpc_pb2.CompactionRequest(revision=revision)
        return self.call(request, rpc_pb2.CompactionResponse)

    def holds(self, compare: rpc_pb2.Compare) -> bool:
        """What the server says to a comparison."""
        return self.txn(compare=[compare]).succeeded

    # --- requests -------------------------------------------------------------

    def put_of(self, name: str, value: bytes = b"", **options: Any) -> rpc_pb2.PutRequest:
        return rpc_pb2.PutRequest(key=self.key(name), value=value, **options)

    def range_of(self, name: str = "", **options: Any) -> rpc_pb2.RangeRequest:
        if not name:
            options.setdefault("range_end", self.end)
        return rpc_pb2.RangeRequest(key=self.key(name), **options)

    def delete_of(self, name: str = "", **options: Any) -> rpc_pb2.DeleteRangeRequest:
        if not name:
            options.setdefault("range_end", self.end)
        return rpc_pb2.DeleteRangeRequest(key=self.key(name), **options)

    def op_put(self, name: str, value: bytes = b"", **options: Any) -> rpc_pb2.RequestOp:
        return Op(request_put=self.put_of(name, value, **options))

    def op_range(self, name: str = "", **options: Any) -> rpc_pb2.RequestOp:
        return Op(request_range=self.range_of(name, **options))

    def op_delete(self, name: str = "", **options: Any) -> rpc_pb2.RequestOp:
        return Op(request_delete_range=self.delete_of(name, **options))

    def compare(self, name: str, **options: Any) -> rpc_pb2.Compare:
        return Compare(key=self.key(name), **options)

    def names(self, answer: rpc_pb2.RangeResponse) -> list[str]:
        """The names of the keys of an answer, in its order."""
        return [kv.key.removeprefix(self.prefix).decode() for kv in answer.kvs]


def op_txn(
    *success: rpc_pb2.RequestOp,
    compare: Sequence[rpc_pb2.Compare] = (),
    failure: Sequence[rpc_pb2.RequestOp] = (),
) -> rpc_pb2.RequestOp:
    """A nested transaction."""
    return Op(request_txn=rpc_pb2.TxnRequest(compare=compare, success=success, failure=failure))
