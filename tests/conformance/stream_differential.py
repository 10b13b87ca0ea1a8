"""Random histories with watches and leases, on etcd and on raftkv: the same is told of both.

Both stores are fresh and get the same writes, so revisions and watch ids are the same too.
What a watch was told is its script of creations, events and cancellations in order; how events
are dealt out to responses may differ and is checked by rules instead: no revision in two
responses, none behind the revision that the header names. Every watch that lives gets a last
put and a last delete within its range, so that the end of its script is known and nobody waits
for silence.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from raftkv.pb import kv_pb2, rpc_pb2
from tests.conformance.differential import Difference, Differential
from tests.conformance.streams import Ended, KeepAliveStream, WatchStream, event_tuple
from tests.conformance.target import Target

KEYS: Final = tuple(b"%c" % letter for letter in b"abcdefgh")
ENDS: Final = (b"", b"", b"", b"\0", b"b", b"d", b"f", b"i")
STREAMS: Final = 3
NOPUT: Final = rpc_pb2.WatchCreateRequest.NOPUT
NODELETE: Final = rpc_pb2.WatchCreateRequest.NODELETE
FILTERS: Final = ((), (), (), (), (NOPUT,), (NODELETE,), (NOPUT, NODELETE))
LEASE_SECONDS: Final = 5000

Told = tuple[Any, ...]


@dataclass
class Watch:
    """A watch as etcd created it. last: the revision of the last event it will get.

    compacted: the compacted revision when it was created.
    """

    create: rpc_pb2.WatchCreateRequest
    compacted: int = 0
    ended: bool = False
    last: int = 0

    def covers(self, key: bytes) -> bool:
        first, end = self.create.key or b"\0", self.create.range_end
        if not end:
            return key == first
        return key >= first and (end == b"\0" or key < end)

    def wants(self, kind: int, revision: int) -> bool:
        return kind not in self.create.filters and revision >= self.create.start_revision

    def certain(self, events: list[Told]) -> list[Told]:
        """Without a deletion at the compacted revision: etcd tells it until it has removed it."""
        if self.create.start_revision != self.compacted:
            return events
        return [one for one in events if (one[0], one[4]) != ("DELETE", self.compacted)]


@dataclass
class Script:
    """What one server told on one stream: per watch id in order, and all that needs an answer."""

    answers: list[Told] = field(default_factory=list)
    events: dict[int, list[Told]] = field(default_factory=dict)
    last: dict[int, int] = field(default_factory=dict)

    def take(self, answer: rpc_pb2.WatchResponse) -> None:
        """Checks the rules and notes the response. Errors: AssertionError."""
        wid = answer.watch_id
        if not answer.events:
            told = (
                wid,
                answer.created,
                answer.canceled,
                answer.cancel_reason,
                answer.compact_revision,
                answer.header.revision,
            )
            self.answers.append(told)
            if answer.created:
                self.events.pop(wid, None)
                self.last.pop(wid, None)
            return
        revisions = [event.kv.mod_revision for event in answer.events]
        assert revisions == sorted(revisions), "events out of order"
        assert self.last.get(wid, 0) < revisions[0], "a revision in two responses"
        assert revisions[-1] <= answer.header.revision, "an event from the future"
        self.last[wid] = revisions[-1]
        self.events.setdefault(wid, []).extend(_told(event) for event in answer.events)


def _told(event: kv_pb2.Event) -> Told:
    before = event.prev_kv.SerializeToString() if event.HasField("prev_kv") else None
    return (*event_tuple(event), before)


class Side:
    """One server's end of one watch stream."""

    def __init__(self, target: Target) -> None:
        self.stream = WatchStream(target)
        self.script = Script()

    def read(self, answers: int, last: dict[int, int]) -> None:
        """Reads until so many answers without events came, and those last revisions."""
        while len(self.script.answers) < answers or any(
            self.script.last.get(wid, 0) < revision for wid, revision in last.items()
        ):
            answer = self.stream.take()
            assert not isinstance(answer, Ended), answer
            self.script.take(answer)


