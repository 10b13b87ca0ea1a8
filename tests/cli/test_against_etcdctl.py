"""raftctl says what etcdctl says: same output, same exit code, same error line.

The two run the same commands (`steps.STEPS`) against one real etcd each. Known
differences, all on purpose: etcdctl's usage text and client log on standard
error, its name in texts, `version`, a help page with exit code 0 for an unknown
subcommand, and two slips of its txn parser (a single-quoted word loses all but
one letter, an unknown operator ends in a stack trace).
"""

import fcntl
import os
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from raftkv.cli import ctl
from tests.cli.running import Outcome, etcdctl, raftctl
from tests.cli.steps import NEW_MEMBER, STEPS, Step
from tests.processes import ETCD, Cluster, Server, etcd, free_ports

pytestmark = pytest.mark.timeout(400)  # the recording is waited for by whoever comes first


def _fresh_etcd(directory: Path, ports: Sequence[int]) -> Cluster:
    client, peer = (f"http://127.0.0.1:{port}" for port in ports)
    directory.mkdir()
    command = [
        *(str(ETCD), "--log-level=error", "--unsafe-no-fsync", f"--data-dir={directory / 'data'}"),
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        f"--initial-cluster=default={peer}",
    ]
    return Cluster([Server("etcd", command, directory, ports[0], ports[1])])


