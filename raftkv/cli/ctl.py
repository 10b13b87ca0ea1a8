"""`raftctl`: the command line client, in etcdctl's words, output and exit codes.

A command is imported when it is used, and grpcio with the first call, so that
`raftctl put` sends its first byte after little more than the interpreter and
grpcio took to start.

Global options may stand before or after the command, as in etcdctl; the one
nearest to the end of the line wins. What is not given comes from RAFTCTL_<NAME>
or ETCDCTL_<NAME>. Errors are one line, `Error: ...`, on standard error.
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

import click
from click.core import ParameterSource

from raftkv.cli import gotext
from raftkv.cli.connection import Connection, Target, connected
from raftkv.cli.exits import ERROR, INTERRUPTED, CtlError
from raftkv.cli.printers import Printer, printer_for

COMPLETION_VARIABLE: Final = "_RAFTCTL_COMPLETE"
COMMANDS: Final = {
    "put": "kv:put",
    "get": "kv:get",
    "del": "kv:delete",
    "txn": "txn:txn",
    "alarm": "alarm:alarm",
    "check": "check:check",
    "compaction": "compaction:compaction",
    "lease": "lease:lease",
    "watch": "watch:watch",
    "lock": "lock:lock",
    "elect": "elect:elect",
    "endpoint": "endpoint:endpoint",
    "member": "member:member",
    "move-leader": "move_leader:move_leader",
    "defrag": "defrag:defrag",
    "diff": "diff:diff",
    "doctor": "doctor:doctor",
    "downgrade": "downgrade:downgrade",
    "export": "export:export",
    "history": "history:history",
    "import": "import_:import_",
    "snapshot": "snapshot:snapshot",
    "top": "top:top",
    "verify": "verify:verify",
    "version": "version:version",
    "completion": "completion:completion",
}


class GoInt(click.ParamType):  # type: ignore[type-arg]
    """A flag's int64, as Go's flag package reads it (0x10 is 16)."""

    name = "int"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number. Errors: CtlError in pflag's words."""
        if isinstance(value, int):
            return value
        try:
            return gotext.parse_int(value, base=0)
        except ValueError as error:
            raise _bad_value(value, param, error) from None


class GoDuration(click.ParamType):  # type: ignore[type-arg]
    """A flag's duration as Go writes it, in seconds."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Seconds. Errors: CtlError in pflag's words."""
        from raftkv.config import parse_duration_seconds

        if isinstance(value, float):
            return value
        try:
            return parse_duration_seconds(value)
        except ValueError as error:
            raise _bad_value(value, param, error) from None


def _bad_value(value: str, param: click.Parameter | None, error: ValueError) -> CtlError:
    flag = param.opts[-1] if param is not None else "?"
    return CtlError(f'invalid argument "{value}" for "{flag}" flag: {error}', ERROR)


def _global(*names: str, **settings: Any) -> Callable[[], click.Option]:
    key = names[-1].removeprefix("--").upper().replace("-", "_")
    settings.setdefault("envvar", [f"RAFTCTL_{key}", f"ETCDCTL_{key}"])
    return lambda: click.Option(list(names), **settings)


# Factories, because an option object belongs to one command.
GLOBALS: Final = (
    _global("--endpoints", default="127.0.0.1:2379", help="Comma-separated endpoints."),
    _global("-w", "--write-out", default="simple", help="simple, json, fields, table, protobuf."),
    _global("--hex", is_flag=True, help="Print keys and values as hex."),
    _global("--command-timeout", type=GoDuration(), default=5.0, help="For one command. [5s]"),
    _global("--dial-timeout", type=GoDuration(), default=2.0, help="For connecting. [2s]"),
    _global("--keepalive-time", type=GoDuration(), default=2.0, help="Between pings. [2s]"),
    _global("--keepalive-timeout", type=GoDuration(), default=6.0, help="For a ping. [6s]"),
    _global("--cacert", default="", help="CA file that signs the servers' certificates."),
    _global("--cert", default="", help="This client's certificate file."),
    _global("--key", default="", help="This client's key file."),
    _global("--insecure-skip-tls-verify", is_flag=True, help="Trust any server certificate."),
    _global(
        "--insecure-transport",
        type=bool,
        is_flag=False,
        flag_value="true",
        default=True,
        help="false: TLS with the system's CAs.",
    ),
    _global("--user", default="", help="name[:password]"),
    _global("--password", default="", help="Password of --user."),
    _global("--debug", is_flag=True, hidden=True),
)
GLOBAL_NAMES: Final = frozenset(make().name for make in GLOBALS)


class CtlCommand(click.Command):
    """A command that takes the global options too, and Go's `--flag=true`."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.own_params = tuple(self.params)
        self.params += [make() for make in GLOBALS]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, after `--flag=true` became `--flag`."""
        return super().parse_args(ctx, plain_switches(self, args))

    def invoke(self, ctx: click.Context) -> Any:
        """Run with a Session made of the global options."""
        settings = {name: ctx.params.pop(name) for name in GLOBAL_NAMES if name in ctx.params}
        given_here = {name for name in settings if _was_typed(ctx, name)}
        parent = ctx.parent
        while parent is not None:
            for name in GLOBAL_NAMES - given_here:
                if name in parent.params and _was_typed(parent, name):
                    settings[name] = parent.params[name]
                    given_here.add(name)
            parent = parent.parent
        ctx.obj = Session(settings)
        return super().invoke(ctx)


