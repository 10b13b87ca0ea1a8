"""The bytes of a state, pinned: rows, answers and state hashes of seeded workloads.

Members of one cluster may run different versions of this program, and a state written by an older
one is opened by a newer one. So whatever is made faster, an identical log must leave identical
rows, hashes and answers. The numbers were computed when the row format was settled; they may
change only together with the format.
"""

from random import Random
from typing import Final
from zlib import crc32

import pytest

from raftkv.kv import commands
from raftkv.kv.leases import Lease
from raftkv.kv.machine import Result
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import NOOP, NORMAL
from tests.kv.adapter import Driver, machine
from tests.kv.memory import MemoryBackend

_KEYS: Final = [b"a", b"a\0b", b"\0", b"k" * 127, b"k" * 128, b"k" * 300, "ключ".encode()] + [
    b"bench/%08d" % number for number in range(30)
]
_SIZES: Final = (0, 1, 40, 100, 101, 127, 128, 256, 256, 256, 1000, 16383, 16384, 20000)
_RESULTS: Final = (
    pb.Compare.EQUAL,
    pb.Compare.GREATER,
    pb.Compare.LESS,
    pb.Compare.NOT_EQUAL,
)
_CACHES: Final = (6_000, 32 << 20)

# What a seeded workload leaves: revision, state hash, hash of all rows, hash of all answers.
PINNED: Final = {
    "puts": (679, 3860925513, 819305602, 2187150728),
    "everything": (740, 174303680, 3564185844, 2756898742),
    "large revisions": (4611686018427387928, 2656559536, 2075287560, 2981875085),
    "sessions": (509, 3653290861, 3592627593, 3241628263),
}


class Workload:
    """A log of seeded requests, applied; `cache_bytes` must not show."""

    def __init__(self, seed: int, cache_bytes: int) -> None:
        self.random = Random(seed)
        self.backend = MemoryBackend()
        self.driver = Driver(machine(self.backend, cache_bytes=cache_bytes))
        self.driver.machine.leases.by_id[7] = Lease(7, 60_000)
        self.answers = 0
        self.session = 0

    def put(self) -> pb.PutRequest:
        """Mostly a key and a value, as nearly every client sends it."""
        random = self.random
        request = pb.PutRequest(
            key=random.choice(_KEYS), value=random.randbytes(random.choice(_SIZES))
        )
        draw = random.randrange(20)
        if draw == 0:
            request.lease = random.choice((7, 404))
        elif draw == 1:
            request.prev_kv = True
        elif draw == 2:
            request.ignore_value = True
            request.value = b""
        elif draw == 3:
            request.ignore_lease = True
        return request

    def compare(self) -> pb.Compare:
        """Of one key, now and then of a range."""
        random, store = self.random, self.driver.machine.store
        key = random.choice(_KEYS)
        one = pb.Compare(key=key, result=random.choice(_RESULTS))
        record = store.latest(key) or (b"", 0, 0, 0, 0)
        draw = random.randrange(8)
        if draw < 3:
            one.target, one.mod_revision = pb.Compare.MOD, (record[1] >> 32) - (draw == 2)
        elif draw == 3:
            one.target, one.create_revision = pb.Compare.CREATE, record[2]
        elif draw == 4:
            one.target, one.version = pb.Compare.VERSION, record[3]
        elif draw == 5:
            one.target, one.value = pb.Compare.VALUE, b"v" * random.randrange(3)
        elif draw == 6:
            one.target, one.lease = pb.Compare.LEASE, record[4]
        else:
            one.range_end = b"l"
        return one

    def operation(self) -> pb.RequestOp:
        """An operation of a branch."""
        random = self.random
        draw = random.randrange(6)
        if draw < 3:
            return pb.RequestOp(request_put=self.put())
        if draw < 5:
            return pb.RequestOp(request_range=pb.RangeRequest(key=random.choice(_KEYS)))
        return pb.RequestOp(
            request_delete_range=pb.DeleteRangeRequest(key=random.choice(_KEYS), prev_kv=True)
        )

    def txn(self) -> pb.TxnRequest:
        """Mostly compare-and-put, sometimes something longer."""
        random = self.random
        if random.randrange(3):
            compares = [self.compare() for _ in range(random.choice((1, 1, 1, 2)))]
            key = compares[0].key
            put = pb.PutRequest(key=key, value=random.randbytes(random.choice(_SIZES)))
            request = pb.TxnRequest(compare=compares, success=[pb.RequestOp(request_put=put)])
            if random.randrange(3):
                read = pb.RangeRequest(key=key)
                request.failure.append(pb.RequestOp(request_range=read))
            return request
        branches = [[self.operation() for _ in range(random.randrange(3))] for _ in range(2)]
        return pb.TxnRequest(compare=[self.compare()], success=branches[0], failure=branches[1])

    def entry(self, command: int, request: bytes, kind: int = NORMAL) -> None:
        """The next entry, with an origin in some of the envelopes, and a session if one is open."""
        random = self.random
        origin = (11, 12, random.randrange(1 << 40)) if random.randrange(3) == 0 else None
        session = None
        if random.randrange(15) == 0 and self.session:  # the draw is older than sessions
            lowest = 1 + self.driver.machine.applied_index // 100
            session = (self.session, lowest + random.randrange(30), lowest)
        payload = commands.encode(command, request, origin, session) if kind == NORMAL else b""
        answer = self.driver.entry(payload, kind)
        if isinstance(answer, Result):
            told = b"%d %b" % (answer.revision, answer.body)
        else:
            told = b"" if answer is None else answer.text.encode()
        self.answers = crc32(told, self.answers)

    def run(self, rounds: int, *, only_puts: bool) -> None:
        """Apply; flush now and then."""
        random = self.random
        for _ in range(rounds):
            draw = 0 if only_puts else random.randrange(30)
            if draw < 14:
                self.entry(commands.PUT, self.put().SerializeToString())
            elif draw < 26:
                self.entry(commands.TXN, self.txn().SerializeToString())
            elif draw < 28:
                gone = pb.DeleteRangeRequest(key=random.choice(_KEYS))
                self.entry(commands.DELETE_RANGE, gone.SerializeToString())
            elif draw == 28:
                revision = self.driver.machine.revision - random.randrange(20)
                wanted = pb.CompactionRequest(revision=revision)
                self.entry(commands.COMPACT, wanted.SerializeToString())
            else:
                self.entry(0, b"", NOOP)
            if random.randrange(10) == 0:
                self.driver.machine.flush()
        self.driver.machine.flush()

    def found(self) -> tuple[int, int, int, int]:
        """What `PINNED` holds."""
        rows = 0
        for name, value in sorted(self.backend.rows.items()):
            rows = crc32(b"%d %b %b" % (len(name), name, value), rows)
        subject = self.driver.machine
        return subject.revision, subject.state_hash, rows, self.answers