class WatchDifferential:
    """One run over a fresh etcd and a fresh raftkv."""

    def __init__(self, judge: Target, nodes: Sequence[Target], seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._random = Random(seed)
        self._seed = seed
        self._writes = Differential(judge, nodes, seed)
        self._nodes = list(nodes)
        self._sides = [
            (Side(judge), Side(self._nodes[number % len(nodes)])) for number in range(STREAMS)
        ]
        self._watches: list[dict[int, Watch]] = [{} for _ in range(STREAMS)]
        self._answers = [0] * STREAMS
        self._revision = 1
        self._compacted = 0
        self._leases: list[int] = []
        self._next_lease = 1000

    def close(self) -> None:
        """Hangs up all streams."""
        for pair in self._sides:
            for side in pair:
                side.stream.close()

    def run(self, count: int) -> Counter[str]:
        """Makes `count` random steps and compares. Errors: Difference, AssertionError."""
        steps = (
            [self._write] * 10 + [self._create] * 3 + [self._cancel, self._lease, self._progress]
        )
        for number in range(count):
            self._random.choice(steps)()
            if number % 100 == 99:
                self._compact()
        self._finish()
        return self.outcomes

    # --- steps ------------------------------------------------------------------

    def _write(self) -> None:
        if self._random.random() < 0.6:
            self._send(self._put())
        elif self._random.random() < 0.5:
            self._send(self._delete())
        else:
            keys = self._random.sample(KEYS, self._random.randint(1, 4))
            ops = [
                rpc_pb2.RequestOp(request_put=self._put(key))
                if self._random.random() < 0.6
                else rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
                for key in keys
            ]
            self._send(rpc_pb2.TxnRequest(success=ops))

    def _put(self, key: bytes = b"") -> rpc_pb2.PutRequest:
        lease = self._random.choice(self._leases) if self._leases else 0
        return rpc_pb2.PutRequest(
            key=key or self._random.choice(KEYS),
            value=b"%d" % self._random.randrange(1000),
            lease=lease if self._random.random() < 0.3 else 0,
        )

    def _delete(self) -> rpc_pb2.DeleteRangeRequest:
        key, end = self._random.choice(KEYS), self._random.choice(ENDS)
        return rpc_pb2.DeleteRangeRequest(key=key, range_end=end)

    def _send(self, request: Any) -> Any:
        answer = self._writes.step(request)
        if answer.message is not None:
            header: Any = getattr(answer.message, "header")  # noqa: B009
            self._revision = max(self._revision, header.revision)
        self.outcomes[f"{request.DESCRIPTOR.name} {answer.code}"] += 1
        return answer

    def _lease(self) -> None:
        if len(self._leases) > 3 or (self._leases and self._random.random() < 0.3):
            lease = self._leases.pop(self._random.randrange(len(self._leases)))
            self._send(rpc_pb2.LeaseRevokeRequest(ID=lease))
        else:
            self._next_lease += 1
            self._send(rpc_pb2.LeaseGrantRequest(ID=self._next_lease, TTL=LEASE_SECONDS))
            self._leases.append(self._next_lease)

    def _compact(self) -> None:
        """Only what every watch has been told, since a lagging one is cancelled at random."""
        self._catch_up()
        low = max(self._compacted + 1, self._revision - 20)
        if low < self._revision:
            self._compacted = self._random.randint(low, self._revision)
            self._send(rpc_pb2.CompactionRequest(revision=self._compacted))

    def _create(self) -> None:
        number = self._random.randrange(STREAMS)
        past = self._random.randint(max(0, self._compacted - 3), self._revision)
        filters = self._random.choice(FILTERS)
        start = self._random.choice((0, 0, past, past, self._revision + 3))
        if len(filters) == 2:
            start = 0  # nobody sees when it has caught up, before which a compaction ends it
        create = rpc_pb2.WatchCreateRequest(
            key=self._random.choice((*KEYS, b"")),
            range_end=self._random.choice(ENDS),
            start_revision=start,
            filters=filters,
            prev_kv=self._random.random() < 0.3,
            fragment=self._random.random() < 0.2,
            watch_id=self._random.choice((0, 0, 0, 0, self._random.randint(1, 9))),
        )
        asked = rpc_pb2.WatchRequest(create_request=create)
        told = self._ask(number, asked, 1)[-1]
        self.outcomes[f"created {told[3] or 'watch'}"] += 1
        if told[2]:
            return
        if 0 < create.start_revision < self._compacted:
            told = self._ask(number, None, 1)[-1]
            self.outcomes["compacted"] += 1
            return
        self._watches[number][told[0]] = Watch(create, self._compacted)

    def _cancel(self) -> None:
        number = self._random.randrange(STREAMS)
        known = list(self._watches[number])
        watch_id = self._random.choice([*known, 999])
        cancel = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
        request = rpc_pb2.WatchRequest(cancel_request=cancel)
        if watch_id != 999:
            self._catch_up()
        self._ask(number, request, int(watch_id != 999))
        self._watches[number].pop(watch_id, None)
        self.outcomes["cancel"] += 1

    def _progress(self) -> None:
        number = self._random.randrange(STREAMS)
        progress = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
        self._ask(number, progress, 1)
        self.outcomes["progress"] += 1

    # --- comparing --------------------------------------------------------------

    def _ask(self, number: int, request: rpc_pb2.WatchRequest | None, answers: int) -> list[Told]:
        """Sends a request to both and compares what is answered to it."""
        judge, subject = self._sides[number]
        node = self._nodes[number % len(self._nodes)]
        node.call(rpc_pb2.RangeRequest(key=b"a"))  # what was written is applied there now
        self._answers[number] += answers
        for side in (judge, subject):
            if request is not None:
                side.stream.send(request)
            side.read(self._answers[number], {})
        if judge.script.answers != subject.script.answers:
            raise Difference(
                f"seed {self._seed}, stream {number}, {request}: etcd"
                f" {judge.script.answers[-1]}, raftkv {subject.script.answers[-1]}"
            )
        return judge.script.answers

    def _catch_up(self) -> None:
        """A last put and delete per key; every watch is read up to what it gets of them."""
        for key in (*KEYS, b"\0"):
            self._send(rpc_pb2.PutRequest(key=key, value=b"last"))
            self._note(key, NOPUT)
            self._send(rpc_pb2.DeleteRangeRequest(key=key))
            self._note(key, NODELETE)
        for number, watches in enumerate(self._watches):
            last = {wid: watch.last for wid, watch in watches.items() if watch.last}
            for side in self._sides[number]:
                side.read(self._answers[number], last)
            self._compare(number)

    def _note(self, key: bytes, kind: int) -> None:
        for watches in self._watches:
            for watch in watches.values():
                if watch.covers(key) and watch.wants(kind, self._revision):
                    watch.last = self._revision

    def _compare(self, number: int) -> None:
        judge, subject = (side.script for side in self._sides[number])
        for wid, watch in self._watches[number].items():
            theirs = watch.certain(judge.events.get(wid, []))
            ours = watch.certain(subject.events.get(wid, []))
            if theirs != ours:
                place = next(
                    (n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b),
                    min(len(theirs), len(ours)),
                )
                raise Difference(
                    f"seed {self._seed}, stream {number}, {watch.create}:"
                    f" event {place}: etcd {theirs[place : place + 2]},"
                    f" raftkv {ours[place : place + 2]}"
                )
            self.outcomes["events"] += len(theirs)
            judge.events[wid] = subject.events[wid] = []

    def _finish(self) -> None:
        self._catch_up()


class LeaseDifferential:
    """Random calls of the Lease service; ids that a server chose are known by their order."""

    def __init__(self, judge: Target, nodes: Sequence[Target], seed: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self._random = Random(seed)
        self._seed = seed
        self._writes = Differential(judge, nodes, seed)
        self._targets = (judge, *nodes)
        self._streams = [KeepAliveStream(target) for target in self._targets]

    def close(self) -> None:
        """Hangs up all streams."""
        for stream in self._streams:
            stream.close()

    def run(self, count: int) -> Counter[str]:
        """Makes `count` random calls and compares. Errors: Difference."""
        for _ in range(count):
            self._random.choice(
                [self._grant, self._revoke, self._put, self._renew, self._left, self._list]
            )()
        return self.outcomes

    def _id(self) -> int:
        return int(self._random.choice([*range(-4, 0), *range(1, 9), 2**63 - 1]))

    def _step(self, request: Any) -> None:
        answer = self._writes.step(request)
        self.outcomes[f"{request.DESCRIPTOR.name} {answer.code} {answer.text}"] += 1

    def _grant(self) -> None:
        ttl = self._random.choice([LEASE_SECONDS, 9_000_000_000, 9_000_000_001, 2**63 - 1])
        self._step(rpc_pb2.LeaseGrantRequest(ID=self._id(), TTL=ttl))

    def _revoke(self) -> None:
        self._step(rpc_pb2.LeaseRevokeRequest(ID=self._random.choice([0, self._id()])))

    def _put(self) -> None:
        key = self._random.choice(KEYS)
        self._step(rpc_pb2.PutRequest(key=key, lease=self._random.choice([0, self._id()])))

    def _renew(self) -> None:
        """On every node; they agree with etcd."""
        lease = self._random.choice([0, self._id()])
        expected, *actual = (stream.renew(lease) for stream in self._streams)
        self._agree(f"renewal of {lease}", expected, actual)
        self.outcomes[f"renewal {'found' if expected[1] else 'unknown'}"] += 1

    def _left(self) -> None:
        """The servers granted it, and are asked, one after the other: seconds may lie between."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=self._id(), keys=self._random.random() < 0.5)
        found = []
        for target in self._targets:
            answer = target.call(request).message
            assert isinstance(answer, rpc_pb2.LeaseTimeToLiveResponse)
            found.append(answer)
        shown = [(a.ID, a.grantedTTL, sorted(a.keys), a.header.revision) for a in found]
        self._agree(str(request), shown[0], shown[1:])
        assert all(abs(a.TTL - found[0].TTL) <= 60 for a in found), found
        assert all((a.TTL < 0) == (found[0].TTL < 0) for a in found), found
        self.outcomes[f"left {'of none' if found[0].TTL < 0 else 'of some'}"] += 1

    def _list(self) -> None:
        found = []
        for target in self._targets:
            answer = target.call(rpc_pb2.LeaseLeasesRequest()).message
            assert isinstance(answer, rpc_pb2.LeaseLeasesResponse)
            found.append(sorted(status.ID for status in answer.leases))
        self._agree("leases", found[0], found[1:])
        self.outcomes["leases"] += 1

    def _agree(self, what: str, expected: Any, actual: Sequence[Any]) -> None:
        for one in actual:
            if one != expected:
                raise Difference(f"seed {self._seed}, {what}: etcd {expected}, raftkv {one}")
