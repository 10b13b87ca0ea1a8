"""Neighbouring puts, or swaps, applied in one loop leave what they leave one by one."""

from collections.abc import Iterator
from random import Random

import pytest

from raftkv.errors import ApiError, CorruptionError
from raftkv.kv import commands
from raftkv.kv.leases import Lease
from raftkv.kv.machine import Result, StateMachine
from raftkv.kv.runs import plain_put
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NOOP, NORMAL, Entry
from tests.kv.adapter import machine
from tests.kv.memory import MemoryBackend

_TERM = 3
_SESSION = 9


def _put(random: Random) -> bytes:
    key = random.choice((b"a", b"a\0", b"b" * 127, b"c" * 128, b"%d" % random.randrange(99)))
    size = random.choice((0, 1, 5, 127, 128, 256, 256, 256, 16383, 16384))
    request = pb.PutRequest(key=key, value=random.randbytes(size))
    rare = random.randrange(25)
    if rare == 0:
        request.lease = random.choice((7, 404))
    elif rare == 1:
        request.prev_kv = True
    origin = (1, 2, random.randrange(1 << 30)) if random.randrange(2) else None
    session = None
    if rare in (2, 3, 4):
        sequence = random.randrange(1, 30)
        session = (_SESSION, sequence, max(1, sequence - random.randrange(5)))
    return commands.encode(commands.PUT, request.SerializeToString(), origin, session)


def _txn(random: Random) -> bytes:
    key = b"%d" % random.randrange(20)
    one = pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.EQUAL)
    one.mod_revision = 0
    if random.randrange(2):
        one = pb.Compare(key=key, target=pb.Compare.VALUE, result=pb.Compare.NOT_EQUAL, value=b"1")
    put = pb.PutRequest(key=key, value=random.choice((b"1", b"2", b"v" * 256)))
    if random.randrange(20) == 0:
        put.lease = 7
    request = pb.TxnRequest(compare=[one], success=[pb.RequestOp(request_put=put)])
    if random.randrange(2):
        request.failure.append(pb.RequestOp(request_range=pb.RangeRequest(key=key)))
    return commands.encode(commands.TXN, request.SerializeToString())


