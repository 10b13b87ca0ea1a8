"""`raftctl history`, `diff` and `get --at-rev` against a real server."""

import json
from collections.abc import Callable, Iterator

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.cli.comparing import compare
from raftkv.cli.connection import CallFailed
from raftkv.pb import kv_pb2, rpc_pb2, rpc_pb2_grpc
from tests.cli.running import Outcome, raftctl
from tests.processes import Cluster, etcd, raftkv


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with raftkv(tmp_path_factory.mktemp("history")) as started:
        yield started


@pytest.fixture(scope="module")
def endpoint(cluster: Cluster) -> str:
    return cluster.endpoints


def run(endpoint: str, *argv: str, stdin: bytes = b"") -> Outcome:
    return raftctl(["--endpoints", endpoint, *argv], stdin)


def done(endpoint: str, *argv: str, stdin: bytes = b"") -> bytes:
    outcome = run(endpoint, *argv, stdin=stdin)
    assert outcome.exit_code == 0, outcome.err
    return outcome.out


def put(endpoint: str, key: str, value: str) -> int:
    tree = json.loads(done(endpoint, "put", key, value, "-w", "json"))
    return int(tree["header"]["revision"])


def delete(endpoint: str, key: str) -> int:
    return int(json.loads(done(endpoint, "del", key, "-w", "json"))["header"]["revision"])


def test_history_has_every_version_and_every_deletion(endpoint: str) -> None:
    first = put(endpoint, "h", "1")
    second = put(endpoint, "h", "two words")
    gone = delete(endpoint, "h")
    back = put(endpoint, "h", "3")
    put(endpoint, "h2", "of another key")
    assert done(endpoint, "history", "h").decode().splitlines() == [
        f'{first} put    version 1 "1"',
        f'{second} put    version 2 "two words"',
        f"{gone} delete",
        f'{back} put    version 1 "3"',
    ]
    assert done(endpoint, "history", "h", "--limit=1").count(b"\n") == 1
    tree = json.loads(done(endpoint, "history", "h", "-w", "json"))
    assert [one["kind"] for one in tree["versions"]] == ["put", "put", "delete", "put"]
    assert [one["kv"]["mod_revision"] for one in tree["versions"]] == [first, second, gone, back]
    assert done(endpoint, "get", "h", "--at-rev", str(second)) == b"h\ntwo words\n"
    assert done(endpoint, "get", "h", f"--at-rev={gone}") == b""


def test_a_key_that_never_was_has_no_history(endpoint: str) -> None:
    outcome = run(endpoint, "history", "never")
    assert (outcome.exit_code, outcome.out) == (0, b"")
    assert 'no kept version of "never"' in outcome.err


def test_a_key_whose_last_change_was_a_deletion_has_its_whole_history(endpoint: str) -> None:
    put(endpoint, "dead", "x")
    delete(endpoint, "dead")
    kinds = [line.split()[1] for line in done(endpoint, "history", "dead").splitlines()]
    assert kinds == [b"put", b"delete"]


def test_diff_tells_added_changed_and_removed(endpoint: str) -> None:
    put(endpoint, "d/same", "s")
    put(endpoint, "d/changed", "old")
    put(endpoint, "d/again", "a")
    old = put(endpoint, "d/removed", "r")
    put(endpoint, "d/changed", "new")
    put(endpoint, "d/passing", "p")
    delete(endpoint, "d/passing")
    delete(endpoint, "d/removed")
    delete(endpoint, "d/again")
    put(endpoint, "d/again", "a")
    put(endpoint, "elsewhere", "e")
    new = put(endpoint, "d/zadded", 'z"')
    assert done(endpoint, "diff", f"--rev={old}..{new}", "d/").decode().splitlines() == [
        '~ "d/again" "a" -> "a"',
        '~ "d/changed" "old" -> "new"',
        '- "d/removed" "r"',
        '+ "d/zadded" "z\\""',
        f"1 added, 2 changed, 1 removed between revisions {old} and {new}",
    ]
    whole = done(endpoint, "diff", f"--rev={old}..", "--keys-only").decode().splitlines()
    assert '+ "elsewhere"' in whole
    assert done(endpoint, "diff", f"--rev={new}..{new}", "-w", "json") == b""
    trees = [
        json.loads(line)
        for line in done(endpoint, "diff", f"--rev={old}..{new}", "d/", "-w", "json").splitlines()
    ]
    assert [tree["kind"] for tree in trees] == ["changed", "changed", "removed", "added"]
    assert "after" not in trees[2]
    assert "before" not in trees[3]


