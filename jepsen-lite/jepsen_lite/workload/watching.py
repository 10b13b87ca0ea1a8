"""Watches, taken as the server sends them, and as a history keeps them.

The client library's watch goes on elsewhere when a stream breaks, and hides what no server should
send. Here nothing is hidden: a stream is opened, some watches are created on it, and everything
that comes is written down until the time is over, the stream breaks or the server has cancelled
them all. An answer to a question for progress is every watch's of the stream.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from jepsen_lite.session import Session
from raftkv.client.aio import Conversation
from raftkv.client.errors import ClientError, Unavailable
from raftkv.client.lifetime import now
from raftkv.pb import kv_pb2, rpc_pb2

WATCH: Final = "/etcdserverpb.Watch/Watch"
RETRY_SECONDS: Final = 0.1  # after a stream that came to nothing
CANCEL_SECONDS: Final = 0.5  # for the answer to a cancel
PROGRESS_SECONDS: Final = 0.15  # between questions for progress


Answers: TypeAlias = Conversation[rpc_pb2.WatchResponse]
ALL_WATCHES: Final = -1  # watch id of the answer to a question for progress


@dataclass(slots=True)
class Recording:
    """What came.

    start_revision: that was asked for, 0 = none. seen: greatest revision that an event or a
    notice of progress told of. trouble: why the stream ended, if it did. watch_id: the server's.
    """

    start_revision: int = 0
    received: list[list[Any]] = field(default_factory=list)
    seen: int = 0
    watch_id: int = 0
    cancelled: bool = False
    trouble: str = ""

    @property
    def created(self) -> bool:
        """Whether the server has confirmed the watch."""
        return bool(self.received) and self.received[0][0] == "created"

    def add(self, response: rpc_pb2.WatchResponse) -> None:
        """Takes one answer."""
        revision = response.header.revision
        if response.created:
            self.watch_id = response.watch_id
            self.received.append(["created", revision])
        if response.canceled:
            self.cancelled = True
            reason = response.cancel_reason
            self.received.append(["cancelled", response.compact_revision, reason])
        elif response.events:
            events = [_event(one) for one in response.events]
            self.received.append(["events", events, bool(response.fragment)])
            self.seen = max(self.seen, *(one["mod_revision"] for one in events))
        elif not response.created and not self._is_for_others(response):
            self.received.append(["progress", revision])
            self.seen = max(self.seen, revision)

    def _is_for_others(self, response: rpc_pb2.WatchResponse) -> bool:
        """Whether it is the stream's progress, told to a watch that begins later only."""
        return response.watch_id == ALL_WATCHES and response.header.revision < self.start_revision

    def drop_half(self) -> None:
        """Forgets the fragments of a revision whose last one did not come."""
        while self.received and self.received[-1][0] == "events" and self.received[-1][2]:
            self.received.pop()
        revisions = [0]
        for kind, *rest in self.received:
            if kind == "events":
                revisions += [one["mod_revision"] for one in rest[0]]
            elif kind == "progress":
                revisions.append(rest[0])
        self.seen = max(revisions)


def _event(event: kv_pb2.Event) -> dict[str, Any]:
    kv = event.kv
    found: dict[str, Any] = {
        "key": _text(kv.key),
        "value": None if event.type == kv_pb2.Event.DELETE else _text(kv.value),
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "create_revision": kv.create_revision,
    }
    if kv.lease:
        found["lease"] = kv.lease
    if event.HasField("prev_kv"):
        before = event.prev_kv
        found["prev"] = {
            "key": _text(before.key),
            "value": _text(before.value),
            "mod_revision": before.mod_revision,
            "version": before.version,
            "create_revision": before.create_revision,
        }
        if before.lease:
            found["prev"]["lease"] = before.lease
    return found


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _creation(asked: Mapping[str, Any]) -> rpc_pb2.WatchRequest:
    kinds = rpc_pb2.WatchCreateRequest.FilterType
    create = rpc_pb2.WatchCreateRequest(
        key=asked["key"].encode(),
        range_end=asked.get("end", "").encode(),
        start_revision=asked.get("start_revision", 0),
        prev_kv=asked.get("prev_kv", False),
        fragment=asked.get("fragment", False),
        progress_notify=True,
    )
    if asked.get("no_put"):
        create.filters.append(kinds.NOPUT)
    if asked.get("no_delete"):
        create.filters.append(kinds.NODELETE)
    return rpc_pb2.WatchRequest(create_request=create)


