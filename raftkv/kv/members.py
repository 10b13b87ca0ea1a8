"""Members as the cluster knows them: names, URLs and incarnations.

Who votes is Raft's business (`raft.types.Configuration`); this is what MemberList shows. A member's
row is also what travels in the CONFIG entry that adds or moves it and in PUBLISH commands:

    member := id u64 | incarnation u64 | name text | count u16 | peer url text ... |
              count u16 | client url text ...
    text   := length u16 | UTF-8
"""

from dataclasses import dataclass, replace
from struct import Struct, error
from typing import Final

from raftkv.errors import ProtocolError
from raftkv.kv import commands
from raftkv.raft.types import Configuration

_HEAD: Final = Struct(">QQ")
_U16: Final = Struct(">H")
_ID: Final = Struct(">Q")


@dataclass(frozen=True, slots=True)
class Member:
    """One member.

    name: empty until the member has started (PUBLISH).
    incarnation: random number of its data directory, 0 until known.
    """

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    incarnation: int = 0


def _text(text: str) -> bytes:
    encoded = text.encode()
    return _U16.pack(len(encoded)) + encoded


def encode_member(member: Member) -> bytes:
    """The bytes of one member."""
    parts = [_HEAD.pack(member.id, member.incarnation), _text(member.name)]
    for urls in (member.peer_urls, member.client_urls):
        parts.append(_U16.pack(len(urls)))
        parts.extend(_text(url) for url in urls)
    return b"".join(parts)


def decode_member(encoded: bytes) -> Member:
    """The member that `encode_member` wrote. Raises ProtocolError for anything else."""
    try:
        number, incarnation = _HEAD.unpack_from(encoded, 0)
        at = _HEAD.size
        name, at = _read_text(encoded, at)
        lists = []
        for _ in range(2):
            (count,) = _U16.unpack_from(encoded, at)
            at += 2
            urls = []
            for _ in range(count):
                url, at = _read_text(encoded, at)
                urls.append(url)
            lists.append(tuple(urls))
    except (error, UnicodeDecodeError) as cause:
        raise ProtocolError(f"not a member: {encoded[:32]!r}") from cause
    if at != len(encoded):
        raise ProtocolError("bytes behind a member")
    return Member(number, name, lists[0], lists[1], incarnation)


def _read_text(encoded: bytes, at: int) -> tuple[str, int]:
    (size,) = _U16.unpack_from(encoded, at)
    end = at + 2 + size
    if end > len(encoded):
        raise ProtocolError("a member's text is cut short")
    return encoded[at + 2 : end].decode(), end


def joining_member(context: bytes) -> Member | None:
    """The member that a CONFIG entry adds, from the entry's context (an envelope of commands).

    None if the entry adds nobody. Raises ProtocolError for bytes that are no envelope.
    """
    if not context:
        return None
    command = commands.decode(context)
    if command.command == commands.MEMBER_REPLACE:
        return decode_replacement(command.request)[1]
    if command.command not in (commands.MEMBER_ADD, commands.LEARNER_ADD):
        return None
    return decode_member(command.request)


def moving_member(context: bytes) -> Member | None:
    """The member whose peer URLs a CONFIG entry changes, from the entry's context; else None.

    Raises ProtocolError for bytes that are no envelope.
    """
    if not context:
        return None
    command = commands.decode(context)
    return decode_member(command.request) if command.command == commands.MEMBER_UPDATE else None


def encode_replacement(gone: int, heir: Member) -> bytes:
    """The request of a MEMBER_REPLACE: who goes, and the learner that comes."""
    return _ID.pack(gone) + encode_member(heir)


def decode_replacement(request: bytes) -> tuple[int, Member]:
    """What `encode_replacement` wrote. Raises ProtocolError for anything else."""
    if len(request) < _ID.size:
        raise ProtocolError(f"not a replacement: {request[:8]!r}")
    return _ID.unpack_from(request)[0], decode_member(request[_ID.size :])


class Roster:
    """The members of the applied configuration and the ids that were removed for ever."""

    __slots__ = ("configuration", "members", "removed")

    def __init__(self) -> None:
        self.configuration = Configuration()
        self.members: dict[int, Member] = {}
        self.removed: dict[int, None] = {}  # a dict: ordered as they were removed

    def configure(
        self, configuration: Configuration, joining: Member | None
    ) -> tuple[list[Member], list[int]]:
        """Take over an applied configuration; members added and ids removed by it."""
        before = self.configuration
        self.configuration = configuration
        after = configuration.members()
        added: list[Member] = []
        if joining is not None and joining.id in after:
            self.members[joining.id] = joining
            added.append(joining)
        for number in after:
            if number not in self.members:
                self.members[number] = Member(number)
                added.append(self.members[number])
        gone = [number for number in before.members() if number not in after]
        for number in gone:
            self.members.pop(number, None)
            self.removed[number] = None
        return added, gone

    def publish(self, published: Member) -> Member | None:
        """Name, client URLs and incarnation of a started member; None if it is no member."""
        known = self.members.get(published.id)
        if known is None:
            return None
        changed = replace(
            known,
            name=published.name,
            client_urls=published.client_urls,
            incarnation=published.incarnation or known.incarnation,
        )
        self.members[known.id] = changed
        return changed

    def move(self, update: Member) -> Member | None:
        """New peer URLs; None if it is no member."""
        known = self.members.get(update.id)
        if known is None:
            return None
        changed = replace(known, peer_urls=update.peer_urls)
        self.members[known.id] = changed
        return changed
