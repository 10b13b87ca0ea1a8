"""Unary calls whose answer a coroutine makes, because they wait for others' doings.

Rare and long: a task each. A call that its client gives up, or whose deadline passes, cancels its
task, which then cleans up.
"""

import logging
from collections.abc import Coroutine
from typing import Any, Final

from raftkv.errors import ApiError, Code
from raftkv.server.clients import ClientProtocol

log = logging.getLogger("raftkv.clients")

_BUG: Final = ApiError(Code.INTERNAL, "etcdserver: internal error")
# What the gate in front of every service says keeps its status.
_OF_THE_GATE: Final = frozenset({Code.UNAVAILABLE, Code.INTERNAL, Code.DEADLINE_EXCEEDED})


def as_told(error: ApiError) -> ApiError:
    """An error of the store as the lock and election services of etcd tell it.

    They are clients of the store, and what a client is told is for their own clients just a text:
    UNKNOWN. Only what says "go elsewhere" keeps its status here, so that clients do.
    """
    if error.code in _OF_THE_GATE:
        return error
    return ApiError(Code.UNKNOWN, error.text, error.outcome)


class LongCall:
    """One call. work: makes the answer's bytes, or raises ApiError."""

    def __init__(
        self, client: ClientProtocol, stream: int, work: Coroutine[Any, Any, bytes]
    ) -> None:
        self._client = client
        self._stream = stream
        client.routes.hold(client, stream, self)
        self._task = client.driver.loop.create_task(self._run(work))
        # A task that is cancelled before its first step never touches its work.
        self._task.add_done_callback(lambda _: work.close())

    async def _run(self, work: Coroutine[Any, Any, bytes]) -> None:
        client, stream = self._client, self._stream
        try:
            answer = await work
        except ApiError as error:
            client.fail(stream, as_told(error))
        except Exception:
            log.exception("a call ended in an error that should not exist")
            client.fail(stream, _BUG)
        else:
            client.reply(stream, answer)
        client.routes.finished(client, stream)
        client.driver.mark_dirty(client)

    def message(self, message: bytes) -> None:
        """A unary call has no further messages."""

    def half_closed(self) -> None:
        """It was from the beginning."""

    def cancelled(self) -> None:
        """The client is gone, or has waited long enough."""
        self._task.cancel()

    def writable(self) -> None:
        """An answer is small."""
