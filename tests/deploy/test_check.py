"""check_raftkv keeps to what Nagios expects of a plugin, and tells the truth of clusters."""

import importlib
import re
import shlex
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import grpc
import pytest

from raftkv.cli import nagios
from raftkv.cli.monitoring import Limits, Reading, Report, judge
from raftkv.cli.thresholds import CRITICAL, OK, UNKNOWN, WARNING, Levels, Measure, Range
from raftkv.pb import rpc_pb2
from tests import processes
from tests.architecture import ROOT
from tests.cli.surveys import changed, healthy, reply_in, silent

PATIENT = ("-t", "60")
READ = Reading(0.002, alarms=())


# --- ranges and performance data --------------------------------------------------


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("10", (0, 5, 10), (-1, 10.5)),
        ("10:", (10, 1e9), (9.9, -1)),
        (":10", (0, 10), (-1, 11)),
        ("~:10", (-1e9, 10), (10.1,)),
        ("10:20", (10, 15, 20), (9, 21)),
        ("@10:20", (9, 21), (10, 15, 20)),
        ("@5", (-1, 6), (0, 5)),
        ("0.25", (0.2,), (0.3,)),
    ],
)
def test_a_range_alerts_outside_or_with_an_at_inside(
    text: str, good: tuple[float, ...], bad: tuple[float, ...]
) -> None:
    level = Range.parse(text)
    assert not [one for one in good if level.alerts(one)]
    assert [one for one in bad if level.alerts(one)] == list(bad)


@pytest.mark.parametrize("text", ["", "@", "x", "20:10", "1:x", "nan", "inf", "1:2:3", "~"])
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|range"):
        Range.parse(text)


def test_performance_data_has_unit_levels_and_bounds() -> None:
    levels = Levels(Range.parse("0.1"), Range.parse("~:1"))
    assert str(Measure("time", 0.00002, "s", levels)) == "time=0.000020s;0.1;~:1;0"
    assert str(Measure("answered", 2, most=3)) == "answered=2;;;0;3"
    assert str(Measure("space", 1 << 40, "B", least=None)) == "space=1099511627776B"
    assert str(Measure("alarms", None)) == "alarms=U"


# --- what is judged ---------------------------------------------------------------


def test_a_healthy_cluster_is_ok_and_its_numbers_are_told() -> None:
    report = judge(healthy(), READ, Limits())
    assert report.status == OK
    [line] = report.lines()
    assert line.startswith("RAFTKV OK - 3 of 3 members answered, leader n1, read in 2.0 ms | ")
    assert " time=0.002000s;;;0 members=3;;;0 answered=3;;;0;3 alarms=0;;;0 lag=0;;;0 " in line
    assert line.endswith(" revision=500c;;;0 term=7c;;;0")


def test_what_the_doctor_calls_critical_is_critical_and_its_warnings_are_warnings() -> None:
    assert judge(silent(healthy(5), 4), READ, Limits()).status == WARNING
    lost = judge(silent(healthy(), 1, 2), READ, Limits())
    assert lost.status == CRITICAL
    assert "1 of 3 voters answer, 2 are needed" in lost.text
    assert lost.problems[0].status == CRITICAL, "the gravest comes first"
    assert judge(healthy(1), READ, Limits()).status == OK, "notes are no problems"


def test_a_check_that_is_ignored_counts_for_nothing() -> None:
    ignoring = Limits(ignored=frozenset({"reach", "quorum"}))
    assert judge(silent(healthy(), 2), READ, ignoring).status == OK
    alarmed = replace(READ, alarms=("NOSPACE",))
    assert judge(healthy(), alarmed, Limits(ignored=frozenset({"alarm"}))).status == OK


def test_an_alarm_is_critical_and_told_once() -> None:
    alarmed = replace(READ, alarms=("CORRUPT", "NOSPACE"))
    report = judge(healthy(), alarmed, Limits())
    assert report.status == CRITICAL
    assert len(report.problems) == 2
    full = healthy()
    reply_in(full, 0).counters["alarms_nospace"] = 1
    told = judge(full, replace(READ, alarms=("NOSPACE",)), Limits())
    assert [one.status for one in told.problems] == [CRITICAL]


def test_a_read_that_fails_is_critical_though_all_members_answer() -> None:
    report = judge(healthy(), Reading(None, "etcdserver: request timed out"), Limits())
    assert report.status == CRITICAL
    assert "no linearizable read: etcdserver: request timed out" in report.text
    assert " time=U " in f" {' '.join(map(str, report.measures))} "


