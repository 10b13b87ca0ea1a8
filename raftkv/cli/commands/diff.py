"""`raftctl diff`: what was added, changed and removed between two revisions.

    + "key" "value"             in B and not in A
    ~ "key" "old" -> "new"      in both, written in between (perhaps with the same value)
    - "key" "value"             in A and not in B

Keys and values are quoted as Go does. With `-w json`, one object per line and key.
"""

import os
import re
import sys
from typing import Any, Final

import click

from raftkv.cli import gotext
from raftkv.cli.commands.kv import prefix_end
from raftkv.cli.comparing import ADDED, CHANGED, REMOVED, Difference, differences
from raftkv.cli.connection import CallFailed, Connection
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, CtlError
from raftkv.cli.paging import COMPACTED_TEXT, Pages, compacted_revision
from raftkv.cli.printers import emit
from raftkv.cli.terminal import has_colours

_SIGNS: Final = {ADDED: ("+", "green"), CHANGED: ("~", "yellow"), REMOVED: ("-", "red")}


def revisions(text: str) -> tuple[int, int]:
    """(A, B) of "A..B"; B is 0 in "A..": now. Errors: CtlError."""
    match = re.fullmatch(r"([0-9]+)\.\.([0-9]*)", text, re.ASCII)
    if match is None:
        raise CtlError("--rev must be A..B or A.., two revisions", BAD_ARGUMENTS)
    old, new = int(match[1]), int(match[2] or 0)
    if old < 1 or (match[2] and new < old) or max(old, new) >= 1 << 63:
        raise CtlError("--rev A..B: A must be at least 1, and B not less", BAD_ARGUMENTS)
    return old, new


@click.command("diff", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="[PREFIX]")
@click.option("--rev", required=True, metavar="A..B", help="Two revisions; A..: until now.")
@click.option("--keys-only", is_flag=True, help="Without the values.")
@click.pass_obj
def diff(session: Session, /, args: tuple[str, ...], rev: str, keys_only: bool) -> None:
    """Print what differs under PREFIX between two revisions."""
    if len(args) > 1:
        raise CtlError("diff command takes 1 prefix at most", BAD_ARGUMENTS)
    if session.printer.name not in ("simple", "json"):
        raise CtlError("diff prints simple or json", BAD_FEATURE)
    old, new = revisions(rev)
    prefix = os.fsencode(args[0]) if args else b""
    session.call(lambda to: _diff(session, to, prefix, (old, new), keys_only))


def _diff(
    session: Session, to: Connection, prefix: bytes, between: tuple[int, int], keys_only: bool
) -> None:
    counts = {ADDED: 0, CHANGED: 0, REMOVED: 0}
    old, new = (
        Pages(to, prefix or b"\0", prefix_end(prefix), revision, keys_only=True)
        for revision in between
    )
    try:
        new.begin()
        old.begin()
        for one in differences(to, old, new, with_values=not keys_only):
            counts[one.kind] += 1
            if session.printer.name == "json":
                emit(gotext.json_text(_tree(one, keys_only)))
            else:
                emit(_line(one, keys_only, session.printer.hex_output))
    except CallFailed as error:
        if error.text != COMPACTED_TEXT:
            raise
        oldest = compacted_revision(to)
        hint = f"; the oldest that is kept is {oldest}" if oldest else ""
        raise CtlError(f"{error.text}{hint}") from None
    if session.printer.name == "simple":
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        emit(f"{listed} between revisions {old.revision} and {new.revision}")


def _tree(one: Difference, keys_only: bool) -> dict[str, Any]:
    tree: dict[str, Any] = {"kind": one.kind}
    for name, pair in (("before", one.before), ("after", one.after)):
        if pair is not None:
            tree[name] = gotext.message_tree(pair)
            if keys_only:
                tree[name].pop("value", None)
    return tree


def _line(one: Difference, keys_only: bool, as_hex: bool) -> str:
    show = gotext.hex_escaped if as_hex else gotext.quote
    values = " -> ".join(show(pair.value) for pair in (one.before, one.after) if pair is not None)
    sign, colour = _SIGNS[one.kind]
    text = f"{sign} {show(one.key)}" + ("" if keys_only else f" {values}")
    return click.style(text, fg=colour) if has_colours(sys.stdout) else text
