"""What etcd answers to transactions, line by line."""

import pytest

from raftkv.pb import rpc_pb2
from tests.conformance.store import (
    DUPLICATE_KEY,
    FUTURE,
    KEY_NOT_FOUND,
    NO_KEY,
    NO_LEASE,
    NO_SUCH_LEASE,
    TOO_MANY_OPS,
    VALUE_PROVIDED,
    Compare,
    Op,
    Range,
    Store,
    op_txn,
)

RESULTS = (Compare.EQUAL, Compare.GREATER, Compare.LESS, Compare.NOT_EQUAL)
Txn = rpc_pb2.TxnRequest


# --- answers --------------------------------------------------------------------


def test_only_the_outer_header_is_full(store: Store) -> None:
    answer = store.txn(
        store.op_put("a"), store.op_range("a"), store.op_delete("b"), op_txn(store.op_range("a"))
    )
    assert min(answer.header.cluster_id, answer.header.member_id, answer.header.raft_term) > 0
    revision = rpc_pb2.ResponseHeader(revision=answer.header.revision)
    put, read, deleted, nested = answer.responses
    assert put.response_put.header == revision
    assert read.response_range.header == revision
    assert deleted.response_delete_range.header == revision
    assert nested.response_txn.HasField("header")
    assert nested.response_txn.header == rpc_pb2.ResponseHeader()


def test_a_range_reports_the_revision_before_the_first_write_or_the_new_one(store: Store) -> None:
    old = store.put("a").header.revision
    answer = store.txn(store.op_range("a"), store.op_put("a"), store.op_range("a"))
    revisions = [
        r.response_range.header.revision for r in (answer.responses[0], answer.responses[2])
    ]
    assert revisions == [old, old + 1]


def test_reads_see_the_writes_before_them(store: Store) -> None:
    store.put("a", b"old")
    answer = store.txn(
        store.op_range("a"), store.op_put("a", b"new"), store.op_range("a"), store.op_range("b")
    )
    read = [r.response_range for r in answer.responses if r.HasField("response_range")]
    assert [[kv.value for kv in one.kvs] for one in read] == [[b"old"], [b"new"], []]
    deleted = store.txn(store.op_delete("a"), store.op_range("a"))
    assert deleted.responses[1].response_range.count == 0


def test_all_writes_of_a_txn_share_a_revision(store: Store) -> None:
    revision = store.txn(store.op_put("a"), op_txn(store.op_put("b"))).header.revision
    assert [kv.mod_revision for kv in store.range().kvs] == [revision, revision]


def test_an_empty_txn_succeeds(store: Store) -> None:
    answer = store.txn()
    assert (answer.succeeded, list(answer.responses)) == (True, [])


def test_the_branch_is_chosen_by_all_compares(store: Store) -> None:
    store.put("a", b"1")
    true = store.compare("a", target=Compare.VALUE, value=b"1")
    false = store.compare("a", target=Compare.VALUE, value=b"2")
    for compares, taken in (([true], True), ([true, false], False), ([false], False)):
        answer = store.txn(store.op_put("s"), compare=compares, failure=[store.op_range("a")])
        assert answer.succeeded is taken
        assert answer.responses[0].HasField("response_put") is taken


def test_a_nested_txn_compares_against_the_state_before_the_whole_txn(store: Store) -> None:
    is_new = store.compare("a", target=Compare.VALUE, value=b"new")
    answer = store.txn(store.op_put("a", b"new"), op_txn(store.op_range("a"), compare=[is_new]))
    assert answer.responses[1].response_txn.succeeded is False
    outside = store.txn(op_txn(store.op_range("a"), compare=[is_new]))
    assert outside.responses[0].response_txn.succeeded is True


