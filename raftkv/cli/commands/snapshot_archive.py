"""`raftctl snapshot archive`: everything that is committed, into an archive; and what one holds."""

import sys
from typing import Any, Final

import click

from raftkv.cli import gotext, table
from raftkv.cli.archiving import CHECK_SECONDS, Archiver
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, GoDuration, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, ERROR, CtlError
from raftkv.cli.printers import emit
from raftkv.cli.signals import Interrupted, caught
from raftkv.errors import StorageError

_HEADS: Final = ("RESTORABLE FROM", "UP TO", "FROM TIME", "COMPLETE UP TO")


@click.command("archive", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="DIRECTORY")
@click.option("--once", is_flag=True, help="End when all is archived that is committed now.")
@click.option(
    "--check-interval",
    type=GoDuration(),
    default=CHECK_SECONDS,
    help="Between two notes of how far the archive is complete. [5s]",
)
@click.pass_obj
def archive(session: Session, /, args: tuple[str, ...], once: bool, check_interval: float) -> None:
    """Store every committed revision in DIRECTORY, from a first snapshot on, until it is ended."""
    if len(args) != 1:
        raise CtlError("snapshot archive requires exactly one argument", BAD_ARGUMENTS)
    if check_interval <= 0:
        raise CtlError("--check-interval must be positive", BAD_ARGUMENTS)
    from raftkv.server.archiving import Archive

    def run(connection: Connection) -> None:
        with caught() as signals:
            written = Archive(args[0])
            try:
                if written.cut_bytes:
                    _say(f"Cut {written.cut_bytes} bytes of a record that was not whole")
                archiver = Archiver(connection, written, _say, check_seconds=check_interval)
                signals.hand_over(archiver.stop)
                archiver.run(once=once)
            except Interrupted:
                if once:
                    raise
            finally:
                durable = written.durable
                written.close()
            emit(f"Archived up to revision {durable}")

    try:
        session.call(run)
    except StorageError as error:
        raise CtlError(str(error), ERROR) from None


def _say(text: str) -> None:
    emit(text)
    sys.stdout.flush()


# --- status ------------------------------------------------------------------------


def show_status(session: Session, directory: str) -> None:
    """Prints what an archive covers. Errors: CtlError, also for one with faults, once printed."""
    from raftkv.server.archiving import archive_status

    show = _SHOWN.get(session.printer.name)
    if show is None:
        raise CtlError(f"{session.printer.name} not supported as output format", BAD_FEATURE)
    try:
        found = archive_status(directory)
    except StorageError as error:
        raise CtlError(str(error), ERROR) from None
    if not found.runs and not found.faults:
        raise CtlError(f"{directory} holds no archive", ERROR)
    show(found)
    if found.faults:
        raise CtlError("; ".join(found.faults), ERROR)


def _row(run: Any) -> list[str]:
    from raftkv.server.archiving import time_text

    lowest = str(min(run.bases)) if run.bases else f"{run.first - 1} (its snapshot is not here)"
    return [lowest, str(run.last), time_text(run.since_ms), time_text(run.until_ms)]


def _show_simple(found: Any) -> None:
    for run in found.runs:
        emit(", ".join(_row(run)))
    _show_notes(found)


def _show_table(found: Any) -> None:
    click.echo(table.render(list(_HEADS), [_row(run) for run in found.runs]), nl=False)
    _show_notes(found)


def _show_notes(found: Any) -> None:
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)


def _show_json(found: Any) -> None:
    from raftkv.server.archiving import time_text

    runs: list[dict[str, Any]] = [
        {
            "bases": run.bases,
            "firstRevision": run.first,
            "lastRevision": run.last,
            "since": time_text(run.since_ms),
            "completeUpTo": time_text(run.until_ms),
        }
        for run in found.runs
    ]
    tree = {
        "clusterID": found.cluster,
        "runs": runs,
        "totalSize": found.size_bytes,
        "notes": found.notes,
        "faults": found.faults,
    }
    emit(gotext.json_text(tree))


_SHOWN: Final = {"simple": _show_simple, "table": _show_table, "json": _show_json}
