"""An archiver: every committed revision, from a watch into the files of an archive.

It needs nothing but etcd's API. A session with one endpoint: a linearizable read tells the cluster
and its revision; a watch of all keys begins at the newest archived revision itself, not behind it.
So the server says if that was compacted, and nothing between was: deletions at the compacted
revision may be gone. And its events are compared with the archived ones: a cluster that was set
back, and counts the same revisions anew, is noticed.

A stream that breaks is begun anew at the next endpoint. Where history was compacted before it was
archived, the archive begins anew with another base, and says so.

Now and then a linearizable read tells what had been committed when it began. As soon as that is
archived, this is noted: the archive is complete up to then. A server whose watch does not get there
is left.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle, groupby
from queue import Empty, Queue, SimpleQueue
from typing import Any, Final

from raftkv.cli.connection import CallFailed, Connection, error_text
from raftkv.cli.exits import CtlError
from raftkv.cli.paging import COMPACTED_TEXT, EVERYTHING, Pages, compacted_revision
from raftkv.cli.receiving import receive
from raftkv.cli.signals import Interrupted
from raftkv.cli.watching import WATCH, cancel_text
from raftkv.pb import rpc_pb2

CHECK_SECONDS: Final = 5.0
LAG_SECONDS: Final = 20.0  # without what is committed; then another endpoint is asked
MAX_PAUSE_SECONDS: Final = 5.0
MIN_PAUSE_SECONDS: Final = 0.1
WAKE_SECONDS: Final = 0.25  # to look if a signal came
QUEUED_RESPONSES: Final = 64

Received = tuple[int, rpc_pb2.WatchResponse | str]  # time in ms; or why nothing more comes


class SessionOver(Exception):
    """Another session is needed. The text says why."""


class HistoryLost(Exception):
    """What comes next was compacted. The text says what."""


@dataclass(slots=True)
class _Check:
    """A linearizable read began at `began_ms` and saw `revision`; it counts when that is archived.

    archived: the newest archived revision when somebody last looked. deadline: on the monotonic
    clock, for more than that to come.
    """

    began_ms: int
    revision: int
    archived: int = 0
    deadline: float = 0.0


class Archiver:
    """See the module's docstring.

    archive: a `raftkv.server.archiving.Archive`. say: tells the operator what happens, in a line.
    """

    def __init__(
        self,
        connection: Connection,
        archive: Any,
        say: Callable[[str], None],
        *,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._connection = connection
        self._archive = archive
        self._say = say
        self._check_seconds = check_seconds
        self._check: _Check | None = None
        self._counted = False
        self._stopped = self._defers = False

    def stop(self) -> None:
        """Ends `run` with Interrupted: soon, or right here. For a handler of signals.

        An exception in the middle of a queue's work would leave its lock behind. So where there is
        a stream, only a mark is made.
        """
        self._stopped = True
        if not self._defers:
            raise Interrupted

    def run(self, *, once: bool) -> None:
        """Archives for ever; `once`: what was committed when it began.

        Errors: Interrupted; CtlError if no endpoint answers at first, or another history does;
        StorageError.
        """
        endpoints = cycle(self._connection.target.endpoints)
        pause, connected = MIN_PAUSE_SECONDS, False
        needs_base = self._archive.end == 0
        while True:
            before = self._archive.end
            self._heed_stop()
            try:
                head = self._meet()
                connected = True
                if needs_base:
                    self._begin_anew()
                needs_base = False
                self._session(next(endpoints), head, once)
                return
            except HistoryLost as lost:
                self._say(f"{lost}: the archive begins anew, nothing between can be restored")
                needs_base = True
            except (SessionOver, CallFailed) as error:
                if isinstance(error, CallFailed) and not connected:
                    raise
                self._archive.sync()
                text = error.text if isinstance(error, CallFailed) else str(error)
                self._say(f"{text}; archived up to revision {self._archive.durable}")
            pause = MIN_PAUSE_SECONDS if self._archive.end > before else 2 * pause
            time.sleep(min(pause, MAX_PAUSE_SECONDS))

    # --- beginning -----------------------------------------------------------------

    def _meet(self) -> _Check:
        """What the cluster has committed. Errors: CtlError if it is not the archive's."""
        began_ms = _now_ms()
        request = rpc_pb2.RangeRequest(key=EVERYTHING, count_only=True)
        header = self._connection.read("KV/Range", request, rpc_pb2.RangeResponse).header
        archive = self._archive
        if archive.cluster not in (0, header.cluster_id):
            raise CtlError(
                f"this is an archive of the cluster {archive.cluster:x}, the endpoints are of "
                f"{header.cluster_id:x}: use another directory"
            )
        if header.revision < archive.end:
            raise CtlError(
                f"the cluster is at revision {header.revision}, the archive at {archive.end}: the "
                "cluster was set back. Use another directory"
            )
        self._cluster = header.cluster_id
        return _Check(began_ms, header.revision)

    def _begin_anew(self) -> None:
        """A base of the present. Errors: SessionOver or CallFailed if there was none."""
        archive, before = self._archive, self._archive.end
        lists = compacted_revision(self._connection) is None
        revision = self._list() if lists else self._receive()
        if archive.end == before:
            raise SessionOver(f"a snapshot of revision {revision} is of no use")
        self._say(f"Took a base of revision {archive.end}")

    def _receive(self) -> int:
        """A snapshot of the first endpoint that sends one."""
        reason = ""
        for endpoint in self._connection.target.endpoints:
            try:
                with open(self._archive.part, "wb", opener=_private) as file:
                    receive(self._connection, endpoint, file)
                return int(self._archive.begin_with_snapshot(self._cluster))
            except Interrupted:
                raise
            except CtlError as error:
                reason = error.text
            except OSError as error:
                raise CtlError(f"{self._archive.part}: {error.strerror or error}") from None
        raise SessionOver(f"no endpoint sends a snapshot: {reason}")

    def _list(self) -> int:
        """All keys of one revision. A compaction meanwhile is a reason to repeat it."""
        pages = Pages(self._connection, EVERYTHING, EVERYTHING).begin()
        self._archive.begin_with_listing(
            self._cluster, pages.revision, pages.pairs(), self._ttl_ms, time.time_ns()
        )
        return pages.revision

    def _ttl_ms(self, lease: int) -> int:
        """What a lease was granted for; 0: it has gone."""
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease)
        reply = self._connection.read(
            "Lease/LeaseTimeToLive", request, rpc_pb2.LeaseTimeToLiveResponse
        )
        return max(reply.grantedTTL, 1) * 1000 if reply.TTL >= 0 else 0

    # --- a session -------------------------------------------------------------------

    def _session(self, endpoint: str, head: _Check, once: bool) -> None:
        """Archives from one endpoint until all of `head` is there (`once`), or for ever.

        Errors: SessionOver, HistoryLost, CallFailed; CtlError if another history is found.
        """
        self._check, self._counted = head, False
        self._compared = self._archive.end
        self._say(f"Archiving from {endpoint} behind revision {self._compared}")
        self._defers = True
        try:
            with _Stream(self._connection, endpoint, self._compared) as stream:
                self._follow(stream, once)
        finally:
            self._defers = False

    def _follow(self, stream: "_Stream", once: bool) -> None:
        next_check = time.monotonic() + self._check_seconds
        while True:
            left = next_check - time.monotonic()
            for time_ms, response in stream.wait(min(max(left, 0.01), WAKE_SECONDS)):
                self._take(time_ms, response)
            self._archive.sync()
            if self._finish_check() and once:
                return
            self._heed_stop()
            if time.monotonic() >= next_check:
                next_check = time.monotonic() + self._check_seconds
                self._check = self._check or self._meet()

    def _heed_stop(self) -> None:
        if self._stopped:
            raise Interrupted

    def _finish_check(self) -> bool:
        """Notes how far the archive is complete, if that is known now. Errors: SessionOver."""
        check, archive = self._check, self._archive
        if check is None:
            return False
        if archive.end < check.revision:
            if archive.end > check.archived:
                check.archived, check.deadline = archive.end, time.monotonic() + LAG_SECONDS
            elif time.monotonic() > check.deadline:
                raise SessionOver(
                    f"the watch does not get to revision {check.revision}, which is committed"
                )
            return False
        self._check = None
        if not self._counted:
            self._counted = True
            self._count()
        archive.add_check(check.began_ms, _now_ms())
        archive.sync()
        return True

    def _count(self) -> None:
        """How many keys there are now: a restore compares."""
        request = rpc_pb2.RangeRequest(
            key=EVERYTHING, range_end=EVERYTHING, revision=self._archive.end, count_only=True
        )
        try:
            keys = self._connection.read("KV/Range", request, rpc_pb2.RangeResponse).count
        except CallFailed as error:
            if error.text != COMPACTED_TEXT:
                raise
            return
        self._archive.add_count(keys, _now_ms())

    def _take(self, time_ms: int, response: rpc_pb2.WatchResponse | str) -> None:
        """What has come from the stream."""
        if isinstance(response, str):
            raise SessionOver(response)
        if response.canceled:
            if response.compact_revision:
                raise HistoryLost(
                    f"revision {self._archive.end} was compacted (up to "
                    f"{response.compact_revision}) before what follows was archived"
                )
            raise SessionOver(cancel_text(response))
        for revision, group in groupby(response.events, lambda event: event.kv.mod_revision):
            self._take_revision(revision, list(group), time_ms)

    def _take_revision(self, revision: int, events: list[Any], time_ms: int) -> None:
        archive = self._archive
        if revision == self._compared == archive.end:
            if not archive.agrees(events):
                raise CtlError(
                    f"revision {revision} of the cluster is not the one that was archived: the "
                    "cluster was set back. Use another directory"
                )
            return
        if revision <= archive.end:
            raise CtlError(f"the server sent revision {revision} in two parts")
        if revision != archive.end + 1:
            raise HistoryLost(f"revisions {archive.end + 1} to {revision - 1} did not come")
        for lease in archive.unknown_leases(events):
            archive.add_lease(lease, self._ttl_ms(lease), time_ms)
        archive.add(events, time_ms)


