"""What etcd answers to reads and single writes, line by line."""

import pytest

from raftkv.pb import rpc_pb2
from tests.conformance.store import (
    COMPACTED,
    FUTURE,
    KEY_NOT_FOUND,
    LEASE_PROVIDED,
    NO_KEY,
    NO_LEASE,
    NO_SUCH_LEASE,
    TOO_LARGE,
    VALUE_PROVIDED,
    Range,
    Store,
)

# --- headers and revisions ------------------------------------------------------


def test_every_answer_has_a_full_header(store: Store) -> None:
    put = store.put("a")
    headers = [
        put.header,
        store.range("a").header,
        store.txn().header,
        store.delete("a").header,
        store.compact(put.header.revision).header,
    ]
    for header in headers:
        assert min(header.cluster_id, header.member_id, header.revision, header.raft_term) > 0
    assert len({(header.cluster_id, header.member_id) for header in headers}) == 1


def test_a_fresh_store_is_at_revision_1(fresh_store: Store) -> None:
    assert fresh_store.range("a").header.revision == 1
    assert fresh_store.put("a").header.revision == 2


def test_a_write_bumps_the_revision_once_per_request(store: Store) -> None:
    before = store.put("a").header.revision
    assert store.txn(store.op_put("a"), store.op_put("b")).header.revision == before + 1
    assert store.delete().header.revision == before + 2
    for name in "ab":
        assert store.range(name, revision=before + 1).kvs[0].mod_revision == before + 1


def test_what_changes_nothing_leaves_the_revision(store: Store) -> None:
    before = store.put("a").header.revision
    assert store.delete("absent").header.revision == before
    assert store.txn().header.revision == before
    assert store.txn(store.op_range("a"), store.op_delete("absent")).header.revision == before
    assert store.compact(before).header.revision == before
    assert store.range("a").header.revision == before


# --- range ----------------------------------------------------------------------


@pytest.mark.parametrize("range_end", [b"", b"\0", b"z"])
def test_a_range_needs_a_key(store: Store, range_end: bytes) -> None:
    assert store.fails(Range(range_end=range_end)) == NO_KEY


def test_range_ends(store: Store) -> None:
    for name in "abc":
        store.put(name)
    assert store.names(store.range("b")) == ["b"]
    assert store.names(store.range("b", range_end=store.key("c"))) == ["b"]
    assert store.names(store.range("b", range_end=store.end)) == ["b", "c"]
    for end in (store.key("b"), store.key("a")):
        empty = store.range("b", range_end=end)
        assert (list(empty.kvs), empty.count, empty.more) == ([], 0, False)
    to_the_end = store.call(Range(key=store.key("b"), range_end=b"\0"), rpc_pb2.RangeResponse)
    assert [kv.key for kv in to_the_end.kvs][:2] == [store.key("b"), store.key("c")]
    everything = store.call(Range(key=b"\0", range_end=b"\0"), rpc_pb2.RangeResponse)
    assert {store.key(name) for name in "abc"} <= {kv.key for kv in everything.kvs}
    assert everything.count == len(everything.kvs)


def test_count_is_taken_before_limit_and_filters(store: Store) -> None:
    for name in "abcd":
        last = store.put(name).header.revision
    limited = store.range(limit=2)
    assert (len(limited.kvs), limited.count, limited.more) == (2, 4, True)
    filtered = store.range(min_mod_revision=last)
    assert (store.names(filtered), filtered.count, filtered.more) == (["d"], 4, False)
    counted = store.range(count_only=True, limit=1)
    assert (list(counted.kvs), counted.count, counted.more) == ([], 4, False)


def test_more_is_false_when_filters_left_nothing_beyond_the_limit(store: Store) -> None:
    store.put("a")
    last = store.put("b").header.revision
    answer = store.range(min_mod_revision=last, limit=1)
    assert (store.names(answer), answer.more) == (["b"], False)


@pytest.mark.parametrize("limit", [0, -1, 3, 100])
def test_a_limit_that_cuts_nothing_off(store: Store, limit: int) -> None:
    for name in "abc":
        store.put(name)
    answer = store.range(limit=limit)
    assert (store.names(answer), answer.more) == (["a", "b", "c"], False)


def test_filters_are_inclusive_bounds(store: Store) -> None:
    first = store.put("a").header.revision
    second = store.put("b").header.revision
    third = store.put("a").header.revision
    assert store.names(store.range(max_mod_revision=second)) == ["b"]
    assert store.names(store.range(min_mod_revision=third)) == ["a"]
    assert store.names(store.range(max_create_revision=first)) == ["a"]
    assert store.names(store.range(min_create_revision=second)) == ["b"]


