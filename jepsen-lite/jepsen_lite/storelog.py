"""What the store did, read by a watch and kept in a file: one line per event.

    {"first":12}                                           revision before the run
    [13,"jepsen/a","v1",1,13,0]                            revision, key, value (null: deleted),
                                                           version, create revision, lease
    {"last":815,"compacted":0}                             at the end, when all of it was read

A store that was compacted meanwhile has no history before `compacted`; what had been read before
stays in the file.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final

from jepsen_lite.checker.base import LogEvent, StoreLog
from jepsen_lite.history import HistoryError
from jepsen_lite.session import Session
from raftkv.client.errors import Compacted
from raftkv.client.results import Event

SILENT_SECONDS: Final = 30.0  # without a batch while the store is known to have more
encoded = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


class StoreFollower:
    """Reads the store's history into a file, while it happens or later.

    prefix: of the keys. first: the revision before the run.
    """

    def __init__(self, session: Session, prefix: str, first: int, path: Path) -> None:
        self._session = session
        self._prefix = prefix
        self._next = first + 1
        self._compacted = 0
        self._file: IO[str] = path.open("w", encoding="utf-8", buffering=64 * 1024)
        self._file.write(encoded({"first": first}) + "\n")
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Follows from now on, beside the run."""
        self._task = asyncio.get_running_loop().create_task(self._follow(None))

    async def finish(self, last: int) -> None:
        """Reads on up to revision `last` and ends the file.

        Errors: ClientError, TimedOut if the store does not tell.
        """
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        if self._next <= last:
            await self._follow(last)
        self._file.write(encoded({"last": last, "compacted": self._compacted}) + "\n")
        self._file.close()

    def close(self) -> None:
        """Gives up: the file has no end. A second call does nothing."""
        if self._task is not None:
            self._task.cancel()
        self._file.close()

    async def _follow(self, last: int | None) -> None:
        """Reads until `last` was read; None: for ever."""
        while last is None or self._next <= last:
            try:
                await self._watch(last)
            except Compacted as error:
                self._compacted = max(error.compact_revision, self._next)
                self._next = self._compacted

    async def _watch(self, last: int | None) -> None:
        watch = self._session.watch(
            self._prefix, prefix=True, start_revision=self._next, progress_notify=True
        )
        silent = None if last is None else SILENT_SECONDS
        async with watch:
            while last is None or self._next <= last:
                batch = await watch.next(silent)
                for event in batch.events:
                    if last is None or event.kv.mod_revision <= last:
                        self._file.write(_line(event))
                reached = batch.events[-1].kv.mod_revision if batch.events else batch.revision
                self._next = max(self._next, reached + 1)
                if last is not None and not batch.events and batch.revision >= last:
                    return


def _line(event: Event) -> str:
    kv = event.kv
    value = kv.value.decode("utf-8", "backslashreplace") if event.is_put else None
    key = kv.key.decode("utf-8", "backslashreplace")
    row = [kv.mod_revision, key, value, kv.version, kv.create_revision, kv.lease]
    return encoded(row) + "\n"


def read_store_log(path: Path) -> StoreLog | None:
    """What the file says; None if it is missing, cut short, or its end was never read.

    Errors: HistoryError, if it is damaged in the middle.
    """
    if not path.exists():
        return None
    log = StoreLog()
    for number, fields in _lines(path):
        if isinstance(fields, list):
            event = LogEvent(*fields)
            log.events.append(event)
            if not log.revisions or log.revisions[-1] != event.revision:
                log.revisions.append(event.revision)
        elif isinstance(fields, dict) and "first" in fields:
            log.first_revision = fields["first"]
        elif isinstance(fields, dict) and "last" in fields:
            log.last_revision = fields["last"]
            log.compacted_revision = fields["compacted"]
            return log
        else:
            raise HistoryError(f"{path}, line {number}: it is no event of a store")
    return None


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith("\n"):
                return
            try:
                yield number, json.loads(line)
            except ValueError:
                raise HistoryError(f"{path}, line {number}: it is not a line of JSON") from None
