"""`raftkv`: serve, local and version.

`raftkv serve` turns its flags, its environment or its configuration file into a
ServerConfig (`raftkv.cli.sources`) and hands it to the server, which is imported
only then. `raftkv local` runs a whole cluster of such servers on this machine.
Exit codes: 0, 1 for an error, 2 for wrong arguments, and those of
`raftkv.errors.StorageError` for a data directory that cannot be used.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from raftkv import ETCD_VERSION, __version__
from raftkv.cli.flags import FLAGS
from raftkv.config import ServerConfig, check_bootstrap
from raftkv.errors import ConfigError, RaftkvError, StorageError

Runner = Callable[[ServerConfig], int]

EXIT_ERROR: Final = 1
EXIT_BAD_ARGUMENTS: Final = 2


@click.group("raftkv", context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """A clustering and coordination service that speaks etcd's v3 API."""


class ServeCommand(click.Command):
    """`raftkv serve`: its options come from the table, and -name works like --name."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for flag in FLAGS:
            text = flag.text + (f" [{flag.default}]" if flag.default else "")
            switch: dict[str, Any] = {}
            if flag.is_switch:
                switch = {"is_flag": False, "flag_value": "true"}
            self.params.append(click.Option([f"--{flag.name}", flag.key], help=text, **switch))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, with Go's single dash for long flags allowed."""
        single = {f"-{flag.name}" for flag in FLAGS}
        fixed = [f"-{arg}" if arg.partition("=")[0] in single else arg for arg in args]
        return super().parse_args(ctx, fixed)


def _is_first_start(config: ServerConfig) -> bool:
    try:
        return not any(config.data_dir.iterdir())
    except FileNotFoundError:
        return True
    except OSError as error:
        reason = error.strerror
        raise ConfigError(f"--data-dir: cannot use {str(config.data_dir)!r}: {reason}") from None


@cli.command("serve", cls=ServeCommand)
@click.pass_obj
def serve(runner: Runner | None, /, **typed: str | None) -> int:
    """Run one server until it is told to stop (Ctrl-C, SIGTERM).

    Each flag can also be set as RAFTKV_<NAME> in the environment, or in the file
    named by --config-file.
    """
    from raftkv.cli.sources import load

    by_key = {flag.key: flag.name for flag in FLAGS}
    given = {by_key[key]: text for key, text in typed.items() if text is not None}
    config, notes = load(given, os.environ)
    if config.initial_cluster_state == "new" and not config.rejoin and _is_first_start(config):
        check_bootstrap(config)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    from raftkv.server.node import run as run_node

    return (runner or run_node)(config)


@cli.command("local", context_settings={"ignore_unknown_options": False})
@click.option("--nodes", type=click.IntRange(1, 9), default=3, show_default=True)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Each node's data goes to a directory of its name in here.",
)
@click.option(
    "--base",
    type=click.IntRange(1024, 65500),
    help="First of the ports, taken one after the other. [2379, 2380, 22379, 22380, ...]",
)
@click.argument("flags", nargs=-1, metavar="[-- SERVE_FLAGS...]")
def local(nodes: int, data_dir: Path, base: int | None, flags: tuple[str, ...]) -> int:
    """Run a whole cluster on this machine until Ctrl-C; a second Ctrl-C kills it.

    Flags behind -- go to every server, as in: raftkv local --data-dir d -- --log-level debug
    """
    from raftkv.cli.local import run_cluster

    return run_cluster(nodes, data_dir, base, flags)


@cli.command("version")
def version() -> None:
    """Print the version and that of the API it speaks."""
    click.echo(f"raftkv version: {__version__}")
    click.echo(f"etcd API version: {ETCD_VERSION}")


def main(argv: list[str] | None = None) -> None:
    """Run raftkv and exit with its code.

    argv: arguments without the program's name; None: the process's own.
    """
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: list[str], runner: Runner | None = None) -> int:
    """Run raftkv; the exit code. Errors are printed as one line, never raised.

    runner: runs the member that `serve` has configured; None: `server.node.run`.
    """
    try:
        result = cli.main(args=argv, prog_name="raftkv", standalone_mode=False, obj=runner)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return EXIT_BAD_ARGUMENTS
    except click.UsageError as error:
        print(f"Error: {error.format_message()}", file=sys.stderr)
        if error.ctx is not None:
            print(f"Run '{error.ctx.command_path} --help' for usage.", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    except ConfigError as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_BAD_ARGUMENTS
    except StorageError as error:
        print(f"Error: {error}", file=sys.stderr)
        return error.exit_code
    except (RaftkvError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        return EXIT_ERROR