class _Stream:
    """A watch of all keys from one endpoint, received by a thread of its own."""

    def __init__(self, connection: Connection, endpoint: str, revision: int) -> None:
        request = rpc_pb2.WatchCreateRequest(
            key=EVERYTHING, range_end=EVERYTHING, start_revision=revision
        )
        self._requests: SimpleQueue[rpc_pb2.WatchRequest | None] = SimpleQueue()
        self._requests.put(rpc_pb2.WatchRequest(create_request=request))
        source: Iterator[rpc_pb2.WatchRequest] = iter(self._requests.get, None)
        self._call: Any = connection.stream(endpoint, WATCH, source, rpc_pb2.WatchResponse)
        self._endpoint = endpoint
        self._received: Queue[Received] = Queue(QUEUED_RESPONSES)
        self._thread = threading.Thread(target=self._receive, name="archive-watch", daemon=True)

    def __enter__(self) -> "_Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)
        self._call.cancel()
        while self._thread.is_alive():  # it may wait for room
            with suppress(Empty):
                self._received.get(timeout=0.05)

    def wait(self, seconds: float) -> Iterator[Received]:
        """What has come; waits so long for the first response."""
        with suppress(Empty):
            yield self._received.get(timeout=seconds)
            for _ in range(QUEUED_RESPONSES):
                yield self._received.get_nowait()

    def _receive(self) -> None:
        import grpc

        ending = f"{self._endpoint} ended the watch"
        try:
            for response in self._call:
                self._received.put((_now_ms(), response))
        except grpc.RpcError as error:
            ending = error_text(error, self._endpoint)
        self._received.put((_now_ms(), ending))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _private(path: str, flags: int) -> int:
    import os

    return os.open(path, flags, 0o600)
