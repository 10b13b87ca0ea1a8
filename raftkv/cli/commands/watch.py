"""`raftctl watch`: prints what happens to keys, or runs a command for each event.

    raftctl watch KEY [RANGE_END] [-- COMMAND [ARGS]]
    raftctl watch -i          lines on standard input: watch ..., progress

A command is run with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and
ETCD_WATCH_VALUE, the last three quoted as Go's %q does. The key may come from the environment:
ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import click

from raftkv.cli import gotext
from raftkv.cli.children import run_child
from raftkv.cli.commands.kv import EVERYTHING, prefix_end
from raftkv.cli.commands.txn import words
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, GoInt, Session, plain_switches, usage_text
from raftkv.cli.exits import BAD_ARGUMENTS, ERROR, INTERRUPTED, INVALID_INPUT, CtlError
from raftkv.cli.printers import emit
from raftkv.cli.watching import Watch, cancel_text
from raftkv.cli.watchprinters import kind_of, print_response
from raftkv.pb import kv_pb2, rpc_pb2

BAD_NUMBER: Final = "bad number of arguments"
BOTH_ENDS: Final = "`range_end` and `--prefix` are mutually exclusive"
_COMMAND: Final = "raftctl.watch.command"  # in click's meta: what stands behind --


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to watch, and the command to run for each event (or none)."""

    request: rpc_pb2.WatchCreateRequest
    command: tuple[str, ...]


class WatchCommand(CtlCommand):
    """Keeps what stands behind `--` out of the arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before it. Errors: CtlError if nothing stands behind it."""
        if "--" in args:
            at = args.index("--")
            ctx.meta[_COMMAND] = tuple(args[at + 1 :])
            args = args[:at]
        return super().parse_args(ctx, args)


def _wanted(params: dict[str, Any], command: Sequence[str] | None) -> Wanted:
    """What a command line asks for. command: None: there was no `--`. Errors: CtlError."""
    args = [os.fsencode(one) for one in params["args"]]
    key = os.fsencode(os.environ.get("ETCDCTL_WATCH_KEY", ""))
    if command is not None and not command:
        raise CtlError(f"{BAD_NUMBER} (found separator --, but no commands)", BAD_ARGUMENTS)
    if key:
        if args:
            raise CtlError(f"{BAD_NUMBER} (found conflicting environment key)", BAD_ARGUMENTS)
        end = os.fsencode(os.environ.get("ETCDCTL_WATCH_RANGE_END", ""))
        args = [key, end] if end else [key]
    if not args:
        raise CtlError(BAD_NUMBER, BAD_ARGUMENTS)
    key, end = args[0], b""
    if len(args) == 2:
        if params["prefix"]:
            raise CtlError(BOTH_ENDS, BAD_ARGUMENTS)
        end = args[1]
    if params["prefix"]:
        key, end = (key, prefix_end(key)) if key else (b"\0", EVERYTHING)
    request = rpc_pb2.WatchCreateRequest(
        key=key,
        range_end=end,
        start_revision=params["rev"],
        prev_kv=params["prev_kv"],
        progress_notify=params["progress_notify"],
    )
    return Wanted(request, tuple(command or ()))


@click.command("watch", cls=WatchCommand)
@click.argument("args", nargs=-1, metavar="[KEY] [RANGE_END] [-- COMMAND ...]")
@click.option("-i", "--interactive", is_flag=True, help="Take watches from standard input.")
@click.option("--prefix", is_flag=True, help="Every key with this prefix.")
@click.option("--rev", type=GoInt(), default=0, help="From this revision on.")
@click.option("--prev-kv", is_flag=True, help="Print the pair as it was before, too.")
@click.option("--progress-notify", is_flag=True, help="Print bookmarks while nothing happens.")
@click.pass_context
def watch(ctx: click.Context, /, interactive: bool, **params: Any) -> None:
    """Print what happens to KEY, or to [KEY, RANGE_END), as it happens.

    With -- COMMAND the command is run for each event, described by ETCD_WATCH_* variables.
    """
    session: Session = ctx.obj
    if os.environ.get("ETCDCTL_WATCH_RANGE_END") and not os.environ.get("ETCDCTL_WATCH_KEY"):
        end = gotext.quote_text(os.environ["ETCDCTL_WATCH_RANGE_END"])
        raise CtlError(
            f"ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={end}", BAD_ARGUMENTS
        )
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to give back
    if interactive:
        session.call(lambda connection: _converse(session, connection))
        return
    wanted = _wanted(params, ctx.meta.get(_COMMAND))
    session.call(lambda connection: _follow(session, Watch(connection, wanted.request), wanted))
    raise CtlError("watch is canceled by the server", INTERRUPTED)


