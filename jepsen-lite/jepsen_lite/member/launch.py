"""The launcher: the server's own command with other surroundings, and mutants if asked for."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

import click

from jepsen_lite.member.clocks import Clocks
from jepsen_lite.member.control import ControlServer, Switchboard
from jepsen_lite.member.faults import Faults
from jepsen_lite.member.files import FaultyFiles
from jepsen_lite.member.rows import FaultyEngine
from jepsen_lite.registry import UnknownName
from raftkv.cli.server import EXIT_BAD_ARGUMENTS, EXIT_ERROR
from raftkv.cli.server import run as run_server
from raftkv.server.node import run as run_member
from raftkv.server.surroundings import Surroundings


def surroundings(faults: Faults, clocks: Clocks) -> Surroundings:
    """What a member with fault points is built upon."""
    return Surroundings(
        files=FaultyFiles(faults),
        engine=FaultyEngine(faults),
        new_loop=clocks.new_loop,
        wall_clock_ns=clocks.wall_clock_ns,
    )


def main(argv: Sequence[str]) -> int:
    """Runs one member until it ends; its exit code.

    argv: --control SOCKET [--mutant NAME]... [--seed N] -- flags of `raftkv serve`.
    """
    options = _parser().parse_args(argv)
    for name in options.mutant:
        try:
            _apply(name)
        except UnknownName as error:
            return _fail(f"--mutant: {error}", EXIT_BAD_ARGUMENTS)
    faults, clocks = Faults(options.seed), Clocks()
    try:
        server = ControlServer(options.control, Switchboard(faults, clocks))
    except OSError as error:
        return _fail(f"--control: cannot listen at {options.control}: {error}", EXIT_ERROR)
    try:
        around = surroundings(faults, clocks)
        return run_server(["serve", *options.flags], partial(run_member, surroundings=around))
    finally:
        server.close()


def _apply(name: str) -> None:
    """Replaces the real code of this process for good. Errors: UnknownName."""
    from jepsen_lite.mutants import mutant_of

    for owner, attribute, replacement in mutant_of(name).patches:
        setattr(owner, attribute, replacement)


def _fail(text: str, code: int) -> int:
    click.echo(f"Error: {text}", err=True)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        click.echo(f"Error: {message}\n{self.format_usage()}", err=True, nl=False)
        sys.exit(EXIT_BAD_ARGUMENTS)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m jepsen_lite.member",
        description="Run a raftkv member whose disk and clocks can be made to fail.",
    )
    parser.add_argument("--control", required=True, help="Unix socket to be told faults at")
    parser.add_argument(
        "--mutant", action="append", default=[], help="a known-wrong variant of the server"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what faults leave to chance")
    parser.add_argument("flags", nargs="*", help="behind --: flags of `raftkv serve`")
    return parser
