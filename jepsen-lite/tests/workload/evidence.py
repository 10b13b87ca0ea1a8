"""What a real store did, heard by a watch beside the run."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from jepsen_lite.checker.base import LogEvent, StoreLog
from raftkv.client.aio import Client
from raftkv.client.results import Event

PATIENCE_SECONDS = 90.0


class Heard:
    """Everything under a prefix behind revision `first`, while it happens."""

    def __init__(self, client: Client, prefix: str, first: int) -> None:
        self._client = client
        self._prefix = prefix
        self._log = StoreLog(first_revision=first, last_revision=first)

    async def follow(self) -> None:
        start = self._log.first_revision + 1
        watch = self._client.watch(
            self._prefix, prefix=True, start_revision=start, progress_notify=True
        )
        async with watch:
            async for batch in watch:
                for event in batch.events:
                    self._add(event)
                self._log.last_revision = max(self._log.last_revision, batch.revision)

    def _add(self, event: Event) -> None:
        kv, log = event.kv, self._log
        if not log.revisions or log.revisions[-1] != kv.mod_revision:
            log.revisions.append(kv.mod_revision)
        value = kv.text if event.is_put else None
        log.events.append(
            LogEvent(
                kv.mod_revision,
                kv.key_text,
                value,
                kv.version,
                kv.create_revision,
                kv.lease,
            )
        )

    async def complete(self) -> StoreLog:
        """What there is when a last write has been heard of."""
        last = (await self._client.put(self._prefix + "~end", "end")).revision
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._log.revisions or self._log.revisions[-1] < last:
                await asyncio.sleep(0.01)
        ended = self._log.events.pop()
        assert ended.key.endswith("~end")
        self._log.revisions.pop()
        self._log.last_revision = last
        return self._log


@asynccontextmanager
async def hearing(client: Client, prefix: str) -> AsyncIterator[Heard]:
    """Listens from now on."""
    heard = Heard(client, prefix, (await client.get(prefix)).revision)
    task = asyncio.ensure_future(heard.follow())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
