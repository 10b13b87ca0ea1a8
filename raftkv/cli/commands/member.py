"""`raftctl member list`, `add`, `remove`, `update` and `promote`; see `member_replace` as well."""

from typing import Any
from urllib.parse import urlsplit

import click

from raftkv.cli import gotext
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, LazyGroup, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.printers import SimplePrinter, emit
from raftkv.pb import rpc_pb2


@click.group(
    "member",
    cls=LazyGroup,
    lazy={
        "list": "member:list_members",
        "add": "member:add",
        "remove": "member:remove",
        "update": "member:update",
        "promote": "member:promote",
        "replace": "member_replace:replace",
    },
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.pass_context
def member(ctx: click.Context, /, **_: Any) -> None:
    """Look at and change the cluster's members."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _member_id(args: tuple[str, ...]) -> int:
    if len(args) != 1:
        raise CtlError("member ID is not provided", BAD_ARGUMENTS)
    try:
        return gotext.parse_int(args[0], base=16, signed=False)
    except ValueError as error:
        raise CtlError(f"bad member ID arg ({error}), expecting ID in Hex", BAD_ARGUMENTS) from None


def _peer_urls(text: str) -> list[str]:
    if not text:
        raise CtlError("member peer urls not provided", BAD_ARGUMENTS)
    return text.split(",")


def check_urls(urls: list[str]) -> None:
    """What etcd's client checks before it asks the server."""
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https", "unix", "unixs"):
            raise CtlError(f"URL scheme must be http, https, unix, or unixs: {url}")
        if parts.scheme in ("http", "https") and ":" not in parts.netloc:
            raise CtlError(f'URL address does not have the form "host:port": {url}')
        if parts.path and not parts.scheme.startswith("unix"):
            raise CtlError(f"URL must not contain a path: {url}")


def _check_name(to: Connection, name: str) -> None:
    """A new member needs a name of its own: it would be refused when it starts."""
    reply = to.read("Cluster/MemberList", rpc_pb2.MemberListRequest(), rpc_pb2.MemberListResponse)
    for one in reply.members:
        if one.name == name:
            raise CtlError(
                f"{gotext.quote_text(name)} is the name of member {one.ID:x}; choose another, or "
                "see `raftctl member replace`"
            )


@click.command("list", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def list_members(session: Session, args: tuple[str, ...]) -> None:
    """Print every member: id, status, name, peer URLs, client URLs, is learner."""
    request = rpc_pb2.MemberListRequest(linearizable=True)
    reply = session.call(
        lambda to: to.read("Cluster/MemberList", request, rpc_pb2.MemberListResponse)
    )
    session.printer.member_list(reply)


@click.command("add", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="NAME")
@click.option("--peer-urls", default="", help="Comma-separated peer URLs of the new member.")
@click.option("--learner", is_flag=True, help="Add it without a vote; promote it later.")
@click.option("--auto-promote", is_flag=True, help="As --learner; it asks for its vote by itself.")
@click.pass_obj
def add(
    session: Session, args: tuple[str, ...], peer_urls: str, learner: bool, auto_promote: bool
) -> None:
    """Add a member, then print the settings to start it with."""
    if not args:
        raise CtlError("member name not provided", BAD_ARGUMENTS)
    if len(args) > 1:
        hints = [
            f", did you mean --peer-urls={arg}" for arg in args if arg.lower().startswith("http")
        ]
        raise CtlError("too many arguments" + "".join(hints), BAD_ARGUMENTS)
    urls = _peer_urls(peer_urls)
    check_urls(urls)
    request = rpc_pb2.MemberAddRequest(peerURLs=urls, isLearner=learner or auto_promote)

    def run(to: Connection) -> rpc_pb2.MemberAddResponse:
        _check_name(to, args[0])
        return to.write("Cluster/MemberAdd", request, rpc_pb2.MemberAddResponse)

    reply: rpc_pb2.MemberAddResponse = session.call(run)
    session.printer.member_add(reply)
    if not isinstance(session.printer, SimplePrinter):
        return
    cluster = ",".join(
        f"{args[0] if one.ID == reply.member.ID else one.name}={url}"
        for one in reply.members
        for url in one.peerURLs
    )
    prefix = "RAFTKV_" if auto_promote else "ETCD_"  # no etcd asks for its vote
    emit(
        "",
        f"{prefix}NAME={gotext.quote_text(args[0])}",
        f"{prefix}INITIAL_CLUSTER={gotext.quote_text(cluster)}",
        f"{prefix}INITIAL_ADVERTISE_PEER_URLS={gotext.quote_text(peer_urls)}",
        f'{prefix}INITIAL_CLUSTER_STATE="existing"',
    )
    if auto_promote:
        emit(f'{prefix}AUTO_PROMOTE="true"')


@click.command("remove", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="MEMBER_ID")
@click.pass_obj
def remove(session: Session, args: tuple[str, ...]) -> None:
    """Remove a member."""
    member_id = _member_id(args)
    request = rpc_pb2.MemberRemoveRequest(ID=member_id)
    reply = session.call(
        lambda to: to.write("Cluster/MemberRemove", request, rpc_pb2.MemberRemoveResponse)
    )
    session.printer.member_change("removed", member_id, reply)


@click.command("update", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="MEMBER_ID")
@click.option("--peer-urls", default="", help="Comma-separated peer URLs of the member.")
@click.pass_obj
def update(session: Session, args: tuple[str, ...], peer_urls: str) -> None:
    """Change a member's peer URLs."""
    member_id = _member_id(args)
    urls = _peer_urls(peer_urls)
    request = rpc_pb2.MemberUpdateRequest(ID=member_id, peerURLs=urls)
    reply = session.call(
        lambda to: to.write("Cluster/MemberUpdate", request, rpc_pb2.MemberUpdateResponse)
    )
    session.printer.member_change("updated", member_id, reply)


@click.command("promote", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="MEMBER_ID")
@click.pass_obj
def promote(session: Session, args: tuple[str, ...]) -> None:
    """Give a learner its vote."""
    member_id = _member_id(args)
    request = rpc_pb2.MemberPromoteRequest(ID=member_id)
    reply = session.call(
        lambda to: to.write("Cluster/MemberPromote", request, rpc_pb2.MemberPromoteResponse)
    )
    session.printer.member_change("promoted", member_id, reply)
