"""`raftctl import`: pairs from lines of JSON, as `raftctl export` writes them.

A file is read twice: a line that is wrong, or a file that was cut off, is found before anything
is written. Standard input can only be read once, so there some of what stands before a wrong line
is written, and the error says how much. What is already there with the same value is not written
again.
"""

import os
import stat
import sys
from collections.abc import Iterator
from typing import IO

import click

from raftkv.cli import exits, gotext
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, GoInt, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, INVALID_INPUT, CtlError
from raftkv.cli.importing import FAIL, KEEP, OVERWRITE, Guard, Numbered, Tally, bring_in
from raftkv.cli.pairlines import BadLine, Header, parse_line
from raftkv.cli.printers import emit
from raftkv.cli.terminal import Progress


class _Lines:
    """The pairs of one source. leased: pairs left out for the lease they had."""

    def __init__(self, name: str, source: IO[bytes], with_leased: bool) -> None:
        self.leased = 0
        self.lines = 0
        self._name = name
        self._source = source
        self._with_leased = with_leased

    def pairs(self) -> Iterator[Numbered]:
        """In order. Errors: CtlError, naming the line."""
        promised: int | None = None
        seen = 0
        for number, line in enumerate(self._source, 1):
            self.lines = number
            if not line.strip():
                continue
            try:
                found = parse_line(line, may_be_header=promised is None and not seen)
            except BadLine as error:
                raise self._wrong(f"line {number}: {error}") from None
            if isinstance(found, Header):
                promised = found.count
                continue
            seen += 1
            if found.leased and not self._with_leased:
                self.leased += 1
                continue
            yield Numbered(number, found)
        if promised is not None and seen != promised:
            raise self._wrong(f"{seen} pairs follow, but the first line promises {promised}")

    def _wrong(self, text: str) -> CtlError:
        return CtlError(f"{self._name}: {text}", INVALID_INPUT)


@click.command("import", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="[FILE]")
@click.option(
    "--on-conflict",
    type=click.Choice([OVERWRITE, KEEP, FAIL]),
    default=OVERWRITE,
    help="For a key that is there with another value. [overwrite]",
)
@click.option(
    "--unchanged-since",
    type=GoInt(),
    default=0,
    help="Fail at a key that was written after this revision and differs.",
)
@click.option("--leased", is_flag=True, help="Also pairs that had a lease; they get none.")
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@click.pass_obj
def import_(
    session: Session,
    /,
    args: tuple[str, ...],
    on_conflict: str,
    unchanged_since: int,
    leased: bool,
    dry_run: bool,
) -> None:
    """Put the pairs of FILE, or of standard input."""
    if len(args) > 1:
        raise CtlError("import command takes 1 file at most", BAD_ARGUMENTS)
    if session.printer.name not in ("simple", "json"):
        raise CtlError("import prints simple or json", BAD_FEATURE)
    guard = Guard(on_conflict, unchanged_since, dry_run)
    path = args[0] if args and args[0] != "-" else ""
    if not path:
        lines = _Lines("standard input", sys.stdin.buffer, leased)
        session.call(lambda to: _import(session, to, lines, guard, None))
        return
    try:
        with open(path, "rb") as file:
            total = None
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                first = _Lines(path, file, leased)
                for _ in first.pairs():
                    pass
                total = first.lines
                file.seek(0)
            lines = _Lines(path, file, leased)
            session.call(lambda to: _import(session, to, lines, guard, total))
    except BrokenPipeError:
        raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtlError(f"open {path}: {reason}", exits.IO) from None


def _import(
    session: Session, to: Connection, lines: _Lines, guard: Guard, total: int | None
) -> None:
    tally = Tally()
    try:
        with Progress("importing", total) as bar:
            bring_in(to, lines.pairs(), guard, tally, bar.to)
    except CtlError as error:
        done = f" (before: {tally.written} written, {tally.same} the same)"
        raise CtlError(error.text + ("" if guard.dry_run else done), error.exit_code) from None
    if session.printer.name == "json":
        tree = {
            "written": tally.written,
            "same": tally.same,
            "kept": tally.kept,
            "leased": lines.leased,
            "dry_run": guard.dry_run,
        }
        emit(gotext.json_text(tree))
        return
    verb = "to write" if guard.dry_run else "written"
    emit(f"{tally.written} {verb}, {tally.same} the same, {tally.kept} kept")
    if lines.leased:
        text = f"{lines.leased} left out: they had a lease (--leased brings them in without)"
        print(text, file=sys.stderr)
