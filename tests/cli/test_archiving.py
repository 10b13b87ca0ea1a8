"""The archiver against servers made up for it: what they may do to it, and what it then writes."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.cli import archiving
from raftkv.cli.archiving import Archiver
from raftkv.cli.connection import CallFailed, Target
from raftkv.cli.exits import CtlError
from raftkv.cli.paging import COMPACTED_TEXT
from raftkv.cli.signals import Interrupted
from raftkv.pb import kv_pb2, rpc_pb2
from raftkv.server.archiving import Archive
from raftkv.storage.archive import (
    COUNT,
    LEASE,
    REVISION,
    Record,
    SegmentReader,
    contents,
    decode_events,
    decode_number,
)

CLUSTER = 0xC1
Events = list[kv_pb2.Event]


def put_event(revision: int, key: bytes = b"", **more: Any) -> kv_pb2.Event:
    pair = kv_pb2.KeyValue(key=key or b"k%d" % revision, create_revision=revision, **more)
    pair.mod_revision, pair.version = revision, 1
    return kv_pb2.Event(kv=pair)


def delete_event(revision: int, key: bytes) -> kv_pb2.Event:
    pair = kv_pb2.KeyValue(key=key, mod_revision=revision)
    return kv_pb2.Event(type=kv_pb2.Event.EventType.DELETE, kv=pair)


class Broken(grpc.RpcError):  # type: ignore[misc]
    """How a stream ends when its server goes."""

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "gone"


class Call:
    """A watch's answers, then nothing until it is cancelled."""

    def __init__(self, answers: list[rpc_pb2.WatchResponse], breaks: bool) -> None:
        self._answers = answers
        self._breaks = breaks
        self._cancelled = threading.Event()

    def __iter__(self) -> Iterator[rpc_pb2.WatchResponse]:
        yield from self._answers
        if self._breaks:
            raise Broken
        self._cancelled.wait(60)

    def cancel(self) -> None:
        self._cancelled.set()


class Servers:
    """Stands for a Connection to servers that are not raftkv's.

    events: by revision. compacted: revision. shows: what an endpoint's watch comes to, if not to
    the present. breaks: endpoints whose streams break then. ttls: seconds by lease.
    """

    def __init__(self, *endpoints: str) -> None:
        self.target = Target(endpoints=endpoints or ("one",))
        self.cluster = CLUSTER
        self.events: dict[int, Events] = {}
        self.compacted = 0
        self.shows: dict[str, int] = {}
        self.breaks: set[str] = set()
        self.ttls: dict[int, int] = {}
        self.watched: list[tuple[str, int]] = []

    @property
    def revision(self) -> int:
        return max(self.events, default=1)

    def extend(self, until: int) -> None:
        """One key a revision."""
        for revision in range(self.revision + 1, until + 1):
            self.events[revision] = [put_event(revision)]

    def read(self, method: str, request: Any, reply: Any) -> Any:
        header = rpc_pb2.ResponseHeader(cluster_id=self.cluster, revision=self.revision)
        if method == "KV/Range":
            if 0 < request.revision < self.compacted:
                raise CallFailed(COMPACTED_TEXT)
            pairs = self._pairs(request.revision or self.revision) if request.range_end else []
            found = [] if request.count_only else pairs
            return reply(header=header, kvs=found, count=len(pairs))
        if method == "Lease/LeaseTimeToLive":
            ttl = self.ttls.get(request.ID)
            return reply(ID=request.ID, TTL=-1) if ttl is None else reply(TTL=1, grantedTTL=ttl)
        raise CallFailed("rpc error: code = Unimplemented desc = unknown service")

    def _pairs(self, revision: int) -> list[kv_pb2.KeyValue]:
        pairs: dict[bytes, kv_pb2.KeyValue] = {}
        for number in range(2, revision + 1):
            for event in self.events[number]:
                pairs.pop(event.kv.key, None)
                if event.type == kv_pb2.Event.EventType.PUT:
                    pairs[event.kv.key] = event.kv
        return [pairs[key] for key in sorted(pairs)]

    def stream(self, endpoint: str, path: str, requests: Any, reply: Any) -> Call:
        start = next(requests).create_request.start_revision
        self.watched.append((endpoint, start))
        if start < self.compacted:
            gone = rpc_pb2.WatchResponse(canceled=True, compact_revision=self.compacted)
            return Call([gone], breaks=False)
        until = self.shows.get(endpoint, self.revision)
        groups = [self.events.get(revision, []) for revision in range(max(start, 2), until + 1)]
        answers = [rpc_pb2.WatchResponse(events=events) for events in groups]
        return Call([rpc_pb2.WatchResponse(created=True), *answers], endpoint in self.breaks)


def archived(servers: Servers, path: Path) -> list[str]:
    """Archives what is committed; what the operator is told."""
    told: list[str] = []
    archive = Archive(str(path))
    try:
        Archiver(servers, archive, told.append).run(once=True)  # type: ignore[arg-type]
    finally:
        archive.close()
    return told


