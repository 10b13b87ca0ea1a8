"""Alarms as the log tells them: what is wrong with which member, and what it costs.

    NOSPACE  the quota is used up (`space`), or an operator said so: what makes the store grow is
             refused on every member when it is applied, until the alarm is gone
    CORRUPT  a member's state is not what the others have. If it names a member of the cluster, only
             that one goes out of service (`names`); else nobody knows whom to trust, so every write
             is refused on every member

A NOSPACE alarm of the quota's own goes by itself when there is room again; an operator's stays
until it is disarmed. A member that is removed takes its CORRUPT alarms with it, so one that was
rebuilt under a new id begins without.

A row, big-endian:

    o type u8 | member u64  -> version u8 | flags u8
"""

from collections.abc import Mapping
from struct import Struct
from typing import Final
from zlib import crc32

from raftkv.errors import CorruptionError
from raftkv.kv.encoding import ALARM_ROWS, varint
from raftkv.kv.store import Store
from raftkv.pb import rpc_pb2 as pb

NOSPACE: Final = 1
CORRUPT: Final = 2

_VERSION: Final = 1
_OWN: Final = 1  # flag: the quota has raised it
_NAME: Final = Struct(">cBQ")
_VALUE: Final = Struct(">BB")

Alarm = tuple[int, int]  # (type, member id)


class Alarms:
    """Every alarm that is raised.

    changes: grows with each change, so that a reader knows when to look again.
    no_space: NOSPACE is raised for anybody. own: by the quota. everybody: CORRUPT names no member.
    stops: no_space or everybody: writes are refused.
    """

    __slots__ = ("_raised", "_store", "changes", "everybody", "no_space", "own", "stops")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._raised: dict[Alarm, bool] = {}  # whether the quota did
        self.changes = 0
        self.no_space = self.own = self.everybody = self.stops = False

    def __len__(self) -> int:
        return len(self._raised)

    def raised(self, kind: int = 0) -> list[Alarm]:
        """All alarms of one type, or (0) of all types, by type and member."""
        return sorted(alarm for alarm in self._raised if kind in (0, alarm[0]))

    def own_alarms(self) -> list[Alarm]:
        """Those that the quota has raised."""
        return sorted(alarm for alarm, own in self._raised.items() if own)

    def concerning(self, member: int) -> list[int]:
        """Types of the alarms that a member has to do with: a CORRUPT one that names another member
        is none of its own business.
        """
        found = [NOSPACE] if self.no_space else []
        return [*found, CORRUPT] if self.everybody or self.names(member) else found

    def names(self, member: int) -> bool:
        """Is this member's state known to be wrong?"""
        return (CORRUPT, member) in self._raised

    # --- changes ---------------------------------------------------------------
    def activate(self, kind: int, member: int, members: Mapping[int, object], *, own: bool) -> None:
        """An alarm is raised. One that is raised already stays as it is.

        members: those of the cluster, by id. own: the quota raises it.
        """
        if (kind, member) not in self._raised:
            self._raised[kind, member] = own
            name, value = alarm_row(kind, member, own)
            self._store.pending.append((name, value))
            self._changed(name + value, members)

    def deactivate(self, kind: int, member: int, members: Mapping[int, object]) -> bool:
        """An alarm is disarmed; False if it was not raised."""
        if self._raised.pop((kind, member), None) is None:
            return False
        name = alarm_row(kind, member, own=False)[0]
        self._store.pending.append((name, None))
        self._changed(name, members)
        return True

    def configured(self, members: Mapping[int, object], gone: list[int]) -> None:
        """The members have changed. gone: ids that were removed for good."""
        if self._raised:
            for member in gone:
                self.deactivate(CORRUPT, member, members)
            self._judge(members)

    def _changed(self, hashed: bytes, members: Mapping[int, object]) -> None:
        self._store.hash = crc32(hashed, self._store.hash)
        self._judge(members)

    def _judge(self, members: Mapping[int, object]) -> None:
        raised = self._raised
        self.changes += 1
        self.no_space = any(kind == NOSPACE for kind, _ in raised)
        self.own = any(raised.values())
        self.everybody = any(kind == CORRUPT and member not in members for kind, member in raised)
        self.stops = self.no_space or self.everybody

    # --- loading ---------------------------------------------------------------
    def load(self, members: Mapping[int, object]) -> None:
        """Fill this from the rows. Raises CorruptionError for one that cannot be read."""
        for name, value in self._store.backend.scan(*ALARM_ROWS):
            if len(name) != _NAME.size or len(value) != _VALUE.size or value[0] != _VERSION:
                raise CorruptionError(f"the row {name!r} holds no alarm that this version knows")
            _, kind, member = _NAME.unpack(name)
            self._raised[kind, member] = bool(value[1] & _OWN)
        self._judge(members)


def alarm_row(kind: int, member: int, own: bool) -> tuple[bytes, bytes]:
    """The row of one alarm."""
    return _NAME.pack(b"o", kind, member), _VALUE.pack(_VERSION, _OWN if own else 0)


def alarm_field(alarm: Alarm) -> bytes:
    """One entry of AlarmResponse.alarms, field 2."""
    kind, member = alarm
    body = (b"\x08" + varint(member) if member else b"") + b"\x10" + varint(kind)
    return b"\x12%c%b" % (len(body), body)


def raise_request(kind: int, member: int) -> bytes:
    """The request of an ALARM command that raises one."""
    request = pb.AlarmRequest(action=pb.AlarmRequest.ACTIVATE, memberID=member)
    request.alarm = kind  # type: ignore[assignment]
    return request.SerializeToString()
