"""A TCP proxy that can cut the connections through it after some bytes."""

import asyncio


class Proxy:
    """Passes bytes on to a port of 127.0.0.1.

    budgets: bytes towards the target until every connection is cut, one number for each cut.
    refusing: new connections are closed at once. refuses_then: begin that with the next cut.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.budgets: list[int] = []
        self.cuts = 0
        self.refusing = False
        self.refuses_then = False
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, port: int) -> None:
        """Listens on `port`."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)

    def cut(self) -> None:
        """Breaks everything that passes now."""
        self.cuts += 1
        self.refusing = self.refusing or self.refuses_then
        writers, self._writers = self._writers, []
        for writer in writers:
            writer.transport.abort()

    async def stop(self) -> None:
        """Cuts everything and listens no more."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, far_writer]
        loop = asyncio.get_running_loop()
        self._tasks += [
            loop.create_task(self._pass(reader, far_writer, towards=True)),
            loop.create_task(self._pass(far_reader, writer, towards=False)),
        ]

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, towards: bool
    ) -> None:
        try:
            while data := await reader.read(65536):
                if towards and self.budgets:
                    self.budgets[0] -= len(data)
                writer.write(data)
                await writer.drain()
                if self.budgets and self.budgets[0] <= 0:
                    self.budgets.pop(0)
                    self.cut()
                    return
        except OSError:
            pass
        finally:
            writer.transport.abort()
