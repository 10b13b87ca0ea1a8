"""`check_raftkv`: a check for Nagios, Icinga and whatever else runs Nagios' plugins.

    RAFTKV OK - 3 of 3 members answered, leader n1, read in 2.1 ms | time=0.002113s;0.1;1;0 ...

Exit codes: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. UNKNOWN is for what says nothing about the
cluster: wrong arguments, a login that is refused, and, as plugins do, --help and --version.
Silence is CRITICAL, also when the check's own time is over. All output is on standard output.

It asks every member (`raftkv.cli.surveying`), then makes one linearizable read over the same
connections and asks for the alarms. `raftkv.cli.monitoring` judges. It writes nothing, and etcd may
be asked as well.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

import click

from raftkv import __version__
from raftkv.cli.connection import CallFailed, Connection, Target, connected
from raftkv.cli.exits import CtlError
from raftkv.cli.monitoring import Limits, Reading, Report, failed, judge
from raftkv.cli.surveying import Surveyor
from raftkv.cli.thresholds import CRITICAL, UNKNOWN, Levels, Range
from raftkv.pb import rpc_pb2

_Command = TypeVar("_Command", bound=Callable[..., Any])

NAME: Final = "check_raftkv"
MAX_TIMEOUT_SECONDS: Final = 3600.0
ALARM_NAMES: Final = {1: "NOSPACE", 2: "CORRUPT"}
# Part of the time that one round of questions may take: a survey has up to four.
SHARE: Final = 1 / 6
PERMISSION_DENIED: Final = "etcdserver: permission denied"
LOGIN_ERRORS: Final = ("authentication", "auth token", "user name is empty")


class _TimeOver(Exception):
    """The check's own time is over."""


class _RangeType(click.ParamType):  # type: ignore[type-arg]
    """A range in Nagios' notation."""

    name = "range"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Range:
        """The range."""
        if isinstance(value, Range):
            return value
        try:
            return Range.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _option(name: str, **settings: Any) -> Callable[[_Command], _Command]:
    """An option that raftctl has too, with raftctl's environment variables."""
    key = name.removeprefix("--").upper().replace("-", "_")
    return click.option(name, envvar=[f"RAFTCTL_{key}", f"ETCDCTL_{key}"], **settings)


