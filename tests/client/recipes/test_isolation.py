"""Software transactions against a model store that loses answers, carries out late, and has others.

Each commit is counted where it is carried out. Whatever the library reports must agree with that:
done = once, refused = never, unknown = once at most; also after everything late has arrived.
"""

from collections.abc import Mapping
from typing import Any, Final
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.client.errors import OutcomeUnknown
from raftkv.client.isolation import Attempt, Isolation, Marker, TooManyConflicts
from raftkv.client.keys import encoded
from raftkv.client.patience import Patience
from raftkv.client.results import GetResult, KeyValue, TxnResult
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes import stm as module
from raftkv.client.sync.recipes.stm import Transaction
from raftkv.client.txn import Delete, Put, Txn
from tests.client.recipes.contention import lost_answer
from tests.client.recipes.store import Store

KEYS: Final = (b"a", b"b", b"c")
FATES: Final = ("done", "done", "done", "answer lost", "late", "never")
OTHERS: Final = ("nothing", "nothing", "put", "delete", "late one arrives")


class Wire:
    """A client whose requests have fates; between them, others write.

    carried_out: how often each token of a commit was written.
    """

    def __init__(self, data: st.DataObject) -> None:
        self.store = Store()
        self.carried_out: dict[bytes, int] = {}
        self._data = data
        self._late: list[Txn] = []
        self._history: dict[int, dict[bytes, KeyValue]] = {}

    def get(self, name: bytes, *, revision: int = 0, timeout: float | None = None) -> GetResult:
        """A read, now or at a revision."""
        self._remember()
        self._others()
        self._remember()
        kvs = self._history[revision or self.store.revision]
        return GetResult(self.store.header(), kvs.get(name))

    def txn(self, txn: Txn, *, timeout: float | None = None) -> TxnResult:
        """A transaction."""
        self._others()
        fate = self._data.draw(st.sampled_from(FATES)) if txn.writes else "done"
        if fate in ("done", "answer lost"):
            answer = self._apply(txn)
            if fate == "done":
                return answer
        elif fate == "late":
            self._late.append(txn)
        raise lost_answer()

    def everything_arrives(self) -> None:
        """What is late is carried out."""
        while self._late:
            self._apply(self._late.pop())

    def _others(self) -> None:
        what = self._data.draw(st.sampled_from(OTHERS))
        key = self._data.draw(st.sampled_from(KEYS)) if what in ("put", "delete") else b""
        if what == "put":
            self.store.apply(Txn().then(Put(key, b"somebody's")))
        elif what == "delete":
            self.store.apply(Txn().then(Delete(key)))
        elif what == "late one arrives" and self._late:
            self._apply(self._late.pop(0))

    def _apply(self, txn: Txn) -> TxnResult:
        answer = self.store.apply(txn)
        self._remember()
        if answer.succeeded:
            for value in {encoded(op.value) for op in txn.success if isinstance(op, Put)}:
                if value.startswith(b"run"):
                    self.carried_out[value] = self.carried_out.get(value, 0) + 1
        return answer

    def _remember(self) -> None:
        self._history[self.store.revision] = dict(self.store.kvs)


class Counted(Patience):
    """Is over when it has been asked so often, whatever the clock says."""

    __slots__ = ("_asked",)

    def __init__(self, timeout: float | None) -> None:
        super().__init__(timeout)
        self._asked = 0

    @property
    def is_over(self) -> bool:
        """See Patience."""
        self._asked += 1
        return not self.is_endless and self._asked > 6


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    data=st.data(),
    isolation=st.sampled_from(Isolation),
    reads=st.lists(st.sampled_from(KEYS), max_size=3, unique=True),
    puts=st.lists(st.sampled_from(KEYS), min_size=1, max_size=2, unique=True),
    deletes=st.lists(st.sampled_from(KEYS), max_size=1),
    marked=st.booleans(),
)
def test_what_is_reported_is_what_happened(
    data: st.DataObject,
    isolation: Isolation,
    reads: list[bytes],
    puts: list[bytes],
    deletes: list[bytes],
    marked: bool,
) -> None:
    """C01, C02."""
    wire = Wire(data)
    runs = 0

    def function(tx: Transaction) -> bytes:
        nonlocal runs
        runs += 1
        token = b"run %d" % runs
        for key in reads:
            tx.get(key)
        for key in deletes:
            tx.delete(key)
        for key in puts:
            tx.put(key, token)
        return token

    client: Any = wire
    token, outcome = b"", "done"
    quick = patch.object(runtime, "sleep"), patch.object(module, "Patience", Counted)
    with quick[0], quick[1]:
        try:
            token = module.stm(
                client,
                function,
                isolation=isolation,
                attempts=3,
                marker=b"marker" if marked else None,
            )
        except TooManyConflicts:
            outcome = "refused"
        except OutcomeUnknown:
            outcome = "unknown"
    if outcome == "done":
        assert wire.carried_out == {token: 1}
    if outcome == "refused":
        assert wire.carried_out == {}
    wire.everything_arrives()
    total = sum(wire.carried_out.values())
    assert total == {"done": 1, "refused": 0, "unknown": total}[outcome]
    assert total <= 1


