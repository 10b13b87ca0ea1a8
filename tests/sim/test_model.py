"""The checkers' own key-value store follows the API's documentation."""

from raftkv.sim.model import Model
from raftkv.sim.operations import (
    Compact,
    Compacted,
    Compare,
    Delete,
    Deleted,
    Found,
    Get,
    KeyValue,
    Put,
    PutDone,
    Txn,
    TxnDone,
)


def test_first_put_makes_revision_two() -> None:
    model = Model()
    done = model.apply(Put(b"k", b"v"))
    assert (done.revision, done.changed, done.response) == (2, True, PutDone())
    assert model.version(b"k", 2) == KeyValue(b"k", b"v", 2, 2, 1)
    assert model.version(b"k", 1) is None


def test_put_counts_versions_until_a_delete() -> None:
    model = Model()
    for value in (b"a", b"b"):
        model.apply(Put(b"k", value))
    assert model.version(b"k", 3) == KeyValue(b"k", b"b", 2, 3, 2)
    assert model.apply(Delete(b"k")).response == Deleted(1)
    model.apply(Put(b"k", b"c"))
    assert model.version(b"k", 5) == KeyValue(b"k", b"c", 5, 5, 1)


def test_delete_of_nothing_makes_no_revision() -> None:
    done = Model().apply(Delete(b"k"))
    assert (done.revision, done.changed, done.response) == (1, False, Deleted(0))


def test_get_sees_the_revision_it_asks_for() -> None:
    model = Model()
    model.apply(Put(b"a", b"1"))
    model.apply(Put(b"b", b"2"))
    model.apply(Delete(b"a"))
    assert model.get(Get(b"a", b"z"), 4).total == 1
    assert model.get(Get(b"a", b"z", revision=3), 4).total == 2
    assert model.live() == [KeyValue(b"b", b"2", 3, 3, 1)]


def test_txn_is_one_revision_and_its_parts_see_earlier_ones() -> None:
    model = Model()
    txn = Txn((Compare(b"a"),), (Put(b"a", b"1"), Get(b"a"), Delete(b"a"), Put(b"b", b"2")))
    done = model.apply(txn)
    assert done.revision == model.revision == 2
    assert done.response == TxnDone(
        True,
        (PutDone(), Found((KeyValue(b"a", b"1", 2, 2, 1),), 1), Deleted(1), PutDone()),
    )


def test_txn_compares_decide_before_anything_is_written() -> None:
    model = Model()
    model.apply(Put(b"a", b"1"))
    lost = Txn((Compare(b"a", value=b"2"),), (Put(b"a", b"3"),), (Get(b"a"),))
    done = model.apply(lost)
    assert done.response == TxnDone(False, (Found((KeyValue(b"a", b"1", 2, 2, 1),), 1),))
    assert not done.changed


def test_compaction_is_refused_behind_the_last_and_ahead_of_now() -> None:
    model = Model()
    model.apply(Put(b"a", b"1"))
    assert model.apply(Compact(3)).refusal == "future"
    assert model.apply(Compact(2)).response == Compacted()
    assert model.apply(Compact(2)).refusal == "compacted"
