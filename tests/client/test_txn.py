"""What transactions and their operations say on the wire."""

import pytest

from raftkv.client import Delete, EmptyKey, Get, Put, SortBy, Txn, key
from raftkv.client.keys import Namespace
from raftkv.pb import rpc_pb2

PLAIN = Namespace()
INSIDE = Namespace(b"app/")


def test_a_transaction_says_its_compares_and_operations() -> None:
    txn = (
        Txn()
        .when(key("a").version > 0, key("a").value == b"1", key("p").prefix().missing())
        .then(Put("a", "2", lease=7, prev_kv=True), Delete("b", "c", prev_kv=True))
        .otherwise(Get("a"), Txn().then(Put("d", ignore_lease=True)))
    )
    compare = rpc_pb2.Compare
    assert txn.request(PLAIN) == rpc_pb2.TxnRequest(
        compare=[
            compare(key=b"a", target=compare.VERSION, result=compare.GREATER, version=0),
            compare(key=b"a", target=compare.VALUE, result=compare.EQUAL, value=b"1"),
            compare(
                key=b"p",
                range_end=b"q",
                target=compare.CREATE,
                result=compare.EQUAL,
                create_revision=0,
            ),
        ],
        success=[
            rpc_pb2.RequestOp(
                request_put=rpc_pb2.PutRequest(key=b"a", value=b"2", lease=7, prev_kv=True)
            ),
            rpc_pb2.RequestOp(
                request_delete_range=rpc_pb2.DeleteRangeRequest(
                    key=b"b", range_end=b"c", prev_kv=True
                )
            ),
        ],
        failure=[
            rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"a")),
            rpc_pb2.RequestOp(
                request_txn=rpc_pb2.TxnRequest(
                    success=[
                        rpc_pb2.RequestOp(
                            request_put=rpc_pb2.PutRequest(key=b"d", ignore_lease=True)
                        )
                    ]
                )
            ),
        ],
    )


def test_a_namespace_stands_before_every_key() -> None:
    txn = Txn().when(key("a").exists()).then(Put("b"), Get("c", prefix=True), Delete("d", b"\0"))
    request = txn.request(INSIDE)
    assert request.compare[0].key == b"app/a"
    put, read, deletion = request.success
    assert put.request_put.key == b"app/b"
    assert (read.request_range.key, read.request_range.range_end) == (b"app/c", b"app/d")
    deleted = deletion.request_delete_range
    assert (deleted.key, deleted.range_end) == (b"app/d", b"app0")


def test_a_nested_transaction_without_operations_is_there_all_the_same() -> None:
    [operation] = Txn().then(Txn()).request(PLAIN).success
    assert operation.WhichOneof("request") == "request_txn"


def test_a_read_says_each_of_its_options() -> None:
    read = Get(
        "a",
        b"\0",
        limit=1,
        revision=2,
        sort_by=SortBy.VALUE,
        descending=True,
        keys_only=True,
        count_only=True,
        serializable=True,
        min_mod_revision=3,
        max_mod_revision=4,
        min_create_revision=5,
        max_create_revision=6,
    )
    assert read.request(PLAIN) == rpc_pb2.RangeRequest(
        key=b"a",
        range_end=b"\0",
        limit=1,
        revision=2,
        sort_order=rpc_pb2.RangeRequest.DESCEND,
        sort_target=rpc_pb2.RangeRequest.VALUE,
        keys_only=True,
        count_only=True,
        serializable=True,
        min_mod_revision=3,
        max_mod_revision=4,
        min_create_revision=5,
        max_create_revision=6,
    )


@pytest.mark.parametrize(
    ("sort_by", "descending", "order", "target"),
    [
        (SortBy.KEY, False, rpc_pb2.RangeRequest.NONE, rpc_pb2.RangeRequest.KEY),
        (SortBy.KEY, True, rpc_pb2.RangeRequest.DESCEND, rpc_pb2.RangeRequest.KEY),
        (SortBy.VERSION, False, rpc_pb2.RangeRequest.ASCEND, rpc_pb2.RangeRequest.VERSION),
        (SortBy.MOD_REVISION, True, rpc_pb2.RangeRequest.DESCEND, rpc_pb2.RangeRequest.MOD),
    ],
)
def test_a_read_says_its_order(sort_by: SortBy, descending: bool, order: int, target: int) -> None:
    request = Get("a", sort_by=sort_by, descending=descending).request(PLAIN)
    assert (request.sort_order, request.sort_target) == (order, target)


@pytest.mark.parametrize("operation", [Get(""), Put(""), Delete("")])
def test_no_operation_goes_without_a_key(operation: Get | Put | Delete) -> None:
    with pytest.raises(EmptyKey):
        Txn().then(operation).request(PLAIN)


@pytest.mark.parametrize(
    ("txn", "writes", "linearizable"),
    [
        (Txn(), False, False),
        (Txn().then(Get("a")), False, True),
        (Txn().then(Get("a", serializable=True)), False, False),
        (Txn().then(Get("a", serializable=True)).otherwise(Get("a")), False, True),
        (Txn().then(Get("a")).otherwise(Put("a")), True, True),
        (Txn().then(Txn().otherwise(Delete("a"))), True, True),
        (Txn().then(Txn().then(Get("a", serializable=True))), False, False),
    ],
)
def test_a_transaction_knows_what_it_does(txn: Txn, writes: bool, linearizable: bool) -> None:
    assert (txn.writes, txn.is_linearizable) == (writes, linearizable)


def test_a_longer_transaction_leaves_the_shorter_one_as_it_was() -> None:
    short = Txn().when(key("a").missing())
    long = short.then(Put("a")).otherwise(Get("a"))
    assert short == Txn(compares=(key("a").create_revision == 0,))
    assert long == Txn(short.compares, (Put("a"),), (Get("a"),))
    with pytest.raises(AttributeError):
        short.success = ()  # type: ignore[misc]
