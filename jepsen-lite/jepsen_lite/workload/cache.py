"""List-and-watch caches beside writes: what a cache holds must be what the store held at its
revision, always, and it must catch up when it is asked to.
"""

from typing import Any, ClassVar, Final

from jepsen_lite.checker.base import Checker
from jepsen_lite.generator import Context, Generator, Wish, each_process, reserve, stagger
from jepsen_lite.history import Op
from jepsen_lite.session import Session
from jepsen_lite.workload.base import Options
from jepsen_lite.workload.calls import item
from jepsen_lite.workload.churn import Churn
from jepsen_lite.workload.judges import judges
from jepsen_lite.workload.steps import numbered
from raftkv.client.aio.recipes.cache import Cache

PAUSE_SECONDS: Final = 0.03  # of a process between two looks, in the mean
CAUGHT_UP: Final = 0.3  # part of the looks that ask for the present first


class CacheWorkload(Churn):
    """See the module's docstring."""

    name: ClassVar[str] = "cache"
    summary: ClassVar[str] = "list-and-watch caches beside writes"

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._caches: dict[int, Cache] = {}

    def generator(self) -> Generator:
        """A third of the processes keep caches, the others write."""
        readers = max(1, self.options.concurrency // 3)
        looks = each_process(stagger(PAUSE_SECONDS, numbered(self._look)))
        return reserve(readers, looks, self.writes())

    def final_generator(self) -> Generator:
        """Each process's cache, caught up."""
        wish = {"f": "cache", "value": {"prefix": f"{self.prefix}k", "catch_up": True}}
        return each_process(numbered(lambda number, _: None if number else wish))

    def _look(self, number: int, context: Context) -> Wish:
        value: dict[str, Any] = {"prefix": f"{self.prefix}k", "name": f"c{context.free[0]}"}
        if context.random.random() < CAUGHT_UP:
            value["catch_up"] = True
        return {"f": "cache", "value": value}

    async def close(self, session: Session, process: int) -> None:
        """The session goes, and with it its cache."""
        cache = self._caches.pop(process, None)
        if cache is not None:
            await cache.close()

    async def invoke(self, session: Session, op: Op) -> Op:
        """Errors: ClientError."""
        if op.f != "cache":
            return await super().invoke(session, op)
        cache = self._caches.get(op.process)
        if cache is None or cache.error is not None:
            fresh = session.cache(op.value["prefix"])
            await fresh.start()
            cache = self._caches[op.process] = fresh
        if op.value.get("catch_up"):
            await cache.catch_up(self.options.timeout_seconds * 0.8)
        held = cache.snapshot()
        kvs = [item(held[key]) for key in sorted(held)]
        return op.done("ok", {**op.value, "revision": held.revision, "kvs": kvs})

    def checkers(self) -> dict[str, Checker]:
        """Equality with the store at the cache's revision, and the revision witness."""
        return judges("cache", "witness")