@pytest.mark.parametrize("cache_bytes", _CACHES)
def test_a_log_of_puts_leaves_the_same_bytes_as_ever(cache_bytes: int) -> None:
    work = Workload(1, cache_bytes)
    work.run(700, only_puts=True)
    assert work.found() == PINNED["puts"]


@pytest.mark.parametrize("cache_bytes", _CACHES)
def test_a_log_of_everything_leaves_the_same_bytes_as_ever(cache_bytes: int) -> None:
    work = Workload(2, cache_bytes)
    work.run(1200, only_puts=False)
    assert work.found() == PINNED["everything"]


@pytest.mark.parametrize("cache_bytes", _CACHES)
def test_revisions_of_every_length_leave_the_same_bytes_as_ever(cache_bytes: int) -> None:
    """A revision takes one to nine bytes; the borders of the short ones are crossed here."""
    work = Workload(3, cache_bytes)
    store = work.driver.machine.store
    for start in (120, 16_380, 2_097_148, 268_435_450, (1 << 32) - 4, (1 << 62) - 5):
        store.revision, store.next_id = start, (start + 1) << 32
        work.run(40, only_puts=False)
    assert work.found() == PINNED["large revisions"]


@pytest.mark.parametrize("cache_bytes", _CACHES)
def test_a_log_with_sessions_leaves_the_same_bytes_as_ever(cache_bytes: int) -> None:
    work = Workload(4, cache_bytes)
    subject = work.driver.machine
    for session in (5, -6):
        work.session = session
        subject.leases.by_id[session] = Lease(session, 60_000, session=True)
        subject.sessions.begin(session)
        work.run(400, only_puts=False)
    assert subject.sessions.repeated > 5
    assert len(subject.sessions.by_id[-6].answers) > 5
    assert work.found() == PINNED["sessions"]