def records(path: Path, kind: int = REVISION) -> list[Record]:
    """Of all segments."""
    readers = [SegmentReader(one, newest=True) for one in contents(str(path)).segments.values()]
    return [record for reader in readers for record in reader if record.kind == kind]


def revisions(path: Path) -> list[int]:
    return [record.number for record in records(path)]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archiving, "MIN_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(archiving, "MAX_PAUSE_SECONDS", 0.001)


def test_a_first_run_takes_a_base_and_the_next_ones_add_what_came_since(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    assert (list(contents(str(tmp_path)).bases), revisions(tmp_path)) == ([5], [])
    servers.extend(9)
    archived(servers, tmp_path)
    archived(servers, tmp_path)
    assert (list(contents(str(tmp_path)).bases), revisions(tmp_path)) == ([5], [6, 7, 8, 9])
    assert [start for _, start in servers.watched] == [5, 5, 9]
    (*_, count) = records(tmp_path, COUNT)
    assert (count.number, decode_number(count.payload)) == (9, 8)


def test_several_events_of_a_revision_keep_their_order(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(3)
    archived(servers, tmp_path)
    gone = delete_event(4, b"k2")
    servers.events[4] = [put_event(4, b"z"), gone, put_event(4, b"a")]
    archived(servers, tmp_path)
    (record,) = records(tmp_path)
    assert [event.deleted for event in decode_events(record.payload)] == [False, True, False]


def test_a_broken_stream_is_begun_anew_at_the_next_endpoint(tmp_path: Path) -> None:
    servers = Servers("one", "two")
    servers.extend(3)
    archived(servers, tmp_path)
    servers.extend(9)
    servers.shows["one"], servers.breaks = 6, {"one"}
    told = archived(servers, tmp_path)
    assert revisions(tmp_path) == [4, 5, 6, 7, 8, 9]
    assert servers.watched[1:] == [("one", 3), ("two", 6)]
    assert any("archived up to revision 6" in line for line in told)


def test_a_member_that_does_not_get_to_what_is_committed_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "LAG_SECONDS", 0.05)
    servers = Servers("one", "two")
    servers.extend(3)
    archived(servers, tmp_path)
    servers.extend(9)
    servers.shows["one"] = 6
    stale = Archive(str(tmp_path))
    told: list[str] = []
    Archiver(servers, stale, told.append, check_seconds=0.02).run(once=True)  # type: ignore[arg-type]
    stale.close()
    assert revisions(tmp_path) == [4, 5, 6, 7, 8, 9]
    assert any("does not get to revision 9" in line for line in told)


def compacted_behind_an_archive(directory: Path) -> Servers:
    """Archived up to revision 5; 12 are there by now, and the first 9 compacted."""
    servers = Servers()
    servers.extend(5)
    archived(servers, directory)
    servers.extend(12)
    servers.compacted = 9
    return servers


def test_what_was_compacted_before_it_was_archived_becomes_a_gap_that_is_told(
    tmp_path: Path,
) -> None:
    servers = compacted_behind_an_archive(tmp_path)
    told = archived(servers, tmp_path)
    servers.extend(14)
    archived(servers, tmp_path)
    assert list(contents(str(tmp_path)).bases) == [5, 12]
    assert revisions(tmp_path) == [13, 14]
    assert any("nothing between can be restored" in line for line in told)


def test_a_base_that_does_not_come_is_asked_for_again(tmp_path: Path) -> None:
    servers = compacted_behind_an_archive(tmp_path)
    failures = iter([True, True])

    def read(method: str, request: Any, reply: Any) -> Any:
        if method == "KV/Range" and request.limit and next(failures, False):
            raise CallFailed("lost the connection")
        return Servers.read(servers, method, request, reply)

    servers.read = read  # type: ignore[method-assign]
    told = archived(servers, tmp_path)
    assert sum("lost the connection" in line for line in told) == 2
    assert list(contents(str(tmp_path)).bases) == [5, 12]


def test_history_compacted_right_up_to_the_archives_end_is_no_gap(tmp_path: Path) -> None:
    """A deletion at the compacted revision may be gone there; it is archived already."""
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    gone = delete_event(6, b"k2")
    servers.events[6] = [gone, put_event(6, b"z")]
    archived(servers, tmp_path)
    servers.extend(8)
    servers.compacted = 6
    servers.events[6] = [put_event(6, b"z")]
    servers.read = lambda *a: _counting(servers, *a)  # type: ignore[method-assign]
    archived(servers, tmp_path)
    assert revisions(tmp_path) == [6, 7, 8]


def _counting(servers: Servers, method: str, request: Any, reply: Any) -> Any:
    """The deletion still counts, though its event is gone."""
    answer = Servers.read(servers, method, request, reply)
    if method == "KV/Range" and request.range_end:
        answer.count -= 1
    return answer


def test_history_compacted_one_revision_further_is_a_gap(tmp_path: Path) -> None:
    """What happened at the compacted revision may not be all there."""
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    servers.extend(8)
    servers.compacted = 6
    archived(servers, tmp_path)
    assert list(contents(str(tmp_path)).bases) == [5, 8]


def test_revisions_that_do_not_come_are_never_passed_over(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    servers.extend(12)
    kept = servers.events.pop(8)
    told: list[str] = []
    archive = Archive(str(tmp_path))
    archiver = Archiver(servers, archive, told.append)  # type: ignore[arg-type]

    def begin_anew() -> None:
        servers.events[8] = kept
        Archiver._begin_anew(archiver)

    archiver._begin_anew = begin_anew  # type: ignore[method-assign]
    archiver.run(once=True)
    archive.close()
    assert revisions(tmp_path) == [6, 7]
    assert list(contents(str(tmp_path)).bases) == [5, 12]
    assert any("revisions 8 to 8 did not come" in line for line in told)


def test_a_revision_in_two_parts_ends_the_archiver(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    servers.extend(7)
    servers.events[7].append(put_event(6, b"late"))
    with pytest.raises(CtlError, match="in two parts"):
        archived(servers, tmp_path)


def test_the_archive_of_another_cluster_is_left_alone(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    servers.cluster += 1
    with pytest.raises(CtlError, match="use another directory"):
        archived(servers, tmp_path)


def test_a_cluster_that_was_set_back_is_noticed(tmp_path: Path) -> None:
    """An etcd restored with its token has its cluster id, and counts the same revisions anew."""
    servers = Servers()
    servers.extend(5)
    archived(servers, tmp_path)
    servers.extend(9)
    archived(servers, tmp_path)
    del servers.events[9]
    with pytest.raises(CtlError, match="was set back"):
        archived(servers, tmp_path)
    servers.events[9] = [put_event(9, b"other")]
    servers.extend(20)
    with pytest.raises(CtlError, match="was set back"):
        archived(servers, tmp_path)
    assert revisions(tmp_path) == [6, 7, 8, 9]


def test_times_to_live_are_asked_once_and_noted_before_their_keys(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(3)
    archived(servers, tmp_path)
    servers.ttls = {7: 90}
    servers.events[4] = [put_event(4, lease=7)]
    servers.events[5] = [put_event(5, lease=7)]
    servers.events[6] = [put_event(6, lease=-8)]
    archived(servers, tmp_path)
    noted = [(one.number, decode_number(one.payload)) for one in records(tmp_path, LEASE)]
    assert noted == [(7, 90_000), ((1 << 64) - 8, 0)]
    (path,) = contents(str(tmp_path)).segments.values()
    kinds = [one.kind for one in SegmentReader(path, newest=True) if one.kind in (LEASE, REVISION)]
    assert kinds == [LEASE, REVISION, REVISION, LEASE, REVISION]


def test_without_any_endpoint_the_archiver_ends_at_once_but_only_at_first(tmp_path: Path) -> None:
    servers = Servers()
    servers.extend(3)
    asked = iter([False, True, False])

    def read(method: str, request: Any, reply: Any) -> Any:
        if method == "KV/Range" and not request.range_end and next(asked, False):
            raise CallFailed("no endpoint could be reached")
        return Servers.read(servers, method, request, reply)

    servers.read = read  # type: ignore[method-assign]
    archived(servers, tmp_path)
    servers.extend(6)
    with pytest.raises(CallFailed):
        archived(servers, tmp_path)
    asked = iter([False, True, False])
    servers.shows, servers.breaks = {"one": 5}, {"one"}
    archive = Archive(str(tmp_path))
    told: list[str] = []

    def say(text: str) -> None:
        told.append(text)
        if "no endpoint" in text:
            servers.shows, servers.breaks = {}, set()

    Archiver(servers, archive, say).run(once=True)  # type: ignore[arg-type]
    archive.close()
    assert revisions(tmp_path) == [4, 5, 6]
    assert any(line.startswith("no endpoint could be reached") for line in told)


def test_a_signal_ends_it_between_two_turns_with_everything_synced(tmp_path: Path) -> None:
    """Raised in the middle of a queue's work, an exception would leave its lock behind."""
    servers = Servers()
    servers.extend(3)
    archived(servers, tmp_path)
    servers.extend(9)
    archive = Archive(str(tmp_path))
    archiver = Archiver(servers, archive, lambda text: None)  # type: ignore[arg-type]
    add = archive.add

    def add_and_signal(events: Events, time_ms: int) -> None:
        add(events, time_ms)
        archiver.stop()

    archive.add = add_and_signal  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        archiver.run(once=False)
    assert archive.end == archive.durable > 3
    archive.close()
    assert revisions(tmp_path) == list(range(4, archive.end + 1))


def test_a_signal_ends_it_at_once_where_nothing_is_under_way(tmp_path: Path) -> None:
    archive = Archive(str(tmp_path))
    archiver = Archiver(Servers(), archive, lambda text: None)  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        archiver.stop()
    with pytest.raises(Interrupted):
        archiver.run(once=True)
    archive.close()
