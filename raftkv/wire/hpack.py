"""HPACK (RFC 7541): a decoder that says when its table changed, an encoder that never evicts.

Both ends of a connection send the same few header blocks again and again, so the
caller keeps what a block of bytes meant and looks it up. That is sound under one
rule, and `generation` is how it is kept:

    A block may be remembered only if decoding (encoding) it left `generation` as it
    was, and everything remembered is forgotten when `generation` moves.

`generation` moves with every insertion into the dynamic table and with every size
update, because both change what the index bytes of a block stand for.

The encoder inserts a field the first time it sees it, as long as the field fits beside
the others, and never evicts. So after the first few blocks all blocks are constants.

The static table and the Huffman code are those of the `hpack` package.
"""

from collections.abc import Iterable
from typing import Final

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from raftkv.errors import ProtocolError

Field = tuple[bytes, bytes]

TABLE_BYTES: Final = 4096  # the default SETTINGS_HEADER_TABLE_SIZE, which we keep
ENTRY_OVERHEAD_BYTES: Final = 32  # RFC 7541 4.1
STATIC: Final[tuple[Field, ...]] = ((b"", b""), *HeaderTable.STATIC_TABLE)
_STATIC_FIELDS: Final = {field: index for index, field in reversed(list(enumerate(STATIC)))}
_STATIC_NAMES: Final = {field[0]: index for index, field in reversed(list(enumerate(STATIC)))}
_FIRST_DYNAMIC: Final = 62
_MAX_NUMBER: Final = 2**28  # no length or index of ours comes near; four bytes of a varint
_MEMO_ENTRIES: Final = 128
_BOMB_FACTOR: Final = 4  # a list this many times above the limit is an attack, no mistake
_MEMO_BYTES: Final = 128
_SECRET: Final = frozenset((b"authorization", b"token", b"cookie"))

assert len(STATIC) == _FIRST_DYNAMIC


class HpackError(ProtocolError):
    """A header block breaks RFC 7541; the connection's compression state is lost."""


class Decoder:
    """The receiving side of one direction of a connection.

    max_list_bytes: fields beyond this size (RFC 9113 10.5.1 counts 32 bytes more for each)
        are dropped and `truncated` is set; the table is kept right all the same.
    generation: see the module's docstring.
    """

    __slots__ = (
        "_entries",
        "_limit",
        "_memo",
        "_used",
        "generation",
        "max_list_bytes",
        "truncated",
    )

    def __init__(self, max_list_bytes: int) -> None:
        self.max_list_bytes = max_list_bytes
        self.generation = 0
        self.truncated = False
        self._entries: list[Field] = []  # newest last
        self._used = 0
        self._limit = TABLE_BYTES
        self._memo: dict[bytes, bytes] = {}  # Huffman bytes -> text; true for ever

    def decode(self, block: bytes) -> list[Field]:
        """The fields of one whole header block, in order.

        Raises HpackError when the block is broken or a bomb; the decoder is unusable then.
        """
        fields: list[Field] = []
        entries = self._entries
        room = self.max_list_bytes
        floor = -_BOMB_FACTOR * room
        pos = 0
        size = len(block)
        if size and block[0] & 0xE0 == 0x20:
            pos = self._size_updates(block)
        while pos < size:
            first = block[pos]
            pos += 1
            if first & 0x80:
                index = first & 0x7F
                if index == 0x7F:
                    index, pos = _number(block, pos, 0x7F)
                if index < _FIRST_DYNAMIC:
                    if not index:
                        raise HpackError("a header block has index 0")
                    field = STATIC[index]
                else:
                    if index - 61 > len(entries):
                        raise HpackError(f"a header block has the unknown index {index}")
                    field = entries[61 - index]
            elif first & 0x40:
                field, pos = self._literal(block, pos, first & 0x3F, 0x3F)
                self._insert(field)
            elif first & 0x20:
                raise HpackError("a table size update inside a header block")
            else:
                field, pos = self._literal(block, pos, first & 0x0F, 0x0F)
            room -= len(field[0]) + len(field[1]) + ENTRY_OVERHEAD_BYTES
            if room >= 0:
                fields.append(field)
            elif room < floor:
                raise HpackError("a header list is many times larger than allowed")
        self.truncated = room < 0
        return fields

    def _literal(self, block: bytes, pos: int, index: int, mask: int) -> tuple[Field, int]:
        if index == mask:
            index, pos = _number(block, pos, mask)
        if index == 0:
            name, pos = self._string(block, pos)
        elif index < _FIRST_DYNAMIC:
            name = STATIC[index][0]
        elif index - 61 > len(self._entries):
            raise HpackError(f"a header block names the unknown index {index}")
        else:
            name = self._entries[61 - index][0]
        value, pos = self._string(block, pos)
        return (name, value), pos

    def _string(self, block: bytes, pos: int) -> tuple[bytes, int]:
        if pos >= len(block):
            raise HpackError("a header block ends inside a field")
        first = block[pos]
        length = first & 0x7F
        pos += 1
        if length == 0x7F:
            length, pos = _number(block, pos, 0x7F)
        end = pos + length
        if end > len(block):
            raise HpackError("a header block ends inside a string")
        raw = block[pos:end]
        if not first & 0x80:
            return raw, end
        text = self._memo.get(raw)
        if text is None:
            try:
                text = decode_huffman(raw)
            except HPACKError:
                raise HpackError("a header block has a broken Huffman string") from None
            if length <= _MEMO_BYTES:
                if len(self._memo) >= _MEMO_ENTRIES:
                    self._memo.clear()
                self._memo[raw] = text
        return text, end

    def _size_updates(self, block: bytes) -> int:
        """Reads the updates at the start of a block, at most two (RFC 7541 4.2)."""
        pos = 0
        for _ in range(2):
            if pos >= len(block) or block[pos] & 0xE0 != 0x20:
                break
            limit = block[pos] & 0x1F
            pos += 1
            if limit == 0x1F:
                limit, pos = _number(block, pos, 0x1F)
            if limit > TABLE_BYTES:
                raise HpackError(f"a table size update to {limit}, allowed are {TABLE_BYTES}")
            self._limit = limit
            self._shrink()
            self.generation += 1
        return pos

    def _insert(self, field: Field) -> None:
        self._entries.append(field)
        self._used += len(field[0]) + len(field[1]) + ENTRY_OVERHEAD_BYTES
        self.generation += 1
        if self._used > self._limit:
            self._shrink()

    def _shrink(self) -> None:
        entries = self._entries
        drop = 0
        while self._used > self._limit:
            name, value = entries[drop]
            self._used -= len(name) + len(value) + ENTRY_OVERHEAD_BYTES
            drop += 1
        del entries[:drop]


