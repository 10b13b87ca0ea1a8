"""The two forms of a log line.

json     {"level":"warn","ts":"2026-11-23T14:07:24.453021Z","logger":"server",
          "caller":"server/timings.py:123","msg":"slow fdatasync","took":"1.2s"}
         etcd's fields in etcd's order, on one line: level, ts (UTC, microseconds as etcd 3.6),
         logger, caller, msg, then the line's own fields; a traceback is the field stacktrace.
         Durations are written as Go does, so that what greps etcd's lines finds them.
console  14:07:24.453 WARN  slow fdatasync  took=1.2s
"""

import json
import logging
from datetime import UTC, datetime
from typing import Final

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_LEVELS: Final = {logging.WARNING: "warn", logging.CRITICAL: "fatal"}
_UNITS: Final = ((1.0, "s", 9), (1e-3, "ms", 6), (1e-6, "µs", 3))  # digits: to nanoseconds


def duration(seconds: float) -> str:
    """As Go prints a duration: 1m30s, 1.5s, 97.867ms."""
    if seconds < 0:
        return "-" + duration(-seconds)
    if seconds >= 59.9999995:
        minutes, rest = divmod(round(seconds, 6), 60)
        hours, minutes = divmod(int(minutes), 60)
        return (f"{hours}h" if hours else "") + f"{minutes}m{_trimmed(rest, 6)}s"
    for size, unit, digits in _UNITS:
        if seconds >= size:
            return _trimmed(seconds / size, digits) + unit
    return f"{round(seconds * 1e9)}ns" if seconds else "0s"


def _trimmed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _stamp(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _level(record: logging.LogRecord) -> str:
    return _LEVELS.get(record.levelno) or record.levelname.lower()


def _caller(record: logging.LogRecord) -> str:
    """The file with the directory that it is in, and the line."""
    return "/".join(record.pathname.split("/")[-2:]) + f":{record.lineno}"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """level, ts, logger, caller, msg, then the record's own fields."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of JSON."""
        line: dict[str, object] = {
            "level": _level(record),
            "ts": _stamp(record),
            "logger": record.name.removeprefix("raftkv."),
            "caller": _caller(record),
            "msg": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["stacktrace"] = self.formatException(record.exc_info)
        text = json.dumps(line, default=str, ensure_ascii=False, separators=(",", ":"))
        # A lone surrogate, of a file name that is no UTF-8, has no bytes.
        return text.encode("utf-8", "backslashreplace").decode()


class ConsoleFormatter(logging.Formatter):
    """Time, level, message, fields: for a person at a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one readable line."""
        fields = " ".join(f"{key}={_shown(value)}" for key, value in _fields(record).items())
        level = _level(record).upper()
        text = record.getMessage().replace("\n", "\\n")
        line = f"{_stamp(record)[11:23]} {level:<5} {text}"
        if fields:
            line += f"  {fields}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line.encode("utf-8", "backslashreplace").decode()


def _shown(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(sign in text for sign in ' "=')
    return text if plain else json.dumps(text, ensure_ascii=False)
