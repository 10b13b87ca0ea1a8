"""State transfer: what arrives is exactly what was sent, or nothing is installed."""

from collections.abc import Callable
from random import Random
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftkv.errors import ProtocolError
from raftkv.kv.backend import View
from raftkv.storage.backend import StateBackend
from raftkv.storage.memory import MemoryBackend
from raftkv.storage.snapshots import END, HEADER, ROWS, StateReceiver, StateSender
from tests.storage.rig import CLUSTER, Place, batch, meta
from tests.storage.workload import APPLIED, applied_of

META = b"what the state stands for"


def filled(count: int = 200, size: int = 100) -> MemoryBackend:
    random, backend = Random(count), MemoryBackend.alone()
    backend.write([(b"%06d" % i, random.randbytes(random.randint(0, size))) for i in range(count)])
    return backend


def rows(backend: View) -> list[tuple[bytes, bytes]]:
    return list(backend.scan(b"", b"\xff\xff"))


def stream(source: View, chunk_bytes: int = 1000, cluster: int = CLUSTER) -> list[bytes]:
    return list(StateSender(source, META, cluster, chunk_bytes=chunk_bytes).chunks())


def receive(chunks: list[bytes], cluster: int = CLUSTER) -> StateBackend:
    receiver = StateReceiver(MemoryBackend.alone(), cluster)
    for chunk in chunks:
        receiver.add(chunk)
    assert receiver.meta == META
    return receiver.finish()


def sealed(chunk: bytes, change: Callable[[bytearray], None]) -> bytes:
    """A chunk changed by somebody who knows how to compute its crc."""
    rest = bytearray(chunk[4:])
    change(rest)
    return crc32(rest).to_bytes(4, "big") + rest


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=st.dictionaries(
        st.binary(max_size=5).map(lambda key: key.replace(b"\xff", b"\xfe")),
        st.binary(max_size=200),
        max_size=60,
    ),
    chunk_bytes=st.integers(1, 2000),
)
def test_any_state_arrives_as_it_was_sent(content: dict[bytes, bytes], chunk_bytes: int) -> None:
    content.pop(b"", None)  # the empty key is below every row that the state machine writes
    source = MemoryBackend.alone()
    source.write(list(content.items()))
    assert rows(receive(stream(source, chunk_bytes))) == sorted(content.items())


def test_chunks_are_bounded_by_their_size_and_one_row() -> None:
    chunks = stream(filled(500, 100), 1000)
    assert len(chunks) > 20
    assert max(map(len, chunks)) < 1000 + 100 + 30


def test_the_sender_reads_one_chunk_at_a_time() -> None:
    """So that an event loop can take a slice and go on."""

    class Counting(MemoryBackend):
        read = 0

        def scan(self, start, stop, *, reverse=False):  # type: ignore[no-untyped-def]
            for row in super().scan(start, stop, reverse=reverse):
                Counting.read += 1
                yield row

    source = filled()
    source.__class__ = Counting
    chunks = StateSender(source, META, CLUSTER, chunk_bytes=1000).chunks()
    next(chunks)
    assert Counting.read == 0
    next(chunks)
    once = Counting.read
    assert 5 < once < 60
    next(chunks)
    assert Counting.read < 3 * once


def test_writes_behind_the_view_are_not_sent() -> None:
    source = filled(50)
    view = source.view()
    expected = rows(view)
    chunks: list[bytes] = []
    for chunk in StateSender(view, META, CLUSTER, chunk_bytes=300).chunks():
        source.write([(b"%06d" % len(chunks), None), (b"new%d" % len(chunks), b"")])
        chunks.append(chunk)
    assert rows(receive(chunks)) == expected


