"""`raftctl export`: every pair under a prefix, of one revision, as lines of JSON.

With `--output` the file appears under its name only when it is whole; on standard output the
count in the first line tells an importer whether all came. See `raftkv.cli.pairlines`.
"""

import os
import sys
import tempfile
from typing import IO

import click

from raftkv.cli import exits
from raftkv.cli.commands.kv import prefix_end
from raftkv.cli.connection import CallFailed, Connection
from raftkv.cli.ctl import CtlCommand, GoInt, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, CtlError
from raftkv.cli.paging import COMPACTED_TEXT, Pages
from raftkv.cli.pairlines import header_line, pair_line
from raftkv.cli.terminal import Progress

SHOWN_EVERY = 500  # pairs, between two steps of the bar


@click.command("export", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="[PREFIX]")
@click.option("--rev", "--at-rev", "rev", type=GoInt(), default=0, help="As of this revision.")
@click.option("-o", "--output", default="", help="To this file instead of standard output.")
@click.pass_obj
def export(session: Session, /, args: tuple[str, ...], rev: int, output: str) -> None:
    """Print every pair under PREFIX as a line of JSON, all of one revision."""
    if len(args) > 1:
        raise CtlError("export command takes 1 prefix at most", BAD_ARGUMENTS)
    if session.printer.name not in ("simple", "json"):
        raise CtlError("export writes lines of JSON only", BAD_FEATURE)
    prefix = os.fsencode(args[0]) if args else b""
    if not output:
        sys.stdout.flush()
        session.call(lambda to: _export(to, prefix, rev, sys.stdout.buffer))
        return
    try:
        _to_file(session, prefix, rev, output)
    except OSError as error:
        raise CtlError(
            f"write {output}: {(error.strerror or str(error)).lower()}", exits.IO
        ) from None


def _to_file(session: Session, prefix: bytes, revision: int, path: str) -> None:
    directory = os.path.dirname(path) or "."
    number, partial = tempfile.mkstemp(dir=directory, prefix=f".{os.path.basename(path)}.")
    try:
        with os.fdopen(number, "wb") as file:
            session.call(lambda to: _export(to, prefix, revision, file))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _export(to: Connection, prefix: bytes, revision: int, out: IO[bytes]) -> None:
    pages = Pages(to, prefix or b"\0", prefix_end(prefix), revision).begin()
    out.write(header_line(pages.revision, pages.count))
    with Progress("exporting", pages.count) as bar:
        try:
            for number, pair in enumerate(pages.pairs(), 1):
                out.write(pair_line(pair))
                if number % SHOWN_EVERY == 0:
                    bar.to(number)
        except CallFailed as error:
            if error.text != COMPACTED_TEXT:
                raise
            text = f"revision {pages.revision} was compacted while it was read; try again"
            raise CtlError(text) from None
    out.flush()