# --- single decisions -----------------------------------------------------------------------
def _kv(mod_revision: int, value: bytes = b"v") -> KeyValue:
    return KeyValue(b"k", value, 1, mod_revision, 1, 0)


def _attempt(isolation: Isolation, reads: Mapping[bytes, KeyValue | None], *puts: bytes) -> Attempt:
    attempt = Attempt(isolation)
    for name, kv in reads.items():
        attempt.found(name, kv, 10)
    for name in puts:
        attempt.writes[name] = Put(name, b"mine")
    return attempt


def test_each_level_compares_what_its_go_namesake_does() -> None:
    reads = {b"read": _kv(5)}
    compared = {
        level: {
            (compare.key, compare.given)
            for compare in _attempt(level, reads, b"blind").commit().compares
        }
        for level in Isolation
    }
    assert compared == {
        Isolation.SERIALIZABLE_SNAPSHOT: {(b"read", 5), (b"blind", 11)},
        Isolation.SERIALIZABLE: {(b"read", 5)},
        Isolation.REPEATABLE_READS: {(b"read", 5)},
        Isolation.READ_COMMITTED: set(),
    }


def test_only_pinned_levels_read_at_the_revision_of_the_first_read() -> None:
    assert {level: _attempt(level, {b"a": None}).pinned_revision for level in Isolation} == {
        Isolation.SERIALIZABLE_SNAPSHOT: 10,
        Isolation.SERIALIZABLE: 10,
        Isolation.REPEATABLE_READS: 0,
        Isolation.READ_COMMITTED: 0,
    }


def test_a_key_that_was_missing_makes_no_commit_safe_to_repeat() -> None:
    """It may have been put, deleted by another, and be missing again."""
    level = Isolation.SERIALIZABLE_SNAPSHOT
    assert _attempt(level, {b"k": _kv(5)}, b"k").is_idempotent
    assert not _attempt(level, {b"k": None}, b"k").is_idempotent
    assert not _attempt(level, {b"other": _kv(5)}, b"k").is_idempotent
    marked = _attempt(level, {b"k": None}, b"k")
    marked.marker = Marker(b"m", b"token", 0)
    assert marked.is_idempotent


def test_only_the_own_token_proves_that_a_commit_was_carried_out() -> None:
    attempt = _attempt(Isolation.SERIALIZABLE, {b"k": _kv(5)}, b"k")
    same_value = {b"k": _kv(11, b"mine")}
    assert not attempt.surely_done(same_value)
    assert not attempt.surely_not(same_value)
    attempt.marker = Marker(b"m", b"token", 0)
    assert attempt.surely_done({**same_value, b"m": _kv(11, b"token")})
    assert attempt.surely_not({**same_value, b"m": _kv(3, b"an older token")})


def test_a_read_that_only_was_missing_is_no_proof_that_a_commit_cannot_come() -> None:
    attempt = _attempt(Isolation.SERIALIZABLE, {b"gone": None, b"k": _kv(5)}, b"k")
    assert not attempt.surely_not({b"gone": _kv(11), b"k": _kv(5)})
    attempt = _attempt(Isolation.SERIALIZABLE, {b"was": _kv(4), b"k": _kv(5)}, b"k")
    assert attempt.surely_not({b"was": _kv(11), b"k": _kv(5)})
    assert not attempt.surely_not({b"was": _kv(4), b"k": _kv(5)})


@pytest.mark.parametrize("level", [Isolation.SERIALIZABLE_SNAPSHOT, Isolation.SERIALIZABLE])
def test_reads_at_one_revision_need_no_commit(level: Isolation) -> None:
    reads: dict[bytes, KeyValue | None] = {b"a": None, b"b": _kv(1)}
    assert not _attempt(level, reads).needs_commit
    assert _attempt(Isolation.REPEATABLE_READS, reads).needs_commit
    assert _attempt(level, reads, b"k").needs_commit