def _was_typed(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE


def plain_switches(command: click.Command, args: list[str]) -> list[str]:
    """`--prefix=true` as `--prefix`, and `--prefix=false` left out."""
    switches = {
        name
        for param in command.params
        if isinstance(param, click.Option) and param.is_flag
        for name in param.opts
    }
    out: list[str] = []
    for number, arg in enumerate(args):
        if arg == "--":
            return out + args[number:]
        name, equals, value = arg.partition("=")
        if not equals or name not in switches:
            out.append(arg)
        elif value in ("1", "t", "T", "true", "TRUE", "True"):
            out.append(name)
        elif value not in ("0", "f", "F", "false", "FALSE", "False"):
            quoted = gotext.quote_text(value)
            raise CtlError(
                f'invalid argument {quoted} for "{name}" flag: '
                f"strconv.ParseBool: parsing {quoted}: invalid syntax"
            )
    return out


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when the subcommand is asked for."""

    def __init__(self, *args: Any, lazy: dict[str, str], **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.lazy = lazy
        self.params += [make() for make in GLOBALS]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every subcommand, imported or not."""
        return sorted(self.lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the subcommand's module."""
        if name not in self.lazy:
            return None
        module, _, attribute = self.lazy[name].partition(":")
        loaded = importlib.import_module(f"raftkv.cli.commands.{module}")
        command = getattr(loaded, attribute)
        assert isinstance(command, click.Command), name
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, after `--hex=true` became `--hex`."""
        return super().parse_args(ctx, plain_switches(self, args))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the subcommand. Errors: CtlError in cobra's words."""
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise CtlError(
                f"unknown command {gotext.quote_text(args[0])} for "
                f"\"{ctx.command_path}\"\nRun '{ctx.command_path} --help' for usage."
            )
        return super().resolve_command(ctx, args)


class Session:
    """What a command works with: the servers and the output format."""

    def __init__(self, settings: dict[str, Any]) -> None:
        user, _, password = settings["user"].partition(":")
        endpoints = [one.strip() for one in settings["endpoints"].split(",")]
        if settings["user"] and not (settings["password"] or password):
            password = click.prompt("Password", hide_input=True, err=True)
        self.target = Target(
            endpoints=tuple(dict.fromkeys(one for one in endpoints if one)),
            command_timeout_seconds=settings["command_timeout"],
            dial_timeout_seconds=settings["dial_timeout"],
            keepalive_time_seconds=settings["keepalive_time"],
            keepalive_timeout_seconds=settings["keepalive_timeout"],
            ca_file=settings["cacert"],
            cert_file=settings["cert"],
            key_file=settings["key"],
            skip_verify=settings["insecure_skip_tls_verify"],
            secure=bool(settings["cacert"] or settings["cert"])
            or not settings["insecure_transport"],
            user=user,
            password=settings["password"] or password,
        )
        if not self.target.endpoints:
            raise CtlError("--endpoints names no endpoint; write 127.0.0.1:2379")
        self.printer: Printer = printer_for(settings["write_out"], settings["hex"])

    def call(self, run: Callable[[Connection], Any]) -> Any:
        """`run` with a connection that is closed afterwards; its result."""
        with connected(self.target) as connection:
            return run(connection)


def usage_text(error: click.UsageError) -> str:
    """A usage error in cobra's words where it has them."""
    if isinstance(error, click.NoSuchOption):
        if error.option_name.startswith("--"):
            return f"unknown flag: {error.option_name}"
        return f"unknown shorthand flag: '{error.option_name[1:]}' in {error.option_name}"
    if isinstance(error, click.BadOptionUsage) and "requires an argument" in error.message:
        return f"flag needs an argument: {error.option_name}"
    return error.format_message()


@click.group(
    "raftctl",
    cls=LazyGroup,
    lazy=COMMANDS,
    no_args_is_help=False,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.pass_context
def cli(ctx: click.Context, /, **_: Any) -> None:
    """A command line client for raftkv, and for etcd."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: list[str] | None = None) -> None:
    """Run raftctl and exit with its code.

    argv: arguments without the program's name; None: the process's own.
    """
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str]) -> int:
    """Run raftctl; the exit code. Errors are printed, never raised."""
    try:
        result = cli.main(args=argv, prog_name="raftctl", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CtlError as error:
        print(f"Error: {error.text}", file=sys.stderr)
        return error.exit_code
    except click.UsageError as error:
        print(f"Error: {usage_text(error)}", file=sys.stderr)
        if error.ctx is not None:
            print(f"Run '{error.ctx.command_path} --help' for usage.", file=sys.stderr)
        return ERROR
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # nothing more to say to anyone
        return ERROR
