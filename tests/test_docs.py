"""What the documents promise: the status table, the tour, links and commands are true."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import grpc
import pytest

from raftkv.client import Client
from tests import processes
from tests.architecture import ROOT
from tests.conformance.calls import Rpc, every_rpc, status_of_empty_call
from tests.printed import (
    Step,
    console_steps,
    matches,
    run,
    script,
    with_ports,
)

README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS: Final = (
    *("README.md", "raftkv/README.md", "CHANGELOG.md"),
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")),
)
NOT_YET: Final = "not yet"
STATUSES: Final = {"works", "in part", NOT_YET}

RPCS: Final = {rpc.name: rpc for rpc in every_rpc()}


def promised() -> dict[str, str]:
    """The README's status table: RPC -> one of STATUSES."""
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([a-z ]+?) \|", README, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "an RPC stands twice in the status table"
    return dict(rows)


# --- the status table -----------------------------------------------------------


def test_the_status_table_lists_exactly_the_calls_of_the_api() -> None:
    assert set(promised()) == set(RPCS)
    assert set(promised().values()) <= STATUSES


def test_what_works_in_part_says_what_is_missing() -> None:
    partial = re.findall(r"^\| `\w+\.\w+` \| in part \| (.*?) ?\|$", README, re.MULTILINE)
    assert "" not in partial


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[grpc.Channel]:
    with (
        processes.raftkv(tmp_path_factory.mktemp("docs")) as cluster,
        grpc.insecure_channel(cluster.servers[0].endpoint) as channel,
    ):
        yield channel


@pytest.mark.slow
@pytest.mark.parametrize("rpc", RPCS.values(), ids=RPCS)
def test_a_call_is_unimplemented_exactly_when_the_table_says_not_yet(
    node: grpc.Channel, rpc: Rpc
) -> None:
    unimplemented = status_of_empty_call(node, rpc) is grpc.StatusCode.UNIMPLEMENTED
    assert unimplemented is (promised()[rpc.name] == NOT_YET)


# --- the tour -------------------------------------------------------------------


def tour() -> list[Step]:
    """The steps of the README's blocks marked `console tour` or `python tour`, in order.

    A program is one step; what its prints print stands behind them as comments.
    """
    steps = []
    marked = re.findall(r"^```(console|python) tour\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for language, block in marked:
        if language == "python":
            printed = re.findall(r"print\(.*\)  # (.*)$", block, re.MULTILINE)
            steps.append(Step(f"python - <<'END'\n{block}END", "\n".join(printed)))
            continue
        steps += console_steps(block)
    return steps


def test_the_comparison_of_output_is_exact_but_for_the_ellipsis() -> None:
    assert matches("OK", "OK\n")
    assert matches("a | ... | b", "a  |  x y | b")
    assert not matches("OK", "OK 2")
    assert not matches("a ... b", "a c")


PORTS: Final = ("2379", "22379", "32379")  # what the README says


@pytest.fixture
def local_cluster(tmp_path: Path) -> Iterator[list[int]]:
    """What `make run` starts, on other ports: the nodes' client ports."""
    base = processes.consecutive_free_ports(6)
    command = ["-m", "raftkv", "local", "--nodes", "3", "--base", str(base)]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--data-dir", tmp_path / "data"], stdout=log, stderr=log
        )
        try:
            ports = [base, base + 2, base + 4]
            for port in ports:
                processes.wait_for_read(f"127.0.0.1:{port}", lambda: process.poll() is None)
            _wait_for_addresses(f"127.0.0.1:{base}")
            yield ports
        finally:
            process.terminate()
            process.wait(timeout=120)


def _wait_for_addresses(endpoint: str) -> None:
    """A member serves a moment before the others know where its clients find it."""
    deadline = time.monotonic() + 60
    with Client(endpoint, timeout=60) as client:
        while not all(member.client_urls for member in client.members()):
            assert time.monotonic() < deadline, "a member never told its clients' addresses"
            time.sleep(0.05)


@pytest.mark.slow
def test_the_tour_runs_as_printed(tmp_path: Path, local_cluster: list[int]) -> None:
    steps = tour()
    assert len(steps) > 10
    ports = dict(zip(PORTS, local_cluster, strict=True))
    # Other clusters may run on this machine: the node to kill is the one of this test.
    text = with_ports(script(steps), ports)
    kill = text.replace("--name=node2", f"--data-dir={tmp_path}/data/node2")
    assert kill != text
    run(steps, kill, tmp_path, ports, timeout_seconds=300)


# --- links and commands ---------------------------------------------------------


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name: str) -> None:
    path = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (path.parent / link).exists()] == []


def test_every_make_command_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", README))
    assert named
    assert named <= targets