def test_a_diff_of_more_keys_than_a_page_and_a_transaction_hold(endpoint: str) -> None:
    old = put(endpoint, "many", "")
    lines = "".join(f'{{"key":"m/{n:04}","value":"{n}"}}\n' for n in range(600))
    done(endpoint, "import", stdin=lines.encode())
    found = done(endpoint, "diff", f"--rev={old}..", "m/").decode().splitlines()
    assert found[:-1] == [f'+ "m/{n:04}" "{n}"' for n in range(600)]


@pytest.mark.parametrize("rev", ["", "5", "a..b", "9..5", "0..5", "..5", "-1..2", f"{1 << 63}.."])
def test_revisions_that_make_no_sense_are_refused(endpoint: str, rev: str) -> None:
    outcome = run(endpoint, "diff", f"--rev={rev}")
    assert outcome.exit_code == 128
    assert "--rev" in outcome.err


def test_a_pipe_gets_no_colours_and_other_formats_are_refused(endpoint: str) -> None:
    assert b"\x1b" not in done(endpoint, "diff", "--rev=1..")
    for argv in (("diff", "--rev=1.."), ("history", "h"), ("export",), ("top",), ("doctor",)):
        assert run(endpoint, *argv, "-w", "table").exit_code == 4


def test_what_a_compaction_forgot_is_said(tmp_path_factory: pytest.TempPathFactory) -> None:
    with raftkv(tmp_path_factory.mktemp("compacted")) as cluster:
        endpoint = cluster.endpoints
        put(endpoint, "k", "1")
        kept = put(endpoint, "k", "2")
        at = put(endpoint, "other", "x")
        last = put(endpoint, "k", "3")
        done(endpoint, "compaction", str(at))
        outcome = run(endpoint, "history", "k")
        assert outcome.out.decode().splitlines() == [
            f'{kept} kept   version 2 "2"',
            f'{last} put    version 3 "3"',
        ]
        assert f"history before revision {at} has been compacted" in outcome.err
        refused = run(endpoint, "diff", f"--rev={at - 1}..")
        assert refused.exit_code == 1
        assert f"the oldest that is kept is {at}" in refused.err
        assert done(endpoint, "diff", f"--rev={at}..").startswith(b'~ "k" "2" -> "3"\n')
        done(endpoint, "compaction", str(last))
        assert done(endpoint, "history", "k").decode().splitlines() == [
            f'{last} kept   version 3 "3"'
        ]


@pytest.mark.slow
@pytest.mark.parametrize("server", [raftkv, etcd])
def test_a_long_history_is_whole(
    tmp_path_factory: pytest.TempPathFactory, server: Callable[..., Cluster]
) -> None:
    """Also of etcd 3.5.1, whose bookmarks come before the events."""
    puts = 1_500
    with server(tmp_path_factory.mktemp("long")) as cluster:
        endpoint = cluster.endpoints
        with grpc.insecure_channel(endpoint) as channel:
            kv = rpc_pb2_grpc.KVStub(channel)
            calls = [
                kv.Put.future(rpc_pb2.PutRequest(key=key, value=b"x" * 100), timeout=20)
                for _ in range(puts)
                for key in (b"long", b"other")
            ]
            for call in calls:
                call.result()
        gone = delete(endpoint, "long")
        lines = done(endpoint, "history", "long").decode().splitlines()
        assert [line.split()[1] for line in lines] == ["put"] * puts + ["delete"]
        assert [line.split()[3] for line in lines[:-1]] == [str(n + 1) for n in range(puts)]
        assert lines[-1] == f"{gone} delete"
        assert done(endpoint, "history", "never") == b""
        done(endpoint, "compaction", str(gone))
        assert done(endpoint, "history", "long") == b""


STATE = st.dictionaries(st.binary(min_size=1, max_size=2), st.integers(1, 4), max_size=12)


@given(STATE, STATE)
def test_a_comparison_agrees_with_that_of_two_dictionaries(
    before: dict[bytes, int], after: dict[bytes, int]
) -> None:
    def pairs(state: dict[bytes, int]) -> Iterator[kv_pb2.KeyValue]:
        for key in sorted(state):
            yield kv_pb2.KeyValue(key=key, mod_revision=state[key])

    found = {one.key: one.kind for one in compare(pairs(before), pairs(after))}
    expected = {
        key: "added" if key not in before else "removed" if key not in after else "changed"
        for key in sorted(before | after)
        if before.get(key) != after.get(key)
    }
    assert found == expected
    assert list(found) == sorted(found)


def test_a_server_that_cannot_be_reached_is_an_error_not_an_empty_history() -> None:
    for argv in (("history", "k"), ("diff", "--rev=1..")):
        outcome = run("127.0.0.1:1", *argv, "--dial-timeout=100ms")
        assert outcome.exit_code == CallFailed("").exit_code
        assert "no endpoint could be reached" in outcome.err
