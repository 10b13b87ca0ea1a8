"""Moving the whole state to a member that the log can no longer serve (Raft 7).

The sender takes a view of its state at one applied index and streams it as chunks beside
the Raft messages, a slice at a time, so that the leader keeps serving. The first chunk is
the InstallSnapshot message itself. The receiver writes into a fresh state directory and
tells its replica only when everything has arrived and the hash is right.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from raftkv import limits
from raftkv.errors import ProtocolError
from raftkv.kv.backend import View
from raftkv.kv.machine import StateMachine
from raftkv.pb import peer_pb2
from raftkv.raft.messages import InstallSnapshot
from raftkv.server.links import STATE_PATH, Link
from raftkv.storage.snapshots import StateReceiver, StateSender
from raftkv.wire import peer

if TYPE_CHECKING:
    from raftkv.server.peers import Peers

log = logging.getLogger("raftkv.snapshots")

SENT_AHEAD_BYTES = 4 * limits.MIB
ANSWER_SECONDS = 120.0


async def send_state(
    peers: "Peers", link: Link, message: InstallSnapshot, view: View, meta: bytes
) -> None:
    """Streams `view` over `link`; the outcome goes to the driver."""
    index = message.snapshot.index
    driver = peers.driver
    accepted = False
    try:
        sender = StateSender(view, meta, peers.cluster)
        stream, answer = link.open_call(STATE_PATH)
        first = peer.encode_messages([message])
        await _feed(link, stream, first)
        for chunk in sender.chunks():
            await _feed(link, stream, chunk)
        if link.connection is not None:
            link.connection.half_close(stream)
            link.flush()
        reply = peer_pb2.StateReply.FromString(await asyncio.wait_for(answer, ANSWER_SECONDS))
        accepted = reply.accepted
        if not accepted:
            log.warning("member %016x refused the state: %s", link.member, reply.reason)
    except (ConnectionError, TimeoutError) as error:
        log.warning("sending the state to member %016x failed: %s", link.member, error)
    finally:
        view.close()
        driver.state_sent(message.to, accepted, index)
    if accepted:
        log.info("sent the state at index %d to member %016x", index, link.member)


async def _feed(link: Link, stream: int, chunk: bytes) -> None:
    """Sends one chunk; waits while too much is queued. A turn of the loop lies between chunks."""
    if link.connection is None:
        raise ConnectionError("the connection to the member was lost")
    link.connection.send(stream, peer_pb2.StateChunk(body=chunk).SerializeToString())
    link.flush()
    await asyncio.sleep(0)
    while link.connection is not None and link.queued_bytes() > SENT_AHEAD_BYTES:
        await asyncio.sleep(0.005)
        link.flush()


class StateIntake:
    """One incoming state: the message first, then chunks into a fresh directory."""

    def __init__(self, peers: "Peers") -> None:
        self._peers = peers
        self._message: InstallSnapshot | None = None
        self._receiver: StateReceiver | None = None
        self.sender = 0

    def add(self, chunk: bytes) -> None:
        """The next piece. Raises ProtocolError or StorageError if it cannot be taken."""
        if self._message is None:
            messages = peer.decode_messages(chunk)
            if len(messages) != 1 or not isinstance(messages[0], InstallSnapshot):
                raise ProtocolError("a state transfer must begin with its snapshot message")
            self._message = messages[0]
            self.sender = self._message.sender
            backend = self._peers.driver.directory.new_state()
            self._receiver = StateReceiver(backend, self._peers.cluster)
            return
        assert self._receiver is not None
        self._receiver.add(chunk)

    async def finish(self) -> None:
        """Everything was sent: checks the whole, makes it durable, loads it, hands it over.

        Syncing runs in a thread and loading in slices: this member keeps answering meanwhile.
        Raises ProtocolError or StorageError if the state cannot be taken.
        """
        if self._message is None or self._receiver is None:
            raise ProtocolError("a state transfer ended before it began")
        driver = self._peers.driver
        backend = self._receiver.finish()
        await driver.loop.run_in_executor(None, backend.sync)
        settings = self._peers.machine_settings
        loading = StateMachine.opening(backend, self._peers.cluster, settings)
        while True:
            try:
                next(loading)
            except StopIteration as end:
                machine: StateMachine = end.value
                break
            await asyncio.sleep(0)
        if machine.applied_index != self._message.snapshot.index:
            raise ProtocolError("a state transfer holds another state than it announced")
        self._receiver = None
        driver.replica.on_state_received(self._message, machine)
        driver.wake()

    def abandon(self) -> None:
        """The transfer ended early: what was written is of no use."""
        if self._receiver is not None:
            self._receiver.abandon()
            self._receiver = None
