"""The HPACK decoder and encoder, against the `hpack` package as the other end."""

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.wire.frames import END_HEADERS, HEADERS, PREFACE, frame
from raftkv.wire.frames import settings as settings_frame
from raftkv.wire.grpc import RequestHead
from raftkv.wire.h2 import ServerConnection
from raftkv.wire.hpack import STATIC, Decoder, Encoder, Field, HpackError
from tests.wire.serving import serve_in_memory

names = st.one_of(
    st.sampled_from([name for name, _ in STATIC[1:]]),
    st.from_regex(rb"[a-z][a-z0-9-]{0,20}", fullmatch=True),
)
fields = st.lists(
    st.one_of(
        st.sampled_from(STATIC[1:]),
        st.tuples(
            names, st.one_of(st.sampled_from([b"", b"1", b"v" * 200]), st.binary(max_size=60))
        ),
    ),
    max_size=12,
)
LIMIT = 1 << 20


class _Step:
    """One header block of a history: its fields, how the sender codes it, and resizes before."""

    def __init__(self, block: list[Field], huffman: bool, resize: int | None) -> None:
        self.block = block
        self.huffman = huffman
        self.resize = resize


steps = st.lists(
    st.builds(
        _Step,
        fields,
        st.booleans(),
        st.one_of(st.none(), st.none(), st.sampled_from([0, 40, 100, 300, 4096])),
    ),
    max_size=15,
)


@given(steps)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_decoder_agrees_with_the_hpack_package_over_a_whole_history(history: list[_Step]) -> None:
    sender = hpack.Encoder()
    decoder = Decoder(LIMIT)
    for step in history:
        if step.resize is not None:
            sender.header_table_size = step.resize
        block = sender.encode(step.block, huffman=step.huffman)
        assert decoder.decode(block) == [tuple(field) for field in step.block]


@given(st.lists(st.binary(max_size=60), max_size=6))
@settings(max_examples=500, deadline=None, derandomize=True)
def test_decoder_accepts_and_refuses_the_same_bytes_as_the_hpack_package(
    blocks: list[bytes],
) -> None:
    theirs = hpack.Decoder(max_header_list_size=LIMIT)
    theirs.max_allowed_table_size = 4096
    ours = Decoder(LIMIT)
    for block in blocks:
        try:
            expected = [tuple(field) for field in theirs.decode(block, raw=True)]
        except hpack.HPACKError:
            with pytest.raises(HpackError):
                ours.decode(block)
            return
        try:
            assert ours.decode(block) == expected
        except HpackError as error:
            # Stricter on purpose: numbers padded with zeros, a third size update.
            assert "too long" in str(error) or "size update" in str(error)  # noqa: PT017
            return


@given(
    st.lists(st.tuples(fields, st.booleans()), max_size=20), st.sampled_from([0, 100, 300, 4096])
)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_encoder_is_understood_by_the_hpack_package_at_any_table_size(
    history: list[tuple[list[Field], bool]], limit: int
) -> None:
    theirs = hpack.Decoder(max_header_list_size=LIMIT)
    encoder = Encoder()
    for number, (block, insert) in enumerate(history):
        if number == len(history) // 2:
            theirs.max_allowed_table_size = limit
            encoder.set_limit(limit)
        constant = encoder.constant(block)
        encoded = encoder.encode(block, insert)
        assert constant is None or constant == encoded
        assert [tuple(field) for field in theirs.decode(encoded, raw=True)] == block
        assert theirs.header_table.maxsize <= max(limit, 4096 if number < len(history) // 2 else 0)


def test_encoder_says_the_same_block_in_few_bytes_the_second_time() -> None:
    encoder = Encoder()
    block = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    encoder.encode(block)
    generation = encoder.generation
    assert encoder.encode(block) == b"\x88\xbe"
    assert encoder.generation == generation


def test_a_block_that_inserts_moves_the_generation_and_one_that_does_not_leaves_it() -> None:
    sender = hpack.Encoder()
    decoder = Decoder(LIMIT)
    first = sender.encode([(b"a", b"b")])
    decoder.decode(first)
    assert decoder.generation == 1
    decoder.decode(sender.encode([(b"a", b"b")]))
    assert decoder.generation == 1
    sender.header_table_size = 100
    decoder.decode(sender.encode([(b":method", b"GET")]))
    assert decoder.generation > 1


# --- the cache of whole blocks -----------------------------------------------------------

REQUEST: list[Field] = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/t.T/Echo"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
]
LITERAL_REQUEST = b"".join(hpack.Encoder().add(field, sensitive=True) for field in REQUEST)
metadata = st.lists(
    st.tuples(st.sampled_from([b"a", b"b", b"token"]), st.sampled_from([b"1", b"2", b"3" * 900])),
    min_size=1,
    max_size=2,
    unique_by=lambda field: field[0],
)


