"""What is known of one watch, so that it goes on anywhere as if nothing had happened.

Pure: fed with what a stream brings, it says what the user gets and from where a new stream has to
go on. The one number that matters is `next_revision`: every event before it has been handed out
whole, none from it on has. Whatever breaks is mended by asking another server for the same watch
from `next_revision`.

    stream breaks    what was not handed out is forgotten: the half of a revision that came in
                     fragments comes again, whole
    "from now on"    becomes a revision with the first confirmation (its header's revision + 1), so
                     what is written between two streams is not lost
    quiet watches    every watch asks for the server's notices of progress, whether its user wants
                     them or not: a watch whose keys never change follows the store's revision, and
                     its resumption asks for nothing that has been compacted
    asked progress   an answer to a progress request proves that the server lives, nothing more:
                     some of etcd's releases answer ahead of events that are still to come
    compaction       ends the watch: `Compacted`, with the oldest revision that there is
    another cluster  an answer with another cluster id ends it: `ClusterChanged`
    an older past    a server that confirms with a revision below what was seen is either behind the
                     others or restored from a backup. `doubt` says so; a linearizable read decides
                     (`settle`), as it can never be behind.

Source: etcd api/etcdserverpb (WatchResponse), clientv3/watch.go for what a client may rely on.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftkv.client.errors import (
    AccountError,
    AuthError,
    Cancelled,
    ClientError,
    ClusterChanged,
    Compacted,
    NoRoom,
    NotConnected,
    ServerError,
    TimedOut,
    TooManyRequests,
    Unavailable,
)
from raftkv.client.results import WatchBatch
from raftkv.client.statuses import mapped
from raftkv.errors import Code
from raftkv.pb import rpc_pb2

BROADCAST_ID: Final = -1  # the watch id of answers to progress requests
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 2.0

# How Go writes an error that it did not expect to be read by a program.
_STATUS: Final = re.compile(r"rpc error: code = (\w+) desc = (.*)", re.DOTALL)
_CODES: Final = {
    "".join(part.capitalize() for part in name.split("_")): number
    for name, number in vars(Code).items()
    if name.isupper()
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a watch asks for.

    key, end: as the server knows them (raftkv.client.keys). start_revision: 0 = from now on.
    progress_notify: hand out notices of progress, too.
    """

    key: bytes
    end: bytes = b""
    start_revision: int = 0
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    progress_notify: bool = False
    fragment: bool = False

    def request(self, start_revision: int) -> rpc_pb2.WatchRequest:
        """The request that creates it from a revision on."""
        kinds = rpc_pb2.WatchCreateRequest.FilterType
        create = rpc_pb2.WatchCreateRequest(
            key=self.key,
            range_end=self.end,
            start_revision=start_revision,
            progress_notify=True,
            prev_kv=self.prev_kv,
            fragment=self.fragment,
        )
        if self.no_put:
            create.filters.append(kinds.NOPUT)
        if self.no_delete:
            create.filters.append(kinds.NODELETE)
        return rpc_pb2.WatchRequest(create_request=create)