class Tape:
    """What comes on one stream, by watch. recordings: as they were asked for."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self.recordings: list[Recording] = list(recordings)
        self.trouble: str = ""
        self._by_id: dict[int, Recording] = {}

    @property
    def over(self) -> bool:
        """Whether nothing more can come."""
        return bool(self.trouble) or all(one.cancelled for one in self.recordings)

    def add(self, response: rpc_pb2.WatchResponse) -> None:
        """Takes one answer. Confirmations come in the order of the requests."""
        if response.created:
            fresh = next((one for one in self.recordings if not one.created), None)
            if fresh is None:
                self.trouble = "more watches were confirmed than were asked for"
                return
            self._by_id[response.watch_id] = fresh
            fresh.add(response)
        elif response.watch_id == ALL_WATCHES:
            for one in self.recordings:
                if one.created and not one.cancelled:
                    one.add(response)
        elif response.watch_id in self._by_id:
            self._by_id[response.watch_id].add(response)
        else:
            self.trouble = f"an answer for watch {response.watch_id}, which nobody asked for"


async def record(
    session: Session,
    asked: Sequence[Mapping[str, Any]],
    seconds: float,
    *,
    until: int = 0,
    cancel: bool = False,
    ask_progress: bool = False,
) -> list[Recording]:
    """Watches for a time, all on one stream; returns the watches that were confirmed.

    asked: see `jepsen_lite.checker.values`. until: the first may end early when it has seen this
    revision, 0 = not. cancel: ask the server to cancel at the end. ask_progress: ask now and
    then how far it is. Errors: ClientError, if the first was not confirmed; what happens later is
    in `trouble`.
    """
    stream = await session.stream(WATCH, rpc_pb2.WatchResponse)
    tape = Tape([Recording(one.get("start_revision", 0)) for one in asked])
    first = tape.recordings[0]
    end = now() + seconds
    asks_at = now() + PROGRESS_SECONDS if ask_progress else end
    try:
        for wanted in asked:
            await stream.write(_creation(wanted))
        while not tape.over and (moment := now()) < end:
            if until and first.seen >= until:
                break
            if moment >= asks_at and first.created:
                await stream.write(
                    rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
                )
                asks_at = moment + PROGRESS_SECONDS
            await _take(stream, tape, min(end, max(asks_at, moment + 0.01)) - moment)
        if cancel:
            await _cancel(stream, tape)
        if not first.created:
            await stream.give_up()  # the next one is opened elsewhere
    finally:
        await stream.close()
    if not first.created:
        await asyncio.sleep(RETRY_SECONDS)
        raise Unavailable(tape.trouble or "not confirmed in time")
    confirmed = [one for one in tape.recordings if one.created]
    for one in confirmed:
        one.drop_half()
        one.trouble = tape.trouble
    return confirmed


async def _take(stream: Answers, tape: Tape, seconds: float) -> None:
    """One answer, or the time."""
    try:
        response = await stream.read(seconds)
    except ClientError as error:
        if stream.over:
            tape.trouble = f"{type(error).__name__}: {error}"[:200]
        return
    if response is None:
        tape.trouble = "the server ended the stream"
    else:
        tape.add(response)


async def _cancel(stream: Answers, tape: Tape) -> None:
    for one in tape.recordings:
        if one.created and not one.cancelled:
            wanted = rpc_pb2.WatchCancelRequest(watch_id=one.watch_id)
            await stream.write(rpc_pb2.WatchRequest(cancel_request=wanted))
    end = now() + CANCEL_SECONDS
    while not tape.over and now() < end:
        await _take(stream, tape, max(end - now(), 0.001))