def test_reading_the_past(store: Store) -> None:
    first = store.put("a", b"1").header.revision
    second = store.put("a", b"2").header.revision
    past = store.range("a", revision=first)
    assert (past.kvs[0].value, past.header.revision) == (b"1", second)
    for revision in (0, -1, second):
        assert store.range("a", revision=revision).kvs[0].value == b"2"
    assert store.fails(store.range_of("a", revision=second + 1)) == FUTURE


def test_reading_at_the_compacted_revision_works_and_below_it_does_not(store: Store) -> None:
    store.put("a", b"1")
    middle = store.put("a", b"2").header.revision
    store.put("a", b"3")
    store.compact(middle)
    assert store.range("a", revision=middle).kvs[0].value == b"2"
    assert store.fails(store.range_of("a", revision=middle - 1)) == COMPACTED


def test_keys_only_drops_the_value_alone(store: Store) -> None:
    store.put("a", b"1")
    store.put("a", b"2")
    whole, key = store.range("a").kvs[0], store.range("a", keys_only=True).kvs[0]
    assert (whole.value, key.value) == (b"2", b"")
    assert (key.version, key.create_revision, key.mod_revision) == (
        2,
        whole.create_revision,
        whole.mod_revision,
    )


def test_sorting_happens_before_the_limit_and_ties_come_in_key_order(store: Store) -> None:
    for name, value in (("a", b"2"), ("b", b"1"), ("c", b"2"), ("d", b"3")):
        store.put(name, value)

    def by_value(order: rpc_pb2.RangeRequest.SortOrder.ValueType, limit: int = 0) -> list[str]:
        return store.names(store.range(sort_target=Range.VALUE, sort_order=order, limit=limit))

    assert by_value(Range.DESCEND) == ["d", "a", "c", "b"]
    assert by_value(Range.ASCEND) == ["b", "a", "c", "d"]
    assert by_value(Range.DESCEND, limit=1) == ["d"]
    assert store.names(store.range(sort_order=Range.DESCEND)) == ["d", "c", "b", "a"]


def test_a_target_other_than_the_key_sorts_ascending_without_an_order(store: Store) -> None:
    for name in "cba":
        store.put(name)
    assert store.names(store.range(sort_target=Range.MOD)) == ["c", "b", "a"]
    assert store.names(store.range(sort_target=Range.KEY)) == ["a", "b", "c"]


@pytest.mark.parametrize("order", [77, 9, -1])
def test_an_unknown_order_does_not_sort(store: Store, order: int) -> None:
    for name in "cba":
        store.put(name)
    assert store.names(store.range(sort_order=order)) == ["a", "b", "c"]
    assert store.names(store.range(sort_order=order, sort_target=Range.MOD)) == ["a", "b", "c"]


# --- put ------------------------------------------------------------------------


def test_put_mistakes(store: Store) -> None:
    store.put("there", b"1")
    mistakes = {
        NO_KEY: rpc_pb2.PutRequest(value=b"1"),
        VALUE_PROVIDED: store.put_of("there", b"1", ignore_value=True),
        LEASE_PROVIDED: store.put_of("there", ignore_lease=True, lease=1),
        NO_LEASE: store.put_of("there", lease=NO_SUCH_LEASE),
    }
    assert {store.fails(request): request for request in mistakes.values()} == mistakes
    assert store.fails(store.put_of("absent", ignore_value=True)) == KEY_NOT_FOUND
    assert store.fails(store.put_of("absent", ignore_lease=True)) == KEY_NOT_FOUND


def test_versions_and_revisions_of_a_key(store: Store) -> None:
    created = store.put("a", b"1").header.revision
    modified = store.put("a", b"2").header.revision
    kv = store.range("a").kvs[0]
    assert (kv.version, kv.create_revision, kv.mod_revision) == (2, created, modified)


def test_prev_kv(store: Store) -> None:
    assert not store.put("a", b"1", prev_kv=True).HasField("prev_kv")
    answer = store.put("a", b"2", prev_kv=True)
    assert (answer.prev_kv.value, answer.prev_kv.version) == (b"1", 1)
    assert not store.put("a", b"3").HasField("prev_kv")


def test_ignore_value_keeps_the_value_and_writes_a_new_version(store: Store) -> None:
    store.put("a", b"1")
    store.put("a", ignore_value=True)
    kv = store.range("a").kvs[0]
    assert (kv.value, kv.version) == (b"1", 2)


