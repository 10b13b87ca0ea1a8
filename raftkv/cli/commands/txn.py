"""`raftctl txn`: a transaction written as text, in etcdctl's syntax.

    mod("key1") > "0"           compares: create, mod, version, value, lease

    put key1 "a value"          carried out if all compares hold: put, get, del
    get key1

    get key2                    carried out otherwise

An empty line ends each of the three lists; the last one needs it too, so that a
transaction that was cut off is never carried out.
"""

import re
import sys
from collections.abc import Callable
from typing import Any, BinaryIO, Final, cast

import click

from raftkv.cli import gotext
from raftkv.cli.commands import kv
from raftkv.cli.ctl import CtlCommand, Session, plain_switches
from raftkv.cli.exits import BAD_ARGUMENTS, INVALID_INPUT, CtlError
from raftkv.cli.printers import emit
from raftkv.pb import rpc_pb2

_STRING: Final = r'"(?:[^"\\]|\\.)*"|`[^`]*`'
_KEY = re.compile(rf"\s*({_STRING})")
_OPERATOR = re.compile(r"\)\s+(\S+)")
_VALUE = re.compile(rf"\s+({_STRING})")
# A word, a 'single quoted' or a "double quoted" string.
_WORD = re.compile(r"""[^'"\s]\S*|'[^']*'|"(?:[^"\\]|\\.)*\"""")

Compare = rpc_pb2.Compare
RESULTS: Final = {
    "=": Compare.EQUAL,
    "!=": Compare.NOT_EQUAL,
    ">": Compare.GREATER,
    "<": Compare.LESS,
}
# Names of a target -> the field that holds the operand.
TARGETS: Final = {
    "ver": (Compare.VERSION, "version"),
    "version": (Compare.VERSION, "version"),
    "c": (Compare.CREATE, "create_revision"),
    "create": (Compare.CREATE, "create_revision"),
    "m": (Compare.MOD, "mod_revision"),
    "mod": (Compare.MOD, "mod_revision"),
    "val": (Compare.VALUE, "value"),
    "value": (Compare.VALUE, "value"),
    "lease": (Compare.LEASE, "lease"),
}


def _invalid(text: str) -> CtlError:
    return CtlError(text, INVALID_INPUT)


def parse_compare(line: str) -> rpc_pb2.Compare:
    """One comparison: `target("key") operator "operand"`. Errors: CtlError."""
    target, parenthesis, rest = line.partition("(")
    if not parenthesis:
        raise _invalid(f"malformed comparison: {line}")
    found: list[str] = []
    for pattern in (_KEY, _OPERATOR, _VALUE):
        match = pattern.match(rest)
        if match is None:
            break
        found.append(match[1])
        rest = rest[match.end() :]
    try:
        key = gotext.unquote(found[0]) if found else b""
        operand = gotext.unquote(found[2]) if len(found) == 3 else b""
    except ValueError:
        raise _invalid(f"malformed comparison: {line}") from None
    if len(found) < 3:
        operator = found[1] if len(found) > 1 else ""
        got = f'{target}({gotext.quote(key)}) {operator} ""'
        raise _invalid(f"malformed comparison: {line}; got {got}")
    if target not in TARGETS:
        raise _invalid(f"malformed comparison: {line} (unknown target {target})")
    if found[1] not in RESULTS:
        offered = " ".join(RESULTS)
        raise _invalid(f"malformed comparison: {line} (unknown operator, use one of {offered})")
    kind, name = TARGETS[target]
    value: Any = operand
    if name != "value":
        base = 16 if name == "lease" else 10
        try:
            value = gotext.parse_int(operand.decode("utf-8", "replace"), base)
        except ValueError:
            raise _invalid(f"invalid txn compare request: {line}") from None
    compare = rpc_pb2.Compare(key=key, target=kind, result=RESULTS[found[1]])
    setattr(compare, name, value)
    return compare


def words(line: str) -> list[str]:
    """A line's words; quoted ones without their quotes. Errors: CtlError."""
    out = []
    for word in _WORD.findall(line):
        if word[0] == "'":
            out.append(word[1:-1])
        elif word[0] == '"':
            try:
                out.append(gotext.unquote(word).decode("utf-8", "surrogateescape"))
            except ValueError as error:
                raise _invalid(str(error)) from None
        else:
            out.append(word)
    return out


_OPERATIONS: Final[dict[str, tuple[click.Command, Callable[..., Any], str]]] = {
    "put": (kv.put, kv.put_request, "request_put"),
    "get": (kv.get, kv.get_request, "request_range"),
    "del": (kv.delete, kv.delete_request, "request_delete_range"),
}


def parse_operation(line: str) -> rpc_pb2.RequestOp:
    """One operation: a put, get or del as on the command line. Errors: CtlError."""
    name, *args = words(line) or [""]
    if not args:
        raise _invalid(f"invalid txn compare request: {line}")
    if name not in _OPERATIONS:
        raise _invalid(f"invalid txn request: {line}")
    command, build, field = _OPERATIONS[name]
    parser = click.Command(name, params=list(cast(CtlCommand, command).own_params))
    try:
        with parser.make_context(name, plain_switches(parser, args)) as ctx:
            params = ctx.params
    except (click.UsageError, click.exceptions.Exit):
        raise _invalid(f"invalid txn request: {line}") from None
    params.pop("print_value_only", None)
    if params.pop("ttl", None) is not None:
        raise CtlError(kv.TTL_IN_TXN, BAD_ARGUMENTS)
    if name == "put" and len(params["args"]) < 2 and not params["ignore_value"]:
        # A put alone would take its value from standard input: here that is the transaction.
        raise CtlError(kv.PUT_ARGUMENTS, BAD_ARGUMENTS)
    return rpc_pb2.RequestOp(**{field: build(**params)})


def _lines(stream: BinaryIO) -> list[str]:
    """Lines up to an empty one, stripped. Errors: CtlError when the input ends first."""
    out: list[str] = []
    while True:
        raw = stream.readline()
        if not raw.endswith(b"\n"):
            raise _invalid("EOF")
        line = raw.decode("utf-8", "surrogateescape").strip()
        if not line:
            return out
        out.append(line)


@click.command("txn", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.option("-i", "--interactive", is_flag=True, help="Ask for each list.")
@click.pass_obj
def txn(session: Session, args: tuple[str, ...], interactive: bool) -> None:
    """Carry out the transaction on standard input.

    \b
    Three lists, each ended by an empty line:
      compares             mod("key1") > "0"
      success requests     put key1 "a value"
      failure requests     get key1
    Targets: create, mod, version, value, lease. Operators: = != > <
    """
    if args:
        raise CtlError("txn command does not accept argument", BAD_ARGUMENTS)

    def ask(prompt: str) -> None:
        if interactive:
            emit(prompt)

    request = rpc_pb2.TxnRequest()
    stream = sys.stdin.buffer
    ask("compares:")
    request.compare.extend(parse_compare(line) for line in _lines(stream))
    ask("success requests (get, put, del):")
    request.success.extend(parse_operation(line) for line in _lines(stream))
    ask("failure requests (get, put, del):")
    request.failure.extend(parse_operation(line) for line in _lines(stream))
    operations = [*request.success, *request.failure]
    if all(one.WhichOneof("request") == "request_range" for one in operations):
        reply = session.call(lambda to: to.read("KV/Txn", request, rpc_pb2.TxnResponse))
    else:
        reply = session.call(lambda to: to.write("KV/Txn", request, rpc_pb2.TxnResponse))
    session.printer.txn(reply)
