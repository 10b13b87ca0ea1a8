"""A cluster that can be started, broken and healed.

Members are named by the index of their place, 0..count-1. Where the membership changes, places may
be empty: `present` has the others. What a target cannot do is not in `abilities`; the method that
would do it raises `TargetError`.

Methods that take time are coroutines; none of them blocks the event loop for long.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from jepsen_lite.session import Session
from raftkv.errors import RaftkvError

ABILITIES: Final = frozenset(
    {
        "kill",
        "pause",
        "network",
        "isolation",
        "latency",
        "loopback",
        "disk",
        "clock",
        "files",
        "transfer",
        "membership",
        "churn",
        "root",
    }
)


class TargetError(RaftkvError):
    """The cluster cannot be started, reached, or cannot do what was asked of it."""


class NetworkFaults(Protocol):
    """Faults of the links between members; nodes are the members' indices."""

    def cut(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        """Holds everything from sources to targets, one way."""

    def partition(self, side: Iterable[int], other_side: Iterable[int]) -> None:
        """Cuts both ways between two sets."""

    def delay(self, sources: Iterable[int], targets: Iterable[int], seconds: float) -> None:
        """Everything arrives so much later; 0 = at once again."""

    def loss(self, sources: Iterable[int], targets: Iterable[int], share: float) -> None:
        """This share of what is sent meets a loss (over TCP: a late arrival or a break); 0..1."""

    def heal(self) -> None:
        """Ends every cut, delay and loss."""


class Control(Protocol):
    """Faults inside a member's process (`jepsen_lite.member`)."""

    async def send(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sends one command, as {"fault": "fsync-delay", "seconds": 0.2}; returns the answer.

        Errors: TargetError.
        """

    async def heal(self) -> None:
        """Ends every fault of this member. Errors: TargetError."""


class Follower(Protocol):
    """Reads the store's history into a file."""

    def begin(self) -> None:
        """Follows from now on, beside the run."""

    async def finish(self, last: int) -> None:
        """Reads on up to revision `last` and ends the file. Errors: ClientError, TargetError."""

    def close(self) -> None:
        """Gives up. A second call does nothing."""


class Places(Protocol):
    """Who is a member: places that are emptied and taken again (`Target.places`).

    All methods may be repeated until they succeed, and go on where they stood. A new member is a
    new one altogether: it has another id, an empty directory and a log of its own.
    Their errors are TargetErrors: something is not done (yet).
    """

    rejoins: bool  # members can come back by themselves from a disk that was lost

    def free(self) -> list[int]:
        """Places that a new member can take."""
        ...

    async def admit(self, place: int) -> None:
        """A new member: added as a learner, started, promoted. Returns when it votes."""
        ...

    async def dismiss(self, place: int) -> None:
        """The member of this place is removed from the cluster; its process is left alone."""
        ...

    async def empty(self, place: int) -> None:
        """Waits for the end of a process that was dismissed; one that is down is started again.

        Returns when that process has ended by itself. Then the place is free.
        """
        ...

    async def lose(self, place: int) -> None:
        """A member that is down loses its directory and starts so, to be replaced by itself."""
        ...

    async def rejoin(self, place: int) -> None:
        """Waits until a member that lost its directory votes under another id."""
        ...

    async def evidence(self) -> Mapping[str, Any]:
        """What the checker of members judges (`checker.members`)."""
        ...


class Target(ABC):
    """A cluster under test.

    endpoints: "host:port" for clients, by member. abilities: a subset of ABILITIES ("network":
    links can be cut; "isolation": all of a member can; "latency": they can be slow and lossy;
    "loopback": they lie there). lacking: by ability, why it is not there, where that is worth a
    word. system: "raftkv" or "etcd". world: as `Options.world`. any_key: to be read where only the
    answer's header matters. shared: only the keys under the run's prefix are the run's.
    """

    endpoints: list[str]
    abilities: frozenset[str] = frozenset()
    lacking: Mapping[str, str] = {}
    system: str = "raftkv"
    world: str = "processes"
    any_key: str = "\0"
    shared: bool = False

    @property
    def count(self) -> int:
        """How many places for members there are."""
        return len(self.endpoints)

    @property
    def present(self) -> list[int]:
        """The places that are taken, in order: all, where the membership does not change."""
        return list(range(self.count))

    @property
    def places(self) -> Places:
        """Who is a member, to be changed. Errors: TargetError."""
        raise self.cannot("churn")

    # --- beginning and end --------------------------------------------------------

    @abstractmethod
    async def start(self) -> None:
        """Returns when every member serves clients. Errors: TargetError."""

    @abstractmethod
    async def stop(self) -> None:
        """Ends what was started, whatever state it is in. A second call does nothing."""

    @abstractmethod
    async def session(self, process: int, timeout_seconds: float) -> Session:
        """A new client for a process: one endpoint first (by its number), then the others."""

    async def member_session(self, member: int, timeout_seconds: float) -> Session:
        """A client of this member alone."""
        return Session(self.endpoints[member], timeout=timeout_seconds)

    def follower(self, session: Session, prefix: str, first: int, path: Path) -> "Follower":
        """Who reads what the store did behind revision `first` into a file (`storelog`)."""
        from jepsen_lite.storelog import StoreFollower

        return StoreFollower(session, prefix, first, path)

    async def said(self, revision: int) -> dict[str, Any]:
        """What members say when all is over (`gather.members_say`)."""
        from jepsen_lite.gather import members_say

        return await members_say(self, revision)

    async def unused(self, prefix: str) -> None:  # noqa: B027
        """Errors: TargetError, if there are keys under this prefix already."""

    # --- members ------------------------------------------------------------------

    async def kill(self, member: int) -> None:
        """The member vanishes (SIGKILL). Harmless if it does not run."""
        raise self.cannot("kill")

    async def restart(self, member: int) -> None:
        """Starts a member that does not run. It need not serve yet. Harmless if it runs."""
        raise self.cannot("kill")

    async def replace(self, member: int) -> None:
        """A member whose data is lost comes back the documented way ("membership").

        It must not run. It is removed from the cluster, its directory is thrown away, it is added
        again and started; it need not serve yet. May be repeated until it succeeds.
        Errors: TargetError, as when there is no majority.
        """
        raise self.cannot("membership")

    async def pause(self, member: int) -> None:
        """The member stands still (SIGSTOP)."""
        raise self.cannot("pause")

    async def resume(self, member: int) -> None:
        """A paused member goes on. Harmless if it was not paused."""
        raise self.cannot("pause")

    def running(self, member: int) -> bool:
        """Whether the member has a process, paused or not."""
        return True

    async def leader(self) -> int | None:
        """Who says that it leads, in the newest term that anybody names; None if nobody does."""
        raise self.cannot("transfer")

    @property
    def network(self) -> NetworkFaults:
        """The links between members. Errors: TargetError."""
        raise self.cannot("network")

    def control(self, member: int) -> Control:
        """Faults inside a member's process. Errors: TargetError."""
        raise self.cannot("disk")

    def peer_ports(self, member: int) -> list[int]:
        """Ports of this machine that packets to a member's peer side go to. Errors: TargetError."""
        raise self.cannot("root")

    def data_dir(self, member: int) -> Path:
        """Where a member keeps its data. Errors: TargetError."""
        raise self.cannot("files")

    def log_path(self, member: int) -> Path | None:
        """The log of a member; None if it cannot be read from here."""
        return None

    def member_logs(self) -> dict[str, Path]:
        """The logs of all members that can be read, by a name."""
        paths = {f"member-{member}": self.log_path(member) for member in self.present}
        return {name: path for name, path in paths.items() if path is not None}

    @abstractmethod
    async def recover(self) -> None:
        """Ends every fault: network, pauses, member faults; starts who is down.

        Returns when every member serves again. Errors: TargetError.
        """

    def cannot(self, what: str) -> TargetError:
        """The error of something that this target is not able to do."""
        able = ", ".join(sorted(self.abilities)) or "none"
        return TargetError(f"this cluster cannot do {what!r}; abilities: {able}")
