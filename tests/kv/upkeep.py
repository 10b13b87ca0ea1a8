"""A machine that is given commands, for tests of alarms, the quota and downgrades."""

from typing import Any

from raftkv.errors import COMPACTED
from raftkv.kv import commands
from raftkv.kv.machine import Bootstrap, MachineSettings, Result, StateMachine
from raftkv.kv.members import Member
from raftkv.kv.space import Told, space_request
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.membership import plain
from raftkv.raft.types import NORMAL, Entry
from raftkv.storage.memory import MemoryBackend

MEMBERS = (1, 2, 3)


class Log:
    """One machine and the entries that it was given."""

    def __init__(self) -> None:
        self.backend = MemoryBackend.alone()
        bootstrap = Bootstrap(plain(MEMBERS), [Member(one) for one in MEMBERS], 1, 1)
        self.machine = StateMachine(self.backend, 7, MachineSettings(), bootstrap)
        self.entries: list[Entry] = []

    def entry(self, command: int, request: bytes, kind: int = NORMAL) -> Entry:
        """The next entry of the log."""
        payload = commands.encode(command, request) if kind == NORMAL else request
        entry = Entry(2 + len(self.entries), 1, kind, payload)
        self.entries.append(entry)
        return entry

    def do(self, command: int, request: Any) -> Any:
        """Applies one command; the body of its answer, or the error."""
        encoded = request if isinstance(request, bytes) else request.SerializeToString()
        answer = self.machine.apply(self.entry(command, encoded))
        return answer.body if isinstance(answer, Result) else answer

    def put(self, key: bytes, size: int) -> Any:
        """Puts a value of `size` bytes."""
        return self.do(commands.PUT, pb.PutRequest(key=key, value=b"v" * size))

    def tell(self, quota_bytes: int, member: int = 1) -> None:
        """The leader says how much may be used, and what it has removed."""
        self.do(commands.SPACE, space_request(Told(member, quota_bytes, *self.machine.reclaimed)))

    def compact(self) -> None:
        """Compacts to the newest revision, and removes what that allows."""
        request = pb.CompactionRequest(revision=self.machine.revision)
        assert self.do(commands.COMPACT, request) in (b"", COMPACTED)
        while self.machine.compact_slice(10):
            pass

    def alarm(
        self, action: pb.AlarmRequest.AlarmAction.ValueType, kind: int, member: int
    ) -> list[tuple[int, int]]:
        """Raises or disarms; the alarms in the answer."""
        request = pb.AlarmRequest(action=action, memberID=member)
        request.alarm = kind  # type: ignore[assignment]
        answer = pb.AlarmResponse.FromString(self.do(commands.ALARM, request))
        return [(one.alarm, one.memberID) for one in answer.alarms]

    def reopened(self) -> StateMachine:
        """A new machine over what this one has written."""
        self.machine.flush()
        return StateMachine(self.backend, 7)

    def replayed_with_compactions(self) -> StateMachine:
        """A machine that applied the same entries in runs, and removed history in its own pace."""
        bootstrap = Bootstrap(plain(MEMBERS), [Member(one) for one in MEMBERS], 1, 1)
        other = StateMachine(MemoryBackend.alone(), 7, MachineSettings(), bootstrap)
        at = 0
        while at < len(self.entries):
            at += len(other.apply_some(self.entries, at))
            other.compact_slice(3)
        return other
