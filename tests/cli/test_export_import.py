"""`raftctl export` and `import` against a real server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from raftkv.cli.connection import OUTCOME_UNKNOWN_TEXT, CallFailed, Connection, Reply, Target
from raftkv.cli.exits import CtlError
from raftkv.cli.importing import ATTEMPTS, Guard, Numbered, Tally, batches, bring_in
from raftkv.cli.pairlines import Pair
from raftkv.pb import rpc_pb2
from tests.cli.running import Outcome, raftctl
from tests.processes import raftkv

PAGES = 1_203  # keys: more than two pages


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with raftkv(tmp_path_factory.mktemp("export")) as cluster:
        yield cluster.endpoints


def run(endpoint: str, *argv: str, stdin: bytes = b"") -> Outcome:
    return raftctl(["--endpoints", endpoint, *argv], stdin)


def done(endpoint: str, *argv: str, stdin: bytes = b"") -> bytes:
    outcome = run(endpoint, *argv, stdin=stdin)
    assert outcome.exit_code == 0, outcome.err
    return outcome.out


def lines_of(out: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def revision(endpoint: str) -> int:
    tree = json.loads(done(endpoint, "get", "no such key", "-w", "json"))
    found = tree["header"]["revision"]
    assert isinstance(found, int)
    return found


def put_many(endpoint: str, prefix: str, count: int) -> None:
    lines = (f'{{"key":"{prefix}{n:05}","value":"v{n}"}}\n' for n in range(count))
    done(endpoint, "import", stdin="".join(lines).encode())


def test_an_export_has_every_pair_of_one_revision_over_many_pages(endpoint: str) -> None:
    put_many(endpoint, "pages/", PAGES)
    at = revision(endpoint)
    done(endpoint, "put", "pages/00000", "later")
    first, *pairs = lines_of(done(endpoint, "export", "pages/", "--rev", str(at)))
    assert first == {"format": "raftkv-export", "version": 1, "revision": at, "count": PAGES}
    assert [one["key"] for one in pairs] == [f"pages/{n:05}" for n in range(PAGES)]
    assert [one["value"] for one in pairs] == [f"v{n}" for n in range(PAGES)]


def test_what_was_exported_is_there_again_after_an_import(endpoint: str, tmp_path: Path) -> None:
    done(endpoint, "put", "trip/text", 'grüße\n"quoted"')
    done(endpoint, "put", "trip/binary", stdin=b"\xff\x00\xfe")
    done(endpoint, "put", "trip/empty", "")
    file = tmp_path / "trip.jsonl"
    done(endpoint, "export", "trip/", "-o", str(file))
    before = done(endpoint, "get", "--prefix", "trip/")
    done(endpoint, "del", "--prefix", "trip/")
    assert done(endpoint, "import", str(file)) == b"3 written, 0 the same, 0 kept\n"
    assert done(endpoint, "get", "--prefix", "trip/") == before


def test_importing_twice_makes_no_second_revision(endpoint: str) -> None:
    put_many(endpoint, "twice/", 100)
    at = revision(endpoint)
    exported = done(endpoint, "export", "twice/")
    assert done(endpoint, "import", stdin=exported) == b"0 written, 100 the same, 0 kept\n"
    assert revision(endpoint) == at


@pytest.mark.parametrize(
    ("flags", "left", "said"),
    [
        ((), b"new", b"2 written, 1 the same, 0 kept"),
        (("--on-conflict=keep",), b"old", b"1 written, 1 the same, 1 kept"),
        (("--dry-run",), b"old", b"2 to write, 1 the same, 0 kept"),
    ],
)
def test_a_key_with_another_value_is_treated_as_asked(
    endpoint: str, flags: tuple[str, ...], left: bytes, said: bytes
) -> None:
    done(endpoint, "del", "--prefix", "guard/")
    done(endpoint, "put", "guard/a", "old")
    done(endpoint, "put", "guard/b", "same")
    text = b"".join(
        b'{"key":"guard/%b","value":"%b"}\n' % pair
        for pair in ((b"a", b"new"), (b"b", b"same"), (b"c", b"fresh"))
    )
    assert done(endpoint, "import", *flags, stdin=text).splitlines() == [said]
    assert done(endpoint, "get", "guard/a", "--print-value-only") == left + b"\n"
    fresh = done(endpoint, "get", "guard/c", "--print-value-only")
    assert fresh == (b"" if "--dry-run" in flags else b"fresh\n")


@pytest.mark.parametrize("flag", ["--on-conflict=fail", "--unchanged-since=1"])
def test_a_conflict_that_is_to_fail_names_the_line_and_writes_nothing_there(
    endpoint: str, flag: str
) -> None:
    done(endpoint, "put", "fail/a", "old")
    text = b'\n{"key":"fail/a","value":"new"}\n'
    outcome = run(endpoint, "import", flag, stdin=text)
    assert outcome.exit_code == 1
    assert "line 2: the key" in outcome.err
    assert done(endpoint, "get", "fail/a") == b"fail/a\nold\n"


def test_a_file_with_a_wrong_line_changes_nothing(endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.jsonl"
    good = b'{"key":"wrong/%03d","value":"v"}\n'
    file.write_bytes(b"".join(good % n for n in range(200)) + b'{"key":"wrong/x"}\n')
    outcome = run(endpoint, "import", str(file))
    assert outcome.exit_code == 3
    assert "wrong.jsonl: line 201: needs either 'value'" in outcome.err
    assert done(endpoint, "get", "--prefix", "wrong/") == b""


def test_a_file_that_was_cut_off_is_noticed_before_anything_is_written(
    endpoint: str, tmp_path: Path
) -> None:
    put_many(endpoint, "cut/", 5)
    whole = done(endpoint, "export", "cut/").splitlines(keepends=True)
    done(endpoint, "del", "--prefix", "cut/")
    file = tmp_path / "cut.jsonl"
    file.write_bytes(b"".join(whole[:-2]))
    outcome = run(endpoint, "import", str(file))
    assert outcome.exit_code == 3
    assert "3 pairs follow, but the first line promises 5" in outcome.err
    assert done(endpoint, "get", "--prefix", "cut/") == b""


def test_a_failed_export_leaves_the_old_file_and_no_other(endpoint: str, tmp_path: Path) -> None:
    file = tmp_path / "kept.jsonl"
    file.write_text("old")
    outcome = run(endpoint, "export", "--rev", "999999999", "-o", str(file))
    assert outcome.exit_code == 1
    assert "future revision" in outcome.err
    assert [one.name for one in tmp_path.iterdir()] == ["kept.jsonl"]
    assert file.read_text() == "old"


def test_leased_pairs_are_left_out_unless_they_are_asked_for(endpoint: str) -> None:
    done(endpoint, "put", "leased/a", "v", "--ttl", "10m")
    exported = done(endpoint, "export", "leased/")
    assert lines_of(exported)[1]["lease"]
    done(endpoint, "del", "leased/a")
    outcome = run(endpoint, "import", "-w", "json", stdin=exported)
    assert json.loads(outcome.out)["leased"] == 1
    assert done(endpoint, "get", "leased/a") == b""
    done(endpoint, "import", "--leased", stdin=exported)
    (pair,) = json.loads(done(endpoint, "get", "leased/a", "-w", "json"))["kvs"]
    assert "lease" not in pair


def test_no_bar_and_no_colour_go_to_a_pipe(endpoint: str) -> None:
    outcome = run(endpoint, "export")
    assert outcome.err == ""
    assert b"\x1b" not in outcome.out


# --- batches, conflicts and lost answers ----------------------------------------


def numbered(*pairs: tuple[bytes, bytes]) -> list[Numbered]:
    return [Numbered(n, Pair(key, value, False)) for n, (key, value) in enumerate(pairs, 1)]


def test_no_batch_is_too_large_nor_has_a_key_twice() -> None:
    many = numbered(*((b"%d" % n, b"v") for n in range(150)))
    assert [len(batch) for batch in batches(many)] == [64, 64, 22]
    large = numbered(*((b"%d" % n, bytes(300_000)) for n in range(3)))
    assert [len(batch) for batch in batches(large)] == [1, 1, 1]
    again = numbered((b"a", b"1"), (b"b", b"1"), (b"a", b"2"))
    assert [len(batch) for batch in batches(again)] == [2, 1]


class Meddled(Connection):
    """Somebody else writes a key between an import's look and its write; or answers get lost."""

    def __init__(self, target: Target, meddle: bytes = b"", lost_answers: int = 0) -> None:
        super().__init__(target)
        self.meddle = meddle
        self.lost_answers = lost_answers

    def write(self, method: str, request: Message, reply: type[Reply]) -> Reply:
        meddle, self.meddle = self.meddle, b""
        if meddle:
            put = rpc_pb2.PutRequest(key=meddle, value=b"theirs")
            super().write("KV/Put", put, rpc_pb2.PutResponse)
        answer = super().write(method, request, reply)
        if self.lost_answers:
            self.lost_answers -= 1
            raise CallFailed(f"lost: {OUTCOME_UNKNOWN_TEXT}")
        return answer