# --- compares -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "field"),
    [
        (Compare.VERSION, "version"),
        (Compare.CREATE, "create_revision"),
        (Compare.MOD, "mod_revision"),
        (Compare.LEASE, "lease"),
    ],
)
def test_compares_read_stored_op_given(
    store: Store, target: rpc_pb2.Compare.CompareTarget, field: str
) -> None:
    store.put("a")
    stored = getattr(store.range("a").kvs[0], field)
    truth = {
        stored: [True, False, False, False],
        stored + 1: [False, False, True, True],
        stored - 1: [False, True, False, True],
    }
    for given, expected in truth.items():
        assert expected[:3].count(True) == 1 or given == stored
        got = [
            store.holds(store.compare("a", target=target, result=result, **{field: given}))
            for result in RESULTS
        ]
        assert got == expected


def test_values_compare_as_bytes(store: Store) -> None:
    store.put("a", b"m")
    got = [
        store.holds(store.compare("a", target=Compare.VALUE, result=result, value=value))
        for value in (b"l\xff", b"m", b"m\x00")
        for result in RESULTS
    ]
    assert got == [False, True, False, True, True, False, False, False, False, False, True, True]


def test_a_value_compare_on_an_absent_key_is_false_whatever_it_asks(store: Store) -> None:
    for result in RESULTS:
        assert not store.holds(
            store.compare("absent", target=Compare.VALUE, result=result, value=b"")
        )


def test_an_absent_key_counts_as_0_elsewhere(store: Store) -> None:
    for target, field in (
        (Compare.VERSION, "version"),
        (Compare.CREATE, "create_revision"),
        (Compare.MOD, "mod_revision"),
        (Compare.LEASE, "lease"),
    ):
        for given in (0, 1):
            compare = store.compare("absent", target=target, **{field: given})
            assert store.holds(compare) is (given == 0)


def test_an_unknown_result_is_true(store: Store) -> None:
    store.put("a", b"1")
    assert store.holds(store.compare("a", target=Compare.VALUE, result=17, value=b"other"))


def test_an_unknown_target_compares_as_equal(store: Store) -> None:
    store.put("a", b"1")
    got = [store.holds(store.compare("a", target=9, result=result)) for result in RESULTS]
    assert got == [True, False, False, False]


def test_a_field_of_another_target_counts_as_zero(store: Store) -> None:
    store.put("a", b"1")
    assert not store.holds(store.compare("a", target=Compare.VERSION, mod_revision=1))
    assert store.holds(store.compare("absent", target=Compare.VERSION, mod_revision=1))


def test_a_range_compare_needs_every_key_and_an_empty_range_is_an_absent_key(store: Store) -> None:
    store.put("a", b"1")
    store.put("b", b"1")
    store.put("c", b"2")

    def ones(first: str, end: bytes) -> bool:
        compare = store.compare(first, target=Compare.VALUE, value=b"1", range_end=end)
        return store.holds(compare)

    assert ones("a", store.key("c"))
    assert not ones("a", store.key("d"))
    assert not ones("x", store.key("z"))
    absent = store.compare("x", target=Compare.VERSION, version=0, range_end=store.key("z"))
    assert store.holds(absent)


# --- mistakes -------------------------------------------------------------------


def test_each_list_may_have_128_operations(store: Store) -> None:
    reads = [store.op_range("a")] * 128
    compares = [store.compare("a", target=Compare.VERSION)] * 128
    store.txn(*reads, compare=compares, failure=reads)
    over = [store.op_range("a")] * 129
    assert store.fails(Txn(success=over)) == TOO_MANY_OPS
    assert store.fails(Txn(failure=over)) == TOO_MANY_OPS
    assert store.fails(Txn(compare=[*compares, compares[0]])) == TOO_MANY_OPS
    assert store.fails(Txn(success=[op_txn(*over)])) == TOO_MANY_OPS