@pytest.mark.parametrize(
    ("limits", "status"),
    [
        (Limits(read_seconds=Levels(Range.parse("0.001"), Range.parse("1"))), WARNING),
        (Limits(read_seconds=Levels(Range.parse("0.001"), Range.parse("0.0015"))), CRITICAL),
        (Limits(read_seconds=Levels(Range.parse("1"))), OK),
        (Limits(lag_entries=Levels(None, Range.parse("99"))), CRITICAL),
        (Limits(lag_entries=Levels(Range.parse("100"))), OK),
        (Limits(db_bytes=Levels(Range.parse("1000"))), WARNING),
    ],
)
def test_a_number_beyond_its_level_is_told_with_the_level(limits: Limits, status: int) -> None:
    survey = healthy()
    reply_in(survey, 2).applied_index -= 100
    report = judge(survey, READ, limits)
    assert report.status == status
    assert status == OK or " is beyond " in report.text


def test_levels_of_ones_own_for_the_lag_take_the_place_of_the_doctors() -> None:
    survey = healthy()
    for position in range(3):
        reply_in(survey, position).commit_index += 100_000
    reply_in(survey, 0).applied_index += 100_000
    assert judge(survey, READ, Limits()).status == WARNING
    own = Limits(lag_entries=Levels(Range.parse("1000000")))
    assert judge(survey, READ, own).status == OK


def test_locally_only_who_was_asked_is_judged() -> None:
    survey = silent(healthy(), 1, 2)
    report = judge(survey, READ, Limits(), local=True)
    assert (report.status, report.text.split(",")[0]) == (OK, "1 of 1 member answered")
    assert judge(silent(healthy(), 0, 1, 2), READ, Limits(), local=True).status == CRITICAL


def test_nothing_in_a_text_can_be_taken_for_performance_data_or_a_line() -> None:
    named = changed(silent(healthy(), 1), 1, name="a|b\nc")
    lines = judge(named, READ, Limits()).lines(verbose=True)
    assert all("\n" not in line for line in lines)
    assert lines[0].count("|") == 1
    assert not any("|" in line for line in lines[1:])


def test_a_pager_gets_the_gravest_problems_and_the_rest_is_for_whoever_asks() -> None:
    survey = silent(healthy(7), 1, 2, 3, 4, 5)
    report = judge(survey, READ, Limits())
    assert re.search(r"; and \d+ more$", report.text)
    longer = report.lines(verbose=True)
    assert len(longer) == 1 + len(report.problems)
    assert report.lines() == longer[:1]


# --- the plugin -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checked:
    """status: the exit code. lines: of standard output."""

    status: int
    lines: list[str]


def check(capsys: pytest.CaptureFixture[str], *argv: str) -> Checked:
    """Runs the plugin in this process."""
    status = nagios.run(list(argv))
    out, err = capsys.readouterr()
    assert err == "", "Nagios reads standard output only"
    return Checked(status, out.splitlines())


@pytest.mark.parametrize(
    "argv", [("--port", "99999"), ("-w", "x"), ("--no-such-flag",), ("--endpoints", " , "), ("x",)]
)
def test_wrong_arguments_are_unknown_and_one_line(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...]
) -> None:
    done = check(capsys, *argv)
    assert (done.status, len(done.lines)) == (UNKNOWN, 1)
    assert done.lines[0].startswith("RAFTKV UNKNOWN - ")