@click.command(NAME, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-H", "--hostname", default="127.0.0.1", help="A member's address. [127.0.0.1]")
@click.option("-p", "--port", type=click.IntRange(1, 65535), default=2379, help="[2379]")
@_option("--endpoints", default="", help="Instead of -H and -p: endpoints, with commas.")
@click.option("--local", is_flag=True, help="Judge the named members alone, ask no others.")
@click.option("-w", "--warning", type=_RangeType(), help="Seconds of a linearizable read.")
@click.option("-c", "--critical", type=_RangeType(), help="The same.")
@click.option("--lag-warning", type=_RangeType(), help="Entries that a member has still to apply.")
@click.option("--lag-critical", type=_RangeType(), help="The same.")
@click.option("--db-warning", type=_RangeType(), help="Bytes of the largest store.")
@click.option("--db-critical", type=_RangeType(), help="The same.")
@click.option(
    "--ignore", multiple=True, metavar="CHECK", help="A check of raftctl doctor, or alarm."
)
@click.option(
    "-t",
    "--timeout",
    type=click.FloatRange(0.1, MAX_TIMEOUT_SECONDS),
    default=10.0,
    help="Seconds for everything. [10]",
)
@_option("--cacert", default="", help="CA file that signs the servers' certificates.")
@_option("--cert", default="", help="This client's certificate file.")
@_option("--key", default="", help="This client's key file.")
@_option("--insecure-skip-tls-verify", is_flag=True, help="Trust any server certificate.")
@_option("--insecure-transport", type=bool, default=True, help="false: TLS with the system's CAs.")
@_option("--user", default="", help="name[:password]")
@_option("--password", default="", help="Of --user; better in RAFTCTL_PASSWORD.")
@click.option("-v", "--verbose", count=True, help="A line per problem, with what to do.")
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
def cli(**given: Any) -> Report:
    """Check a cluster of raftkv (or etcd): one line, performance data, an exit code.

    Ranges are Nagios' own: 10 alerts outside of 0..10, 10: below 10, @5:10 inside of 5..10.
    """
    timeout_seconds = given["timeout"]
    target = _target(given, timeout_seconds * SHARE)
    limits = Limits(
        read_seconds=Levels(given["warning"], given["critical"]),
        lag_entries=Levels(given["lag_warning"], given["lag_critical"]),
        db_bytes=Levels(given["db_warning"], given["db_critical"]),
        ignored=frozenset(given["ignore"]),
    )
    report = _check(target, limits, given["local"], timeout_seconds)
    return _printed(report, verbose=given["verbose"] > 0)


def _printed(report: Report, verbose: bool = False) -> Report:
    print("\n".join(report.lines(verbose)))
    return report


def _target(given: dict[str, Any], share_seconds: float) -> Target:
    user, _, password = given["user"].partition(":")
    host = f"[{given['hostname']}]" if ":" in given["hostname"] else given["hostname"]
    named = given["endpoints"] or f"{host}:{given['port']}"
    endpoints = tuple(filter(None, (one.strip() for one in named.split(","))))
    if not endpoints:
        raise click.UsageError("--endpoints names no endpoint")
    return Target(
        endpoints=endpoints,
        command_timeout_seconds=share_seconds,
        dial_timeout_seconds=share_seconds,
        keepalive_time_seconds=3600.0,  # no call lives long enough to need a ping
        ca_file=given["cacert"],
        cert_file=given["cert"],
        key_file=given["key"],
        skip_verify=given["insecure_skip_tls_verify"],
        secure=bool(given["cacert"] or given["cert"]) or not given["insecure_transport"],
        user=user,
        password=given["password"] or password,
    )


def _check(target: Target, limits: Limits, local: bool, timeout_seconds: float) -> Report:
    """Asks and judges; every error has become a Report."""
    try:
        with _time_limit(timeout_seconds), connected(target) as connection:
            wait = target.command_timeout_seconds
            survey = Surveyor(connection, wait, follows=not local).take()
            reading = _read(connection) if survey.answers else Reading(None)
        return judge(survey, reading, limits, local=local)
    except _TimeOver:
        return failed(CRITICAL, f"no answer within {timeout_seconds:g} s")
    except CtlError as error:
        about_us = not isinstance(error, CallFailed) and not _is_silence(error.text)
        return failed(UNKNOWN if about_us else CRITICAL, error.text)


def _is_silence(text: str) -> bool:
    """True if a login failed for want of an answer and not because it was refused."""
    return "context deadline exceeded" in text or "no endpoint could be reached" in text


def _read(connection: Connection) -> Reading:
    """A linearizable read, timed, and the alarms."""
    began = time.perf_counter()
    try:
        request = rpc_pb2.RangeRequest(key=b"health", keys_only=True)
        connection.read("KV/Range", request, rpc_pb2.RangeResponse)
    except CallFailed as error:
        # Who refuses to show a key has made the read: only the key is closed to us.
        if any(words in error.text for words in LOGIN_ERRORS):
            raise CtlError(error.text) from None
        if error.text != PERMISSION_DENIED:
            return Reading(None, error.text)
    seconds = time.perf_counter() - began
    try:
        reply = connection.read("Maintenance/Alarm", rpc_pb2.AlarmRequest(), rpc_pb2.AlarmResponse)
    except CallFailed:
        return Reading(seconds)
    names = {ALARM_NAMES.get(int(one.alarm), str(one.alarm)) for one in reply.alarms}
    return Reading(seconds, alarms=tuple(sorted(names)))


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Within, _TimeOver is raised in the main thread when the time is over."""

    def over(number: int, frame: FrameType | None) -> None:
        raise _TimeOver

    before = signal.signal(signal.SIGALRM, over)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)  # whoever called may have had one


def main(argv: list[str] | None = None) -> None:
    """Run the check and exit with its status.

    argv: arguments without the program's name; None: the process's own.
    """
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run the check; its status. Errors are printed as its line, never raised."""
    try:
        report = cli.main(args=argv, prog_name=NAME, standalone_mode=False)
    except click.UsageError as error:
        report = _printed(failed(UNKNOWN, error.format_message()))
    except (click.Abort, KeyboardInterrupt):
        report = _printed(failed(UNKNOWN, "interrupted"))
    except Exception as error:  # noqa: BLE001  a traceback's exit code would be a WARNING
        report = _printed(failed(UNKNOWN, f"{type(error).__name__}: {error}"))
    return report.status if isinstance(report, Report) else UNKNOWN  # or it was --help
