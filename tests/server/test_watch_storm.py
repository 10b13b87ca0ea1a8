"""Random watches of a busy member, judged by the validators against all that was written.

Clients read as they like, watches come, go and lag, streams break off, and history is compacted
under them. What a response's header says counts as a bookmark too.
"""

import asyncio
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from raftkv.kv.encoding import KeyValue
from raftkv.kv.events import Event
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.sim.validators import (
    Asked,
    Cancelled,
    Created,
    History,
    Progress,
    Response,
    WatchRecord,
    validate,
)
from tests.server.harness import RpcError, configs, running, until
from tests.server.watching import Reluctant, WatchClient, cancel, create, hub, progress

KEYS = [b"k/%02d" % one for one in range(12)]
RANGES = [
    *((key, b"") for key in KEYS[:4]),
    (b"k/", b"k0"),
    (b"k/0", b"k/1"),
    (b"k/03", b"k/07"),
    (b"k/09", b"\0"),
]
ROUNDS = 150
CLIENTS = 3


def plain(pair: kv_pb2.KeyValue) -> KeyValue:
    """A message as the validators want it."""
    return KeyValue(
        pair.key, pair.create_revision, pair.mod_revision, pair.version, pair.value, pair.lease
    )


def event_of(event: kv_pb2.Event) -> Event:
    """A message as the validators want it."""
    previous = plain(event.prev_kv) if event.HasField("prev_kv") else None
    return Event(event.type == kv_pb2.Event.DELETE, plain(event.kv), previous)


@dataclass
class Stream:
    """What one stream was asked; its ids are counted from 0."""

    client: Reluctant
    number: int
    records: list[WatchRecord] = field(default_factory=list)
    broken: bool = False

    def judge(self) -> None:
        """Gives each response to the records that it is of."""
        for one in self.client.responses(self.number):
            if one.watch_id == -1:
                of = [
                    record
                    for record in self.records
                    if record.received and not isinstance(record.received[-1], Cancelled)
                ]
            else:
                of = [self.records[one.watch_id]]
            for record in of:
                self._note(record, one)

    @staticmethod
    def _note(record: WatchRecord, one: rpc_pb2.WatchResponse) -> None:
        revision = one.header.revision
        if one.created:
            record.received.append(Created(revision))
        elif one.canceled and isinstance(record.received[-1], Cancelled) and record.cancel_asked:
            pass  # as in etcd, which answers this for an id that it has cancelled itself, too
        elif one.canceled:
            record.received.append(Cancelled(one.compact_revision, one.cancel_reason))
        elif one.events:
            events = tuple(event_of(event) for event in one.events)
            record.received.append(Response(events, one.fragment))
            if not one.fragment:
                record.received.append(Progress(revision))
        elif one.watch_id != -1 or revision >= record.asked.start_revision:
            record.received.append(Progress(revision))