def test_the_largest_put(store: Store) -> None:
    key = b"big"
    fits = rpc_pb2.PutRequest(key=key, value=b"x" * 1_572_824)
    store.call(fits, rpc_pb2.PutResponse)
    assert store.fails(rpc_pb2.PutRequest(key=key, value=b"x" * 1_572_844)) == TOO_LARGE
    store.call(rpc_pb2.DeleteRangeRequest(key=key), rpc_pb2.DeleteRangeResponse)


def test_the_limit_counts_the_request_as_the_log_stores_it(store: Store) -> None:
    """etcd's envelope takes 17 or 18 bytes of the 1.5 MiB."""
    request = rpc_pb2.PutRequest(key=b"big", value=b"x" * 1_572_837)
    store.call(request, rpc_pb2.PutResponse)
    request.value += b"xx"
    assert store.fails(request) == TOO_LARGE
    op = rpc_pb2.RequestOp(request_put=request)
    assert store.fails(rpc_pb2.TxnRequest(success=[op])) == TOO_LARGE
    store.call(rpc_pb2.DeleteRangeRequest(key=b"big"), rpc_pb2.DeleteRangeResponse)


def test_reads_are_limited_by_the_message_alone(store: Store) -> None:
    read = Range(key=b"x" * 2_000_000)
    assert store.call(read, rpc_pb2.RangeResponse).count == 0
    op = rpc_pb2.RequestOp(request_range=read)
    store.call(rpc_pb2.TxnRequest(success=[op]), rpc_pb2.TxnResponse)


def test_the_largest_message(store: Store) -> None:
    for size, error in (
        (2_097_152, TOO_LARGE),
        (
            2_097_160,
            (
                "RESOURCE_EXHAUSTED",
                "grpc: received message larger than max (2097160 vs. 2097152)",
            ),
        ),
    ):
        request = rpc_pb2.PutRequest(key=b"big", value=b"x" * 2_000_000)
        request.value += b"x" * (size - request.ByteSize())
        assert request.ByteSize() == size
        assert store.fails(request) == error


# --- delete ---------------------------------------------------------------------


def test_a_delete_needs_a_key(store: Store) -> None:
    assert store.fails(rpc_pb2.DeleteRangeRequest(range_end=b"\0")) == NO_KEY


def test_a_delete_counts_what_it_removed(store: Store) -> None:
    for name in "ba":
        store.put(name, name.encode())
    answer = store.delete(prev_kv=True)
    assert answer.deleted == 2
    assert [kv.value for kv in answer.prev_kvs] == [b"a", b"b"]
    again = store.delete(prev_kv=True)
    assert (again.deleted, list(again.prev_kvs)) == (0, [])


def test_without_prev_kv_a_delete_returns_no_pairs(store: Store) -> None:
    store.put("a")
    answer = store.delete("a")
    assert (answer.deleted, list(answer.prev_kvs)) == (1, [])


def test_a_key_put_again_after_deletion_starts_anew(store: Store) -> None:
    store.put("a")
    store.put("a")
    store.delete("a")
    revision = store.put("a").header.revision
    kv = store.range("a").kvs[0]
    assert (kv.version, kv.create_revision, kv.mod_revision) == (1, revision, revision)


# --- compact --------------------------------------------------------------------


def test_compaction_edges(store: Store) -> None:
    revision = store.put("a").header.revision
    assert store.fails(rpc_pb2.CompactionRequest(revision=revision + 1)) == FUTURE
    store.compact(revision)
    for compacted in (revision, revision - 1, 0, -1):
        assert store.fails(rpc_pb2.CompactionRequest(revision=compacted)) == COMPACTED
    later = store.put("a").header.revision
    request = rpc_pb2.CompactionRequest(revision=later, physical=True)
    store.call(request, rpc_pb2.CompactionResponse)


def test_a_store_never_compacted_accepts_0_once(fresh_store: Store) -> None:
    assert fresh_store.fails(rpc_pb2.CompactionRequest(revision=-1)) == COMPACTED
    assert fresh_store.compact(0).header.revision == 1


def test_compaction_keeps_what_is_live(store: Store) -> None:
    store.put("a", b"1")
    store.put("gone")
    store.delete("gone")
    revision = store.put("b", b"2").header.revision
    store.compact(revision)
    assert [(kv.value, kv.version) for kv in store.range().kvs] == [(b"1", 1), (b"2", 1)]
