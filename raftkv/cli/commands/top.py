"""`raftctl top`: every member in one table, again and again.

On a terminal the table stays in place and `q` or Ctrl-C ends it; elsewhere a table (or with
`-w json` one line of JSON) is printed per interval. `--once` prints one, of two looks that are an
interval apart, as rates need two. Exit code 0; with `--once`, 2 if no member answered.
"""

import shutil
import sys
import time
from typing import Final

import click

from raftkv.cli import gotext
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, GoDuration, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_CONNECTION, BAD_FEATURE, CtlError
from raftkv.cli.printers import emit
from raftkv.cli.signals import Interrupted, caught
from raftkv.cli.surveying import Survey, Surveyor
from raftkv.cli.terminal import Screen, is_screen, keys
from raftkv.cli.toprows import Row, lines, rows_of, summary

FORMATS: Final = ("simple", "json")
LONGEST_WAIT_SECONDS: Final = 1.0
PLAIN_COLUMNS: Final = 80
_STYLES: Final = {"leader": "bold green", "learner": "cyan", "candidate": "yellow"}


@click.command("top", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.option("--once", is_flag=True, help="Print one table and end.")
@click.option("--interval", type=GoDuration(), default=1.0, help="Between two looks. [1s]")
@click.pass_obj
def top(session: Session, /, args: tuple[str, ...], once: bool, interval: float) -> None:
    """Show what every member does: roles, lag, rates, disk, watchers, leases."""
    if args:
        raise CtlError("top takes no arguments", BAD_ARGUMENTS)
    if not 0.05 <= interval <= 3600:
        raise CtlError("--interval must be between 50ms and 1h", BAD_ARGUMENTS)
    if session.printer.name not in FORMATS:
        raise CtlError(f"top prints {' or '.join(FORMATS)}", BAD_FEATURE)
    as_json = session.printer.name == "json"

    def run(connection: Connection) -> None:
        surveyor = Surveyor(connection, min(interval, LONGEST_WAIT_SECONDS))
        with caught():
            try:
                if once:
                    _once(surveyor, as_json, interval)
                elif is_screen(sys.stdout) and not as_json:
                    _live(surveyor, interval)
                else:
                    _stream(surveyor, as_json, interval)
            except Interrupted:
                return

    session.call(run)


def _once(surveyor: Surveyor, as_json: bool, interval: float) -> None:
    before = surveyor.take()
    time.sleep(interval if before.answers else 0)
    now = surveyor.take() if before.answers else before
    _print(rows_of(before, now), as_json)
    if not now.answers:
        raise CtlError("no member answered", BAD_CONNECTION)


def _stream(surveyor: Surveyor, as_json: bool, interval: float) -> None:
    before: Survey | None = None
    while True:
        now = surveyor.take()
        _print(rows_of(before, now), as_json)
        if not as_json:
            emit("")
        before = now
        time.sleep(interval)


def _print(rows: list[Row], as_json: bool) -> None:
    if as_json:
        emit(gotext.json_text({"members": [row.tree() for row in rows]}))
        return
    columns = shutil.get_terminal_size((PLAIN_COLUMNS, 24)).columns
    emit(*lines(rows, max(columns, PLAIN_COLUMNS)), summary(rows))


def _live(surveyor: Surveyor, interval: float) -> None:
    before: Survey | None = None
    with keys() as quits, Screen() as screen:
        while True:
            began = time.monotonic()
            now = surveyor.take()
            rows = rows_of(before, now)
            heading, *table = lines(rows, screen.columns)
            styled = [(summary(rows)[: screen.columns], "bold"), ("", ""), (heading, "reverse")]
            styled += [(line, _style(row)) for line, row in zip(table, rows, strict=True)]
            screen.draw([*styled, ("", ""), ("q quits", "dim")])
            before = now
            if quits(max(interval - (time.monotonic() - began), 0.02)):
                return


def _style(row: Row) -> str:
    return "bold red" if row.problem else _STYLES.get(row.role.removeprefix("pre-"), "")
