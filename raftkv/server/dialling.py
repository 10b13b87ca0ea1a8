"""Dialling a name while name servers may be out of reach.

A name server that cannot be reached keeps a question for ten seconds and more, far longer than a
dial may take. asyncio asks in a pool of four threads: the questions about one lost member, one from
every dial, would fill it and hold up the dials to all others, and answers that nobody awaits any
more would be logged as errors. Waiting for the old question instead of asking again would be no
better: it goes on for seconds after the name server has come back.

So every dial of a name asks in a thread of its own, and what comes too late is dropped. Nobody
waits for these threads, the end of the process neither.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

P = TypeVar("P", bound=asyncio.BaseProtocol)
Addresses = list[str]

MOST_QUESTIONS: Final = 64  # open at a time: dials last seconds, questions hardly ever a minute
_free: Final = threading.BoundedSemaphore(MOST_QUESTIONS)


async def connect(
    protocol: Callable[[], P], host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.Transport, P]:
    """A connection to the first address of `host` that takes one.

    context: None = without TLS; the certificate must be for `host`. Errors: OSError, and
    ConnectionRefusedError only if every address refused.
    """
    loop = asyncio.get_running_loop()
    failed: list[OSError] = []
    for address in await _addresses(host, port):
        try:
            made: tuple[Any, P] = await loop.create_connection(
                protocol,
                address,
                port,
                ssl=context,
                server_hostname=host if context is not None else None,
            )
        except OSError as error:
            failed.append(error)
        else:
            return made
    told = [one for one in failed if not isinstance(one, ConnectionRefusedError)] or failed
    raise told[0]


async def _addresses(host: str, port: int) -> Addresses:
    """What the name stands for, at least one. Errors: OSError."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    free = _free
    if not free.acquire(blocking=False):
        raise OSError(f"{MOST_QUESTIONS} questions about names have no answer yet")
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Addresses] = loop.create_future()
    threading.Thread(
        target=_ask, args=(loop, answer, host, port, free), name=f"name of {host}", daemon=True
    ).start()
    return await answer


def _ask(
    loop: asyncio.AbstractEventLoop,
    answer: "asyncio.Future[Addresses]",
    host: str,
    port: int,
    free: threading.BoundedSemaphore,
) -> None:
    found: Addresses | OSError
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        found = list(dict.fromkeys(str(info[4][0]) for info in infos))
    except (OSError, UnicodeError) as error:  # UnicodeError: no name can be like that
        found = error if isinstance(error, OSError) else OSError(f"{host}: {error}")
    finally:
        free.release()
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody wants to know
        loop.call_soon_threadsafe(_told, answer, found)


def _told(answer: "asyncio.Future[Addresses]", found: Addresses | OSError) -> None:
    if answer.done():
        return
    if isinstance(found, OSError):
        answer.set_exception(found)
    else:
        answer.set_result(found)