def _record(
    run: Callable[[Sequence[str], bytes], Outcome], directory: Path, ports: Sequence[int]
) -> list[Outcome]:
    outcomes: list[Outcome] = []
    member = ""
    with _fresh_etcd(directory, ports) as cluster:
        for step in STEPS:
            argv = [member if word == NEW_MEMBER else word for word in step.argv]
            if "member" in argv:
                # etcd drops a membership change that comes before its log has moved on from
                # the last one, and lets the caller time out: let it move on.
                run(["--endpoints", cluster.endpoints, "put", "settle", "x"], b"")
            outcome = run(["--endpoints", cluster.endpoints, *argv], step.stdin)
            added = re.match(rb"Member +([0-9a-f]+) added", outcome.out)
            member = added[1].decode() if added else member
            outcomes.append(outcome)
    return outcomes


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Outcome, Outcome]]:
    """(etcdctl's outcome, raftctl's outcome) of each step: one recording for all test workers."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with (shared / "etcdctl-recorded").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # the others wait until it is there
        file.seek(0)
        if content := file.read():
            found: list[tuple[Outcome, Outcome]] = pickle.loads(content)
            return found
        directory = tmp_path_factory.mktemp("etcdctl")
        ports = free_ports(2)
        theirs = _record(etcdctl, directory / "theirs", ports)
        ours = _record(raftctl, directory / "ours", ports)
        outcomes = list(zip(theirs, ours, strict=True))
        file.write(pickle.dumps(outcomes))
    return outcomes


@pytest.mark.parametrize(
    "number", range(len(STEPS)), ids=[f"{i}:{step.label}" for i, step in enumerate(STEPS)]
)
def test_raftctl_prints_and_exits_as_etcdctl(
    recorded: list[tuple[Outcome, Outcome]], number: int
) -> None:
    step = STEPS[number]
    theirs, ours = recorded[number]
    assert ours.exit_code == theirs.exit_code
    if step.compare_output:
        assert step.masked(ours.out) == step.masked(theirs.out)
    assert ours.error_line.replace("raftctl", "etcdctl") == theirs.error_line


def test_the_comparison_covers_success_and_failure(
    recorded: list[tuple[Outcome, Outcome]],
) -> None:
    codes = [theirs.exit_code for theirs, _ in recorded]
    assert codes.count(0) > len(codes) / 2, "most steps must do something"
    assert set(codes) == {0, 1, 3, 4, 128}
    assert not any(ours.err.startswith("{") for _, ours in recorded), "no client log"


def test_a_mask_hides_only_what_it_names() -> None:
    step = Step(("x",), mask=rb"took = [0-9.]+ms")
    assert step.masked(b"a took = 1.5ms b") == step.masked(b"a took = 22.75ms b")
    assert step.masked(b"a took = 1.5ms b") != step.masked(b"c took = 1.5ms b")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with etcd(tmp_path_factory.mktemp("etcd"), "--unsafe-no-fsync") as cluster:
        yield cluster.endpoints


def test_a_txn_word_in_single_quotes_keeps_all_its_letters(server: str) -> None:
    argv = ["--endpoints", server, "txn"]
    done = raftctl(argv, b"\nput quoted 'v w'\nget quoted\n\n\n")
    assert done.out == b"SUCCESS\n\nOK\n\nquoted\nv w\n"


def test_a_txn_compares_a_lease_and_refuses_an_unknown_operator(server: str) -> None:
    argv = ["--endpoints", server, "txn"]
    assert raftctl(argv, b'lease("none") = "0"\n\nput x y\n\n\n').out == b"SUCCESS\n\nOK\n"
    refused = raftctl(argv, b'mod("b") >= "0"\n\nput x y\n\n\n')
    assert refused.exit_code == 3
    assert "unknown operator, use one of = != > <" in refused.err


def test_a_put_without_value_in_a_txn_never_takes_the_rest_of_the_txn_as_its_value(
    server: str,
) -> None:
    argv = ["--endpoints", server, "txn"]
    assert raftctl(argv, b"\nput swallow\nput second v\n\n\n").exit_code == 128
    assert raftctl(["--endpoints", server, "get", "swallow"]).out == b""


def test_revision_filters_select_by_creation_and_change(server: str) -> None:
    base = ["--endpoints", server]
    for key in ("f1", "f2", "f1"):
        raftctl([*base, "put", key, "v"])
    shown = raftctl([*base, "-w", "fields", "get", "f1"]).out.decode()
    (created,) = re.findall(r'"CreateRevision" : (\d+)', shown)
    (changed,) = re.findall(r'"ModRevision" : (\d+)', shown)
    everything = [*base, "get", "f", "--prefix", "--keys-only"]

    def keys(*flags: str) -> list[bytes]:
        return raftctl([*everything, *flags]).out.split()

    assert keys() == [b"f1", b"f2"]
    assert keys("--max-create-rev", created) == [b"f1"]
    assert keys("--min-create-rev", str(int(created) + 1)) == [b"f2"]
    assert keys("--min-mod-rev", changed) == [b"f1"]
    assert keys("--max-mod-rev", str(int(changed) - 1)) == [b"f2"]


def test_global_options_may_stand_before_and_behind_the_command_and_the_last_wins(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ETCDCTL_ENDPOINTS", server)
    assert raftctl(["put", "glob", "1"]).out == b"OK\n"
    assert raftctl(["get", "glob", "-w", "simple"]).out == b"glob\n1\n"
    assert b'"Count" : 1' in raftctl(["-w", "json", "get", "glob", "-w", "fields"]).out
    monkeypatch.setenv("RAFTCTL_WRITE_OUT", "fields")
    assert b'"Count" : 1' in raftctl(["get", "glob"]).out
    assert raftctl(["get", "glob", "--write-out=simple"]).out == b"glob\n1\n"
    monkeypatch.setenv("ETCDCTL_WRITE_OUT", "json")
    assert b'"Count" : 1' in raftctl(["get", "glob"]).out, "RAFTCTL_ wins over ETCDCTL_"


@pytest.mark.parametrize("group", ["member", "endpoint"])
def test_an_unknown_subcommand_is_an_error(group: str) -> None:
    done = raftctl([group, "bogus"])
    assert done.exit_code == 1
    assert done.error_line == f'Error: unknown command "bogus" for "raftctl {group}"'


@pytest.mark.parametrize("argv", [[], ["member"], ["endpoint"], ["get", "--help"], ["-h"]])
def test_help_is_printed_and_is_no_error(argv: list[str]) -> None:
    done = raftctl(argv)
    assert done.exit_code == 0
    assert done.out.startswith(b"Usage: raftctl")


def test_version_names_raftctl_and_the_api() -> None:
    assert raftctl(["version"]).out.startswith(b"raftctl version: ")
    assert raftctl(["version"]).exit_code == 0


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(shell: str) -> None:
    done = raftctl(["completion", shell])
    assert done.exit_code == 0
    assert b"_RAFTCTL_COMPLETE" in done.out


def test_completion_completes_commands_and_flags(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def completed(words: str, number: int, capture: pytest.CaptureFixture[str]) -> list[str]:
        monkeypatch.setenv("_RAFTCTL_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(number))
        with pytest.raises(SystemExit) as ended:
            ctl.run([])
        assert ended.value.code == 0
        return [line.partition(",")[2] for line in capture.readouterr().out.splitlines()]

    assert completed("raftctl me", 1, capsys) == ["member"]
    assert completed("raftctl member re", 2, capsys) == ["remove", "replace"]
    assert completed("raftctl get --keys", 2, capsys) == ["--keys-only"]
