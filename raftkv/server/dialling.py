"""Dialling a name without ever having two questions about it open.

A name server that cannot be reached keeps a question for ten seconds and more, far longer than a
dial may take. asyncio's own way to connect leaves the question alone when the dial is given up,
and the next dial asks again. So the questions about one lost member would fill the few threads
that ask, and hold up the dials to all others; and the answers that nobody awaits any more would be
logged as errors. Here a dial that is given up leaves its question to the next one.
"""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

P = TypeVar("P", bound=asyncio.BaseProtocol)
Questions = dict[tuple[str, int], "asyncio.Task[list[str]]"]

_open: Final[WeakKeyDictionary[asyncio.AbstractEventLoop, Questions]] = WeakKeyDictionary()


async def connect(
    protocol: Callable[[], P], host: str, port: int, context: ssl.SSLContext | None
) -> tuple[asyncio.Transport, P]:
    """A connection to the first address of `host` that takes one.

    context: None = without TLS; the certificate must be for `host`. Errors: OSError, and
    ConnectionRefusedError only if every address refused.
    """
    loop = asyncio.get_running_loop()
    failed: list[OSError] = []
    for address in await _addresses(loop, host, port):
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


async def _addresses(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[str]:
    """What the name stands for, at least one. Errors: OSError."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        return [host]
    questions = _open.setdefault(loop, {})
    key = host, port
    question = questions.get(key)
    if question is None:
        question = questions[key] = loop.create_task(_ask(loop, host, port))
        question.add_done_callback(lambda _: questions.pop(key))
    return await asyncio.shield(question)


async def _ask(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[str]:
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses:
        raise OSError(f"{host} has no address")
    return addresses
