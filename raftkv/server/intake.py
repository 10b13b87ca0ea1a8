"""Taking in a whole state from another member (Raft 7): the receiver.

`raftkv.server.transfer` shows the conversation. Chunks are checked and written into a fresh
state directory; the replica hears of it only when everything has arrived, the hash is right
and it is loaded. That last part runs beside the connection: it does not end with it.

One state is taken in at a time; a new one takes the place of an unfinished one (R36). When
the connection breaks in the middle, what has arrived is kept for `KEPT_SECONDS`. A call goes
on behind it only if it is the same transfer in every respect: sender, the sender's number for
it, term, and the snapshot's index, term and configuration. Anything else begins anew.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError

from raftkv.errors import ProtocolError, StorageError
from raftkv.kv.machine import StateMachine
from raftkv.pb import peer_pb2
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import SnapshotMeta
from raftkv.storage.backend import StateBackend
from raftkv.storage.snapshots import StateReceiver
from raftkv.wire import peer

if TYPE_CHECKING:
    from raftkv.server.peers import Peers

log = logging.getLogger("raftkv.snapshots")

KEPT_SECONDS = 60.0
PROGRESS_CHUNKS: Final = 16  # between two answers to the sender
PROGRESS_SECONDS: Final = 1.0  # between two answers while the state is loaded

# sender, its number of the transfer, term, snapshot: the same transfer has all of them equal
Key = tuple[int, int, int, SnapshotMeta]
Answer = Callable[[peer_pb2.StateReply, bool], None]  # an answer, and whether it is the last


class Intake:
    """One state that is coming in. call: who brings it now, None while it is kept."""

    def __init__(
        self, key: Key, message: InstallSnapshot, backend: StateBackend, cluster: int
    ) -> None:
        self.key = key
        self.message = message
        self.backend = backend
        self.receiver = StateReceiver(backend, cluster)
        self.call: StateCall | None = None
        self.expiry: asyncio.TimerHandle | None = None

    def tell(self, reply: peer_pb2.StateReply, last: bool) -> None:
        """Answers whoever brings it now, if anybody does."""
        if self.call is not None:
            call = self.call
            if last:
                call.intake = self.call = None
            call.answer(reply, last)


class StateCall:
    """The receiving end of one InstallState call.

    sender: the member that the call's metadata names. answer: sends on this call.
    """

    def __init__(self, intakes: "Intakes", sender: int, answer: Answer) -> None:
        self.sender = sender
        self.answer = answer
        self.intake: Intake | None = None
        self.over = False  # nothing more is heard
        self._intakes = intakes

    def piece(self, message: bytes) -> None:
        """The next piece of the stream; whatever is wrong with it is answered."""
        if self.over:
            return
        try:
            chunk = peer_pb2.StateChunk.FromString(message)
            if self.intake is None:
                self._intakes.begin(self, chunk)
            else:
                self._intakes.add(self.intake, chunk.body)
        except DecodeError as error:
            self._give_up(f"a piece of a state cannot be decoded: {error}")
        except (ProtocolError, StorageError) as error:
            self._give_up(str(error))

    def half_closed(self) -> None:
        """The sender has sent everything."""
        if self.over:
            return
        if self.intake is None:
            self._give_up("a state transfer ended before it began")
        elif not self.intake.receiver.complete:
            chunk = self.intake.receiver.next_number
            self._give_up(f"a state transfer ended before chunk {chunk}")
        else:
            self._intakes.finish(self.intake)

    def lost(self) -> None:
        """The connection broke, or the sender gave the call up."""
        self.over = True
        intake, self.intake = self.intake, None
        if intake is not None:
            self._intakes.keep(intake)

    def _give_up(self, reason: str) -> None:
        intake, self.intake = self.intake, None
        log.warning("refused a state of member %016x: %s", self.sender, reason)
        if intake is not None:
            intake.call = None
            self._intakes.throw_away(intake)
        self.end(peer_pb2.StateReply(reason=reason))

    def end(self, reply: peer_pb2.StateReply) -> None:
        """The last answer."""
        self.over = True
        self.answer(reply, True)


class Intakes:
    """All states that come in at this member: one that arrives, maybe another that is loaded."""

    def __init__(self, peers: "Peers") -> None:
        self._peers = peers
        self._driver = peers.driver
        self._current: Intake | None = None
        self._finishing: dict[Key, Intake] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._done: Key | None = None  # the last one that the replica was given
        self._closed = False

    def open(self, sender: int, answer: Answer) -> StateCall:
        """A member has opened a call."""
        return StateCall(self, sender, answer)

    # --- one call after the other -------------------------------------------------

    def begin(self, call: StateCall, chunk: peer_pb2.StateChunk) -> None:
        """The first piece: what comes. Answers where to begin. ProtocolError, StorageError."""
        if self._closed:
            raise ProtocolError("the member stops")
        message = self._announced(call.sender, chunk.body)
        key = (call.sender, chunk.transfer, message.term, message.snapshot)
        if chunk.transfer and key == self._done:  # only the answer got lost
            call.end(peer_pb2.StateReply(accepted=True))
            return
        intake = self._finishing.get(key) if chunk.transfer else None
        if intake is None:
            intake = self._current
        if intake is not None and (not chunk.transfer or intake.key != key):
            if message.term < intake.message.term:
                raise ProtocolError(f"a state of the later term {intake.message.term} comes in")
            self.throw_away(intake)
            intake = None
        if intake is None:
            backend = self._driver.directory.new_state()
            intake = self._current = Intake(key, message, backend, self._peers.cluster)
        elif intake.receiver.next_number:
            number = intake.receiver.next_number
            log.info("a state of member %016x goes on at chunk %d", call.sender, number)
        self._attach(intake, call)

    def _announced(self, sender: int, body: bytes) -> InstallSnapshot:
        messages = peer.decode_messages(body)
        if len(messages) != 1 or not isinstance(messages[0], InstallSnapshot):
            raise ProtocolError("a state transfer must begin with its snapshot message")
        message = messages[0]
        if (message.sender, message.to) != (sender, self._peers.member):
            raise ProtocolError("a state transfer names another sender or receiver")
        if message.term < self._driver.replica.core.term:
            raise ProtocolError(f"term {message.term} of a state transfer is over")
        return message

    def _attach(self, intake: Intake, call: StateCall) -> None:
        """`call` brings it from now on; one that did before has broken without a word."""
        if intake.expiry is not None:
            intake.expiry.cancel()
            intake.expiry = None
        if intake.call is not None:
            old, intake.call = intake.call, None
            old.intake = None
            old.end(peer_pb2.StateReply(reason="the transfer goes on by another call"))
        intake.call, call.intake = call, intake
        call.answer(peer_pb2.StateReply(next_chunk=intake.receiver.next_number), False)

    def add(self, intake: Intake, chunk: bytes) -> None:
        """The next chunk. Raises ProtocolError, StorageError."""
        receiver = intake.receiver
        receiver.add(chunk)
        if receiver.next_number % PROGRESS_CHUNKS == 0:
            intake.tell(peer_pb2.StateReply(next_chunk=receiver.next_number), False)

    def keep(self, intake: Intake) -> None:
        """Its call is gone: it waits for the next one."""
        intake.call = None
        if intake is not self._current:
            return
        if not intake.receiver.next_number or self._closed:
            self.throw_away(intake)
            return
        number = intake.receiver.next_number
        log.warning("a state of member %016x broke at chunk %d", intake.message.sender, number)
        intake.expiry = self._driver.loop.call_later(KEPT_SECONDS, self.throw_away, intake)

    def throw_away(self, intake: Intake) -> None:
        """What has arrived is of no use any more; one that is being loaded ends by itself."""
        if intake is not self._current:
            return
        self._current = None
        if intake.expiry is not None:
            intake.expiry.cancel()
        intake.tell(peer_pb2.StateReply(reason="another state transfer took its place"), True)
        self._discard(intake)

    def _discard(self, intake: Intake) -> None:
        try:
            self._driver.directory.discard_state(intake.backend)
        except StorageError as error:  # the next opening of the directory tries again
            log.warning("cannot remove an unfinished state: %s", error)

    def close(self) -> None:
        """The member stops: nothing new is kept or given to the replica."""
        self._closed = True
        if self._current is not None:
            self.throw_away(self._current)

    @property
    def under_way(self) -> bool:
        """True while a state is being received or taken in."""
        return self._current is not None or bool(self._finishing)

    async def settled(self) -> None:
        """Waits until no thread writes into a state any more."""
        if self._tasks:
            await asyncio.wait(list(self._tasks))

    # --- the end of a transfer ------------------------------------------------------

    def finish(self, intake: Intake) -> None:
        """Everything was sent: the rest runs beside the connection."""
        if intake is not self._current:
            return  # it is being finished, and this call waits for the same answer
        self._current = None
        self._finishing[intake.key] = intake
        task = self._driver.start_task(self._finish(intake))
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    async def _finish(self, intake: Intake) -> None:
        reply = peer_pb2.StateReply(accepted=True)
        try:
            await self._load(intake)
        except Exception as error:  # noqa: BLE001 whatever its rows do to the one who loads them
            reason = str(error) or type(error).__name__
            reply = peer_pb2.StateReply(reason=reason)
            log.warning("refused a state of member %016x: %s", intake.message.sender, reason)
            self._discard(intake)
        del self._finishing[intake.key]
        intake.tell(reply, True)

    async def _load(self, intake: Intake) -> None:
        """Checks the whole, makes it durable, loads it, hands it over.

        Syncing runs in a thread and loading in slices: this member keeps answering meanwhile.
        Raises ProtocolError or StorageError if the state cannot be taken.
        """
        driver = self._driver
        backend = intake.receiver.finish()
        await driver.loop.run_in_executor(None, backend.sync)
        progress = peer_pb2.StateReply(next_chunk=intake.receiver.next_number)
        loading = StateMachine.opening(backend, self._peers.cluster, self._peers.machine_settings)
        told = driver.loop.time()
        while not self._closed:
            try:
                next(loading)
            except StopIteration as end:
                self._hand_over(intake, end.value)
                return
            if driver.loop.time() - told > PROGRESS_SECONDS:
                told = driver.loop.time()
                intake.tell(progress, False)
            await asyncio.sleep(0)
        raise ProtocolError("the member stops")

    def _hand_over(self, intake: Intake, machine: StateMachine) -> None:
        if machine.applied_index != intake.message.snapshot.index:
            raise ProtocolError("a state transfer holds another state than it announced")
        self._done = intake.key
        self._driver.replica.on_state_received(intake.message, machine)
        self._driver.wake()
