"""State transfers between simulated members (Raft 7), over the virtual network.

The pieces of one transfer are frames of a byte stream beside the Raft messages:

    piece  := 1 | transfer u64 | number u32 | last u8 | body
    answer := 2 | transfer u64 | accepted u8

The first body is the InstallSnapshot message, the others are chunks of
`storage.snapshots`. A piece out of order ends the transfer (a stream cannot have one).
Some transfers are damaged on the way: the receiver must refuse them (R39).
"""

from collections.abc import Iterator
from random import Random
from struct import Struct
from typing import TYPE_CHECKING, Final

from raftkv.errors import RaftkvError
from raftkv.kv.backend import Backend, View
from raftkv.raft.messages import InstallSnapshot
from raftkv.sim.world import MILLISECOND, SECOND, Timer
from raftkv.storage.snapshots import StateReceiver, StateSender
from raftkv.wire.peer import decode_messages, encode_messages

if TYPE_CHECKING:
    from raftkv.sim.node import Node

MESSAGES: Final = 0  # first byte of a frame of Raft messages
PIECE: Final = 1
ANSWER: Final = 2
_PIECE_HEAD: Final = Struct(">BQIB")
_ANSWER: Final = Struct(">BQB")
_GAP_US: Final = 2 * MILLISECOND  # between two pieces
_PATIENCE_US: Final = 2 * SECOND  # for the answer; a broken stream is noticed by then
_DAMAGED: Final = 0.05  # share of transfers that lose a bit on the way


class _Sending:
    """One outgoing transfer."""

    def __init__(self, message: InstallSnapshot, pieces: Iterator[bytes], view: View) -> None:
        self.message = message
        self.pieces = pieces
        self.view = view
        self.number = 0
        self.damage_at = -1
        self.timer: Timer | None = None


class _Receiving:
    """One incoming transfer."""

    def __init__(self, transfer: int, message: InstallSnapshot, receiver: StateReceiver) -> None:
        self.transfer = transfer
        self.message = message
        self.receiver = receiver
        self.expected = 1


class Transfers:
    """All transfers of one process of one member."""

    def __init__(self, node: "Node", random: Random) -> None:
        self._node = node
        self._random = random
        self._sending: dict[int, _Sending] = {}
        self._receiving: dict[int, _Receiving] = {}  # by sender

    @property
    def sending(self) -> bool:
        """True while a state of this member is being read."""
        return bool(self._sending)

    # --- sending ------------------------------------------------------------------

    def send(self, message: InstallSnapshot, view: View, meta: bytes) -> None:
        """Start streaming `view` to `message.to`."""
        node = self._node
        sender = StateSender(view, meta, node.cluster_id)
        sending = _Sending(message, sender.chunks(), view)
        transfer = self._random.getrandbits(60)
        self._sending[transfer] = sending
        if self._random.random() < _DAMAGED:
            sending.damage_at = self._random.randint(1, 3)
        node.world.record("state out", node.member, message.to, message.snapshot.index)
        self._piece(transfer, encode_messages([message]), last=False)
        sending.timer = node.world.after(_GAP_US, self._next, transfer)

    def _next(self, transfer: int) -> None:
        sending = self._sending.get(transfer)
        if sending is None:
            return
        if self._node.paused:
            sending.timer = self._node.world.after(100 * MILLISECOND, self._next, transfer)
            return
        body = next(sending.pieces, None)
        if body is None:
            self._piece(transfer, b"", last=True)
            sending.timer = self._node.world.after(_PATIENCE_US, self._end, transfer, False)
            return
        if sending.number == sending.damage_at and body:
            place = self._random.randrange(len(body))
            body = body[:place] + bytes((body[place] ^ 1,)) + body[place + 1 :]
            self._node.count("states damaged")
        self._piece(transfer, body, last=False)
        sending.timer = self._node.world.after(_GAP_US, self._next, transfer)

    def _piece(self, transfer: int, body: bytes, *, last: bool) -> None:
        sending = self._sending[transfer]
        head = _PIECE_HEAD.pack(PIECE, transfer, sending.number, last)
        sending.number += 1
        self._node.send_frame(sending.message.to, head + body, stream=True)

    def _end(self, transfer: int, accepted: bool) -> None:
        sending = self._sending.pop(transfer, None)
        if sending is None:
            return
        if sending.timer is not None:
            sending.timer.cancel()
        sending.view.close()
        message = sending.message
        self._node.state_sent(message.to, accepted, message.snapshot.index)

    def peer_closed(self, member: int) -> None:
        """The connection with `member` is gone: so are its transfers."""
        for transfer, sending in list(self._sending.items()):
            if sending.message.to == member:
                self._end(transfer, False)
        self._abandon(member)

    def close(self) -> None:
        """The process ends."""
        for sending in self._sending.values():
            if sending.timer is not None:
                sending.timer.cancel()
        self._sending.clear()
        self._receiving.clear()

    # --- receiving ----------------------------------------------------------------

    def frame(self, sender: int, frame: bytes) -> None:
        """A piece or an answer arrived."""
        if frame[0] == ANSWER:
            _, transfer, accepted = _ANSWER.unpack(frame)
            self._end(transfer, bool(accepted))
            return
        _, transfer, number, last = _PIECE_HEAD.unpack_from(frame)
        body = frame[_PIECE_HEAD.size :]
        try:
            accepted = self._take(sender, transfer, number, bool(last), body)
        except RaftkvError as error:
            self._node.world.record("state refused", self._node.member, str(error))
            self._node.count("states refused")
            self._abandon(sender)
            accepted = False
        if accepted is not None:
            self._node.send_frame(sender, _ANSWER.pack(ANSWER, transfer, accepted), stream=True)

    def _take(
        self, sender: int, transfer: int, number: int, last: bool, body: bytes
    ) -> bool | None:
        """One piece. Returns the answer to give, None for none yet."""
        if number == 0:
            self._abandon(sender)
            (message,) = decode_messages(body)
            assert isinstance(message, InstallSnapshot)
            receiver = StateReceiver(self._node.new_state(), self._node.cluster_id)
            self._receiving[sender] = _Receiving(transfer, message, receiver)
            return None
        receiving = self._receiving.get(sender)
        if receiving is None or receiving.transfer != transfer:
            return None  # of a transfer that has ended
        if receiving.expected != number:
            self._abandon(sender)
            return False
        receiving.expected += 1
        if not last:
            receiving.receiver.add(body)
            return None
        backend: Backend = receiving.receiver.finish()
        del self._receiving[sender]
        self._node.state_received(receiving.message, backend)
        return True

    def _abandon(self, sender: int) -> None:
        receiving = self._receiving.pop(sender, None)
        if receiving is not None:
            receiving.receiver.abandon()
