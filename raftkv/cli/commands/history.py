"""`raftctl history`: every version of a key that is still kept, deletions included.

What a compaction has forgotten is said, never left out in silence. The version that was in force
when history was compacted is kept by the server and comes first, marked `kept`.
"""

import os
import sys
from dataclasses import dataclass
from typing import Any

import click

from raftkv.cli import gotext
from raftkv.cli.connection import CallFailed, Connection
from raftkv.cli.ctl import CtlCommand, GoInt, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, CtlError
from raftkv.cli.paging import COMPACTED_TEXT
from raftkv.cli.printers import emit
from raftkv.cli.replaying import past_of
from raftkv.cli.terminal import has_colours
from raftkv.pb import kv_pb2, rpc_pb2

PUT, DELETE, KEPT = "put", "delete", "kept"


@dataclass(frozen=True, slots=True)
class Version:
    """One revision of the key. kind: put, delete, or kept: a put from before the compaction."""

    kind: str
    pair: kv_pb2.KeyValue

    def tree(self) -> dict[str, Any]:
        """For JSON: as etcd's KeyValue, with the kind."""
        return {"kind": self.kind, "kv": gotext.message_tree(self.pair)}


@click.command("history", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="KEY")
@click.option("--limit", type=GoInt(), default=0, help="Only the newest ones (0: all).")
@click.pass_obj
def history(session: Session, /, args: tuple[str, ...], limit: int) -> None:
    """Print every kept version of KEY, the oldest first."""
    if len(args) != 1 or not args[0]:
        raise CtlError("history command needs 1 argument", BAD_ARGUMENTS)
    if limit < 0:
        raise CtlError("--limit must not be negative", BAD_ARGUMENTS)
    if session.printer.name not in ("simple", "json"):
        raise CtlError("history prints simple or json", BAD_FEATURE)
    key = os.fsencode(args[0])
    versions, compacted, revision = session.call(lambda to: _versions(to, key))
    shown = versions[-limit:] if limit else versions
    if session.printer.name == "json":
        tree = {
            "compacted_revision": compacted,
            "revision": revision,
            "versions": [one.tree() for one in shown],
        }
        emit(gotext.json_text(tree))
        return
    if compacted:
        print(f"history before revision {compacted} has been compacted", file=sys.stderr)
    if not versions:
        print(f"no kept version of {gotext.quote(key)}", file=sys.stderr)
    for one in shown:
        emit(_line(one, session.printer.hex_output))


def _versions(connection: Connection, key: bytes) -> tuple[list[Version], int, int]:
    """(versions, compacted revision, present revision). Errors: CtlError."""
    past = past_of(connection, key)
    versions = []
    if past.compacted_revision:
        versions = [Version(KEPT, pair) for pair in _at(connection, key, past.compacted_revision)]
    for event in past.events:
        deleted = event.type == kv_pb2.Event.EventType.DELETE
        versions.append(Version(DELETE if deleted else PUT, event.kv))
    return versions, past.compacted_revision, past.revision


def _at(connection: Connection, key: bytes, revision: int) -> list[kv_pb2.KeyValue]:
    request = rpc_pb2.RangeRequest(key=key, revision=revision)
    try:
        return list(connection.read("KV/Range", request, rpc_pb2.RangeResponse).kvs)
    except CallFailed as error:
        if error.text != COMPACTED_TEXT:
            raise
        raise CtlError("history was compacted while it was read; try again") from None


def _line(version: Version, as_hex: bool) -> str:
    pair = version.pair
    kind = version.kind
    if has_colours(sys.stdout):
        colour = {DELETE: "red", KEPT: "cyan"}.get(kind, "green")
        kind = click.style(f"{kind:<6}", fg=colour)
    head = f"{pair.mod_revision} {kind:<6}"
    if version.kind == DELETE:
        return head.rstrip()
    value = gotext.hex_escaped(pair.value) if as_hex else gotext.quote(pair.value)
    lease = f" lease {pair.lease:x}" if pair.lease else ""
    return f"{head} version {pair.version}{lease} {value}"
