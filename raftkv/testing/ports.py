"""Ports of the loopback that stay this cluster's own until it is closed.

A port that was only looked up as free can be gone when the server binds it: another test worker
looked it up too, or an outgoing connection was given it. On Linux a bound socket that does not
listen keeps others away, and yet lets a server bind the same port that sets SO_REUSEADDR, as
every asyncio server does. So each port is held by such a socket, while its server is down too.
Elsewhere the kernel refuses such a second bind, and ports are only looked up.
"""

import socket
import sys
from typing import Final

HOST: Final = "127.0.0.1"
_HOLDS: Final = sys.platform.startswith("linux")


class Ports:
    """Gives out ports of `HOST`; `close` gives all of them back."""

    def __init__(self) -> None:
        self._holders: list[socket.socket] = []

    def take(self) -> int:
        """A free port that nobody else is given while this object is open."""
        holder = socket.socket()
        self._holders.append(holder)
        holder.bind((HOST, 0))  # without SO_REUSEADDR: it is nobody's now
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port: int = holder.getsockname()[1]
        return port

    def release_unheld(self) -> None:
        """Where a port cannot be held while its server runs: lets go of all of them."""
        if not _HOLDS:
            self.close()

    def close(self) -> None:
        """Gives the ports back."""
        for holder in self._holders:
            holder.close()
        self._holders.clear()