def test_help_and_version_are_unknown_as_the_guidelines_ask(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(capsys, "-h").status == UNKNOWN
    version = check(capsys, "-V")
    assert version.status == UNKNOWN
    assert re.fullmatch(r"check_raftkv \d+\.\d+\.\d+\S*", version.lines[0])


def test_a_bug_is_unknown_and_not_a_warning(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> Report:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(nagios, "_check", broken)
    done = check(capsys)
    assert (done.status, done.lines) == (UNKNOWN, ["RAFTKV UNKNOWN - ZeroDivisionError: by zero"])


def test_nobody_there_is_critical(capsys: pytest.CaptureFixture[str]) -> None:
    [port] = processes.free_ports(1)
    done = check(capsys, "-p", str(port), *PATIENT)
    assert done.status == CRITICAL
    assert done.lines == [
        f"RAFTKV CRITICAL - no member answers (127.0.0.1:{port}: connection refused)"
    ]


def test_silence_is_critical_within_the_time(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        done = check(capsys, "-p", str(mute.getsockname()[1]), "-t", "1")
    assert done.status == CRITICAL
    assert re.search("no answer|no member answers", done.lines[0])


def test_a_file_that_cannot_be_read_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    done = check(capsys, "--cacert", "/no/such/file.pem")
    assert done.status == UNKNOWN
    assert "/no/such/file.pem" in done.lines[0]


@pytest.fixture(scope="module", params=["raftkv", "etcd"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[processes.Server]:
    directory = tmp_path_factory.mktemp("check")
    if request.param == "raftkv":
        cluster = processes.raftkv(directory)
    else:
        cluster = processes.etcd(directory, "--unsafe-no-fsync")
    with cluster:
        yield cluster.servers[0]


@pytest.mark.slow
def test_a_living_member_is_ok_beyond_a_level_and_alarmed(
    server: processes.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of raftkv and of etcd: all but `space` is known of both."""
    # How full this machine's disk is says nothing about the plugin.
    where = ("-H", "127.0.0.1", "-p", str(server.client_port), "--ignore", "disk", *PATIENT)
    for more in ((), ("--local",)):
        well = check(capsys, *where, *more)
        assert well.status == OK, well.lines
        labels = re.findall(r"(\w+)=[\d.]+[a-zA-Z]*;;;", well.lines[0].partition(" | ")[2])
        measured = ["time", "members", "answered", "alarms", "lag", "db", "db_in_use"]
        assert [one for one in labels if one != "space"] == [*measured, "revision", "term"]
        assert ("space" in labels) == (server.name != "etcd1")
    slow = check(capsys, *where, "-w", "0:0", "-c", "3600", "-v")
    assert (slow.status, len(slow.lines)) == (WARNING, 2)

    with grpc.insecure_channel(server.endpoint) as channel:
        alarm = channel.unary_unary(
            "/etcdserverpb.Maintenance/Alarm",
            request_serializer=rpc_pb2.AlarmRequest.SerializeToString,
            response_deserializer=rpc_pb2.AlarmResponse.FromString,
        )
        request = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.ACTIVATE, alarm=rpc_pb2.NOSPACE, memberID=1
        )
        alarm(request, timeout=60)
        raised = check(capsys, *where)
        request.action = rpc_pb2.AlarmRequest.DEACTIVATE
        alarm(request, timeout=60)
    assert raised.status == CRITICAL
    assert re.search("NOSPACE|no space", raised.lines[0])
    assert " alarms=1;" in raised.lines[0]
    assert check(capsys, *where).status == OK


@pytest.mark.slow
def test_a_login_that_is_refused_says_nothing_about_the_cluster(
    server: processes.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    done = check(capsys, "--endpoints", server.endpoint, "--user", "me:secret", *PATIENT)
    assert done.status == UNKNOWN, done.lines
    assert "secret" not in done.lines[0]


# --- what is shipped --------------------------------------------------------------


def test_the_package_installs_the_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["check_raftkv"].partition(":")
    assert getattr(importlib.import_module(module), function) is nagios.main


def test_nagios_objects_use_flags_that_exist() -> None:
    text = (ROOT / "deploy" / "nagios" / "raftkv.cfg").read_text()
    lines = re.findall(r"^\s*command_line\s+(.*)$", text, re.MULTILINE)
    names = re.findall(r"^\s*command_name\s+(\S+)$", text, re.MULTILINE)
    commands = dict(zip(names, lines, strict=True))
    assert len(commands) == 2
    used = re.findall(r"^\s*check_command\s+(.*)$", text, re.MULTILINE)
    assert {one.partition("!")[0] for one in used} == set(commands)
    for one in used:
        name, *values = one.split("!")
        line = commands[name].replace("$HOSTADDRESS$", "10.0.0.1")
        for number, value in enumerate(values, 1):
            line = line.replace(f"$ARG{number}$", value)
        assert "$" not in line
        program, *argv = shlex.split(line)
        assert Path(program).name == nagios.NAME
        nagios.cli.make_context(nagios.NAME, argv)  # click.UsageError for what it does not take


def test_a_command_line_with_an_unknown_flag_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        nagios.cli.make_context(nagios.NAME, ["--no-such-flag"])


def test_the_plugin_as_a_process_exits_with_its_status() -> None:
    [port] = processes.free_ports(1)
    program = "from raftkv.cli.nagios import main; main()"
    done = subprocess.run(
        [processes.RAFTKV[0], "-c", program, "-p", str(port), *PATIENT],
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stderr) == (CRITICAL, b"")
    assert done.stdout.startswith(b"RAFTKV CRITICAL - ")