_output = threading.Lock()  # one response at a time, also with many watches


def _follow(session: Session, watch: Watch, wanted: Wanted) -> None:
    """Prints what comes on a watch until it ends. Errors: CtlError."""
    try:
        for response in watch.responses():
            with _output:
                _print(session, response)
            if wanted.command:
                for event in response.events:
                    _run(wanted.command, response, event)
    except CtlError as error:
        if error.exit_code != ERROR or not error.text.startswith("etcdserver: "):
            raise
        _warn(f"watch was canceled ({error.text})")


def _print(session: Session, response: rpc_pb2.WatchResponse) -> None:
    if response.canceled:
        _warn(f"watch was canceled ({cancel_text(response)})")
    elif not response.events:
        emit(f"progress notify: {response.header.revision}")
    print_response(session.printer, response)


def _warn(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(command: tuple[str, ...], response: rpc_pb2.WatchResponse, event: kv_pb2.Event) -> None:
    """Runs the command for an event; if it fails, the process ends."""
    described = {
        "ETCD_WATCH_REVISION": str(response.header.revision),
        "ETCD_WATCH_EVENT_TYPE": f'"{kind_of(event)}"',
        "ETCD_WATCH_KEY": gotext.quote(event.kv.key),
        "ETCD_WATCH_VALUE": gotext.quote(event.kv.value),
    }
    try:
        run_child(command, {**os.environ, **described})
    except CtlError as error:
        quoted = " ".join(gotext.quote_text(word) for word in command)
        _warn(f"command [{quoted}] error ({error.text})")
        sys.stdout.flush()
        os._exit(ERROR)  # from whichever thread: other watches go on for ever


# --- -i ---------------------------------------------------------------------------


def _converse(session: Session, connection: Connection) -> None:
    """Carries out the lines of standard input. Errors: CtlError, at its end at the latest."""
    watches: list[Watch] = []
    try:
        _carry_out(session, connection, watches)
    finally:
        for one in watches:
            one.close()
    raise CtlError("error reading watch request line: EOF", INVALID_INPUT)


def _carry_out(session: Session, connection: Connection, watches: list[Watch]) -> None:
    """Carries out each line until the input ends."""
    for raw in sys.stdin.buffer:
        if not raw.endswith(b"\n"):
            break
        line = raw[:-1].decode("utf-8", "surrogateescape")
        first, *rest = words(line) or [""]
        if first == "":
            _warn(f"Invalid command: {line} (watch and progress supported)")
        elif first == "progress":
            for one in watches:
                one.ask_progress()
        elif first != "watch":
            _warn(f"Invalid command {line} (only support watch)")
        elif not rest and not os.environ.get("ETCDCTL_WATCH_KEY"):
            _warn(f"Invalid command {line} (command type or key is not provided)")
        else:
            wanted = _parse(line, rest)
            if wanted is not None:
                watches.append(Watch(connection, wanted.request))
                _start(session, watches[-1], wanted)


def _parse(line: str, args: list[str]) -> Wanted | None:
    """What a line asks for; None: it was refused. Errors: CtlError, which ends everything."""
    parser = click.Command("watch", params=list(cast(CtlCommand, watch).own_params))
    command = None
    if "--" in args:
        at = args.index("--")
        args, command = args[:at], args[at + 1 :]
    try:
        with parser.make_context("watch", plain_switches(parser, args)) as ctx:
            return _wanted(ctx.params, command)
    except click.NoSuchOption as error:
        given = next(one for one in args if one.startswith(error.option_name))
        text = usage_text(error).replace(f"in {error.option_name}", f"in {given}")
        raise CtlError(text, BAD_ARGUMENTS) from None
    except click.UsageError as error:
        raise CtlError(usage_text(error), BAD_ARGUMENTS) from None
    except CtlError as error:
        if error.text not in (BOTH_ENDS, BAD_NUMBER):
            raise CtlError(error.text, BAD_ARGUMENTS) from None
        _warn(f"Invalid command {line} ({error.text})")
        return None


def _start(session: Session, watch: Watch, wanted: Wanted) -> None:
    def follow() -> None:
        try:
            _follow(session, watch, wanted)
        except CtlError as error:
            _warn(f"Error: {error.text}")
            os._exit(error.exit_code)

    threading.Thread(target=follow, daemon=True).start()