def test_a_nested_txn_may_have_what_its_parent_left(store: Store) -> None:
    def nested(outer: int, inner: int) -> Txn:
        reads = [store.op_range("a")] * max(outer, inner)
        return Txn(success=[*reads[: outer - 1], op_txn(*reads[:inner])])

    store.call(nested(100, 28), rpc_pb2.TxnResponse)
    store.call(nested(128, 0), rpc_pb2.TxnResponse)
    assert store.fails(nested(100, 29)) == TOO_MANY_OPS
    assert store.fails(nested(128, 1)) == TOO_MANY_OPS


def test_siblings_do_not_share_what_is_left(store: Store) -> None:
    reads = [store.op_range("a")] * 60
    store.txn(op_txn(*reads), op_txn(*reads), op_txn(*reads))


def test_a_key_may_be_put_once_per_branch(store: Store) -> None:
    a, b = store.op_put("a"), store.op_put("b")
    delete_all = store.op_delete()
    for ops in (
        [a, a],
        [a, store.op_delete("a")],
        [store.op_delete("a"), a],
        [a, delete_all],
        [a, op_txn(a)],
        [op_txn(a), a],
        [op_txn(a), op_txn(a)],
        [delete_all, op_txn(b)],
        [b, op_txn(a, failure=[b])],
    ):
        assert store.fails(Txn(success=ops)) == DUPLICATE_KEY
        assert store.fails(Txn(failure=ops)) == DUPLICATE_KEY
    for ops in (
        [store.op_delete("a"), store.op_delete("a")],
        [store.op_delete("a"), delete_all],
        [op_txn(a, failure=[a])],
        [a, store.op_range("a"), b],
    ):
        store.txn(*ops)


def test_a_delete_of_everything_from_a_key_on_does_not_count_as_covering_a_put(
    store: Store,
) -> None:
    delete = Op(request_delete_range=rpc_pb2.DeleteRangeRequest(key=b"\xfe", range_end=b"\0"))
    put = Op(request_put=rpc_pb2.PutRequest(key=b"\xff"))
    for ops in ([delete, put], [put, delete]):
        store.txn(*ops)
    assert store.call(Range(key=b"\xff"), rpc_pb2.RangeResponse).count == 0


def test_a_delete_of_an_empty_range_covers_nothing(store: Store) -> None:
    store.txn(store.op_delete("b", range_end=store.key("a")), store.op_put("b"))
    store.txn(store.op_delete("b", range_end=store.key("b")), store.op_put("b"))
    assert store.range("b").kvs[0].version == 2


def test_both_branches_are_checked_for_form(store: Store) -> None:
    store.put("a")
    mistakes = [
        (NO_KEY, Op(request_put=rpc_pb2.PutRequest())),
        (NO_KEY, Op(request_range=Range())),
        (NO_KEY, Op(request_delete_range=rpc_pb2.DeleteRangeRequest())),
        (KEY_NOT_FOUND, Op()),
        (VALUE_PROVIDED, store.op_put("a", b"1", ignore_value=True)),
    ]
    for error, op in mistakes:
        assert store.fails(Txn(success=[op])) == error
        assert store.fails(Txn(failure=[op])) == error
        assert store.fails(Txn(success=[op_txn(failure=[op])])) == error
    assert store.fails(Txn(compare=[Compare()])) == NO_KEY


def test_what_depends_on_the_store_is_checked_in_the_branch_taken_and_undoes_all(
    store: Store,
) -> None:
    revision = store.put("a", b"before").header.revision
    mistakes = [
        (NO_LEASE, store.op_put("b", lease=NO_SUCH_LEASE)),
        (KEY_NOT_FOUND, store.op_put("b", ignore_value=True)),
        (FUTURE, store.op_range("b", revision=revision + 1000)),
    ]
    for error, op in mistakes:
        store.txn(failure=[op])
        assert store.fails(Txn(success=[store.op_put("a", b"after"), op])) == error
    kv = store.range("a").kvs[0]
    assert (kv.value, kv.version) == (b"before", 1)
    assert store.range("a").header.revision == revision
