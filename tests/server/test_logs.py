"""Log lines: etcd's fields in JSON, a line for people, files that others rotate."""

import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.errors import ConfigError
from raftkv.server import logs
from raftkv.server.logformats import ConsoleFormatter, JsonFormatter, duration
from tests import processes


def record(text: str = "text", level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    """A record as raftkv's modules make them."""
    made = logging.getLogger("raftkv.server").makeRecord(
        "raftkv.server", level, "/a/b/raftkv/server/node.py", 7, text, (), None, extra=fields
    )
    made.created = 1764000000.123456
    return made


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """raftkv's logger, as it was afterwards."""
    found = [logging.getLogger(name) for name in ("raftkv", "asyncio")]
    before = [(one.handlers[:], one.level, one.propagate) for one in found]
    yield found[0]
    for handler in found[0].handlers:
        handler.close()
    for one, (handlers, level, propagate) in zip(found, before, strict=True):
        one.handlers[:], one.propagate = handlers, propagate
        one.setLevel(level)


def test_a_json_line_has_etcds_fields_in_etcds_order() -> None:
    line = json.loads(JsonFormatter().format(record(took="1s", count=3)))
    assert list(line) == ["level", "ts", "logger", "caller", "msg", "took", "count"]
    assert line["level"] == "warn"
    assert line["caller"] == "server/node.py:7"
    assert line["ts"] == "2025-11-24T16:00:00.123456Z"


def test_json_lines_begin_as_those_of_a_real_etcd_do(tmp_path: Path) -> None:
    """The same keys in the same order, the same levels, a time with the same shape."""
    with processes.etcd(tmp_path, "--unsafe-no-fsync", "--log-level", "info") as cluster:
        text = cluster.servers[0].log_end(200)
    theirs = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert len(theirs) > 5
    ours = json.loads(JsonFormatter().format(record(level=logging.INFO)))
    order = [name for name in ours if name != "logger"]
    for line in theirs:
        assert [name for name in line if name in order] == order
        assert list(line)[:2] == list(ours)[:2]
        shape = re.sub(r"\d+", "0", line["ts"])
        assert shape == re.sub(r"\d+", "0", ours["ts"])
        assert re.fullmatch(r"[\w-]+/[\w.-]+:\d+", line["caller"])
    assert re.fullmatch(r"[\w-]+/[\w.-]+:\d+", ours["caller"])
    assert {line["level"] for line in theirs} <= {"debug", "info", "warn", "error", "fatal"}


@pytest.mark.parametrize(
    ("level", "name"),
    [
        (logging.DEBUG, "debug"),
        (logging.INFO, "info"),
        (logging.WARNING, "warn"),
        (logging.ERROR, "error"),
        (logging.CRITICAL, "fatal"),
    ],
)
def test_levels_have_etcds_names(level: int, name: str) -> None:
    assert json.loads(JsonFormatter().format(record(level=level)))["level"] == name


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()])
def test_whatever_is_logged_is_one_line_of_valid_utf8(formatter: logging.Formatter) -> None:
    ugly = 'a\nb"c\\ \x00 \u2028 \udc80 ä'
    line = formatter.format(
        record(ugly.replace("%", ""), field=ugly, other=b"\xff", many=[1, None])
    )
    assert "\n" not in line
    line.encode("utf-8")


def test_a_traceback_is_a_field() -> None:
    made = record(level=logging.ERROR)
    try:
        raise ValueError("why")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    line = json.loads(JsonFormatter().format(made))
    assert "ValueError: why" in line["stacktrace"]


def test_a_line_for_people_quotes_what_has_spaces() -> None:
    line = ConsoleFormatter().format(record("slow", took="1s", error="it is broken", empty=""))
    assert line == '16:00:00.123 WARN  slow  took=1s error="it is broken" empty=""'


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (97.867e-6, "97.867µs"),
        (61.442006e-6, "61.442µs"),
        (1.23456789012, "1.23456789s"),
        (0.000000123, "123ns"),
        (0.1, "100ms"),
        (0.0015, "1.5ms"),
        (1.0, "1s"),
        (1.25, "1.25s"),
        (59.9999999, "1m0s"),
        (90, "1m30s"),
        (3600, "1h0m0s"),
        (3661.5, "1h1m1.5s"),
        (-0.5, "-500ms"),
    ],
)
def test_durations_are_written_as_go_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_renamed_file_is_made_anew_with_the_next_line(
    tmp_path: Path, log: logging.Logger
) -> None:
    """What logrotate does by default needs no signal."""
    path = tmp_path / "log"
    logs.configure("info", "json", [str(path)])
    log.info("one")
    os.rename(path, tmp_path / "log.1")
    log.info("two")
    path.unlink()
    log.info("three")
    assert '"msg":"one"' in (tmp_path / "log.1").read_text()
    assert [json.loads(line)["msg"] for line in path.read_text().splitlines()] == ["three"]


def test_a_line_goes_to_every_output_once(
    tmp_path: Path, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    logs.configure("info", "console", [str(paths[0]), "stdout", str(paths[1]), "stdout"])
    log.info("said once")
    out, err = capsys.readouterr()
    assert out.count("said once") == 1
    assert err == ""
    assert [path.read_text().count("said once") for path in paths] == [1, 1]


@pytest.mark.parametrize(("level", "said"), [("debug", 3), ("info", 2), ("warn", 1), ("fatal", 0)])
def test_what_is_below_the_level_is_not_said(
    level: str, said: int, tmp_path: Path, log: logging.Logger
) -> None:
    path = tmp_path / "log"
    logs.configure(level, "json", [str(path)])
    log.debug("x")
    log.info("x")
    log.warning("x")
    assert len(path.read_text().splitlines()) == said


def test_an_output_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, log: logging.Logger
) -> None:
    with pytest.raises(ConfigError, match=r"--log-outputs: cannot write .*No such file"):
        logs.configure("info", "json", [str(tmp_path / "missing" / "log")])