class Resuming:
    """The state of one watch. For one reader.

    batch: makes what the user gets of a response (without its fragments' borders).
    next_revision: see the module's docstring; 0 until the first confirmation of a watch from now.
    created: the present stream has confirmed the watch. doubt: 0, or the revision that the store
    was seen to have and this server has not; to be settled before anything is handed out.
    """

    def __init__(
        self, wanted: Wanted, batch: Callable[[rpc_pb2.WatchResponse], WatchBatch]
    ) -> None:
        self.wanted = wanted
        self.next_revision: int = wanted.start_revision
        self.created: bool = False
        self.doubt: int = 0
        self._batch = batch
        self._seen = 0  # the greatest revision that the store is known to have had
        self._cluster_id = 0
        self._parts: list[rpc_pb2.WatchResponse] = []

    def begin(self) -> rpc_pb2.WatchRequest:
        """A new stream begins: what to send on it first."""
        self.created = False
        self.doubt = 0
        self._parts.clear()
        return self.wanted.request(self.next_revision)

    def feed(self, response: rpc_pb2.WatchResponse) -> WatchBatch | None:
        """What the user gets of a response, if anything.

        Errors: ClientError when the watch is over, for this is how the server ends it.
        """
        header = response.header
        if header.cluster_id:
            if self._cluster_id and header.cluster_id != self._cluster_id:
                raise ClusterChanged(
                    f"the cluster changed under the watch: its id was {self._cluster_id:x} "
                    f"and is {header.cluster_id:x}",
                    code=Code.FAILED_PRECONDITION,
                )
            self._cluster_id = header.cluster_id
        if response.canceled:
            raise cancelled(response)
        if response.created:
            self._confirm(header.revision)
            return None
        if response.watch_id == BROADCAST_ID:
            return None
        if not self.created:
            raise ServerError("the server sent events before it confirmed the watch")
        if response.events:
            return self._events(response)
        return self._progress(response)

    def _confirm(self, revision: int) -> None:
        self.created = True
        if revision < self._seen:
            self.doubt = self._seen
        if not self.next_revision:
            self.next_revision = revision + 1
        self._seen = max(self._seen, revision)

    def _events(self, response: rpc_pb2.WatchResponse) -> WatchBatch | None:
        self._parts.append(response)
        if response.fragment:
            return None
        parts, self._parts = self._parts, []
        whole = parts[0]
        for part in parts[1:]:
            whole.events.extend(part.events)
        whole.header.CopyFrom(response.header)
        whole.fragment = False
        first, last = whole.events[0].kv.mod_revision, whole.events[-1].kv.mod_revision
        if first < self.next_revision:  # no server should; but nothing is handed out twice
            kept = [one for one in whole.events if one.kv.mod_revision >= self.next_revision]
            del whole.events[:]
            whole.events.extend(kept)
            if not kept:
                return None
        self.next_revision = last + 1
        self._seen = max(self._seen, last)
        return self._batch(whole)

    def _progress(self, response: rpc_pb2.WatchResponse) -> WatchBatch | None:
        revision = response.header.revision
        if revision + 1 < self.next_revision:
            return None  # the watch begins in the future
        self.next_revision = revision + 1
        self._seen = max(self._seen, revision)
        return self._batch(response) if self.wanted.progress_notify else None

    def settle(self, revision: int) -> None:
        """A linearizable read has found the store at this revision.

        Errors: ClusterChanged, if that is below what was seen: the store was put back.
        """
        if revision < self.doubt:
            raise ClusterChanged(
                f"the cluster was put back under the watch: revision {self.doubt} was seen "
                f"and now it is at {revision}",
                code=Code.OUT_OF_RANGE,
            )
        self.doubt = 0


def cancelled(response: rpc_pb2.WatchResponse) -> ClientError:
    """Why the server ended a watch."""
    if response.compact_revision:
        error = Compacted(
            "etcdserver: mvcc: required revision has been compacted", code=Code.OUT_OF_RANGE
        )
        error.compact_revision = response.compact_revision
        return error
    reason = response.cancel_reason
    if not reason:
        return Cancelled("the server cancelled the watch and gave no reason", code=Code.CANCELLED)
    written = _STATUS.fullmatch(reason)
    if written is not None:
        return mapped(_CODES.get(written[1], Code.UNKNOWN), written[2], write=False)
    return mapped(Code.CANCELLED, reason, write=False)


def goes_on(error: ClientError) -> bool:
    """Whether a stream that ended with this error should be opened again, here or elsewhere.

    The others would end the same way at every endpoint, or need the user.
    """
    if isinstance(error, NoRoom):
        return isinstance(error, TooManyRequests)
    if isinstance(error, AuthError | AccountError):
        return False
    return isinstance(error, Unavailable | NotConnected | TimedOut | Cancelled | ServerError)


class Pacing:
    """How long to wait before a stream is opened again.

    The first attempt after a watch was well is made at once, and so is one at each further
    endpoint; the pauses come between rounds and double up to two seconds.
    """

    def __init__(self, endpoints: int) -> None:
        self._endpoints = max(endpoints, 1)
        self._attempts = 0

    def well(self) -> None:
        """The watch has brought something, or stood for a while."""
        self._attempts = 0

    def pause(self) -> float:
        """Seconds to wait before the next attempt."""
        self._attempts += 1
        rounds, within = divmod(self._attempts - 1, self._endpoints)
        if within or not rounds:
            return 0.0
        return min(FIRST_PAUSE_SECONDS * 2.0 ** min(rounds - 1, 16), LONGEST_PAUSE_SECONDS)
