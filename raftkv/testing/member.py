"""What the two kinds of members have in common: a name, addresses, a life that can be ended.

A member is idle, running or paused. It leaves the last two by `kill` or `stop`, or on its own,
which nobody wished: `failure` says how it ended.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftkv.errors import Code
from raftkv.testing import probe
from raftkv.testing.errors import MemberDied, StartFailed
from raftkv.testing.ports import HOST

LOG_LINES: Final = 30
POLL_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Plan:
    """One member as it is told to be. flags: of `raftkv serve`, by name. Ports are of `HOST`."""

    index: int
    name: str
    client_port: int
    peer_port: int
    directory: Path
    flags: Mapping[str, str]


class Member(ABC):
    """One member of a test cluster."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.paused = False
        self._wanted = False

    # --- who it is --------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its --name."""
        return self.plan.name

    @property
    def address(self) -> tuple[str, int]:
        """Host and port for clients."""
        return HOST, self.plan.client_port

    @property
    def endpoint(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self.plan.client_port}"

    @property
    def data_dir(self) -> Path:
        """Where its data lies."""
        return self.plan.directory / self.plan.name

    @property
    @abstractmethod
    def running(self) -> bool:
        """It was started and has not ended; it may be paused."""

    @property
    def answers(self) -> bool:
        """It is running and not paused."""
        return self.running and not self.paused

    # --- its life -----------------------------------------------------------------

    def start(self) -> None:
        """Begins to run; returns before it serves. It must not be running."""
        assert not self.running, f"{self.name} is running"
        self.paused, self._wanted = False, True
        self._start()

    def kill(self) -> None:
        """Ends at once: nothing is said, handed over or written out."""
        self._wanted = self.paused = False
        self._kill()

    def stop(self) -> None:
        """Ends in order, as on SIGTERM: leadership is handed over, the state is written out."""
        if self.paused:
            self.resume()
        self._wanted = False
        self._stop()

    def pause(self) -> None:
        """Neither reads nor writes nor ticks from now on; its sockets stay open."""
        self._check()
        if not self.paused:
            self._pause()
            self.paused = True

    def resume(self) -> None:
        """Goes on after `pause`."""
        self._check()
        if self.paused:
            self.paused = False
            self._resume()

    def check(self) -> None:
        """Raises MemberDied if it ended and nobody had asked for that."""
        if self._wanted and not self.running:
            raise MemberDied(f"{self.name} ended by itself{self._last_words()}")

    def _check(self) -> None:
        self.check()
        if not self.running:
            raise ValueError(f"{self.name} is not running: start it again with restart()")

    def wait_serving(self, deadline: float, *, linearizable: bool) -> None:
        """Waits until it answers. Raises StartFailed.

        deadline: in seconds of time.monotonic(). linearizable: to a read that a majority confirms.
        """
        ask = probe.read if linearizable else probe.status
        reason = "it does not serve yet"
        while True:
            if not self.running:
                raise StartFailed(f"{self.name} ended while it started{self._last_words()}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise StartFailed(f"{self.name} did not come up: {reason}{self._last_words()}")
            try:
                ask(self.address, min(left, 1.0))
            except probe.CallFailed as failure:
                if failure.code not in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED):
                    raise StartFailed(f"{self.name}: {failure}{self._last_words()}") from None
                reason = str(failure)
                time.sleep(POLL_SECONDS)
            else:
                return

    def log_end(self, lines: int = LOG_LINES) -> str:
        """The last lines of its log."""
        return "\n".join(self._log_lines()[-lines:])

    def _last_words(self) -> str:
        end = self.log_end()
        return f"; the end of its log:\n{end}" if end else "; it wrote no log"

    # --- what the kinds do ----------------------------------------------------------

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _kill(self) -> None: ...

    @abstractmethod
    def _stop(self) -> None: ...

    @abstractmethod
    def _pause(self) -> None: ...

    @abstractmethod
    def _resume(self) -> None: ...

    @abstractmethod
    def _log_lines(self) -> list[str]: ...
