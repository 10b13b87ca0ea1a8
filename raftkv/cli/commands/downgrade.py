"""`raftctl downgrade validate|enable|cancel`."""

import click

from raftkv.cli.ctl import CtlCommand, LazyGroup, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.printers import SimplePrinter, emit
from raftkv.pb import rpc_pb2


@click.group(
    "downgrade",
    cls=LazyGroup,
    lazy={
        "cancel": "downgrade:cancel",
        "enable": "downgrade:enable",
        "validate": "downgrade:validate",
    },
    invoke_without_command=True,
)
@click.pass_context
def downgrade(ctx: click.Context, /, **_: object) -> None:
    """Downgrades of the cluster's version."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command("validate", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="TARGET_VERSION")
@click.pass_obj
def validate(session: Session, /, args: tuple[str, ...]) -> None:
    """Say whether a downgrade to TARGET_VERSION may be enabled."""
    _downgrade(session, "validate", rpc_pb2.DowngradeRequest.VALIDATE, _target(args))


@click.command("enable", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="TARGET_VERSION")
@click.pass_obj
def enable(session: Session, /, args: tuple[str, ...]) -> None:
    """Note that the cluster is being downgraded to TARGET_VERSION."""
    _downgrade(session, "enable", rpc_pb2.DowngradeRequest.ENABLE, _target(args))


@click.command("cancel", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def cancel(session: Session, /, args: tuple[str, ...]) -> None:
    """Cancel the downgrade that is enabled."""
    _downgrade(session, "cancel", rpc_pb2.DowngradeRequest.CANCEL, "")


def _target(args: tuple[str, ...]) -> str:
    if not args:
        raise CtlError("TARGET_VERSION not provided", BAD_ARGUMENTS)
    if len(args) > 1:
        raise CtlError("too many arguments", BAD_ARGUMENTS)
    if not args[0]:
        raise CtlError("target version not provided", BAD_ARGUMENTS)
    return args[0]


def _downgrade(
    session: Session, verb: str, action: rpc_pb2.DowngradeRequest.DowngradeAction.ValueType, to: str
) -> None:
    request = rpc_pb2.DowngradeRequest(action=action, version=to)
    reply = session.call(
        lambda server: server.write("Maintenance/Downgrade", request, rpc_pb2.DowngradeResponse)
    )
    if isinstance(session.printer, SimplePrinter):
        emit(f"Downgrade {verb} success, cluster version {reply.version}")
    else:
        session.printer.message(reply)
