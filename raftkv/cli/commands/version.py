"""`raftctl version`."""

import click

from raftkv import ETCD_VERSION, __version__
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.printers import emit


@click.command("version", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def version(session: Session, args: tuple[str, ...]) -> None:
    """Print raftctl's version and that of the API it speaks."""
    emit(f"raftctl version: {__version__}", f"API version: {ETCD_VERSION.rpartition('.')[0]}")
