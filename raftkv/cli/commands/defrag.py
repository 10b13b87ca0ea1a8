"""`raftctl defrag`: gives back the disk space of what was deleted, one endpoint after the other."""

import sys

import click

from raftkv.cli.commands.endpoint import _cluster_option, _endpoints
from raftkv.cli.connection import CallFailed, Connection
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import ERROR
from raftkv.cli.printers import emit
from raftkv.pb import rpc_pb2


@click.command("defrag", cls=CtlCommand)
@_cluster_option()
@click.pass_obj
def defrag(session: Session, cluster: bool) -> int:
    """Merge the tables of each endpoint's state; it goes on serving meanwhile."""

    def run(connection: Connection) -> int:
        failed = 0
        for endpoint in _endpoints(connection, cluster):
            alone = connection.only(endpoint)
            try:
                alone.write(
                    "Maintenance/Defragment",
                    rpc_pb2.DefragmentRequest(),
                    rpc_pb2.DefragmentResponse,
                )
                emit(f"Finished defragmenting etcd member[{endpoint}]")
            except CallFailed as error:
                print(
                    f"Failed to defragment etcd member[{endpoint}] ({error.text})", file=sys.stderr
                )
                failed += 1
            finally:
                alone.close()
        return failed

    failed: int = session.call(run)
    return ERROR if failed else 0
