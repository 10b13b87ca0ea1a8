"""`raftctl put`, `get` and `del`: the commands, and their requests for use inside a txn."""

import os
import sys
from typing import Any

import click

from raftkv.cli import gotext
from raftkv.cli.connection import CallFailed
from raftkv.cli.ctl import CtlCommand, GoDuration, GoInt, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, CtlError
from raftkv.cli.printers import SimplePrinter
from raftkv.pb import rpc_pb2

BOTH_RANGES = "`--prefix` and `--from-key` cannot be set at the same time, choose one"
TOO_MANY = "too many arguments, only accept one argument when `--prefix` or `--from-key` is set"
PUT_ARGUMENTS = "put command needs 1 argument and input from stdin or 2 arguments"
TTL_IN_TXN = "a put in a transaction cannot have `--ttl`; give it a lease with `--lease`"
TTL_ALONE = "`--ttl` makes a new lease and value; leave out `--lease` and the `--ignore` flags"
NO_TTL = (
    "this server has no puts with a TTL of their own, as etcd has none; "
    "use `lease grant` and `put --lease`"
)
EVERYTHING = b"\0"  # as a range's end: no end


def prefix_end(prefix: bytes) -> bytes:
    """The first key behind every key with this prefix; EVERYTHING if there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else EVERYTHING


def _range(args: tuple[str, ...], prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    """(key, range_end) of a get or del."""
    if prefix and from_key:
        raise CtlError(BOTH_RANGES, BAD_ARGUMENTS)
    if len(args) > 1 and (prefix or from_key):
        raise CtlError(TOO_MANY, BAD_ARGUMENTS)
    key = os.fsencode(args[0])
    if len(args) > 1:
        return key, os.fsencode(args[1])
    if from_key or (prefix and not key):
        return key or b"\0", EVERYTHING
    return key, prefix_end(key) if prefix else b""


# --- put ------------------------------------------------------------------------


def put_request(
    args: tuple[str, ...], lease: str, prev_kv: bool, ignore_value: bool, ignore_lease: bool
) -> rpc_pb2.PutRequest:
    """The request of a put. Errors: CtlError. Reads standard input if no value is given."""
    if not args:
        raise CtlError(PUT_ARGUMENTS, BAD_ARGUMENTS)
    if ignore_value and len(args) > 1:
        raise CtlError(
            "put command needs only 1 argument when 'ignore-value' is set", BAD_ARGUMENTS
        )
    value = b""
    if not ignore_value:
        value = os.fsencode(args[1]) if len(args) > 1 else sys.stdin.buffer.read()
        if len(args) == 1 and not value:
            raise CtlError(PUT_ARGUMENTS, BAD_ARGUMENTS)
    try:
        lease_id = gotext.parse_int(lease, base=16)
    except ValueError as error:
        raise CtlError(f"bad lease ID ({error}), expecting ID in Hex", BAD_ARGUMENTS) from None
    return rpc_pb2.PutRequest(
        key=os.fsencode(args[0]),
        value=value,
        lease=lease_id,
        prev_kv=prev_kv,
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
    )


@click.command("put", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="KEY [VALUE]")
@click.option("--lease", default="0", help="Lease to attach the key to, in hex.")
@click.option("--prev-kv", is_flag=True, help="Print the pair as it was before.")
@click.option("--ignore-value", is_flag=True, help="Keep the key's value.")
@click.option("--ignore-lease", is_flag=True, help="Keep the key's lease.")
@click.option(
    "--ttl",
    type=GoDuration(),
    help="Delete the key after this time, as 30s or 1m30s, unless its lease is renewed; the "
    "lease is made with the key and printed. For raftkv servers.",
)
@click.pass_obj
def put(session: Session, /, ttl: float | None, **params: Any) -> None:
    """Put VALUE, or standard input, under KEY.

    Write -- in front of a KEY or VALUE that begins with a dash.
    """
    if ttl is not None:
        _put_with_ttl(session, ttl, params)
        return
    request = put_request(**params)
    reply = session.call(lambda to: to.write("KV/Put", request, rpc_pb2.PutResponse))
    session.printer.put(reply)


def _put_with_ttl(session: Session, ttl_seconds: float, params: dict[str, Any]) -> None:
    from raftkv.pb import v1_pb2

    if params["lease"] != "0" or params["ignore_value"] or params["ignore_lease"]:
        raise CtlError(TTL_ALONE, BAD_ARGUMENTS)
    put = put_request(**params)
    ttl_ms = round(ttl_seconds * 1000)
    if ttl_ms < 1:
        raise CtlError("`--ttl` must be a millisecond at least, as 30s or 1m30s", BAD_ARGUMENTS)
    if ttl_ms >= 1 << 63:
        raise CtlError("`--ttl` is too long", BAD_ARGUMENTS)
    request = v1_pb2.PutWithTTLRequest(
        key=put.key, value=put.value, ttl_ms=ttl_ms, prev_kv=put.prev_kv
    )
    try:
        reply = session.call(
            lambda to: to.write("/raftkv.v1.KV/PutWithTTL", request, v1_pb2.PutWithTTLResponse)
        )
    except CallFailed as error:
        if error.text.startswith("rpc error: code = Unimplemented"):
            raise CtlError(NO_TTL, BAD_FEATURE) from None
        raise
    session.printer.put_with_ttl(reply)


# --- get ------------------------------------------------------------------------

ORDERS = {"": 0, "ASCEND": 1, "DESCEND": 2}
TARGETS = {"": 0, "KEY": 0, "VERSION": 1, "CREATE": 2, "MODIFY": 3, "VALUE": 4}


def get_request(
    args: tuple[str, ...],
    prefix: bool,
    from_key: bool,
    limit: int,
    rev: int,
    order: str,
    sort_by: str,
    keys_only: bool,
    count_only: bool,
    consistency: str,
    **revisions: int,
) -> rpc_pb2.RangeRequest:
    """The request of a get. revisions: min/max_mod/create_rev. Errors: CtlError."""
    if not args:
        raise CtlError(
            "get command needs one argument as key and an optional argument as range_end",
            BAD_ARGUMENTS,
        )
    if prefix and from_key:
        raise CtlError(BOTH_RANGES, BAD_ARGUMENTS)
    if keys_only and count_only:
        raise CtlError(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            BAD_ARGUMENTS,
        )
    if consistency not in ("l", "s"):
        quoted = gotext.quote_text(consistency)
        raise CtlError(f"unknown consistency flag {quoted}", BAD_FEATURE)
    key, range_end = _range(args, prefix, from_key)
    if order.upper() not in ORDERS:
        raise CtlError(f"bad sort order {order}", BAD_FEATURE)
    if sort_by.upper() not in TARGETS:
        raise CtlError(f"bad sort target {sort_by}", BAD_FEATURE)
    target, direction = TARGETS[sort_by.upper()], ORDERS[order.upper()]
    if target == 0 and direction == 1:
        direction = 0  # keys come in ascending order anyway, and faster
    return rpc_pb2.RangeRequest(
        key=key,
        range_end=range_end,
        limit=limit,
        revision=max(rev, 0),
        sort_order=rpc_pb2.RangeRequest.SortOrder.ValueType(direction),
        sort_target=rpc_pb2.RangeRequest.SortTarget.ValueType(target),
        serializable=consistency == "s",
        keys_only=keys_only,
        count_only=count_only,
        min_mod_revision=revisions.get("min_mod_rev", 0),
        max_mod_revision=revisions.get("max_mod_rev", 0),
        min_create_revision=revisions.get("min_create_rev", 0),
        max_create_revision=revisions.get("max_create_rev", 0),
    )


@click.command("get", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="KEY [RANGE_END]")
@click.option("--prefix", is_flag=True, help="Every key with this prefix.")
@click.option("--from-key", is_flag=True, help="Every key from this one on.")
@click.option("--limit", type=GoInt(), default=0, help="Most pairs to print (0: all).")
@click.option("--rev", "--at-rev", "rev", type=GoInt(), default=0, help="As of this revision.")
@click.option("--order", default="", help="ASCEND or DESCEND.")
@click.option("--sort-by", default="", help="CREATE, KEY, MODIFY, VALUE or VERSION.")
@click.option("--keys-only", is_flag=True, help="Without the values.")
@click.option("--count-only", is_flag=True, help="Only how many (with -w fields).")
@click.option("--print-value-only", is_flag=True, help="Without the keys (with -w simple).")
@click.option("--consistency", default="l", help="l: linearizable, s: serializable.")
@click.option(
    "--min-create-rev", type=GoInt(), default=0, help="Created at this revision or later."
)
@click.option("--max-create-rev", type=GoInt(), default=0, help="Created at this one or earlier.")
@click.option("--min-mod-rev", type=GoInt(), default=0, help="Changed at this revision or later.")
@click.option("--max-mod-rev", type=GoInt(), default=0, help="Changed at this one or earlier.")
@click.pass_obj
def get(session: Session, /, print_value_only: bool, **params: Any) -> None:
    """Print the pair of KEY, or every pair in [KEY, RANGE_END)."""
    request = get_request(**params)
    reply = session.call(lambda to: to.read("KV/Range", request, rpc_pb2.RangeResponse))
    if request.count_only and session.printer.name != "fields":
        raise CtlError("--count-only is only for `--write-out=fields`", BAD_ARGUMENTS)
    if print_value_only:
        if not isinstance(session.printer, SimplePrinter):
            raise CtlError("print-value-only is only for `--write-out=simple`", BAD_ARGUMENTS)
        session.printer.value_only = True
    session.printer.get(reply)


# --- del ------------------------------------------------------------------------


def delete_request(
    args: tuple[str, ...], prefix: bool, from_key: bool, prev_kv: bool
) -> rpc_pb2.DeleteRangeRequest:
    """The request of a del. Errors: CtlError."""
    if not 1 <= len(args) <= 2:
        raise CtlError(
            "del command needs one argument as key and an optional argument as range_end",
            BAD_ARGUMENTS,
        )
    key, range_end = _range(args, prefix, from_key)
    return rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)


@click.command("del", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="KEY [RANGE_END]")
@click.option("--prefix", is_flag=True, help="Every key with this prefix.")
@click.option("--from-key", is_flag=True, help="Every key from this one on.")
@click.option("--prev-kv", is_flag=True, help="Print the deleted pairs.")
@click.pass_obj
def delete(session: Session, /, **params: Any) -> None:
    """Delete KEY, or every key in [KEY, RANGE_END)."""
    request = delete_request(**params)
    reply = session.call(
        lambda to: to.write("KV/DeleteRange", request, rpc_pb2.DeleteRangeResponse)
    )
    session.printer.delete(reply)