def test_every_flipped_bit_is_refused() -> None:
    """D09, R39."""
    chunks = stream(filled(6, 20), 60)
    for position, chunk in enumerate(chunks):
        for bit in range(len(chunk) * 8):
            bad = bytearray(chunk)
            bad[bit // 8] ^= 1 << bit % 8
            receiver = StateReceiver(MemoryBackend.alone(), CLUSTER)
            for good in chunks[:position]:
                receiver.add(good)
            with pytest.raises(ProtocolError):
                receiver.add(bytes(bad))


def test_a_stream_cut_anywhere_is_refused() -> None:
    """R39, X14."""
    chunks = stream(filled(20), 300)
    for length in range(len(chunks)):
        receiver = StateReceiver(MemoryBackend.alone(), CLUSTER)
        for chunk in chunks[:length]:
            receiver.add(chunk)
        with pytest.raises(ProtocolError, match=f"ended before chunk {length}"):
            receiver.finish()
    for cut in range(1, len(chunks[1])):
        receiver = StateReceiver(MemoryBackend.alone(), CLUSTER)
        receiver.add(chunks[0])
        with pytest.raises(ProtocolError):
            receiver.add(chunks[1][:-cut])


def test_chunks_lost_repeated_or_out_of_order_are_refused() -> None:
    """R39."""
    chunks = stream(filled(60), 300)
    for bad in (
        chunks[1:],
        [*chunks[:2], *chunks[3:]],
        [*chunks[:3], *chunks[2:]],
        [chunks[0], chunks[2], chunks[1], *chunks[3:]],
        [*chunks, chunks[-1]],
        [chunks[0], chunks[0], *chunks[1:]],
    ):
        with pytest.raises(ProtocolError):
            receive(bad)


def test_a_chunk_of_another_stream_does_not_fit_although_its_number_does() -> None:
    """D09: the running hash."""
    chunks, other = stream(filled(60), 300), stream(filled(59), 300)
    assert chunks[3] != other[3]
    with pytest.raises(ProtocolError):
        receive([*chunks[:3], other[3], *chunks[4:]])


def test_a_stream_from_another_cluster_is_refused_before_any_row() -> None:
    """R39, D22."""
    backend = MemoryBackend.alone()
    receiver = StateReceiver(backend, CLUSTER)
    with pytest.raises(ProtocolError, match="other cluster"):
        receiver.add(stream(filled(), cluster=CLUSTER + 1)[0])
    assert rows(backend) == []


def test_forged_chunks_with_a_right_checksum_are_refused() -> None:
    """X14: lengths beyond the chunk, unordered keys, unknown kinds and versions."""
    chunks = stream(filled(20, 30), 300)

    def set_byte(at: int, value: int) -> Callable[[bytearray], None]:
        def change(rest: bytearray) -> None:
            rest[at] = value

        return change

    for position, at, value in [
        (0, 4, ROWS),  # no header first
        (0, 4, END),
        (0, 6, 99),  # version
        (1, 4, HEADER),
        (1, 4, 7),  # unknown kind
        (1, 5, 0xFF),  # huge key length
        (1, 9, 0xFF),  # huge value length
        (1, 13, 0xFF),  # first key behind the second
        (2, 13, 0x00),  # a key before the last one of the chunk before
    ]:
        receiver = StateReceiver(MemoryBackend.alone(), CLUSTER)
        for chunk in chunks[:position]:
            receiver.add(chunk)
        with pytest.raises(ProtocolError):
            receiver.add(sealed(chunks[position], set_byte(at, value)))
    with pytest.raises(ProtocolError, match="hash"):
        receive([*chunks[:-1], sealed(chunks[-1], set_byte(20, 1))])
    with pytest.raises(ProtocolError):
        receive([sealed(chunks[0], lambda rest: rest.__delitem__(slice(6, None)))])


def test_random_bytes_are_refused() -> None:
    """O12, X14."""
    random = Random(4)
    chunks = stream(filled(20), 300)
    for _ in range(300):
        receiver = StateReceiver(MemoryBackend.alone(), CLUSTER)
        if random.random() < 0.5:
            receiver.add(chunks[0])

        def scramble(rest: bytearray) -> None:
            kept = random.choice([0, 4, 5])
            rest[kept:] = random.randbytes(random.randint(0, 60))

        with pytest.raises(ProtocolError):
            receiver.add(sealed(chunks[receiver.next_number], scramble))


def test_a_cut_transfer_goes_on_where_the_receiver_stopped() -> None:
    source = filled(300)
    sender = StateSender(source, META, CLUSTER, chunk_bytes=500)
    receiver = StateReceiver(MemoryBackend.alone(), CLUSTER)
    random = Random(8)
    while not receiver.complete:
        for count, chunk in enumerate(sender.chunks(receiver.next_number)):
            if count and random.random() < 0.2:
                break  # this one is lost on the way
            receiver.add(chunk)
    assert rows(receiver.finish()) == rows(source)
    assert receiver.rows == sender.rows == 300


def test_a_receiver_that_has_the_end_is_sent_nothing_more() -> None:
    sender = StateSender(filled(60), META, CLUSTER, chunk_bytes=300)
    chunks = list(sender.chunks())
    assert list(sender.chunks(len(chunks))) == []
    assert list(sender.chunks(len(chunks) - 1)) == chunks[-1:]
    with pytest.raises(ProtocolError):
        next(sender.chunks(len(chunks) + 1))


def test_a_transfer_does_not_go_on_where_nobody_remembers_it() -> None:
    sender = StateSender(filled(), META, CLUSTER, chunk_bytes=500)
    with pytest.raises(ProtocolError, match="chunk 5"):
        next(sender.chunks(5))


def test_a_received_state_is_installed_and_survives(place: Place) -> None:
    """R38, from the first chunk to the next opening, on both engines."""
    source = filled(400)
    source.write([(APPLIED, b"70")])
    directory = place.open()
    receiver = StateReceiver(directory.new_state(), CLUSTER)
    for chunk in stream(source):
        receiver.add(chunk)
    directory.switch_state(receiver.finish(), meta(4, 70))
    directory.log.write([batch(1, hard=(4, 0), reset=(4, 70))])
    directory.drop_old_states()
    directory.close(checkpoint=False)
    again = place.open()
    assert rows(again.state) == rows(source)
    again.check_applied(applied_of(again.state))
    again.close()


def test_a_refused_transfer_changes_nothing(place: Place) -> None:
    """R39."""
    directory = place.open()
    directory.state.write([(b"mine", b"1")])
    receiver = StateReceiver(directory.new_state(), CLUSTER)
    chunks = stream(filled())
    for chunk in chunks[:3]:
        receiver.add(chunk)
    with pytest.raises(ProtocolError):
        receiver.add(chunks[1])
    receiver.abandon()
    directory.close()
    again = place.open()
    assert rows(again.state) == [(b"mine", b"1")]
    assert again.recovered.last_index == 0
    assert [n for n in again._fs.names(again.path) if n.startswith("state")] == ["state-1"]
    again.close()
