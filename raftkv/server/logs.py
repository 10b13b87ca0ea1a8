"""Log lines: one JSON object per line with etcd's field names, or a line for people."""

import json
import logging
import sys
from collections.abc import Hashable
from datetime import UTC, datetime

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _stamp(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """level, ts, logger, caller, msg, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, object] = {
            "level": "warn" if record.levelno == logging.WARNING else record.levelname.lower(),
            "ts": _stamp(record),
            "logger": record.name.removeprefix("raftkv."),
            "caller": f"{record.module}.py:{record.lineno}",
            "msg": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    """Time, level, message, fields: for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one readable line."""
        fields = " ".join(f"{key}={value}" for key, value in _fields(record).items())
        line = f"{_stamp(record)[11:23]} {record.levelname:<7} {record.getMessage()}"
        if fields:
            line += f"  {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


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


def configure(level: str, style: str) -> None:
    """Sends raftkv's log to standard error.

    level: debug, info, warn, error, panic or fatal (etcd's names). style: json or console.
    """
    names = {"warn": "WARNING", "panic": "CRITICAL", "fatal": "CRITICAL"}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    for name in ("raftkv", "asyncio"):  # the event loop's: tracebacks of callbacks
        root = logging.getLogger(name)
        root.handlers[:] = [handler]
        root.setLevel(names.get(level, level.upper()))
        root.propagate = False