resizes = st.sampled_from([None] * 12 + [0, 200, 4096])
histories = st.lists(metadata, min_size=2, max_size=3, unique_by=repr).flatmap(
    lambda pool: st.lists(st.tuples(st.sampled_from(pool), resizes), min_size=12, max_size=25)
)


@given(histories)
@settings(max_examples=100, deadline=None, derandomize=True)
def test_the_cache_of_blocks_never_changes_what_a_block_means(
    history: list[tuple[list[Field], int | None]],
) -> None:
    """The trap: index bytes mean something else after the table changed."""
    sender = hpack.Encoder()
    connection, _ = serve_in_memory()
    connection.receive(PREFACE + settings_frame([]), 0.0)
    uncached = Decoder(LIMIT)
    for number, (extra, resize) in enumerate(history):
        if resize is not None:
            sender.header_table_size = resize
        # Constant literals first, so that equal bytes for different metadata are common.
        block = sender.encode([]) + LITERAL_REQUEST + sender.encode(extra)
        assert uncached.decode(block) == REQUEST + extra
        path_of = _head_of(connection, block, 2 * number + 1)
        assert path_of.metadata == dict(extra)
        assert path_of.path == b"/t.T/Echo"


def _head_of(connection: ServerConnection, block: bytes, stream: int) -> RequestHead:
    connection.receive(frame(HEADERS, END_HEADERS, stream, block), 0.0)
    assert not connection.closing, connection.close_reason
    return connection._streams[stream].head


def test_the_same_bytes_mean_another_field_after_an_insertion() -> None:
    sender = hpack.Encoder()
    connection, _ = serve_in_memory()
    connection.receive(PREFACE + settings_frame([]), 0.0)
    seen = []
    for stream, name in enumerate([b"a", b"a", b"b", b"b", b"a"]):
        block = LITERAL_REQUEST + sender.encode([(name, b"1")])
        head = _head_of(connection, block, 2 * stream + 1)
        assert head.metadata == {name: b"1"}
        seen.append(block)
    assert seen[1] == seen[3]


def test_an_equal_block_is_decoded_once() -> None:
    sender = hpack.Encoder()
    connection, _ = serve_in_memory()
    connection.receive(PREFACE + settings_frame([]), 0.0)
    first = _head_of(connection, sender.encode(REQUEST), 1)
    second = _head_of(connection, sender.encode(REQUEST), 3)
    third = _head_of(connection, sender.encode(REQUEST), 5)
    assert first is not second
    assert second is third


def test_the_cache_of_blocks_is_bounded() -> None:
    connection, _ = serve_in_memory()
    connection.receive(PREFACE + settings_frame([]), 0.0)
    sender = Encoder()
    for number in range(500):
        block = sender.encode([*REQUEST, (b"n", b"%d" % number)], insert=False)
        _head_of(connection, block, 2 * number + 1)
    assert 0 < len(connection._heads) <= 64


# --- broken blocks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "unknown index 62"),
        (b"\x7f", "inside a number"),
        (b"\x7f\x00", "unknown index 63"),
        (b"\x40\x01", "ends inside a string"),
        (b"\x40\x81\xff\x00", "Huffman"),
        (b"\x3f\xe2\x1f", "size update to 4097"),
        (b"\x20\x20\x20", "inside a header block"),
        (b"\x82\x20", "inside a header block"),
        (b"\xff\x80\x80\x80\x80\x80\x00", "too long"),
        (b"\x0f\xff\xff\xff\xff\xff\xff\xff\x00", "too long"),
    ],
)
def test_a_broken_block_is_refused(block: bytes, words: str) -> None:
    """O08: varint padding and friends."""
    with pytest.raises(HpackError, match=words):
        Decoder(LIMIT).decode(block)


def test_a_bomb_of_index_bytes_is_given_up_soon() -> None:
    """O08: 16 KiB of references to one 4 KB entry would be 64 MB of fields."""
    decoder = Decoder(16384)
    decoder.decode(_insert(b"v" * 3900))
    assert len(decoder.decode(b"\xbe" * 10)) == 4
    assert decoder.truncated
    with pytest.raises(HpackError, match="many times larger"):
        decoder.decode(b"\xbe" * 16384)


def _insert(value: bytes) -> bytes:
    return Encoder().encode([(b"a", value)])


def test_fields_beyond_the_limit_still_reach_the_table() -> None:
    decoder = Decoder(100)
    sender = hpack.Encoder()
    decoder.decode(sender.encode([(b"a", b"x" * 80), (b"b", b"y" * 80)], huffman=False))
    assert decoder.truncated
    assert decoder.decode(sender.encode([(b"b", b"y" * 30)])) == [(b"b", b"y" * 30)]
    assert not decoder.truncated
