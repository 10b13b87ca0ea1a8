"""The commands that raftctl and etcdctl are compared on, in the order they are run.

Both run the whole list against a fresh etcd with the same URLs, so that ids,
revisions and terms agree and every byte can be compared. A step's `mask` takes
out what time decides; `fails_alike` steps print usage text on etcdctl's side,
so only exit code and error line count there.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

FORMATS: Final = ("simple", "json", "fields", "table")
# What differs between two runs of the very same commands: times, sizes on disk, log indexes.
TOOK: Final = rb"[0-9.]+(?:ns|\xc2\xb5s|ms|s)\b"
STATUS: Final = (
    rb'(?:"(?:dbSize|dbSizeInUse|raftIndex|raftAppliedIndex)":\d+'
    rb'|"(?:DBSize|RaftIndex|RaftAppliedIndex)" : \d+|\d+ kB|, \d+, \d+, $| \d+ \| +\d+ \| +\|$)'
)
NEW_MEMBER: Final = "{new member}"  # replaced by the id that `member add` printed


@dataclass(frozen=True, slots=True)
class Step:
    """One command. mask: what to take out of both outputs before they are compared."""

    argv: tuple[str, ...]
    stdin: bytes = b""
    mask: bytes = b""
    compare_output: bool = True

    @property
    def label(self) -> str:
        """Name of its test."""
        words = " ".join(self.argv) + (f" < {self.stdin!r}" if self.stdin else "")
        return re.sub(r"[^\x21-\x7e]+", "_", words)[:120]

    def masked(self, out: bytes) -> bytes:
        """An output without what this step does not compare."""
        if not self.mask:
            return out
        # Padding and rules of a table follow the width of what is masked.
        return re.sub(rb"-+|[ ]+", b" ", re.sub(self.mask, b"#", out, flags=re.MULTILINE))


def _each(*argv: str, stdin: bytes = b"", mask: bytes = b"") -> Iterator[Step]:
    """The command in each format."""
    for name in FORMATS:
        yield Step(("-w", name, *argv), stdin, mask)


def _raw(data: bytes) -> str:
    return os.fsdecode(data)


TAKEN: Final = b"""mod("b") > "0"
value("b") = "two words"
version("b") < "99"
create("b") != "0"

put k v
get b
del nothing
put k2 "a b" --prev-kv
get "k" --prefix --keys-only

get nope

"""
NOT_TAKEN: Final = b"""val("b") = "\\x41\\u00e9\\n"
ver("b") = "7"
c("b") > "100"
m("none") = "0"

put k v

get b --limit=1
get "k 2"
del k --prev-kv
put "k 3" "say \\"hi\\"\\t\\\\" --lease=0
put k4 x=y
get k --prefix --order=DESCEND

