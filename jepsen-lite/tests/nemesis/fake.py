"""A target that only remembers what it was told."""

from collections.abc import Iterable

from jepsen_lite.session import Session
from jepsen_lite.target.base import ABILITIES, Target, TargetError

Pair = tuple[int, int]


class FakeNetwork:
    """What is cut, delayed and lossy now."""

    def __init__(self) -> None:
        self.cuts: set[Pair] = set()
        self.delays: dict[Pair, float] = {}
        self.losses: dict[Pair, float] = {}

    def cut(self, sources: Iterable[int], targets: Iterable[int]) -> None:
        self.cuts |= {(a, b) for a in sources for b in targets if a != b}

    def partition(self, side: Iterable[int], other_side: Iterable[int]) -> None:
        self.cut(side, other_side)
        self.cut(other_side, side)

    def delay(self, sources: Iterable[int], targets: Iterable[int], seconds: float) -> None:
        self.delays |= {(a, b): seconds for a in sources for b in targets if a != b}

    def loss(self, sources: Iterable[int], targets: Iterable[int], share: float) -> None:
        self.losses |= {(a, b): share for a in sources for b in targets if a != b}

    def heal(self) -> None:
        self.cuts.clear()
        self.delays.clear()
        self.losses.clear()


class FakeTarget(Target):
    """Members that start and stop at once. leads: who says that it leads."""

    abilities = ABILITIES

    def __init__(self, members: int = 3, leads: int | None = 0) -> None:
        self.endpoints = [f"127.0.0.1:{place + 1}" for place in range(members)]
        self.links = FakeNetwork()
        self.up = set(range(members))
        self.stopped: set[int] = set()
        self.leads = leads
        self.killed: list[int] = []

    async def start(self) -> None:
        """They run."""

    async def stop(self) -> None:
        """They may go on."""

    async def session(self, process: int, timeout_seconds: float) -> Session:
        raise TargetError("nobody talks to a fake")

    async def recover(self) -> None:
        """They were never ill."""

    async def kill(self, member: int) -> None:
        self.up.discard(member)
        self.stopped.discard(member)
        self.killed.append(member)

    async def restart(self, member: int) -> None:
        self.up.add(member)

    async def pause(self, member: int) -> None:
        self.stopped.add(member)

    async def resume(self, member: int) -> None:
        self.stopped.discard(member)

    def running(self, member: int) -> bool:
        return member in self.up

    def peer_ports(self, member: int) -> list[int]:
        return [7000 + member, 8000 + member]

    async def leader(self) -> int | None:
        return self.leads

    @property
    def network(self) -> FakeNetwork:
        return self.links
