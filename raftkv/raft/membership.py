"""Configurations: their bytes in the log, and the steps from one to another.

A CONFIG entry's payload is a whole configuration plus a context that the core
does not read (for example the member that joins, with its addresses):

    version           1 byte, 1
    voters            2 bytes count, then 8 bytes each
    outgoing          the same
    learners          the same
    learners_next     the same
    context           4 bytes length, then the bytes; nothing may follow

Numbers are big-endian, ids ascending and not 0.

One step may change at most one voter: then every majority of the old voters meets
every majority of the new ones (dissertation 4.1). A larger change goes through a
joint configuration (Raft 6, dissertation 4.3): C_old -> C_old,new -> C_new.
"""

import struct
from collections.abc import Iterable
from itertools import pairwise

from raftkv.errors import ProtocolError
from raftkv.raft.roles import BadChange
from raftkv.raft.types import Configuration

_VERSION = 1
_COUNT = struct.Struct(">H")
_LENGTH = struct.Struct(">I")


def encode_change(configuration: Configuration, context: bytes) -> bytes:
    """The payload of a CONFIG entry (layout in the module's docstring)."""
    parts = [bytes((_VERSION,))]
    for ids in (
        configuration.voters,
        configuration.outgoing,
        configuration.learners,
        configuration.learners_next,
    ):
        parts.append(_COUNT.pack(len(ids)))
        parts.append(struct.pack(f">{len(ids)}Q", *ids))
    parts.append(_LENGTH.pack(len(context)))
    parts.append(context)
    return b"".join(parts)


def decode_change(payload: bytes) -> tuple[Configuration, bytes]:
    """Configuration and context of a CONFIG entry's payload.

    Raises: ProtocolError if the bytes are not exactly what `encode_change` makes.
    """
    if not payload or payload[0] != _VERSION:
        raise ProtocolError(f"configuration entry: unknown version in {payload[:1]!r}")
    lists: list[tuple[int, ...]] = []
    at = 1
    try:
        for _ in range(4):
            (count,) = _COUNT.unpack_from(payload, at)
            at += _COUNT.size
            lists.append(struct.unpack_from(f">{count}Q", payload, at))
            at += 8 * count
        (length,) = _LENGTH.unpack_from(payload, at)
    except struct.error as error:
        raise ProtocolError(f"configuration entry is cut short: {error}") from None
    at += _LENGTH.size
    context = payload[at:]
    if len(context) != length:
        raise ProtocolError(
            f"configuration entry: context has {len(context)} bytes, {length} announced"
        )
    configuration = Configuration(*lists)
    try:
        check(configuration)
    except BadChange as error:
        raise ProtocolError(f"configuration entry: {error}") from None
    return configuration, context


def check(configuration: Configuration) -> None:
    """Refuse a configuration that contradicts itself.

    Raises: BadChange saying what is wrong.
    """
    for name in ("voters", "outgoing", "learners", "learners_next"):
        ids = getattr(configuration, name)
        if any(a >= b for a, b in pairwise(ids)) or (ids and ids[0] <= 0):
            raise BadChange(f"{name} must be ascending ids above 0, not {ids}")
    if not configuration.voters:
        raise BadChange("a configuration needs at least one voter")
    voting = {*configuration.voters, *configuration.outgoing}
    if voting.intersection(configuration.learners):
        raise BadChange("a member cannot be a voter and a learner at once")
    stepping_down = set(configuration.learners_next)
    if stepping_down.difference(configuration.outgoing):
        raise BadChange("learners_next must be voters of the outgoing configuration")
    if stepping_down.intersection(configuration.voters):
        raise BadChange("learners_next cannot be voters of the incoming configuration")


def plain(voters: Iterable[int], learners: Iterable[int] = ()) -> Configuration:
    """A configuration that is not joint, with its ids brought into order."""
    return Configuration(tuple(sorted(set(voters))), (), tuple(sorted(set(learners))))


def is_simple_change(current: Configuration, wanted: Configuration) -> bool:
    """True if one step suffices: at most one voter is added or removed (learners: any)."""
    if current.joint or wanted.joint:
        return False
    return len(set(current.voters).symmetric_difference(wanted.voters)) <= 1


def enter_joint(
    current: Configuration, voters: Iterable[int], learners: Iterable[int] = ()
) -> Configuration:
    """C_old,new on the way from `current` to (voters, learners).

    Raises: BadChange if `current` is joint already or the target contradicts itself.
    """
    if current.joint:
        raise BadChange("the current configuration is joint")
    target = plain(voters, learners)
    check(target)
    old = set(current.voters)
    joint = Configuration(
        voters=target.voters,
        outgoing=current.voters,
        learners=tuple(member for member in target.learners if member not in old),
        learners_next=tuple(member for member in target.learners if member in old),
    )
    check(joint)
    return joint


def leave_joint(current: Configuration) -> Configuration:
    """C_new behind the joint configuration `current`."""
    assert current.joint, "only a joint configuration can be left"
    return plain(current.voters, (*current.learners, *current.learners_next))


def next_step(current: Configuration, wanted: Configuration) -> Configuration:
    """The configuration to append now on the way from `current` to `wanted`.

    wanted: a plain configuration, or already a joint one that leaves `current`.
    Raises: BadChange.
    """
    check(wanted)
    if wanted.joint:
        if current.joint or wanted.outgoing != current.voters:
            raise BadChange("a joint configuration must leave the current voters")
        return wanted
    if is_simple_change(current, wanted):
        return wanted
    return enter_joint(current, wanted.voters, wanted.learners)


class ConfigurationHistory:
    """The configurations in the log: a member uses the newest, committed or not (Raft 6).

    The oldest one kept is committed; a truncated suffix takes its configurations with it.
    """

    __slots__ = ("_configurations", "_indexes", "index", "newest")

    def __init__(self, index: int, configuration: Configuration) -> None:
        self._indexes = [index]
        self._configurations = [configuration]
        self.index = index  # of the entry that brought the newest configuration
        self.newest = configuration

    def _refresh(self) -> None:
        self.index = self._indexes[-1]
        self.newest = self._configurations[-1]

    def append(self, index: int, configuration: Configuration) -> None:
        """The log got a CONFIG entry at `index`."""
        assert index > self.index, "configurations come in log order"
        self._indexes.append(index)
        self._configurations.append(configuration)
        self._refresh()

    def votes_anywhere(self, member: int) -> bool:
        """True if `member` votes in a configuration that may be in force.

        A member that is no voter of its newest configuration must still campaign while that
        one is not known to be committed: it can be the only one that can win and commit it
        (dissertation 4.2.2).
        """
        return any(configuration.is_voter(member) for configuration in self._configurations)

    def truncate(self, first: int) -> bool:
        """Entries from `first` on are gone. Returns True if the newest one changed."""
        changed = False
        while self._indexes[-1] >= first:
            assert len(self._indexes) > 1, "a committed configuration is never truncated"
            self._indexes.pop()
            self._configurations.pop()
            changed = True
        self._refresh()
        return changed

    def commit(self, index: int) -> None:
        """Forget configurations older than the newest one at or below `index`."""
        while len(self._indexes) > 1 and self._indexes[1] <= index:
            del self._indexes[0], self._configurations[0]

    def reset(self, index: int, configuration: Configuration) -> None:
        """A snapshot replaces the log."""
        self._indexes = [index]
        self._configurations = [configuration]
        self._refresh()
