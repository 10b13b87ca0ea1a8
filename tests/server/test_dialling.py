"""Names that nobody answers for hold up nobody else; what names stand for is dialled in order."""

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final

import pytest

from raftkv.server import dialling
from raftkv.server.dialling import connect
from raftkv.testing.ports import HOST, Ports

OTHER: Final = "127.0.0.9"
LOST: Final = "lost.test"
PATIENCE_SECONDS: Final = 60.0


class NameServer:
    """Knows some names at once; of `LOST` it says something when it is told to."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.reached = threading.Event()
        self.asked = threading.Semaphore(0)  # once per question about LOST

    def getaddrinfo(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        """In the place of the socket module's."""
        if host == LOST:
            self.asked.release()
            assert self.reached.wait(PATIENCE_SECONDS)
        if host not in self.names:
            raise socket.gaierror(-3, "no name server")
        addresses = self.names[host]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    return server


def _run(scene: Callable[[], Coroutine[Any, Any, None]]) -> list[str]:
    """What the loop complained of meanwhile."""
    complaints: list[str] = []

    async def heard() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, said: complaints.append(str(said["message"])))
        await scene()

    asyncio.run(heard())
    return complaints


async def _listening() -> tuple[asyncio.Server, int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, HOST, 0)
    return server, server.sockets[0].getsockname()[1]


async def _given_up(names: NameServer, port: int) -> None:
    """A dial of the lost name that ends while its question is open."""
    dial = asyncio.create_task(connect(asyncio.Protocol, LOST, port, None))
    assert await asyncio.to_thread(names.asked.acquire, timeout=PATIENCE_SECONDS)
    dial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await dial


def test_dials_of_a_lost_name_hold_up_no_other_dial(names: NameServer) -> None:
    """More of them than a pool has threads for such questions."""

    async def scene() -> None:
        server, port = await _listening()
        names.names["known.test"] = [HOST]
        async with server:
            for _ in range(12):
                await _given_up(names, port)
            transport, _ = await connect(asyncio.Protocol, "known.test", port, None)
            transport.close()
        names.reached.set()

    assert _run(scene) == []


def test_a_late_error_is_not_complained_of_and_the_next_dial_asks_anew(names: NameServer) -> None:
    async def scene() -> None:
        server, port = await _listening()
        async with server:
            await _given_up(names, port)
            names.reached.set()
            with pytest.raises(socket.gaierror):
                await connect(asyncio.Protocol, LOST, port, None)
            names.names[LOST] = [HOST]
            transport, _ = await connect(asyncio.Protocol, LOST, port, None)
            transport.close()

    assert _run(scene) == []


def test_open_questions_are_bounded(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialling, "_free", threading.BoundedSemaphore(1))

    async def scene() -> None:
        await _given_up(names, 1)
        with pytest.raises(OSError, match="no answer yet"):
            await connect(asyncio.Protocol, "known.test", 1, None)
        names.reached.set()

    _run(scene)


def test_an_address_is_not_asked_for(names: NameServer) -> None:
    async def scene() -> None:
        server, port = await _listening()
        async with server:
            transport, _ = await connect(asyncio.Protocol, HOST, port, None)
            transport.close()

    _run(scene)


def test_the_second_address_is_dialled_when_the_first_refuses(names: NameServer) -> None:
    async def scene() -> None:
        server, port = await _listening()
        names.names["two.test"] = [OTHER, HOST]
        async with server:
            transport, _ = await connect(asyncio.Protocol, "two.test", port, None)
            assert transport.get_extra_info("peername")[0] == HOST
            transport.close()

    _run(scene)


def test_refused_by_all_is_told_as_refused(names: NameServer) -> None:
    """A member takes a refusal for the end of the other one's process."""
    names.names["two.test"] = [OTHER, HOST]

    async def scene() -> None:
        ports = Ports()
        try:
            with pytest.raises(ConnectionRefusedError):
                await connect(asyncio.Protocol, "two.test", ports.take(), None)
        finally:
            ports.close()

    _run(scene)
