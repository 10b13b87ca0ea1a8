"""`raftctl check perf`: does the cluster carry a load of its class?

Loads, limits, verdict lines and exit codes are etcdctl's. Its clients have a
connection each; here they share one per endpoint. At the loads l and xl raftctl itself can be
what is too slow; it says so then, rather than to leave the blame with the servers.
"""

import itertools
import os
import sys
from typing import Any, Final

import click

from raftkv.cli import gotext, loading
from raftkv.cli.commands.kv import prefix_end
from raftkv.cli.connection import Connection
from raftkv.cli.ctl import CtlCommand, GoDuration, LazyGroup, Session
from raftkv.cli.exits import BAD_FEATURE, ERROR, INVALID_INPUT, CtlError
from raftkv.cli.printers import emit
from raftkv.cli.terminal import Progress
from raftkv.pb import rpc_pb2

SECONDS: Final = 60.0
LOADS: Final = {
    "s": loading.Load(150, 50, SECONDS),
    "m": loading.Load(1_000, 200, SECONDS),
    "l": loading.Load(8_000, 500, SECONDS),
    "xl": loading.Load(15_000, 1_000, SECONDS),
}
ALIASES: Final = {"small": "s", "medium": "m", "large": "l", "xLarge": "xl"}
LEAST_SHARE: Final = 0.9  # of the load's limit
MOST_SECONDS: Final = 0.5  # that one put may take
MOST_STDDEV_SECONDS: Final = 0.1
BUSY: Final = 0.85  # of a processor: more, and raftctl may be the limit
DEFRAG_TEXT: Final = "--auto-defrag: this server has no defragmentation yet"


@click.group("check", cls=LazyGroup, lazy={"perf": "check:perf"}, invoke_without_command=True)
@click.pass_context
def check(ctx: click.Context, /, **_: Any) -> None:
    """Check properties of the cluster."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@click.command("perf", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.option("--load", default="s", help="s(mall), m(edium), l(arge) or xl(arge). [s]")
@click.option("--prefix", default="/etcdctl-check-perf/", help="Where the keys are put.")
@click.option("--auto-compact", is_flag=True, help="Compact the history afterwards.")
@click.option("--auto-defrag", is_flag=True, hidden=True)
@click.option("--duration", type=GoDuration(), default=SECONDS, help="How long. [1m0s]")
@click.pass_obj
def perf(
    session: Session,
    /,
    args: tuple[str, ...],
    load: str,
    prefix: str,
    auto_compact: bool,
    auto_defrag: bool,
    duration: float,
) -> int:
    """Put keys at the rate of a load, and judge throughput, slowest put and evenness."""
    name = ALIASES.get(load, load)
    if name not in LOADS:
        raise CtlError(f"unknown load option {load}", BAD_FEATURE)
    if session.printer.name not in ("simple", "json"):
        raise CtlError("check perf prints simple or json", BAD_FEATURE)
    if auto_defrag:
        raise CtlError(DEFRAG_TEXT, BAD_FEATURE)
    if not 0.1 <= duration <= 86_400:
        raise CtlError("--duration must be between 100ms and 24h")
    model = loading.Load(LOADS[name].limit, LOADS[name].clients, duration)
    measured = session.call(lambda to: _run(to, os.fsencode(prefix), model, auto_compact))
    passed, verdict = judge(model, measured)
    if session.printer.name == "json":
        emit(gotext.json_text(_tree(name, model, measured, passed)))
    else:
        emit(*verdict)
    if not passed and measured.busy > BUSY:
        print(
            f"raftctl itself used {measured.busy:.0%} of a processor: it may be what is too slow",
            file=sys.stderr,
        )
    return 0 if passed else ERROR


def _run(
    to: Connection, prefix: bytes, model: loading.Load, auto_compact: bool
) -> loading.Measured:
    end = prefix_end(prefix)
    present = rpc_pb2.RangeRequest(key=prefix or b"\0", range_end=end, limit=1)
    if to.read("KV/Range", present, rpc_pb2.RangeResponse).kvs:
        shown = os.fsdecode(prefix)
        raise CtlError(
            f"prefix {gotext.quote(prefix)} has keys. "
            f"Delete with 'raftctl del --prefix {shown}' first",
            INVALID_INPUT,
        )
    try:
        with Progress("checking", round(model.duration_seconds)) as bar:
            return loading.run(to, prefix, model, lambda seconds: bar.to(int(seconds)))
    finally:  # also after Ctrl-C: the keys are not for keeping
        revision = _delete(to, prefix, end)
        if auto_compact:
            compaction = rpc_pb2.CompactionRequest(revision=revision, physical=True)
            to.write("KV/Compact", compaction, rpc_pb2.CompactionResponse)
            print(f"Compacted with revision {revision}", file=sys.stderr)


def _delete(to: Connection, prefix: bytes, end: bytes) -> int:
    """Deletes the keys, some at a time so that no pause comes of it; the revision behind that."""
    bounds = [prefix or b"\0", *(prefix + bytes([n]) for n in range(16, 256, 16)), end]
    reply = rpc_pb2.DeleteRangeResponse()
    for start, stop in itertools.pairwise(bounds):
        request = rpc_pb2.DeleteRangeRequest(key=start, range_end=stop)
        reply = to.write("KV/DeleteRange", request, rpc_pb2.DeleteRangeResponse)
    return reply.header.revision


def judge(model: loading.Load, measured: loading.Measured) -> tuple[bool, list[str]]:
    """(did it pass, etcdctl's lines about it)."""
    lines = []
    passed = not measured.errors
    if measured.errors:
        lines.append("FAIL: too many errors")
        lines += [f"FAIL: ERROR({text}) -> {n}" for text, n in sorted(measured.errors.items())]
    rate = int(measured.per_second) + 1
    if measured.per_second / model.limit <= LEAST_SHARE:
        lines.append(f"FAIL: Throughput too low: {rate} writes/s")
        passed = False
    else:
        lines.append(f"PASS: Throughput is {rate} writes/s")
    for name, complaint, seconds, most in (
        ("Slowest request took", "took too long", measured.slowest_seconds, MOST_SECONDS),
        ("Stddev is", "too high", measured.stddev_seconds, MOST_STDDEV_SECONDS),
    ):
        if seconds > most:
            subject = name.rpartition(" ")[0]
            lines.append(f"{subject} {complaint}: {seconds:f}s")
            passed = False
        else:
            lines.append(f"PASS: {name} {seconds:f}s")
    return passed, [*lines, "PASS" if passed else "FAIL"]


def _tree(
    name: str, model: loading.Load, measured: loading.Measured, passed: bool
) -> dict[str, Any]:
    return {
        "load": name,
        "limit": model.limit,
        "clients": model.clients,
        "duration_seconds": model.duration_seconds,
        "writes_per_second": round(measured.per_second, 2),
        "slowest_seconds": round(measured.slowest_seconds, 6),
        "stddev_seconds": round(measured.stddev_seconds, 6),
        "errors": dict(measured.errors),
        "passed": passed,
    }
