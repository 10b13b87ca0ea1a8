"""Hypothesis strategies for requests over a few keys that meet each other often."""

from typing import Any

from hypothesis import strategies as st

from raftkv.pb import rpc_pb2 as pb

_KEYS = [b"a", b"a\0", b"aa", b"b", b"b\xff", b"\0", b"\xff", b"c" * 200]
_VALUES = [b"", b"1", b"2", b"10", b"x" * 200, b"y" * 20000]
KEYS = st.integers(0, len(_KEYS) - 1).map(lambda n: _KEYS[n])
VALUES = st.integers(0, len(_VALUES) - 1).map(lambda n: _VALUES[n])
LEASES = st.sampled_from([0, 0, 0, 7, -7, 404])
ENDS = st.sampled_from([b"", b"", b"\0", b"a\0", b"b", b"c", b"\xff\xff"])
REVISIONS = st.one_of(st.just(0), st.integers(-2, 40))
ORDERS = st.sampled_from([0, 1, 2, 77])


def puts() -> st.SearchStrategy[pb.PutRequest]:
    """Any put of good form."""

    def build(keep_value: bool, keep_lease: bool, value: bytes, lease: int, **rest: Any) -> Any:
        request = pb.PutRequest(ignore_value=keep_value, ignore_lease=keep_lease, **rest)
        if not keep_value:
            request.value = value
        if not keep_lease:
            request.lease = lease
        return request

    rarely = st.sampled_from([False, False, False, True])
    return st.builds(
        build,
        keep_value=rarely,
        keep_lease=rarely,
        value=VALUES,
        lease=LEASES,
        key=KEYS,
        prev_kv=st.booleans(),
    )


def ranges() -> st.SearchStrategy[pb.RangeRequest]:
    """Any range of good form."""
    bounds = st.sampled_from([0, 0, 0, 2, 5, 9])
    return st.builds(
        pb.RangeRequest,
        key=KEYS,
        range_end=ENDS,
        limit=st.sampled_from([-1, 0, 0, 1, 2, 3]),
        revision=REVISIONS,
        sort_order=ORDERS,
        sort_target=st.integers(0, 4),
        keys_only=st.booleans(),
        count_only=st.sampled_from([False, False, True]),
        min_mod_revision=bounds,
        max_mod_revision=bounds,
        min_create_revision=bounds,
        max_create_revision=bounds,
    )


def deletes() -> st.SearchStrategy[pb.DeleteRangeRequest]:
    """Any delete range."""
    return st.builds(pb.DeleteRangeRequest, key=KEYS, range_end=ENDS, prev_kv=st.booleans())


def compares() -> st.SearchStrategy[pb.Compare]:
    """Any compare, also with a field that does not belong to its target."""
    small = st.integers(0, 6)
    given = st.one_of(
        st.builds(lambda n: {"version": n}, small),
        st.builds(lambda n: {"create_revision": n}, small),
        st.builds(lambda n: {"mod_revision": n}, small),
        st.builds(lambda n: {"lease": n}, LEASES),
        st.builds(lambda value: {"value": value}, VALUES),
    )
    return st.builds(
        lambda given, **rest: pb.Compare(**given, **rest),
        given,
        result=st.sampled_from([0, 0, 1, 2, 3, 9]),
        target=st.integers(0, 5),
        key=KEYS,
        range_end=st.sampled_from([b"", b"", b"\0", b"b"]),
    )


def txns(depth: int = 2) -> st.SearchStrategy[pb.TxnRequest]:
    """Transactions; many are refused for duplicate keys."""
    ops = [
        puts().map(lambda put: pb.RequestOp(request_put=put)),
        ranges().map(lambda one: pb.RequestOp(request_range=one)),
        deletes().map(lambda one: pb.RequestOp(request_delete_range=one)),
    ]
    if depth:
        ops.append(txns(depth - 1).map(lambda one: pb.RequestOp(request_txn=one)))
    branch = st.lists(st.one_of(ops), max_size=3)
    return st.builds(
        pb.TxnRequest,
        compare=st.lists(compares(), max_size=2),
        success=branch,
        failure=branch,
    )
