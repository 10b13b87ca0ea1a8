"""Log lines: one JSON object per line with etcd's field names, or a line for people."""

import json
import logging
import sys
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


def configure(level: str, style: str) -> None:
    """Sends raftkv's log to standard error.

    level: debug, info, warn, error, panic or fatal (etcd's names). style: json or console.
    """
    names = {"warn": "WARNING", "panic": "CRITICAL", "fatal": "CRITICAL"}
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    root = logging.getLogger("raftkv")
    root.handlers[:] = [handler]
    root.setLevel(names.get(level, level.upper()))
    root.propagate = False
