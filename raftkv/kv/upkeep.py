"""Commands that look after the store itself: alarms, the quota, comparisons, downgrades.

ALARM and DOWNGRADE carry the client's own message (etcd's AlarmRequest, DowngradeRequest), SPACE
what `space` says. CHECK's request is one byte, ROLLING or ROWS: behind such an entry members
compare their rolling state hashes, or also HashKV over all rows (`replica/audit`). It changes
nothing but the hash, as every entry does, and it ends a run, so that the hash is known just there.

A downgrade that was enabled is a row `d` -> the version it leads to, until it is cancelled. raftkv
itself never changes its version for it.
"""

from collections.abc import Mapping
from typing import Final
from zlib import crc32

from raftkv.errors import DOWNGRADE_IN_PROGRESS, NO_DOWNGRADE, ApiError, ProtocolError
from raftkv.kv.alarms import Alarms, alarm_field
from raftkv.kv.encoding import DOWNGRADE_ROW
from raftkv.kv.space import Space
from raftkv.kv.store import Store
from raftkv.pb import rpc_pb2 as pb

ROLLING: Final = 0
ROWS: Final = 1

Check = tuple[int, int, int, int]


class Upkeep:
    """Applies those commands.

    checks: (index, kind, state hash, store's revision) of the CHECK entries applied, in log order.
        The reader empties it in place.
    downgrade: the version that an enabled downgrade leads to, "" without one.
    """

    __slots__ = ("_alarms", "_members", "_space", "_store", "checks", "downgrade")

    def __init__(
        self, store: Store, alarms: Alarms, space: Space, members: Mapping[int, object]
    ) -> None:
        self._store = store
        self._alarms = alarms
        self._space = space
        self._members = members
        self.checks: list[Check] = []
        self.downgrade = ""

    def load(self) -> None:
        """Read the row."""
        stored = self._store.backend.get(DOWNGRADE_ROW)
        self.downgrade = "" if stored is None else stored.decode()

    def alarm(self, payload: bytes, at: int) -> bytes | ApiError:
        """Raise or disarm. The answer is the alarm concerned, or nothing."""
        request = pb.AlarmRequest.FromString(payload[at:])
        kind: int = request.alarm
        if kind not in pb.AlarmType.values() or kind == pb.NONE:
            return b""
        member = request.memberID
        if request.action == pb.AlarmRequest.ACTIVATE:
            self._alarms.activate(kind, member, self._members, own=False)
        elif not self._alarms.deactivate(kind, member, self._members):
            return b""
        return alarm_field((kind, member))

    def space(self, payload: bytes, index: int, at: int) -> bytes:
        """What a leader tells about space."""
        answer = self._space.tell(payload[at:], index)
        if self._alarms.own:
            self._space.lift()
        return answer

    def check(self, payload: bytes, index: int, at: int) -> bytes:
        """Notes the state's hash for a comparison."""
        if payload[at:] not in (b"\0", b"\1"):
            raise ProtocolError(f"entry {index} asks for an unknown comparison")
        self.checks.append((index, payload[at], self._store.hash, self._store.revision))
        return b""

    def downgraded(self, payload: bytes, at: int) -> bytes | ApiError:
        """A downgrade is enabled or cancelled; its version was checked."""
        request = pb.DowngradeRequest.FromString(payload[at:])
        enables = request.action == pb.DowngradeRequest.ENABLE
        if enables and self.downgrade:
            return DOWNGRADE_IN_PROGRESS
        if not enables and not self.downgrade:
            return NO_DOWNGRADE
        self.downgrade = request.version if enables else ""
        stored = self.downgrade.encode() or None
        self._store.pending.append((DOWNGRADE_ROW, stored))
        self._store.hash = crc32(b"downgrade %b" % (stored or b""), self._store.hash)
        return b""
