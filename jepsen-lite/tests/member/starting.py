"""One real member with fault points, as a process, for tests."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jepsen_lite.member.control import UnixControl
from raftkv.client.aio import Client
from raftkv.testing.ports import HOST, Ports

START_SECONDS = 90.0


def environment() -> dict[str, str]:
    """In which a process finds what this one imports."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


class OneMember:
    """A cluster of one member, which can be started again on its directory."""

    def __init__(self, directory: Path, *, mutants: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.mutants = mutants
        self.ports = Ports()
        self.client_port, self.peer_port = self.ports.take(), self.ports.take()
        self.ports.release_unheld()
        self.control = UnixControl(str(directory / "c"))
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts the process; it need not serve yet."""
        peer = f"http://{HOST}:{self.peer_port}"
        client = f"http://{HOST}:{self.client_port}"
        mutants = [f"--mutant={name}" for name in self.mutants]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "jepsen_lite.member"),
                    *("--control", str(self.directory / "c"), *mutants, "--"),
                    *(f"--name=one --data-dir={self.directory / 'data'}").split(),
                    *(f"--listen-client-urls={client} --advertise-client-urls={client}").split(),
                    *(f"--listen-peer-urls={peer} --initial-advertise-peer-urls={peer}").split(),
                    *(f"--initial-cluster=one={peer} --heartbeat-interval=50").split(),
                    "--election-timeout=500",
                ],
                stdout=log,
                stderr=log,
                env=environment(),
            )

    async def serving(self) -> Client:
        """A client, once the member answers a linearizable read."""
        client = Client(
            f"{HOST}:{self.client_port}", timeout=START_SECONDS, dial_timeout=START_SECONDS
        )
        await client.get("anything")
        return client

    async def ended(self, seconds: float = START_SECONDS) -> int:
        """The exit code, once the process has ended by itself."""
        assert self.process is not None
        until = time.monotonic() + seconds
        while self.process.poll() is None:
            assert time.monotonic() < until, "the member goes on"
            await asyncio.sleep(0.01)
        return self.process.returncode

    def said(self) -> str:
        """Everything in its log."""
        return self.log.read_text(errors="replace")

    def stop(self) -> None:
        """Kills what runs and gives the ports back."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.ports.close()


@asynccontextmanager
async def one_member(directory: Path, *, mutants: tuple[str, ...] = ()) -> AsyncIterator[OneMember]:
    """A started member."""
    member = OneMember(directory, mutants=mutants)
    try:
        member.start()
        yield member
    finally:
        member.stop()
