"""`raftctl alarm list` and `raftctl alarm disarm`."""

import click

from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, LazyGroup, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.printers import FieldsPrinter, SimplePrinter, emit
from raftkv.pb import rpc_pb2

METHOD = "Maintenance/Alarm"


@click.group(
    "alarm",
    cls=LazyGroup,
    lazy={"disarm": "alarm:disarm", "list": "alarm:list_"},
    invoke_without_command=True,
)
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
    _print(session, session.call(_raised))


@click.command("disarm", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def disarm(session: Session, /, args: tuple[str, ...]) -> None:
    """Disarm every alarm, and print those that were raised."""
    if args:
        raise CtlError("alarm disarm command accepts no arguments", BAD_ARGUMENTS)

    def run(connection: Connection) -> rpc_pb2.AlarmResponse:
        disarmed = rpc_pb2.AlarmResponse()
        for one in _raised(connection).alarms:
            request = rpc_pb2.AlarmRequest(
                action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=one.memberID, alarm=one.alarm
            )
            reply = connection.write(METHOD, request, rpc_pb2.AlarmResponse)
            disarmed.alarms.extend(reply.alarms)
        return disarmed

    _print(session, session.call(run))


def _raised(connection: Connection) -> rpc_pb2.AlarmResponse:
    return connection.read(METHOD, rpc_pb2.AlarmRequest(), rpc_pb2.AlarmResponse)


def _print(session: Session, reply: rpc_pb2.AlarmResponse) -> None:
    printer = session.printer
    if not isinstance(printer, SimplePrinter | FieldsPrinter):
        printer.message(reply)
        return
    if isinstance(printer, FieldsPrinter) and reply.HasField("header"):
        printer.header(reply.header)
    for one in reply.alarms:
        kind = rpc_pb2.AlarmType.Name(one.alarm)
        if isinstance(printer, FieldsPrinter):
            emit(f'"MemberID" : {one.memberID}', f'"AlarmType" : {kind}', "")
        else:
            named = f"memberID:{one.memberID} " if one.memberID else ""
            emit(f"{named}alarm:{kind} ")
