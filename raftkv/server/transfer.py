"""Moving the whole state to a member that the log can no longer serve (Raft 7): the sender.

The sender takes a view of its state at one applied index and streams it as chunks beside
the Raft messages, a slice at a time, so that the leader keeps serving:

    sender                                      receiver (raftkv.server.intake)
    StateChunk(snapshot message, transfer)  ->
                                            <-  StateReply(next_chunk)      where to begin
    StateChunk(chunk)*                      ->
                                            <-  StateReply(next_chunk)*     progress
    half close                              ->
                                            <-  StateReply(accepted or reason)

A transfer that breaks keeps its view, and the log behind its index, for `KEPT_SECONDS` after
its last progress. When Raft asks for a state for the same member again meanwhile, the same
transfer goes on, and the receiver's first answer says where. It is dropped before that when
this member no longer leads in the same term, or the members have changed. A transfer without
any progress for `STALL_SECONDS` counts as broken.

Clients come first: while the member has work of theirs, a transfer takes one part in `BUSY_SHARE`
of a processor (`pace`), so that writes go on nearly as before although the receiver, maybe on the
same machine, needs twice as much. The log grows meanwhile and is kept. So a state that is not there
when the log behind it has grown by `HURRY_CHECKPOINTS` of them gets one part in `HURRY_SHARE`: it
must arrive long before the receiver would lack more of the log than is kept for it
(`replica.housekeeping`). An idle member sends as fast as it can.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from raftkv import limits
from raftkv.errors import ProtocolError, StorageError
from raftkv.kv.backend import View
from raftkv.pb import peer_pb2
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import Configuration
from raftkv.server.calls import Call
from raftkv.server.links import STATE_PATH, Link
from raftkv.server.pace import Pace
from raftkv.storage.snapshots import StateSender
from raftkv.wire import peer

if TYPE_CHECKING:
    from raftkv.server.peers import Peers

log = logging.getLogger("raftkv.snapshots")

SENT_AHEAD_BYTES: Final = 4 * limits.MIB
STALL_SECONDS = 60.0
KEPT_SECONDS = 60.0
BUSY_SHARE: Final = 32
HURRY_SHARE: Final = 8
HURRY_CHECKPOINTS: Final = 8  # of the `FOLLOWED_CHECKPOINTS` that may lie behind a state
_ROOM_SECONDS: Final = 0.005


def _members(configuration: Configuration) -> tuple[object, object]:
    """Who belongs to it when no change is under way any more."""
    return configuration.voters, configuration.learners


class Outgoing:
    """One state on its way to one member; its view stays open until it is forgotten.

    until: the time after which it is not continued.
    """

    def __init__(
        self,
        message: InstallSnapshot,
        configuration: Configuration,
        view: View,
        meta: bytes,
        cluster: int,
    ) -> None:
        self.message = message
        self.configuration = configuration
        self.view = view
        self.transfer = random.SystemRandom().getrandbits(63) + 1
        self.until = 0.0
        self.task: asyncio.Task[None] | None = None
        self.expiry: asyncio.TimerHandle | None = None
        self._confirmed = -1  # the highest next_chunk that the receiver has named
        self._meta = meta
        self._cluster = cluster
        self._sender = StateSender(view, meta, cluster)

    def chunks(self, start: int) -> Iterator[bytes]:
        """The chunks from `start` on. Raises ProtocolError if they are not known any more."""
        if start == 0:
            self._sender = StateSender(self.view, self._meta, self._cluster)
        return self._sender.chunks(start)

    def progress(self, next_chunk: int, now: float) -> None:
        """The receiver says how far it is. A restarted one begins again: that is none."""
        if next_chunk > self._confirmed:
            self._confirmed = next_chunk
            self.until = now + KEPT_SECONDS


class Transfers:
    """All states that this member sends: at most one to each other member."""

    def __init__(self, peers: "Peers") -> None:
        self._peers = peers
        self._driver = peers.driver
        self._loop = peers.driver.loop
        self._outgoing: dict[int, Outgoing] = {}

    # --- what the driver says -------------------------------------------------

    def send(self, link: Link | None, message: InstallSnapshot) -> None:
        """Starts a transfer, or goes on with the one that broke. The outcome goes to the driver.

        link: to the member; None or not ready: the transfer fails at once.
        """
        to = message.to
        outgoing = self._outgoing.get(to)
        if outgoing is not None and (outgoing.task is not None or not self._continues(outgoing)):
            self._forget(outgoing)
            outgoing = None
        if link is None or not link.ready:
            index = message.snapshot.index
            self._driver.state_sent(to, False, index, kept=outgoing is not None)
            return
        if outgoing is None:
            # The picture is taken now: the message names the index that the state has.
            replica = self._driver.replica
            view, meta = replica.machine.snapshot_view()
            configuration = replica.core.configuration
            outgoing = Outgoing(message, configuration, view, meta, self._peers.cluster)
            outgoing.until = self._loop.time() + KEPT_SECONDS
            self._outgoing[to] = outgoing
        if outgoing.expiry is not None:
            outgoing.expiry.cancel()
            outgoing.expiry = None
        outgoing.task = self._driver.start_task(self._run(outgoing, link))

    def review(self) -> None:
        """Drops what is of no use any more. Called when leadership or members have changed, and
        some times a second.
        """
        core = self._driver.replica.core
        for outgoing in list(self._outgoing.values()):
            if outgoing.task is None:
                keep = self._continues(outgoing)
            else:
                keep = core.is_leader and core.term == outgoing.message.term
            if not keep:
                self._drop(outgoing)

    def close(self) -> None:
        """Ends all transfers and closes their views."""
        for outgoing in list(self._outgoing.values()):
            self._forget(outgoing)

    # --- how long a broken transfer lives ---------------------------------------

    def _continues(self, outgoing: Outgoing) -> bool:
        """Whether it could go on: same leadership, same members, not too long ago, and the
        receiver still lacks it.
        """
        core = self._driver.replica.core
        return (
            core.is_leader
            and core.term == outgoing.message.term
            and core.match_index(outgoing.message.to) < outgoing.message.snapshot.index
            and _members(core.configuration) == _members(outgoing.configuration)
            and self._loop.time() < outgoing.until
        )

    def _forget(self, outgoing: Outgoing) -> None:
        if outgoing.expiry is not None:
            outgoing.expiry.cancel()
        if outgoing.task is not None:
            outgoing.task.cancel()
        outgoing.view.close()
        del self._outgoing[outgoing.message.to]

    def _drop(self, outgoing: Outgoing) -> None:
        """Forgets a transfer that will not go on; the log behind it may go."""
        self._forget(outgoing)
        self._driver.state_dropped(outgoing.message.to)

    # --- one attempt ------------------------------------------------------------

    async def _run(self, outgoing: Outgoing, link: Link) -> None:
        """Streams until the receiver has said what it thinks, or the connection broke."""
        index = outgoing.message.snapshot.index
        kept = accepted = False
        try:
            refusal = await self._stream(outgoing, link)
        except (ConnectionError, TimeoutError, ProtocolError) as error:
            kept = self._continues(outgoing)
            log.warning("sending the state to member %016x broke: %s", link.member, error)
        except StorageError as error:  # the own state cannot be read
            self._driver.fail(error)
            return
        else:
            accepted = not refusal
            if refusal:
                log.warning("member %016x has not taken the state: %s", link.member, refusal)
            else:
                log.info("sent the state at index %d to member %016x", index, link.member)
        outgoing.task = None
        if kept:
            outgoing.expiry = self._loop.call_at(outgoing.until, self._drop, outgoing)
        else:
            self._forget(outgoing)
        self._driver.state_sent(link.member, accepted, index, kept=kept)

    async def _stream(self, outgoing: Outgoing, link: Link) -> str:
        """One attempt. Returns why the state was refused, "" if it was accepted.

        Raises ConnectionError, TimeoutError (no progress), StorageError.
        """
        call = link.open_call(STATE_PATH)
        try:
            first = peer.encode_messages([outgoing.message])
            piece = peer_pb2.StateChunk(body=first, transfer=outgoing.transfer)
            call.send(piece.SerializeToString())
            reply = self._heed(outgoing, await call.answer(STALL_SECONDS))
            if not (reply.accepted or reply.reason):
                await self._feed(outgoing, call, reply.next_chunk)
            while not (reply.accepted or reply.reason):
                reply = self._heed(outgoing, await call.answer(STALL_SECONDS))
        except ProtocolError as error:
            return str(error)
        finally:
            call.cancel()
            link.forget_call(call)
        return reply.reason

    async def _feed(self, outgoing: Outgoing, call: Call, start: int) -> None:
        """Sends the chunks from `start` on, until there are answers. Raises like `_stream`."""
        if start:
            log.info("going on with a state at chunk %d", start)
        pace = Pace(lambda: self._driver.work_done, self._loop.time)
        began = time.thread_time()
        for chunk in outgoing.chunks(start):
            call.send(peer_pb2.StateChunk(body=chunk).SerializeToString())
            worked_seconds = time.thread_time() - began
            share = self._share(outgoing)
            # A turn of the loop lies between chunks, whatever there is to do.
            await asyncio.sleep(pace.rest_seconds(worked_seconds, share))
            await self._room(call)
            answer = call.take()
            while answer is not None:
                reply = self._heed(outgoing, answer)
                if reply.reason:
                    raise ProtocolError(reply.reason)
                answer = call.take()
            began = time.thread_time()
        call.half_close()

    def _share(self, outgoing: Outgoing) -> float:
        """One part in how many of a processor's time a transfer gets beside clients' work."""
        replica = self._driver.replica
        behind = replica.core.last_index - outgoing.message.snapshot.index
        hurry = behind >= HURRY_CHECKPOINTS * replica.housekeeping.snapshot_count
        return HURRY_SHARE if hurry else BUSY_SHARE

    async def _room(self, call: Call) -> None:
        """Waits while too much is queued. Raises TimeoutError if nothing moves."""
        least, since = call.queued_bytes(), self._loop.time()
        while least > SENT_AHEAD_BYTES:
            await asyncio.sleep(_ROOM_SECONDS)
            call.flush()
            queued = call.queued_bytes()
            if queued < least:
                least, since = queued, self._loop.time()
            elif self._loop.time() - since > STALL_SECONDS:
                raise TimeoutError(f"nothing was taken for {STALL_SECONDS:g} s")

    def _heed(self, outgoing: Outgoing, answer: bytes) -> peer_pb2.StateReply:
        try:
            reply = peer_pb2.StateReply.FromString(answer)
        except DecodeError as error:
            raise ProtocolError(f"an answer about a state cannot be decoded: {error}") from None
        outgoing.progress(reply.next_chunk, self._loop.time())
        return reply
