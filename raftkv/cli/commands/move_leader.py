"""`raftctl move-leader`."""

import click

from raftkv.cli import gotext
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.pb import rpc_pb2


def _leader(connection: Connection) -> tuple[str, int]:
    """(endpoint, member id) of the leader among the endpoints. Errors: CtlError."""
    for endpoint in connection.target.endpoints:
        alone = connection.only(endpoint)
        try:
            reply = alone.read(
                "Maintenance/Status", rpc_pb2.StatusRequest(), rpc_pb2.StatusResponse
            )
        finally:
            alone.close()
        if reply.leader == reply.header.member_id:
            return endpoint, reply.leader
    listed = " ".join(connection.target.endpoints)
    raise CtlError(f"no leader endpoint given at [{listed}]", BAD_ARGUMENTS)


@click.command("move-leader", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="MEMBER_ID")
@click.pass_obj
def move_leader(session: Session, args: tuple[str, ...]) -> None:
    """Make MEMBER_ID the leader; --endpoints must hold the present leader's."""
    if len(args) != 1:
        raise CtlError("move-leader command needs 1 argument", BAD_ARGUMENTS)
    try:
        target = gotext.parse_int(args[0], base=16, signed=False)
    except ValueError as error:
        raise CtlError(str(error), BAD_ARGUMENTS) from None

    def run(connection: Connection) -> tuple[int, rpc_pb2.MoveLeaderResponse]:
        endpoint, leader = _leader(connection)
        alone = connection.only(endpoint)
        try:
            request = rpc_pb2.MoveLeaderRequest(targetID=target)
            return leader, alone.write(
                "Maintenance/MoveLeader", request, rpc_pb2.MoveLeaderResponse
            )
        finally:
            alone.close()

    leader, reply = session.call(run)
    session.printer.move_leader(leader, target, reply)
