"""How a member with fault points is told what is to fail: lines of JSON over a Unix socket.

    {"fault": "fsync-delay", "seconds": 0.2}     every sync takes so much longer
    {"fault": "fsync-eio", "times": 1}           syncs fail; without times, until healed
    {"fault": "enospc"}                          no room for anything new
    {"fault": "fsync-hang"}                      no sync returns
    {"fault": "torn-write"}                      the next write is torn, and the process gone
    {"clock": "jump", "seconds": 5, "which": "wall"}        which: "monotonic" (default), "wall"
    {"clock": "rate", "rate": 1.1, "which": "monotonic"}
    {"heal": true}                               ends all of them; "disk" or "clocks": those only
    {"status": true}                             only asks

Every line is answered by one: {"ok": true, "active": [...], "struck": {...}, "clocks": {...}}, or
{"ok": false, "error": why}. A connection may carry many lines. The server's end is a thread of its
own: it answers while the event loop or a disk thread stands still.
"""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from jepsen_lite.member.clocks import MONOTONIC, WALL, Clocks
from jepsen_lite.member.faults import ALWAYS, Faults
from jepsen_lite.target.base import TargetError

ANSWER_SECONDS: Final = 3.0
_READ_BYTES: Final = 64 * 1024


class Switchboard:
    """What one member can be told."""

    def __init__(self, faults: Faults, clocks: Clocks) -> None:
        self._faults = faults
        self._clocks = clocks

    def answer(self, line: bytes) -> dict[str, Any]:
        """Carries out one line. Never raises: what is wrong with it is the answer."""
        try:
            command = json.loads(line)
            if not isinstance(command, dict):
                raise TypeError("a command is an object")
            self._carry_out(command)
        except (ValueError, TypeError) as error:
            return {"ok": False, "error": str(error)}
        return {"ok": True, **self.status()}

    def _carry_out(self, command: dict[str, Any]) -> None:
        if "fault" in command:
            self._faults.set(
                command["fault"],
                seconds=float(command.get("seconds", 0.0)),
                times=int(command.get("times", ALWAYS)),
            )
        elif "clock" in command:
            clock = self._clocks.named(command.get("which", MONOTONIC))
            if command["clock"] == "jump":
                clock.jump(float(command.get("seconds", 0.0)))
            elif command["clock"] == "rate":
                clock.run_at(float(command.get("rate", 1.0)))
            else:
                raise ValueError(f"a clock cannot {command['clock']!r}: jump or rate")
        elif "heal" in command:
            what = command["heal"]
            if what not in (True, "disk", "clocks"):
                raise ValueError("heal is true, 'disk' or 'clocks'")
            if what != "clocks":
                self._faults.heal()
            if what != "disk":
                self._clocks.heal()
        elif "status" not in command:
            raise ValueError("a command has one of fault, clock, heal, status")

    def status(self) -> dict[str, Any]:
        """What is switched on, what has struck since the start, and the clocks."""
        clocks = {
            which: {"offset": clock.offset, "rate": clock.rate}
            for which, clock in ((MONOTONIC, self._clocks.monotonic), (WALL, self._clocks.wall))
        }
        return {
            "active": self._faults.active,
            "struck": dict(self._faults.struck),
            "clocks": clocks,
        }


class ControlServer:
    """Answers at a Unix socket, in threads of its own that end with the process."""

    def __init__(self, path: str, board: Switchboard) -> None:
        """Listens at `path`; what an earlier process left there is replaced. Errors: OSError."""
        self._board = board
        with suppress(FileNotFoundError):
            os.unlink(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(path)
        self._socket.listen()
        threading.Thread(target=self._accept, name="control", daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines, suppress(OSError):
            for line in lines:
                answer = self._board.answer(line)
                connection.sendall(json.dumps(answer).encode() + b"\n")

    def close(self) -> None:
        """Listens no more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class UnixControl:
    """The other end (`target.base.Control`). path: of the member's socket."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def send(self, command: Mapping[str, Any]) -> Mapping[str, Any]:
        """Sends one command and returns the answer.

        Errors: TargetError, if nobody answers in time or the member refuses the command.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                line = await self._exchange(json.dumps(dict(command)).encode() + b"\n")
        except (OSError, TimeoutError) as error:
            reason = str(error) or "no answer"
            raise TargetError(f"the member behind {self._path} cannot be told: {reason}") from None
        if not line.endswith(b"\n"):
            raise TargetError(f"the member behind {self._path} ended before it answered")
        answer: dict[str, Any] = json.loads(line)
        if not answer.get("ok"):
            raise TargetError(f"the member behind {self._path} refuses: {answer.get('error')}")
        return answer

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(self._path, limit=_READ_BYTES)
        try:
            writer.write(line)
            await writer.drain()
            return await reader.readline()
        finally:
            writer.close()

    async def heal(self) -> None:
        """Ends every fault of this member. Errors: TargetError."""
        await self.send({"heal": True})

    async def status(self) -> Mapping[str, Any]:
        """What is switched on and what has struck. Errors: TargetError."""
        return await self.send({"status": True})
