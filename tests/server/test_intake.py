"""Which broken state transfer goes on, and which call gets to bring a state."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from raftkv.errors import DiskFailure
from raftkv.kv.machine import Bootstrap, MachineSettings, StateMachine
from raftkv.kv.members import Member
from raftkv.pb import peer_pb2
from raftkv.raft.membership import plain
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.types import Configuration, SnapshotMeta
from raftkv.server import intake
from raftkv.server.intake import Intakes, StateCall
from raftkv.storage.memory import MemoryBackend
from raftkv.storage.snapshots import StateSender
from raftkv.wire import peer

CLUSTER, OWN, LEADER, OTHER = 7, 1, 2, 3
CONFIGURATION = plain((1, 2, 3))


def view() -> tuple[Any, bytes]:
    """A leader's state at index 1 of term 1."""
    members = [Member(one) for one in CONFIGURATION.voters]
    bootstrap = Bootstrap(CONFIGURATION, members, 1, 1)
    return StateMachine(MemoryBackend.alone(), CLUSTER, bootstrap=bootstrap).snapshot_view()


def announced(**changes: Any) -> InstallSnapshot:
    """The snapshot message of that state."""
    message = InstallSnapshot(OWN, LEADER, 5, SnapshotMeta(1, 1, CONFIGURATION))
    return replace(message, **changes)


