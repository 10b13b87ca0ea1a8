"""`raftctl lock`: holds a lock, for a command or until a signal.

The command finds in its environment:

    ETCD_LOCK_KEY     the key that holds the lock
    ETCD_LOCK_REV     the revision of the answer that gave it
    ETCD_LOCK_TOKEN   the fencing token: the key's create revision

A transaction that compares the create revision of ETCD_LOCK_KEY with ETCD_LOCK_TOKEN writes only
while the lock is held. The lock is released when the command has ended, or by a signal if there
is none; a command is left to end by itself.
"""

import os
from typing import Any

import click

from raftkv.cli.children import run_child
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, GoInt, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.keeping import KeptLease
from raftkv.cli.queueing import Place, become_first
from raftkv.cli.signals import Interrupted, Signals, caught
from raftkv.pb import rpc_pb2

LOST_WAITING = "mutex: session is expired"


@click.command("lock", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="LOCKNAME [COMMAND ...]")
@click.option("--ttl", type=GoInt(), default=10, help="Seconds the lock outlives raftctl. [10]")
@click.pass_obj
def lock(session: Session, /, args: tuple[str, ...], ttl: int) -> None:
    """Take the lock LOCKNAME; run COMMAND, if given, and release it."""
    if not args:
        raise CtlError(
            "lock takes a lock name argument and an optional command to execute", BAD_ARGUMENTS
        )
    session.call(lambda connection: _lock(session, connection, args, ttl))


def _lock(session: Session, connection: Connection, args: tuple[str, ...], ttl: int) -> None:
    with caught() as signals:
        lease = KeptLease(connection, ttl)
        try:
            place = become_first(connection, lease, os.fsencode(args[0]), b"", LOST_WAITING)
            if args[1:]:
                signals.defer()
                run_child(args[1:], _environment(place))
            else:
                _hold(session, connection, lease, place.key, signals)
        finally:
            signals.defer()
            lease.revoke()


def _environment(place: Place) -> dict[str, Any]:
    return {
        **os.environ,
        "ETCD_LOCK_KEY": os.fsdecode(place.key),
        "ETCD_LOCK_REV": str(place.revision),
        "ETCD_LOCK_TOKEN": str(place.create_revision),
    }


def _hold(
    session: Session, connection: Connection, lease: KeptLease, key: bytes, signals: Signals
) -> None:
    """Prints the key and holds it until a signal comes. Errors: CtlError."""
    reply = connection.read("KV/Range", rpc_pb2.RangeRequest(key=key), rpc_pb2.RangeResponse)
    if not reply.kvs:
        raise CtlError("lock lost on init")
    try:
        session.printer.get(reply)
        lease.lost.wait()
    except Interrupted:
        return
    raise CtlError("session expired")
