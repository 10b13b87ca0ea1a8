"""Names that nobody answers for do not pile up, and what they stand for is dialled in order."""

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from raftkv.server.dialling import connect
from raftkv.testing.ports import HOST, Ports


class SlowNames(asyncio.SelectorEventLoop):
    """A loop whose name server answers when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.answered = asyncio.Event()
        self.answer: list[str] | OSError = [HOST]
        self.complaints: list[str] = []
        self.set_exception_handler(lambda _, said: self.complaints.append(str(said["message"])))

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        """A name server that takes its time."""
        self.asked.append(host)
        await self.answered.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in self.answer]


def _run(scene: Callable[[SlowNames], Coroutine[Any, Any, None]]) -> SlowNames:
    with asyncio.Runner(loop_factory=SlowNames) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, SlowNames)
        runner.run(scene(loop))
        return loop


async def _listening() -> tuple[asyncio.Server, int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, HOST, 0)
    return server, server.sockets[0].getsockname()[1]


def test_dials_that_are_given_up_leave_one_question_and_the_next_one_takes_its_answer() -> None:
    """A name server that is cut off must not hold up the dials to other members."""

    async def scene(loop: SlowNames) -> None:
        server, port = await _listening()
        async with server:
            for _ in range(5):
                dial = loop.create_task(connect(asyncio.Protocol, "lost.test", port, None))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                dial.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await dial
            assert loop.asked == ["lost.test"]
            dial = loop.create_task(connect(asyncio.Protocol, "lost.test", port, None))
            loop.answered.set()
            transport, _ = await dial
            transport.close()
            assert loop.asked == ["lost.test"]
            transport, _ = await connect(asyncio.Protocol, "lost.test", port, None)
            transport.close()
            assert loop.asked == ["lost.test", "lost.test"], "an answer is not kept: it may change"

    _run(scene)


def test_an_error_that_comes_when_nobody_dials_any_more_is_not_complained_of() -> None:
    async def scene(loop: SlowNames) -> None:
        loop.answer = socket.gaierror(-3, "no name server")
        dial = loop.create_task(connect(asyncio.Protocol, "lost.test", 1, None))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        dial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dial
        loop.answered.set()
        with pytest.raises(socket.gaierror):
            await connect(asyncio.Protocol, "lost.test", 1, None)

    assert _run(scene).complaints == []


def test_an_address_needs_no_name_server() -> None:
    async def scene(loop: SlowNames) -> None:
        server, port = await _listening()
        async with server:
            transport, _ = await connect(asyncio.Protocol, HOST, port, None)
            transport.close()
        assert loop.asked == []

    _run(scene)


def test_the_second_address_is_dialled_when_the_first_refuses() -> None:
    async def scene(loop: SlowNames) -> None:
        server, port = await _listening()
        loop.answer = ["127.0.0.9", HOST]
        loop.answered.set()
        async with server:
            transport, _ = await connect(asyncio.Protocol, "two.test", port, None)
            assert transport.get_extra_info("peername")[0] == HOST
            transport.close()

    _run(scene)


def test_refused_by_all_is_told_as_refused() -> None:
    """A member takes a refusal for the end of the other one's process."""

    async def scene(loop: SlowNames) -> None:
        loop.answer = ["127.0.0.9", HOST]
        loop.answered.set()
        ports = Ports()
        try:
            with pytest.raises(ConnectionRefusedError):
                await connect(asyncio.Protocol, "two.test", ports.take(), None)
        finally:
            ports.close()

    _run(scene)
