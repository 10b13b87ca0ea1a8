"""Whatever is typed or piped in, raftctl ends with an exit code of its own, no traceback."""

import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.cli.connection import CallFailed, Connection
from tests.cli.running import raftctl

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6, 128}
COMMANDS = (
    ("put",),
    ("get",),
    ("del",),
    ("txn",),
    ("compaction",),
    ("endpoint", "status"),
    ("endpoint", "health"),
    ("endpoint", "hashkv"),
    ("member", "list"),
    ("member", "add"),
    ("member", "remove"),
    ("member", "update"),
    ("member", "promote"),
    ("move-leader",),
    ("version",),
    ("alarm", "list"),
    ("check", "perf"),
    ("diff",),
    ("diff", "--rev=1.."),
    ("export",),
    ("history",),
    ("import",),
    (),
)
# What a shell can pass: any bytes but NUL, as Python hands them over; and flags, good and bad.
WORD = st.one_of(
    st.binary(max_size=8).map(lambda raw: os.fsdecode(raw.replace(b"\0", b""))),
    st.sampled_from(
        [
            "--prefix",
            "--prefix=",
            "--from-key",
            "--limit",
            "--limit=-1",
            "--rev=0x",
            "--lease=ff",
            "--lease",
            "--hex",
            "-w",
            "json",
            "-w=table",
            "--peer-urls=http://[::1",
            "--peer-urls=http://a:1",
            "--learner",
            "--user=a:b",
            "--",
            "-",
            "-x",
            "--command-timeout=1h",
            "--command-timeout=-1s",
            "--dial-timeout=x",
            "--endpoints=",
            "--endpoints=,",
            "--insecure-transport=maybe",
            "--order=İ",
            "--sort-by=key",
            "--physical=F",
        ]
    ),
)
LINE = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [
            b"",
            b'mod("a") > "1"',
            b'value("a\\x") = "1"',
            b'lease("a") = "zz"',
            b"put a b",
            b"put a --lease=x",
            b"get a --limit=x",
            b"get a --help",
            b'del "\\400" x',
            b"get 'a",
            b"put --",
        ]
    ),
)


@pytest.fixture(scope="module", autouse=True)
def _no_network() -> Any:
    def refuse(*_: Any, **__: Any) -> Any:
        raise CallFailed("no network here")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_call", refuse)
        yield


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(COMMANDS), st.lists(WORD, max_size=4), st.lists(LINE, max_size=8))
def test_no_input_makes_raftctl_fall_over(
    command: tuple[str, ...], words: list[str], lines: list[bytes]
) -> None:
    done = raftctl([*command, *words], b"\n".join(lines))
    assert done.exit_code in EXIT_CODES
    assert "Traceback" not in done.err
    if done.exit_code not in (0, 1):
        assert "Error: " in done.err
