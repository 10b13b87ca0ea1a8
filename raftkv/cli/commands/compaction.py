"""`raftctl compaction`."""

import click

from raftkv.cli import gotext
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.printers import emit
from raftkv.pb import rpc_pb2


@click.command("compaction", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="REVISION")
@click.option("--physical", is_flag=True, help="Wait until the space is free.")
@click.pass_obj
def compaction(session: Session, args: tuple[str, ...], physical: bool) -> None:
    """Forget the history before REVISION."""
    if len(args) != 1:
        raise CtlError("compaction command needs 1 argument", BAD_ARGUMENTS)
    try:
        revision = gotext.parse_int(args[0])
    except ValueError as error:
        raise CtlError(str(error)) from None
    request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
    session.call(lambda to: to.write("KV/Compact", request, rpc_pb2.CompactionResponse))
    emit(f"compacted revision {revision}")