"""
BAD_TXNS: Final = (
    b'mod("b") > "0"\n\nput k v\n\nget nope\n',
    b"",
    b'mod(b) > "0"\n\n\n\n',
    b'mod("b") > 0\n\n\n\n',
    b'mod("b")>"0"\n\n\n\n',
    b'mod("b") >"0"\n\n\n\n',
    b'mod("b"\n\n\n\n',
    b'foo("b") > "0"\n\n\n\n',
    b'mod"b" > "0"\n\n\n\n',
    b'mod("b") > "x"\n\n\n\n',
    b'mod("b") > "1\n\n\n\n',
    b"\nput k\n\n\n",
    b"\nbad k\n\n\n",
    b"\nput\n\n\n",
    b"\nput k v\nput k w\n\n\n",
    b"\nput k5 --ignore-value\n\n\n",
    b"\nput k5 v --lease=77\n\n\n",
    b"\nput k5 v --lease=xyz\n\n\n",
    b"\nget k --prefix --from-key\n\n\n",
)

KEYS: Final = (
    *_each("put", "a", "1"),
    *_each("put", "a", "2", "--prev-kv"),
    *_each("get", "a"),
    *_each("get", "a", "--hex"),
    *_each("get", "a", "--keys-only"),
    *_each("get", "a", "--count-only"),
    *_each("get", "a", "--print-value-only"),
    *_each("get", "nothing"),
    *_each("put", "b", "two words"),
    *_each("put", "bb", "x\ny"),
    *_each("put", "b<&>", '<v>&"\\\u2028'),
    *_each("put", _raw(b"b\xff\x00\x7f"[:2]), _raw(b"\xc3\xa9\xff\x1b\xe2\x80\xa8")),
    *_each("get", "b", "--prefix"),
    *_each("get", "b", "--prefix", "--hex"),
    *_each("get", "b", "--from-key", "--limit", "2"),
    *_each("get", "", "--prefix", "--limit=1"),
    *_each("get", "", "--from-key", "--keys-only", "--limit=0x2"),
    *_each("get", "a", "c", "--order", "descend", "--sort-by", "modify"),
    *_each("get", "a", "c", "--sort-by=VERSION"),
    *_each("get", "a", "c", "--sort-by=create", "--limit=2"),
    *_each("get", "a", "c", "--sort-by=value", "--order=ASCEND"),
    *_each("get", "a", "--rev", "3"),
    *_each("get", "a", "--consistency=s"),
    *_each("get", "a", "b", "c"),
    *_each("put", "k", "v", "ignored"),
    *_each("put", "k", "--ignore-value"),
    *_each("put", "k", "--ignore-lease", "w"),
    *_each("put", "from-stdin", stdin=b"line 1\nline 2\n"),
    *_each("get", "from-stdin"),
    *_each("put", "--", "-dash", "-1"),
    *_each("get", "--prefix=true", "--keys-only=false", "--", "-"),
    *_each("txn", stdin=TAKEN),
    *_each("txn", stdin=NOT_TAKEN),
    *_each("txn", "-i", stdin=TAKEN),
    *_each("txn", "--interactive", stdin=b"\n\n\n"),
    *(Step(("txn",), text) for text in BAD_TXNS),
    *_each("del", "bb", "--prev-kv"),
    *_each("del", "nothing"),
    *_each("del", "k", "--prefix", "--prev-kv"),
    *_each("del", "a", "b"),
    *_each("compaction", "5"),
    Step(("compaction", "--physical", "7")),
    Step(("get", "a", "--rev", "2")),
    Step(("get", "a", "--rev", "100000")),
    Step(("get", "a", "--rev=-5")),
    Step(("put", "c", "d", "--lease=1234")),
    Step(("put", "", "d")),
    Step(("get", "")),
    Step(("put", "empty", "")),
    Step(("get", "empty")),
    Step(("-w", "protobuf", "get", "b")),
    Step(("-w", "protobuf", "put", "b", "p")),
)

CLUSTER: Final = (
    *_each("endpoint", "status", mask=STATUS),
    *_each("endpoint", "status", "--cluster", mask=STATUS),
    *_each("endpoint", "--cluster", "status", mask=STATUS),
    *_each("endpoint", "health", mask=TOOK),
    *_each("endpoint", "health", "--cluster", mask=TOOK),
    *_each("endpoint", "hashkv"),
    *_each("endpoint", "hashkv", "--cluster"),
    *_each("endpoint", "hashkv", "--rev=20"),
    *_each("endpoint", "hashkv", "--rev=2"),
    *_each("alarm", "list"),
    Step(("alarm", "disarm")),
    Step(("-w", "json", "alarm", "disarm")),
    *_each("member", "list"),
    *_each("member", "list", "--hex"),
    Step(("move-leader", "1")),
    Step(("member", "remove", "1")),
    Step(("member", "promote", "123")),
    Step(("member", "update", "123", "--peer-urls=http://a:1")),
    Step(("member", "add", "a", "--peer-urls=foo")),
    Step(("member", "add", "a", "--peer-urls=http://a")),
    Step(("member", "add", "a", "--peer-urls=http://a:1/x")),
    *(Step(("-w", name, "endpoint", "status")) for name in ("protobuf", "yaml")),
)

# An added member's id depends on the clock; the list is sorted by it.
MEMBERS: Final = tuple(
    step
    for port, name in enumerate(FORMATS, 1)
    for step in (
        Step(
            ("member", "add", "new", "--learner", f"--peer-urls=http://127.0.0.1:{port}"),
            mask=rb"Member +[0-9a-f]+|^ETCD_INITIAL_CLUSTER=.*",
        ),
        Step(("-w", name, "member", "promote", NEW_MEMBER)),
        Step(
            ("-w", name, "member", "update", NEW_MEMBER, f"--peer-urls=http://127.0.0.1:{port}1"),
            mask=rb'Member +[0-9a-f]+|"members":.*',
        ),
        Step(("-w", name, "member", "remove", NEW_MEMBER), mask=rb"Member +[0-9a-f]+"),
    )
)

# Refused before any request is sent.
REFUSED: Final = (
    Step(("get",)),
    Step(("get", "a", "--prefix", "--from-key")),
    Step(("get", "a", "b", "--prefix")),
    Step(("get", "a", "--keys-only", "--count-only")),
    Step(("get", "a", "--order=x")),
    Step(("get", "a", "--sort-by=x")),
    Step(("get", "a", "--consistency=x")),
    Step(("put",)),
    Step(("put", "k")),
    Step(("put", "k", "--ignore-lease")),
    Step(("put", "k", "v", "--ignore-value")),
    Step(("put", "k", "v", "--lease=zz")),
    Step(("put", "k", "v", "--lease=fffffffffffffffff")),
    Step(("del",)),
    Step(("del", "a", "b", "c")),
    Step(("del", "a", "--prefix", "--from-key")),
    Step(("del", "a", "b", "--from-key")),
    Step(("txn", "x")),
    Step(("compaction",)),
    Step(("compaction", "1", "2")),
    Step(("compaction", "x")),
    Step(("member", "add")),
    Step(("member", "add", "a")),
    Step(("member", "add", "a", "b")),
    Step(("member", "add", "a", "http://x:1")),
    Step(
        (
            "member",
            "remove",
        )
    ),
    Step(("member", "remove", "xx")),
    Step(("member", "remove", "1", "2")),
    Step(
        (
            "member",
            "promote",
        )
    ),
    Step(("member", "promote", "zz")),
    Step(("member", "update", "123")),
    Step(("move-leader",)),
    Step(("move-leader", "x")),
    Step(("put", "-w", "bogus", "a", "b")),
    Step(("alarm", "list", "x")),
    Step(("alarm", "disarm", "x")),
    Step(("check", "perf", "--load", "tiny")),
    Step(("check", "perf", "--prefix", "b")),  # there are keys
    Step(("get", "a", "--cacert", "/nonexistent")),
    Step(("bogus",), compare_output=False),
    Step(("put", "a", "b", "--bogus"), compare_output=False),
    Step(("put", "a", "-1"), compare_output=False),
    Step(("get", "a", "--limit=x"), compare_output=False),
    Step(("get", "a", "--limit=99999999999999999999"), compare_output=False),
    Step(("get", "a", "--limit"), compare_output=False),
    Step(("get", "a", "--prefix=maybe"), compare_output=False),
)

STEPS: Final = (*KEYS, *CLUSTER, *MEMBERS, *REFUSED)