def _log(random: Random, count: int) -> list[Entry]:
    entries = []
    swaps = False
    for index in range(1, count + 1):
        draw = random.randrange(15)
        swaps ^= random.randrange(6) == 0
        payload, kind = _txn(random) if swaps else _put(random), NORMAL
        if draw == 0:
            payload, kind = b"", NOOP
        elif draw == 1:
            gone = pb.DeleteRangeRequest(key=b"%d" % random.randrange(99))
            payload = commands.encode(commands.DELETE_RANGE, gone.SerializeToString())
        entries.append(Entry(index, _TERM + index // 100, kind, payload))
    return entries


def _apply_in_chunks(
    subject: StateMachine, entries: list[Entry], random: Random
) -> Iterator[Result | ApiError | None]:
    """As a replica does: whatever one turn commits."""
    rest = entries
    while rest:
        size = random.choice((1, 2, 3, 40))
        chunk, rest = rest[:size], rest[size:]
        at = 0
        while at < len(chunk):
            results = subject.apply_some(chunk, at)
            assert results
            at += len(results)
            assert subject.applied_index == chunk[at - 1].index
            assert subject.applied_term == chunk[at - 1].term
            yield from results
        if random.randrange(3) == 0:
            subject.flush()


@pytest.mark.parametrize("start", [1, 16_300, 268_435_300, (1 << 35) - 50])
@pytest.mark.parametrize("watched", [False, True])
def test_a_run_leaves_what_its_entries_leave_one_by_one(start: int, watched: bool) -> None:
    """Answers, rows, hash, sizes and the watchers' changes, over borders of the varints."""
    random = Random(start)
    entries = _log(random, 700)
    subjects = [machine(MemoryBackend(), cache_bytes=9_000) for _ in range(2)]
    for subject in subjects:
        subject.leases.by_id[7] = Lease(7, 60_000)
        subject.leases.by_id[_SESSION] = Lease(_SESSION, 60_000, session=True)
        subject.sessions.begin(_SESSION)
        subject.store.revision, subject.store.next_id = start, (start + 1) << 32
        subject.collect_changes(watched)
    wanted = [subjects[0].apply(entry) for entry in entries]
    bodies = [result.body for result in wanted if isinstance(result, Result)]
    assert any(body.startswith(b"\x10\x01") for body in bodies)  # a swap took place
    assert any(body.startswith(b"\x1a") for body in bodies)  # and one did not
    assert subjects[0].sessions.repeated > 10  # some were not carried out
    assert list(_apply_in_chunks(subjects[1], entries, random)) == wanted
    one, other = subjects
    assert one.state_hash == other.state_hash
    assert one.revision == other.revision
    # What a change knows besides depends on the cache.
    changes = [[change[:5] for change in subject.take_changes()] for subject in subjects]
    assert changes[0] == changes[1]
    assert one.lease_keys(7) == other.lease_keys(7)
    one.flush()
    other.flush()
    assert isinstance(one.backend, MemoryBackend)
    assert isinstance(other.backend, MemoryBackend)
    assert one.backend.rows == other.backend.rows
    assert one.range(pb.RangeRequest(key=b"\0", range_end=b"\0")) == other.range(
        pb.RangeRequest(key=b"\0", range_end=b"\0")
    )


def test_a_run_ends_at_the_first_entry_that_is_no_plain_put() -> None:
    subject = machine()
    plain = commands.encode(commands.PUT, pb.PutRequest(key=b"a", value=b"1").SerializeToString())
    leased = pb.PutRequest(key=b"a", value=b"1", lease=404).SerializeToString()
    payloads = [plain, plain, commands.encode(commands.PUT, leased), plain]
    entries = [Entry(index, _TERM, NORMAL, one) for index, one in enumerate(payloads, 1)]
    assert subject.apply_run(entries, 0) == [Result(2, b""), Result(3, b"")]
    assert subject.applied_index == 2
    assert subject.apply_run(entries, 2) == []
    assert subject.applied_index == 2


@pytest.mark.parametrize("command", [commands.PUT, commands.TXN])
def test_nothing_is_flushed_after_a_run_that_broke_off(command: int) -> None:
    """D16: the row of a key to overwrite cannot be read; the applied index must not cover it."""
    backend = MemoryBackend()
    before = machine(backend)
    before.apply(_write(1, commands.PUT, b"a"))
    before.flush()
    for name in [name for name in backend.rows if name.startswith(b"r")]:
        del backend.rows[name]
    subject = StateMachine(backend, before.cluster)
    rows = dict(backend.rows)
    entries = [_write(2, command, b"b"), _write(3, command, b"a")]
    with pytest.raises(CorruptionError):
        subject.apply_some(entries, 0)
    for index in (1, 2, 3):
        subject.applied_index = index
        with pytest.raises(AssertionError):
            subject._flush_rows()
    assert backend.rows == rows


def _write(index: int, command: int, key: bytes) -> Entry:
    put = pb.PutRequest(key=key, value=b"1")
    one = pb.Compare(key=key, target=pb.Compare.MOD, result=pb.Compare.NOT_EQUAL, mod_revision=5)
    request = pb.TxnRequest(compare=[one], success=[pb.RequestOp(request_put=put)])
    chosen = put if command == commands.PUT else request
    return Entry(index, _TERM, NORMAL, commands.encode(command, chosen.SerializeToString()))


@pytest.mark.parametrize("key_bytes", [1, 2, 126, 127, 128, 300])
@pytest.mark.parametrize("value_bytes", [0, 1, 126, 127, 128, 129, 16382, 16383, 16384, 16385])
def test_plain_puts_are_told_by_their_lengths(key_bytes: int, value_bytes: int) -> None:
    """No request is taken for a plain one whose bytes say something else."""
    wire = pb.PutRequest(key=b"k" * key_bytes, value=b"v" * value_bytes).SerializeToString()
    plain = key_bytes < 128 and 0 < value_bytes < 16384
    assert plain_put(b"\0\1" + wire, 2, len(wire) + 2) == (key_bytes + 4 if plain else 0)
    for broken in (wire[:-1], wire + b"\0", wire + b"\x20\x01"):
        assert plain_put(b"\0\1" + broken, 2, len(broken) + 2) == 0
