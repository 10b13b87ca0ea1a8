"""Pairs as lines of JSON: what `raftctl export` writes and `raftctl import` reads.

The first line says what follows; `count` tells a file that was cut off from a whole one:

    {"format":"raftkv-export","version":1,"revision":57,"count":2}
    {"key":"a","value":"1","create_revision":2,"mod_revision":9,"version":3}
    {"key_base64":"/w==","value":"","create_revision":5,"mod_revision":5,"version":1,"lease":"6b"}

Keys and values that are UTF-8 are text, others base64 under another name. The revisions and the
lease's id (hexadecimal) tell where a pair came from; an import only looks at whether there is a
lease. For hand-made files `key` and `value` are enough, and the first line may be left out.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any, Final

from raftkv.pb import kv_pb2

FORMAT: Final = "raftkv-export"
VERSION: Final = 1
_FIELDS: Final = frozenset(
    {
        *("key", "key_base64", "value", "value_base64"),
        *("create_revision", "mod_revision", "version", "lease"),
    }
)


class BadLine(ValueError):
    """A line that is none of an export; the text says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line. revision: of the state. count: of the pairs that follow."""

    revision: int
    count: int


@dataclass(frozen=True, slots=True)
class Pair:
    """What an import takes from a line. leased: the key had a lease where it came from."""

    key: bytes
    value: bytes
    leased: bool


def header_line(revision: int, count: int) -> bytes:
    """The first line, with its end."""
    tree = {"format": FORMAT, "version": VERSION, "revision": revision, "count": count}
    return _dump(tree)


def pair_line(pair: kv_pb2.KeyValue) -> bytes:
    """One pair, with its line's end."""
    tree: dict[str, Any] = {}
    for name, raw in (("key", pair.key), ("value", pair.value)):
        try:
            tree[name] = raw.decode("utf-8")
        except UnicodeDecodeError:
            tree[f"{name}_base64"] = base64.b64encode(raw).decode()
    tree["create_revision"] = pair.create_revision
    tree["mod_revision"] = pair.mod_revision
    tree["version"] = pair.version
    if pair.lease:
        tree["lease"] = f"{pair.lease:x}"
    return _dump(tree)


def _dump(tree: dict[str, Any]) -> bytes:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def parse_line(line: bytes, may_be_header: bool) -> Pair | Header:
    """What a line says. Errors: BadLine."""
    try:
        tree = json.loads(line)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8"
        raise BadLine(f"not JSON: {reason}") from None
    if not isinstance(tree, dict):
        raise BadLine("not a JSON object")
    if "format" in tree:
        return _header(tree, may_be_header)
    unknown = sorted(set(tree) - _FIELDS)
    if unknown:
        raise BadLine(f"unknown field {unknown[0]!r}")
    key = _bytes(tree, "key")
    if not key:
        raise BadLine("the key is empty")
    return Pair(key, _bytes(tree, "value"), bool(tree.get("lease")))


def _header(tree: dict[str, Any], may_be_header: bool) -> Header:
    if not may_be_header:
        raise BadLine("a second header; import files one by one")
    if tree["format"] != FORMAT or tree.get("version") != VERSION:
        raise BadLine(f"format {tree['format']!r} {tree.get('version')!r} is not known")
    count, revision = tree.get("count"), tree.get("revision")
    if type(count) is not int or type(revision) is not int or count < 0:
        raise BadLine("the header has no count or revision")
    return Header(revision, count)


def _bytes(tree: dict[str, Any], name: str) -> bytes:
    """The bytes of `key` or `value`."""
    encoded = f"{name}_base64"
    if (name in tree) == (encoded in tree):
        raise BadLine(f"needs either {name!r} or {encoded!r}")
    text = tree.get(name, tree.get(encoded))
    if not isinstance(text, str):
        raise BadLine(f"{name!r} is not text")
    if name in tree:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:
            raise BadLine(f"{name!r} holds half of a character") from None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadLine(f"{encoded!r} is not base64") from None