def _number(block: bytes, pos: int, value: int) -> tuple[int, int]:
    """The rest of a prefixed integer (RFC 7541 5.1); `value` is the full prefix."""
    shift = 0
    while True:
        if pos >= len(block):
            raise HpackError("a header block ends inside a number")
        byte = block[pos]
        pos += 1
        value += (byte & 0x7F) << shift
        # Bounded by its bytes too: zeros may follow for ever (CVE-2020-11080's cousins).
        if value > _MAX_NUMBER or shift > 21:
            raise HpackError("a header block has a number that is too long")
        if byte < 0x80:
            return value, pos
        shift += 7


def encode_number(value: int, mask: int, first: int) -> bytes:
    """A prefixed integer: `first` holds the bits above the prefix `mask`."""
    if value < mask:
        return bytes((first | value,))
    out = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Encoder:
    """The sending side of one direction of a connection. generation: see the module."""

    __slots__ = ("_limit", "_numbers", "_off", "_update", "_used", "generation")

    def __init__(self) -> None:
        self.generation = 0
        self._limit = TABLE_BYTES
        self._used = 0
        self._numbers: dict[Field, int] = {}  # field -> how many were inserted before it
        self._off = False
        self._update = b""

    def set_limit(self, limit: int) -> None:
        """The other end's SETTINGS_HEADER_TABLE_SIZE, in bytes.

        Raising it changes nothing: we never use more than the default. Below what is in
        use the table is emptied and stays unused, because the entries the other end
        evicts are not worth tracking.
        """
        if limit >= self._limit:
            return
        self.generation += 1
        if limit < self._used or limit < 256:
            self._off = True
            self._numbers.clear()
            self._used = 0
            limit = 0
        self._limit = limit
        self._update = encode_number(limit, 0x1F, 0x20)

    def encode(self, fields: Iterable[Field], insert: bool = True) -> bytes:
        """One header block. insert: new fields may go into the dynamic table."""
        parts: list[bytes] = []
        if self._update:
            parts.append(self._update)
            self._update = b""
            self.generation += 1
        numbers = self._numbers
        for field in fields:
            index = _STATIC_FIELDS.get(field)
            if index is None and field in numbers:
                index = _FIRST_DYNAMIC + len(numbers) - 1 - numbers[field]
            if index is not None:
                parts.append(encode_number(index, 0x7F, 0x80))
                continue
            name, value = field
            size = len(name) + len(value) + ENTRY_OVERHEAD_BYTES
            if insert and not self._off and self._used + size <= self._limit:
                parts.append(_literal(name, value, 0x3F, 0x40))
                numbers[field] = len(numbers)
                self._used += size
                self.generation += 1
            else:
                parts.append(_literal(name, value, 0x0F, 0x10 if name in _SECRET else 0))
        return b"".join(parts)

    def constant(self, fields: Iterable[Field]) -> bytes | None:
        """The block of `fields` if encoding it needs no change of state, else None."""
        fields = list(fields)
        if self._update or not all(
            self._off or field in _STATIC_FIELDS or field in self._numbers for field in fields
        ):
            return None
        return self.encode(fields, insert=False)


def _literal(name: bytes, value: bytes, mask: int, first: int) -> bytes:
    index = _STATIC_NAMES.get(name, 0)
    head = encode_number(index, mask, first)
    if not index:
        head += encode_number(len(name), 0x7F, 0) + name
    return head + encode_number(len(value), 0x7F, 0) + value