class Member1:
    """What an `Intakes` sees of its member: driver, directory, replica and peers in one."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.driver = self.directory = self.replica = self.core = self
        self.cluster, self.member, self.term = CLUSTER, OWN, 5
        self.machine_settings = MachineSettings()
        self.made: list[MemoryBackend] = []
        self.discarded: list[Any] = []
        self.received: list[tuple[InstallSnapshot, StateMachine]] = []
        self.disk_is_full = False

    def new_state(self) -> MemoryBackend:
        if self.disk_is_full:
            raise DiskFailure("no space left")
        self.made.append(MemoryBackend.alone())
        return self.made[-1]

    def discard_state(self, state: Any) -> None:
        self.discarded.append(state)

    def on_state_received(self, message: InstallSnapshot, machine: StateMachine) -> None:
        self.received.append((message, machine))

    def wake(self) -> None:
        pass

    def start_task(self, work: Any) -> "asyncio.Task[None]":
        return self.loop.create_task(work)


class Sender:
    """One call of a sender, and the answers on it."""

    def __init__(self, intakes: Intakes, sender: int = LEADER) -> None:
        self.answers: list[peer_pb2.StateReply] = []
        self.ended = False
        self.call: StateCall = intakes.open(sender, self._answer)

    def _answer(self, reply: peer_pb2.StateReply, last: bool) -> None:
        assert not self.ended
        self.answers.append(reply)
        self.ended = last

    def begin(self, transfer: int = 9, message: InstallSnapshot | None = None) -> int:
        """Announces a transfer; returns where to begin, -1 if the call was ended."""
        body = peer.encode_messages([message or announced()])
        self.call.piece(peer_pb2.StateChunk(body=body, transfer=transfer).SerializeToString())
        return -1 if self.ended else self.answers[-1].next_chunk

    def send(self, *chunks: bytes) -> None:
        for chunk in chunks:
            self.call.piece(peer_pb2.StateChunk(body=chunk).SerializeToString())


def run(scenario: Any) -> None:
    """Runs `scenario(member, intakes, chunks)` on a loop of its own."""

    async def main() -> None:
        member = Member1(asyncio.get_running_loop())
        source, meta = view()
        chunks = list(StateSender(source, meta, CLUSTER, chunk_bytes=40).chunks())
        assert len(chunks) > 4
        await scenario(member, Intakes(member), chunks)  # type: ignore[arg-type]

    asyncio.run(main())


async def finished(sender: Sender) -> peer_pb2.StateReply:
    """The last answer."""
    async with asyncio.timeout(60):
        while not sender.ended:
            await asyncio.sleep(0.001)
    return sender.answers[-1]


def test_the_same_transfer_goes_on_and_is_handed_over_once() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        first = Sender(intakes)
        assert first.begin() == 0
        first.send(*chunks[:3])
        first.call.lost()
        second = Sender(intakes)
        assert second.begin() == 3
        second.send(*chunks[3:])
        second.call.half_closed()
        assert (await finished(second)).accepted
        assert len(member.made) == len(member.received) == 1
        assert member.received[0][1].applied_index == 1
        # Only the answer was lost: it is given again, and nothing is sent again.
        third = Sender(intakes)
        third.begin()
        assert third.ended
        assert third.answers[-1].accepted
        assert len(member.made) == len(member.received) == 1

    run(scenario)


@pytest.mark.parametrize(
    ("transfer", "changes", "sender"),
    [
        (10, {}, LEADER),
        (0, {}, LEADER),
        (9, {"term": 6}, LEADER),
        (9, {"snapshot": SnapshotMeta(2, 1, CONFIGURATION)}, LEADER),
        (9, {"snapshot": SnapshotMeta(1, 2, CONFIGURATION)}, LEADER),
        (9, {"snapshot": SnapshotMeta(1, 1, Configuration((1, 2)))}, LEADER),
        (9, {"sender": OTHER}, OTHER),
    ],
    ids=["number", "no-number", "term", "index", "index-term", "configuration", "sender"],
)
def test_anything_but_the_same_transfer_begins_anew(
    transfer: int, changes: dict[str, Any], sender: int
) -> None:
    """R36: and what was kept is gone, on the disk too."""

    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        first = Sender(intakes)
        first.begin()
        first.send(*chunks[:3])
        first.call.lost()
        assert not member.discarded
        second = Sender(intakes, sender)
        assert second.begin(transfer, announced(**changes)) == 0
        assert member.discarded == member.made[:1]
        assert len(member.made) == 2

    run(scenario)


def test_a_transfer_without_a_number_is_never_continued() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        for _ in range(2):
            sender = Sender(intakes)
            assert sender.begin(0) == 0
            sender.send(*chunks[:3])
            sender.call.lost()
        assert len(member.made) == 2

    run(scenario)


def test_a_state_of_an_older_term_neither_begins_nor_displaces_one() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        first = Sender(intakes)
        first.begin(9, announced(term=6))
        first.send(*chunks[:2])
        late = Sender(intakes, OTHER)
        assert late.begin(8, announced(term=5, sender=OTHER)) == -1
        assert "later term 6" in late.answers[-1].reason
        member.term = 7
        assert Sender(intakes, OTHER).begin(8, announced(term=6, sender=OTHER)) == -1
        first.send(*chunks[2:])
        first.call.half_closed()
        assert (await finished(first)).accepted

    run(scenario)


def test_a_call_that_broke_unnoticed_is_taken_over_by_the_next() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        first, second = Sender(intakes), Sender(intakes)
        first.begin()
        first.send(*chunks[:3])
        assert second.begin() == 3
        assert first.ended
        first.send(chunks[3])  # what was still on its way
        first.call.lost()
        second.send(*chunks[3:])
        second.call.half_closed()
        assert (await finished(second)).accepted
        assert len(member.made) == 1

    run(scenario)


def test_a_connection_that_breaks_while_the_state_is_loaded_does_not_end_that() -> None:
    """R37: nobody closes what a thread still syncs; the next call gets the answer."""

    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        first, second = Sender(intakes), Sender(intakes)
        first.begin()
        first.send(*chunks)
        first.call.half_closed()
        first.call.lost()
        assert second.begin() == len(chunks)
        second.call.half_closed()
        assert (await finished(second)).accepted
        assert len(member.made) == len(member.received) == 1
        assert not member.discarded

    run(scenario)


def test_a_state_of_which_the_end_was_not_announced_is_finished_by_the_next_call() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        first, second = Sender(intakes), Sender(intakes)
        first.begin()
        first.send(*chunks)
        first.call.lost()
        assert not member.received
        assert second.begin() == len(chunks)
        second.call.half_closed()
        assert (await finished(second)).accepted

    run(scenario)


@pytest.mark.parametrize("wrong", ["damage", "gap", "repeated", "early-end", "garbage"])
def test_a_wrong_piece_ends_the_transfer_and_nothing_of_it_is_kept(wrong: str) -> None:
    """R39"""

    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        sender = Sender(intakes)
        sender.begin()
        sender.send(*chunks[:3])
        if wrong == "damage":
            sender.send(chunks[3][:-1] + bytes([chunks[3][-1] ^ 1]))
        elif wrong == "gap":
            sender.send(chunks[4])
        elif wrong == "repeated":
            sender.send(chunks[2])
        elif wrong == "garbage":
            sender.call.piece(b"\xff\xff\xff")
        else:
            sender.call.half_closed()
        assert sender.ended
        assert sender.answers[-1].reason
        assert not sender.answers[-1].accepted
        assert member.discarded == member.made
        sender.send(*chunks[3:])
        sender.call.half_closed()
        sender.call.lost()
        again = Sender(intakes)
        assert again.begin() == 0
        assert not member.received

    run(scenario)


def test_what_is_kept_is_removed_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "KEPT_SECONDS", 0.01)

    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        sender = Sender(intakes)
        sender.begin()
        sender.send(*chunks[:3])
        sender.call.lost()
        async with asyncio.timeout(60):
            while not member.discarded:
                await asyncio.sleep(0.001)
        assert Sender(intakes).begin() == 0

    run(scenario)


def test_a_message_of_another_sender_or_for_another_member_is_refused() -> None:
    """O13"""

    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        for message in (announced(sender=OTHER), announced(to=OTHER)):
            sender = Sender(intakes)
            assert sender.begin(9, message) == -1
            assert "another sender or receiver" in sender.answers[-1].reason
        assert not member.made

    run(scenario)


def test_a_disk_that_takes_no_state_is_told_to_the_sender() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        member.disk_is_full = True
        sender = Sender(intakes)
        assert sender.begin() == -1
        assert sender.answers[-1].reason == "no space left"

    run(scenario)


def test_a_member_that_stops_gives_the_replica_nothing_and_waits_for_its_threads() -> None:
    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        sender = Sender(intakes)
        sender.begin()
        sender.send(*chunks)
        sender.call.half_closed()
        intakes.close()
        await intakes.settled()
        assert not member.received
        assert member.discarded == member.made
        assert sender.answers[-1].reason == "the member stops"
        assert Sender(intakes).begin() == -1

    run(scenario)


def test_the_sender_hears_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PROGRESS_CHUNKS", 2)

    async def scenario(member: Member1, intakes: Intakes, chunks: list[bytes]) -> None:
        sender = Sender(intakes)
        sender.begin()
        sender.send(*chunks[:4])
        assert [reply.next_chunk for reply in sender.answers] == [0, 2, 4]

    run(scenario)
