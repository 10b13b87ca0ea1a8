"""Waiting until some keys are as one wants them: read, judge, wait for a change, read again.

Every reading is of one revision and the watch begins right behind it, so no change is missed; what
is judged is always the whole, so it does not matter how many changes came between. Away servers
and compacted history are waited out.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeVar

from raftkv.client.aio import runtime
from raftkv.client.errors import Compacted, NoLeader, TimedOut, Unavailable
from raftkv.client.lifetime import now
from raftkv.client.patience import Patience
from raftkv.client.results import RangeResult
from raftkv.client.txn import Get

if TYPE_CHECKING:
    from raftkv.client.aio.client import Client

SLICE_SECONDS: Final = 1.0  # how often `check` is asked while nothing changes
RETRY_SECONDS: Final = 0.1  # after a read that no server could serve

T = TypeVar("T")


def _nothing() -> None:
    pass


async def until(
    client: "Client",
    wanted: Get,
    judge: Callable[[RangeResult], T | None],
    *,
    patience: Patience,
    what: str,
    check: Callable[[], None] = _nothing,
) -> T:
    """Waits until `judge` has something to say about the keys of `wanted`, and returns that.

    judge: gets the keys as of one revision; None = wait on; what it raises ends the wait. what: is
    waited for, to be named in the error. check: asked at least every second, to raise what ends
    the wait.
    Errors: NotAcquired when the patience ends; other ClientErrors but those of servers away.
    """
    while True:
        check()
        try:
            found = await client.read(wanted, timeout=patience.call_timeout())
        except (Unavailable, NoLeader, TimedOut) as error:
            if patience.is_over:
                raise patience.over(what) from error
            await runtime.sleep(min(RETRY_SECONDS, patience.left))
            continue
        answer = judge(found)
        if answer is not None:
            return answer
        await changed(client, wanted, found.revision + 1, patience, what=what, check=check)


async def changed(
    client: "Client",
    wanted: Get,
    revision: int,
    patience: Patience,
    *,
    what: str,
    check: Callable[[], None] = _nothing,
    moment: float = math.inf,
) -> None:
    """Returns at the first change of the keys of `wanted` from `revision` on.

    Also when that cannot be told any more, and after `moment` seconds. Otherwise as `until`.
    """
    watch = client.watch(
        wanted.key, end=wanted.end or None, prefix=wanted.prefix, start_revision=revision
    )
    until_then = now() + moment
    try:
        while now() < until_then:
            check()
            if patience.is_over:
                raise patience.over(what)
            try:
                wait = min(SLICE_SECONDS, patience.left, until_then - now())
                batch = await watch.next(timeout=max(wait, 0.0))
            except Compacted:
                return
            except TimeoutError:
                continue
            except Unavailable:
                await runtime.sleep(min(RETRY_SECONDS, patience.left))
                continue
            if batch.events:
                return
    finally:
        await runtime.finish(watch.close)