class Storm:
    """The load, and what there was of it."""

    def __init__(self, node: Any, writer: WatchClient, seed: int) -> None:
        self.node = node
        self.random = random.Random(seed)
        self.writer = writer
        self.clients: list[Reluctant] = []
        self.streams: list[Stream] = []
        self.compactions: list[int] = []

    @property
    def revision(self) -> int:
        """What is applied."""
        return int(self.node.driver.replica.machine.revision)

    async def write(self) -> None:
        """A burst of puts, deletions and transactions."""
        calls = []
        for _ in range(self.random.randrange(1, 30)):
            key = self.random.choice(KEYS)
            value = b"v" * self.random.choice((0, 10, 100, 20_000))
            kind = self.random.random()
            put = rpc_pb2.PutRequest(key=key, value=value)
            delete = rpc_pb2.DeleteRangeRequest(key=key, range_end=b"k/05")
            if kind < 0.7:
                calls.append(self.writer.start("/etcdserverpb.KV/Put", put))
            elif kind < 0.8:
                calls.append(self.writer.start("/etcdserverpb.KV/DeleteRange", delete))
            else:
                keys = self.random.sample(KEYS, 5)
                puts = (rpc_pb2.PutRequest(key=one, value=value) for one in keys)
                operations = [rpc_pb2.RequestOp(request_put=one) for one in puts]
                request = rpc_pb2.TxnRequest(success=operations)
                calls.append(self.writer.start("/etcdserverpb.KV/Txn", request))
        self.writer.flush()
        await asyncio.gather(*calls)

    async def compact(self) -> None:
        """Cuts history not far behind the present."""
        revision = max(self.revision - self.random.randrange(0, 1500), 1)
        try:
            request = rpc_pb2.CompactionRequest(revision=revision)
            await self.writer.call("/etcdserverpb.KV/Compact", request)
        except RpcError:
            return  # it was compacted further already
        self.compactions.append(revision)

    def ask(self) -> None:
        """A new watch, on a stream that there is or a new one."""
        alive = [one for one in self.streams if not one.broken]
        if len(alive) < 3 * CLIENTS and self.random.random() < 0.3:
            client = self.random.choice(self.clients)
            alive = [Stream(client, client.open())]
            self.streams += alive
        if not alive:
            return
        stream = self.random.choice(alive)
        key, end = self.random.choice(RANGES)
        flags = {name: self.random.random() < 0.3 for name in ("prev_kv", "fragment")}
        filters = self.random.choice(((), (), (0,), (1,)))
        behind = self.random.choice((None, 0, 10, 100, 1000, -5, -50))
        start = 0 if behind is None else max(self.revision - behind, 1)
        request = create(
            key,
            end,
            start_revision=start,
            filters=filters,
            progress_notify=self.random.random() < 0.5,
            **flags,
        )
        stream.client.send(stream.number, request)
        asked = Asked(key, end, start, flags["prev_kv"], 0 in filters, 1 in filters)
        name = f"{stream.number}/{len(stream.records)}"
        stream.records.append(WatchRecord(name, asked))

    def disturb(self) -> None:
        """Something else that a client may do."""
        alive = [one for one in self.streams if not one.broken and one.records]
        if not alive:
            return
        stream = self.random.choice(alive)
        kind = self.random.random()
        if kind < 0.3:
            at = self.random.randrange(len(stream.records))
            stream.records[at].cancel_asked = True
            stream.client.send(stream.number, cancel(at))
        elif kind < 0.35:
            stream.broken = True
            stream.client.drop(stream.number)
        elif kind < 0.5:
            stream.client.send(stream.number, progress())
        else:
            stream.client.allow(stream.number, self.random.choice((1000, 50_000, 300_000)))


@pytest.mark.parametrize("seed", [1, 2])
def test_random_watches_of_a_busy_member_are_served_rightly(tmp_path: Path, seed: int) -> None:
    """W01, W03, W05, W06, W07, W08, W12, W17."""

    async def scenario() -> None:
        config = configs(1, tmp_path, watch_progress_notify_interval_seconds=0.1)
        async with running(config) as (node,):
            writer = await WatchClient.to(node)
            everything = writer.watch()
            await everything.create(b"\0", b"\0", start_revision=2)
            storm = Storm(node, writer, seed)
            storm.clients = [await Reluctant.to(node) for _ in range(CLIENTS)]
            await until(lambda: all(one.greeted for one in storm.clients))
            for number in range(ROUNDS):
                await storm.write()
                for _ in range(storm.random.randrange(4)):
                    storm.ask()
                for _ in range(storm.random.randrange(4)):
                    storm.disturb()
                if number % 10 == 9:
                    await storm.compact()
            for stream in storm.streams:
                if not stream.broken:
                    stream.client.free(stream.number)
            await until(lambda: hub(node).behind == 0)
            last = storm.revision
            for stream in storm.streams:
                if not stream.broken:
                    stream.client.send(stream.number, progress())
            await until(lambda: all(one.broken or ended(one, last) for one in storm.streams))
            await until(lambda: everything.responses[-1].header.revision >= last)
            judge(storm, everything.responses)
            for client in storm.clients:
                client.close()
            writer.close()

    asyncio.run(scenario())


def ended(stream: Stream, last: int) -> bool:
    """Whether the answer to the last request for progress is there."""
    return any(
        one.watch_id == -1 and one.header.revision >= last
        for one in stream.client.responses(stream.number)
    )


def judge(storm: Storm, told: list[rpc_pb2.WatchResponse]) -> None:
    """Everything that came, against all that was written."""
    whole = History((event_of(event) for one in told for event in one.events), storm.compactions)
    for stream in storm.streams:
        stream.judge()
    broken = [record for one in storm.streams if one.broken for record in one.records]
    kept = [record for one in storm.streams if not one.broken for record in one.records]
    for verdict in (validate(broken, whole), validate(kept, whole, complete=True)):
        assert not verdict.findings, verdict.findings[:10]
    assert verdict.watches > 50
    assert verdict.events > 2_000
    assert verdict.bookmarks > 100
    assert verdict.cancels > 10
