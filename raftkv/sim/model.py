"""A second, small implementation of etcd's key-value rules, as the checkers' truth.

It is written from the API's documentation and shares no code with `raftkv.kv`.
It keeps every version of every key for ever, so that a read at any old revision
can be checked, also behind a compaction.

    store:    key -> (revisions ascending, values; None where deleted)
    revision: 1 for the empty store; a command that changed at least one key adds 1
"""

from bisect import bisect_right, insort
from typing import NamedTuple

from raftkv.sim.operations import (
    Compact,
    Compacted,
    Compare,
    Delete,
    Deleted,
    Expire,
    Found,
    Get,
    Grant,
    KeyValue,
    LeaseCommand,
    Put,
    PutDone,
    PutWithTTL,
    Request,
    Response,
    Revoke,
    Txn,
    TxnDone,
)


class Applied(NamedTuple):
    """What a command did.

    revision: of the answer's header. changed: it made that revision.
    response None: the command was refused (`refusal` says why) and did nothing.
    """

    revision: int
    changed: bool
    response: Response | None
    refusal: str = ""


class Model:
    """The key-value store of the documentation."""

    def __init__(self) -> None:
        self.revision = 1
        self.compacted = 0
        self.compactions: list[int] = []
        self._hidden: set[int] = set()  # leases made by puts with a TTL
        self.leases: dict[int, int] = {}  # that exist -> index of the grant in the log
        # (key, revision, what it became, None: deleted) in the order of happening
        self.events: list[tuple[bytes, int, KeyValue | None]] = []
        self._versions: dict[bytes, tuple[list[int], list[KeyValue | None]]] = {}
        self._keys: list[bytes] = []  # every key ever written, sorted

    def apply(self, request: Request | LeaseCommand) -> Applied:
        """Do one command of the log."""
        if isinstance(request, Grant | Revoke | Expire):
            return self._lease_command(request)
        if isinstance(request, PutWithTTL):
            return self._put_with_ttl(request)
        if isinstance(request, Put) and request.lease and request.lease not in self.leases:
            return Applied(self.revision, False, None, "lease not found")
        if isinstance(request, Compact):
            if request.revision <= self.compacted:
                return Applied(self.revision, False, None, "compacted")
            if request.revision > self.revision:
                return Applied(self.revision, False, None, "future")
            self.compacted = request.revision
            self.compactions.append(request.revision)
            return Applied(self.revision, False, Compacted())
        at = self.revision + 1
        if isinstance(request, Txn):
            held = all(self._holds(compare) for compare in request.compares)
            parts = request.success if held else request.failure
            answers = tuple(self._part(part, at) for part in parts)
            response: Response = TxnDone(held, tuple(answer for answer, _ in answers))
            changed = any(did for _, did in answers)
        else:
            response, changed = self._part(request, at)
        if changed:
            self.revision = at
        return Applied(self.revision, changed, response)

    def _put_with_ttl(self, request: PutWithTTL) -> Applied:
        """A lease with one key. That of the version before ends if it was such a one, too, and has
        no other key.
        """
        if request.lease in self.leases:
            return Applied(self.revision, False, None, "lease exists")
        self.leases[request.lease] = 0  # whoever ends it knows of it: its id is no other's
        self._hidden.add(request.lease)
        before = self.version(request.key, self.revision)
        self.revision += 1
        self._put(Put(request.key, request.value, request.lease), self.revision)
        replaced = before.lease if before is not None else 0
        if replaced in self._hidden and all(one.lease != replaced for one in self.live()):
            self.leases.pop(replaced, None)
        return Applied(self.revision, True, PutDone())

    def get(self, request: Get, revision: int) -> Found:
        """The answer to `request` of a member whose newest revision is `revision`."""
        at = request.revision or revision
        found = []
        for key in self._span(request.key, request.end):
            value = self.version(key, at)
            if value is not None:
                found.append(value)
        return Found(tuple(found), len(found))

    def version(self, key: bytes, revision: int) -> KeyValue | None:
        """What `key` is at `revision`, None if it does not exist then."""
        stored = self._versions.get(key)
        if stored is None:
            return None
        place = bisect_right(stored[0], revision)
        return stored[1][place - 1] if place else None

    def live(self) -> list[KeyValue]:
        """Every key that exists now, in order."""
        newest = (self.version(key, self.revision) for key in self._keys)
        return [value for value in newest if value is not None]

    def _lease_command(self, request: LeaseCommand) -> Applied:
        """A lease begins, or some end with all their keys in one revision."""
        if isinstance(request, Grant):
            self.leases.setdefault(request.lease, request.log_index)
            return Applied(self.revision, False, None)
        if isinstance(request, Revoke):
            over = {request.lease} & self.leases.keys()
        else:
            effective = request.term == request.entry_term
            named = request.leases if effective else ()
            never = 1 << 62
            over = {one for one in named if self.leases.get(one, never) <= request.known_index}
        keys = [value.key for value in self.live() if value.lease in over]
        if keys:
            self.revision += 1
            for key in keys:
                self._store(key, self.revision, None)
        for lease in over:
            del self.leases[lease]
        return Applied(self.revision, bool(keys), None)

    def _holds(self, compare: Compare) -> bool:
        now = self.version(compare.key, self.revision)
        if compare.value is not None:
            return now is not None and now.value == compare.value
        return (now.mod_revision if now else 0) == compare.mod_revision

    def _span(self, key: bytes, end: bytes) -> list[bytes]:
        if not end:
            return [key] if key in self._versions else []
        return [one for one in self._keys if key <= one < end]

    def _part(self, part: Put | Get | Delete, at: int) -> tuple[PutDone | Found | Deleted, bool]:
        """One command, or one of a Txn's; `at` is the revision that changes get.

        A later part of a Txn sees what an earlier one did.
        """
        if isinstance(part, Get):
            return self.get(part, at), False
        if isinstance(part, Put):
            self._put(part, at)
            return PutDone(), True
        alive = [key for key in self._span(part.key, part.end) if self.version(key, at)]
        for key in alive:
            self._store(key, at, None)
        return Deleted(len(alive)), bool(alive)

    def _put(self, put: Put, at: int) -> None:
        before = self.version(put.key, at)
        created = before.create_revision if before else at
        version = before.version + 1 if before else 1
        self._store(put.key, at, KeyValue(put.key, put.value, created, at, version, put.lease))

    def _store(self, key: bytes, at: int, value: KeyValue | None) -> None:
        self.events.append((key, at, value))
        if key not in self._versions:
            self._versions[key] = ([], [])
            insort(self._keys, key)
        revisions, values = self._versions[key]
        if revisions and revisions[-1] == at:
            values[-1] = value
        else:
            revisions.append(at)
            values.append(value)
