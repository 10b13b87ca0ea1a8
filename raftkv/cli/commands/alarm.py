"""`raftctl alarm list`."""

import click

from raftkv.cli.ctl import CtlCommand, LazyGroup, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.printers import FieldsPrinter, SimplePrinter, emit
from raftkv.pb import rpc_pb2


@click.group("alarm", cls=LazyGroup, lazy={"list": "alarm:list_"}, invoke_without_command=True)
@click.pass_context
def alarm(ctx: click.Context, /, **_: object) -> None:
    """Alarms of the members."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command("list", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def list_(session: Session, /, args: tuple[str, ...]) -> None:
    """Print every alarm."""
    if args:
        raise CtlError("alarm list command accepts no arguments", BAD_ARGUMENTS)
    request = rpc_pb2.AlarmRequest()
    reply = session.call(lambda to: to.read("Maintenance/Alarm", request, rpc_pb2.AlarmResponse))
    if not isinstance(session.printer, SimplePrinter | FieldsPrinter):
        session.printer.message(reply)
        return
    as_fields = isinstance(session.printer, FieldsPrinter)
    if isinstance(session.printer, FieldsPrinter):
        session.printer.header(reply.header)
    for one in reply.alarms:
        kind = rpc_pb2.AlarmType.Name(one.alarm)
        if as_fields:
            emit(f'"MemberID" : {one.memberID}', f'"AlarmType" : {kind}', "")
        else:
            emit(f"memberID:{one.memberID} alarm:{kind} ")
