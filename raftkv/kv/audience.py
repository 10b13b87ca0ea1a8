"""Watchers that get the same changes together, and the events gathered for them.

Those that asked for exactly the same are one `Group`: each change is matched once per group, its
event is encoded at most twice for all groups, and all members of a group are given the same list.
So a thousand watchers of one key cost a thousand calls of `deliver`, and nothing else each.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Protocol

from raftkv.kv.events import frame_event
from raftkv.kv.watchindex import RangeIndex


class Batch(list[bytes]):
    """Framed events of whole revisions, in order. Shared: not to be changed."""

    __slots__ = ("_joined",)

    _joined: bytes

    def joined(self) -> bytes:
        """All events in one piece, joined once for all that share the batch."""
        try:
            return self._joined
        except AttributeError:
            self._joined = b"".join(self)
            return self._joined


class Sink(Protocol):
    """Where a watcher's events go. It may add and remove watchers, in any of these calls."""

    def deliver(self, watcher: "Watcher", first: int, last: int, events: Batch) -> None:
        """Events of the revisions `first` to `last`, the next in order and all there are.

        The watcher has now seen everything up to revision `last`. `events` is shared with other
        watchers and must not be changed.
        """

    def full(self) -> bool:
        """True: deliver no more for now; `Watches.wake` or a later slice will ask again."""

    def cancelled(self, watcher: "Watcher", compact_revision: int) -> None:
        """The watcher is removed: revisions that it has not got are compacted."""


# Watcher.state: up to date; to be served from history; being served; its sink is full; not in.
SYNCED, WAITING, SCANNED, STALLED, GONE = range(5)


class Watcher:
    """One watch (etcd API, WatchCreateRequest).

    key, end: as `normal_range` gives them. start_revision: 0 for from now on.
    progress_notify, fragment: kept for the sink.
    """

    __slots__ = (
        "end",
        "fragment",
        "group",
        "key",
        "next_revision",
        "no_delete",
        "no_put",
        "prev_kv",
        "progress_notify",
        "sink",
        "start_revision",
        "state",
        "watch_id",
    )

    def __init__(
        self,
        sink: Sink,
        watch_id: int,
        key: bytes,
        end: bytes = b"",
        start_revision: int = 0,
        *,
        prev_kv: bool = False,
        no_put: bool = False,
        no_delete: bool = False,
        progress_notify: bool = False,
        fragment: bool = False,
    ) -> None:
        self.sink = sink
        self.watch_id = watch_id
        self.key = key
        self.end = end
        self.start_revision = start_revision
        self.prev_kv = prev_kv
        self.no_put = no_put
        self.no_delete = no_delete
        self.progress_notify = progress_notify
        self.fragment = fragment
        self.next_revision = start_revision  # or its audience's, if that is greater
        self.state = GONE
        self.group: Group | None = None


class Group:
    """Watchers that asked for the same."""

    __slots__ = (
        "audience",
        "end",
        "events",
        "filtered",
        "key",
        "members",
        "no_delete",
        "no_put",
        "prev_kv",
        "revisions",
    )

    def __init__(self, like: Watcher, audience: "Audience") -> None:
        self.audience = audience
        self.key, self.end = like.key, like.end
        self.prev_kv, self.no_put, self.no_delete = like.prev_kv, like.no_put, like.no_delete
        self.filtered = like.no_put or like.no_delete
        self.members: dict[Watcher, None] = {}
        self.events: Batch | None = None  # gathered, not yet delivered
        self.revisions: list[int] = []  # of these events


class Audience:
    """Groups by what they want."""

    __slots__ = ("_groups", "gathered", "index", "next_revision", "size")

    def __init__(self, next_revision: int) -> None:
        self.index: RangeIndex[Group] = RangeIndex()
        self.next_revision = next_revision  # all before it was delivered to every member
        self.size = 0  # watchers
        self._groups: dict[tuple[bytes, bytes, int], Group] = {}
        self.gathered: list[Group] = []  # groups that have events

    def add(self, watcher: Watcher) -> None:
        """Put a watcher into its group."""
        name = _name(watcher)
        group = self._groups.get(name)
        self.size += 1
        if group is None:
            group = self._groups[name] = Group(watcher, self)
            self.index.add(group.key, group.end, group)
        group.members[watcher] = None
        watcher.group = group

    def remove(self, watcher: Watcher) -> None:
        """Take a watcher out of its group; its `next_revision` is exact from now on."""
        group = watcher.group
        assert group is not None, "the watcher is in no group"
        watcher.group = None
        watcher.next_revision = max(watcher.next_revision, self.next_revision)
        self.size -= 1
        del group.members[watcher]
        if not group.members:
            del self._groups[_name(watcher)]
            self.index.remove(group.key, group.end, group)

    def watchers(self) -> list[Watcher]:
        """All of them."""
        return [watcher for group in self._groups.values() for watcher in group.members]

    def some(self, count: int) -> list[Watcher]:
        """Up to `count` of them."""
        every = (watcher for group in self._groups.values() for watcher in group.members)
        return list(islice(every, count))

    def gather(
        self,
        groups: Iterable[Group],
        revision: int,
        deleted: bool,
        framed: bytes,
        previous: Callable[[], bytes],
    ) -> int:
        """Note an event for those of `groups` that want it; how many groups that were.

        previous: the framed KeyValue for prev_kv, empty for none; called at most once.
        """
        plain = full = b""
        count = 0
        for group in groups:
            if group.filtered and (group.no_delete if deleted else group.no_put):
                continue
            if group.prev_kv:
                event = full = full or frame_event(framed, deleted, previous())
            else:
                event = plain = plain or frame_event(framed, deleted)
            count += 1
            events = group.events
            if events is None:
                group.events = Batch((event,))
                group.revisions = [revision]
                self.gathered.append(group)
            else:
                events.append(event)
                group.revisions.append(revision)
        return count


def _name(watcher: Watcher) -> tuple[bytes, bytes, int]:
    flags = watcher.prev_kv + 2 * watcher.no_put + 4 * watcher.no_delete
    return watcher.key, watcher.end, flags
