"""Where log lines go, and how often.

Rotation is the system's: a file among the outputs may be renamed or removed at any moment, and the
next line makes it anew (each line asks whether the file is still the one that is open). So
logrotate's default way works without a signal; SIGHUP is not used.
"""

import logging
import sys
from collections.abc import Hashable, Sequence
from logging.handlers import WatchedFileHandler
from typing import Final

from raftkv.errors import ConfigError
from raftkv.server.logformats import ConsoleFormatter, JsonFormatter

_STREAMS: Final = {"default": "stderr", "stderr": "stderr", "stdout": "stdout"}
_LEVELS: Final = {"warn": "WARNING", "panic": "CRITICAL", "fatal": "CRITICAL"}


class Repeats:
    """Keeps a line that comes again and again from filling the log.

    quiet_seconds: the least time between two lines about the same thing.
    """

    MOST_KEYS = 1024

    def __init__(self, quiet_seconds: float = 10.0) -> None:
        self._quiet = quiet_seconds
        self._seen: dict[Hashable, tuple[float, int]] = {}  # when it was said, times since

    def times(self, key: Hashable, now: float) -> int:
        """How often `key` happened since it was last said, this time included; 0: say nothing."""
        said = self._seen.get(key)
        if said is not None and now - said[0] < self._quiet:
            self._seen[key] = (said[0], said[1] + 1)
            return 0
        if said is None and len(self._seen) >= self.MOST_KEYS:
            del self._seen[next(iter(self._seen))]
        self._seen[key] = (now, 0)
        return 1 if said is None else said[1] + 1


def configure(level: str, style: str, outputs: Sequence[str] = ("default",)) -> None:
    """Sends raftkv's log to its outputs.

    level: debug, info, warn, error, panic or fatal (etcd's names). style: json or console.
    outputs: stderr, stdout, default (stderr) or files to append to. ConfigError: one cannot be
    written.
    """
    handlers = [_handler(output) for output in dict.fromkeys(outputs)]
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    for name in ("raftkv", "asyncio"):  # the event loop's: tracebacks of callbacks
        root = logging.getLogger(name)
        root.handlers[:] = handlers
        root.setLevel(_LEVELS.get(level, level.upper()))
        root.propagate = False


def _handler(output: str) -> logging.Handler:
    stream = _STREAMS.get(output)
    if stream is not None:
        return logging.StreamHandler(getattr(sys, stream))
    try:
        return WatchedFileHandler(output, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--log-outputs: cannot write {output!r}: {error.strerror}") from None