@pytest.mark.parametrize(("conflict", "left"), [("overwrite", b"mine"), ("keep", b"theirs")])
def test_a_write_of_somebody_else_meanwhile_is_judged_and_not_overwritten_unseen(
    endpoint: str, conflict: str, left: bytes
) -> None:
    key = b"meddled/" + conflict.encode()
    connection = Meddled(Target((endpoint,)), meddle=key)
    tally = Tally()
    try:
        pairs = numbered((key, b"mine"), (key + b"2", b"x"))
        bring_in(connection, pairs, Guard(conflict), tally, lambda _: None)
    finally:
        connection.close()
    assert done(endpoint, "get", key.decode(), "--print-value-only") == left + b"\n"
    assert tally == Tally(written=1 + (left == b"mine"), kept=int(left == b"theirs"))


def test_a_write_whose_answer_got_lost_is_made_once(endpoint: str) -> None:
    connection = Meddled(Target((endpoint,)), lost_answers=1)
    tally = Tally()
    try:
        bring_in(connection, numbered((b"lost/a", b"1")), Guard(), tally, lambda _: None)
    finally:
        connection.close()
    (pair,) = json.loads(done(endpoint, "get", "lost/a", "-w", "json"))["kvs"]
    assert pair["version"] == 1
    assert tally == Tally(same=1)


def test_an_import_that_gets_no_answer_gives_up(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = Meddled(Target((endpoint,)), lost_answers=10**6)
    nothing = rpc_pb2.ResponseOp(response_range=rpc_pb2.RangeResponse())
    seen = rpc_pb2.TxnResponse(responses=[nothing])
    monkeypatch.setattr(Meddled, "read", lambda *_: seen)
    try:
        with pytest.raises(CtlError, match=r"line 1: .* do not answer"):
            bring_in(connection, numbered((b"never", b"1")), Guard(), Tally(), lambda _: None)
    finally:
        connection.close()
    assert 10**6 - connection.lost_answers == ATTEMPTS
