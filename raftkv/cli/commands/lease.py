"""`raftctl lease`: grant, revoke, timetolive, list and keep-alive."""

import time
from typing import Any, Final

import click

from raftkv.cli import gotext
from raftkv.cli.connection import CallFailed, Connection, Reply
from raftkv.cli.ctl import CtlCommand, LazyGroup, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_CONNECTION, CtlError
from raftkv.cli.leaseprinters import LeasePrinter, lease_printer
from raftkv.pb import rpc_pb2

LAZY: Final = {
    "grant": "lease:grant",
    "revoke": "lease:revoke",
    "timetolive": "lease:time_to_live",
    "list": "lease:list_",
    "keep-alive": "lease:keep_alive",
}
LEASE_NOT_FOUND_TEXT: Final = "etcdserver: requested lease not found"
RETRY_SECONDS: Final = 0.5  # between attempts to renew, as etcd's client


@click.group("lease", cls=LazyGroup, lazy=LAZY, invoke_without_command=True)
@click.pass_context
def lease(ctx: click.Context, /, **_: Any) -> None:
    """Leases: keys that are attached to one go away with it."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _one(args: tuple[str, ...], complaint: str) -> str:
    if len(args) != 1:
        raise CtlError(f"lease {complaint}", BAD_ARGUMENTS)
    return args[0]


def lease_id(text: str) -> int:
    """A lease's id on the command line, in hex. Errors: CtlError."""
    try:
        return gotext.parse_int(text, base=16)
    except ValueError as error:
        text = f"bad lease ID arg ({error}), expecting ID in Hex"
        raise CtlError(text, BAD_ARGUMENTS) from None


@click.command("grant", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="TTL")
@click.pass_obj
def grant(session: Session, /, args: tuple[str, ...]) -> None:
    """Grant a lease of TTL seconds."""
    text = _one(args, "grant command needs TTL argument")
    try:
        ttl = gotext.parse_int(text)
    except ValueError as error:
        raise CtlError(f"bad TTL ({error})", BAD_ARGUMENTS) from None
    request = rpc_pb2.LeaseGrantRequest(TTL=ttl)
    try:
        reply = session.call(
            lambda to: to.write("Lease/LeaseGrant", request, rpc_pb2.LeaseGrantResponse)
        )
    except CallFailed as error:
        raise CtlError(f"failed to grant lease ({error.text})") from None
    lease_printer(session.printer).grant(reply)


@click.command("revoke", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="LEASE")
@click.pass_obj
def revoke(session: Session, /, args: tuple[str, ...]) -> None:
    """End LEASE, and with it its keys."""
    number = lease_id(_one(args, "revoke command needs 1 argument"))
    request = rpc_pb2.LeaseRevokeRequest(ID=number)
    try:
        reply = session.call(
            lambda to: to.write("Lease/LeaseRevoke", request, rpc_pb2.LeaseRevokeResponse)
        )
    except CallFailed as error:
        raise CtlError(f"failed to revoke lease ({error.text})") from None
    lease_printer(session.printer).revoke(number, reply)


def _ask(to: Connection, method: str, request: Any, reply: type[Reply]) -> Reply:
    """A call that changes nothing but a deadline. Errors: CtlError with etcdctl's exit code."""
    try:
        return to.read(f"Lease/{method}", request, reply)
    except CallFailed as error:
        raise CtlError(error.text, BAD_CONNECTION) from None


@click.command("timetolive", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="LEASE")
@click.option("--keys", is_flag=True, help="With the keys that are attached.")
@click.pass_obj
def time_to_live(session: Session, /, args: tuple[str, ...], keys: bool) -> None:
    """Print what is left of LEASE."""
    number = lease_id(_one(args, "timetolive command needs lease ID as argument"))
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=number, keys=keys)
    reply = session.call(
        lambda to: _ask(to, "LeaseTimeToLive", request, rpc_pb2.LeaseTimeToLiveResponse)
    )
    lease_printer(session.printer).time_to_live(reply, keys)


@click.command("list", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def list_(session: Session, /, args: tuple[str, ...]) -> None:
    """Print every lease."""
    request = rpc_pb2.LeaseLeasesRequest()
    reply = session.call(lambda to: _ask(to, "LeaseLeases", request, rpc_pb2.LeaseLeasesResponse))
    lease_printer(session.printer).leases(reply)


@click.command("keep-alive", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="LEASE")
@click.option("--once", is_flag=True, help="Renew it once.")
@click.pass_obj
def keep_alive(session: Session, /, args: tuple[str, ...], once: bool) -> None:
    """Renew LEASE again and again, until it is over."""
    number = lease_id(_one(args, "keep-alive command needs lease ID as argument"))
    printer = lease_printer(session.printer)
    session.call(lambda to: _keep_alive(to, printer, number, once))


def _keep_alive(to: Connection, printer: LeasePrinter, number: int, once: bool) -> None:
    asked = time.monotonic()
    reply: rpc_pb2.LeaseKeepAliveResponse | None = _renew(to, number)
    if once:
        if reply is None or reply.TTL <= 0:
            raise CtlError(LEASE_NOT_FOUND_TEXT, BAD_CONNECTION)
        printer.keep_alive(reply)
        return
    while reply is not None and reply.TTL > 0:
        printer.keep_alive(reply)
        deadline = asked + reply.TTL
        time.sleep(reply.TTL / 3)
        asked = time.monotonic()
        reply = _renew_until(to, number, deadline)
    printer.over(number)


def _renew(to: Connection, number: int) -> rpc_pb2.LeaseKeepAliveResponse:
    """One renewal: a stream of one request, which ends behind its answer. Errors: CtlError."""
    request = rpc_pb2.LeaseKeepAliveRequest(ID=number)
    return _ask(to, "LeaseKeepAlive", request, rpc_pb2.LeaseKeepAliveResponse)


def _renew_until(
    to: Connection, number: int, deadline: float
) -> rpc_pb2.LeaseKeepAliveResponse | None:
    """A renewal, tried again while the lease may still live; None if it cannot any more."""
    while True:
        try:
            return _renew(to, number)
        except CtlError:
            if time.monotonic() + RETRY_SECONDS >= deadline:
                return None
        time.sleep(RETRY_SECONDS)
