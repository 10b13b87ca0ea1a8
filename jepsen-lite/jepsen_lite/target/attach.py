"""A cluster that runs already: any endpoints that speak etcd's v3 API.

Nothing of it can be broken from here, so only workloads run. Its keys stay untouched but for those
under the run's prefix, which must be empty.
"""

from collections.abc import Sequence

from jepsen_lite.session import Session
from jepsen_lite.target.access import DIAL_SECONDS, Access
from jepsen_lite.target.base import Target, TargetError
from raftkv.client.errors import ClientError


class Attached(Target):
    """endpoints: "host:port", or with http:// or https:// in front. access: None = anybody's.

    prefix: of the run's keys, the only ones that are asked for: a user may be allowed no others.
    """

    world = "attach"
    shared = True
    abilities = frozenset()

    def __init__(
        self,
        endpoints: Sequence[str],
        system: str = "unknown",
        access: Access | None = None,
        prefix: str = "",
    ) -> None:
        if not endpoints:
            raise TargetError("there are no endpoints to attach to")
        self.endpoints = list(endpoints)
        self.system = system
        self.any_key = prefix or self.any_key
        self._access = access or Access()

    async def start(self) -> None:
        """Makes sure that somebody answers. Errors: TargetError."""
        session = await self.session(0, DIAL_SECONDS)
        try:
            await session.get(self.any_key)
        except ClientError as error:
            listed = ", ".join(self.endpoints)
            raise TargetError(f"no cluster answers at {listed}: {error}") from None
        finally:
            await session.close()

    async def stop(self) -> None:
        """Leaves the cluster as it is."""

    async def session(self, process: int, timeout_seconds: float) -> Session:
        """A client whose first endpoint goes by its process's number."""
        first = process % self.count
        listed = [*self.endpoints[first:], *self.endpoints[:first]]
        return self._access.session(listed, timeout_seconds)

    async def member_session(self, member: int, timeout_seconds: float) -> Session:
        """A client of this endpoint alone."""
        return self._access.session([self.endpoints[member]], timeout_seconds)

    async def unused(self, prefix: str) -> None:
        """Errors: TargetError, if there are keys under this prefix."""
        session = await self.session(0, DIAL_SECONDS)
        try:
            count = await session.count(prefix)
        except ClientError as error:
            raise TargetError(f"the cluster cannot be read: {error}") from None
        finally:
            await session.close()
        if count:
            raise TargetError(
                f"the cluster is not empty: {count} keys begin with {prefix!r}. Remove them, or "
                "give this run a prefix of its own with --prefix"
            )

    async def recover(self) -> None:
        """There is nothing to recover; waits for an answer. Errors: TargetError."""
        await self.start()
