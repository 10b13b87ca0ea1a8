"""Whole runs from the command line, against real processes; nothing may be left of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import psutil
import pytest

from raftkv.testing import Cluster

HERE = Path(__file__).resolve().parent.parent
DIRECTORY = HERE.name


def jepsen(*words: str, timeout: float = 110.0) -> subprocess.CompletedProcess[str]:
    """`python jepsen-lite ...`, as from a checkout."""
    return subprocess.run(
        [sys.executable, DIRECTORY, *words],
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@contextmanager
def begun(
    root: Path, *words: str, written_bytes: int = 0
) -> Iterator[tuple[subprocess.Popen[str], IO[str], IO[str]]]:
    """A command that runs, with its output and its standard error; ended behind the block.

    written_bytes: so long a history there is already.
    """
    with subprocess.Popen(
        [sys.executable, DIRECTORY, *words, "--store", str(root)],
        cwd=HERE.parent,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            wait_for_line(process.stderr, "running")
            deadline = time.monotonic() + 60
            while not has_history(root, written_bytes):
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(0.05)
            yield process, process.stdout, process.stderr
        finally:
            process.kill()


def wait_for_line(stream: IO[str], beginning: str) -> None:
    for line in stream:
        if line.startswith(beginning):
            break


def has_history(root: Path, size_bytes: int) -> bool:
    if not size_bytes:
        return True
    return any(path.stat().st_size > size_bytes for path in root.glob("*/history.jsonl"))


def the_run(root: Path) -> tuple[Path, dict[str, Any]]:
    (path,) = root.iterdir()
    run: dict[str, Any] = json.loads((path / "run.json").read_text())
    assert (path / "report.html").stat().st_size > 1000
    return path, run


def left_behind(root: Path) -> list[str]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = " ".join(process.info["cmdline"] or ())
        if str(root) in words and process.status() != psutil.STATUS_ZOMBIE:
            found.append(words)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "runs"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("-w", "nope"), "no workload 'nope'; there are: append"),
        (("-n", "nope"), "no nemesis 'nope'; there are: clock"),
        (("--system", "nope"), "no system 'nope'; there are: etcd, raftkv"),
        (("--system", "etcd", "-n", "disk"), "possible here: flap, "),
        (("--system", "etcd", "--mutant", "forget-the-vote"), "etcd runs as it is"),
        (("--endpoints", "127.0.0.1:1"), "no cluster answers at 127.0.0.1:1"),
        (("--endpoints", "127.0.0.1:1", "-n", "kill"), "possible here: none"),
        (("--keys", "0"), "at least 1"),
        (("--time", "0"), "above 0"),
        (("--set", "x"), "not name=value"),
    ],
)
def test_bad_input_is_one_clear_sentence(words: tuple[str, ...], text: str, root: Path) -> None:
    ended = jepsen("run", *words, "--store", str(root))
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not root.exists() or len(list(root.iterdir())) <= 1


def test_list_names_workloads_and_nemeses() -> None:
    ended = jepsen("list")
    assert ended.returncode == 0
    assert re.search(r"register +read, write", ended.stdout)
    assert re.search(r"partition +.*needs isolation\)", ended.stdout)
    assert re.search(r"flap +.*needs network\)", ended.stdout)


def test_a_cluster_that_runs_is_checked_and_left_as_it_was(root: Path) -> None:
    with Cluster(1) as cluster:
        common = ("run", "--endpoints", cluster.endpoint, "--time", "1", "--store", str(root))
        ended = jepsen(*common, "--clean-up")
        assert ended.returncode == 0, ended.stdout + ended.stderr
        _, run = the_run(root)
        assert run["valid"]
        assert run["options"]["world"] == "attach"
        again = jepsen(*common[:-1], str(root.parent / "again"))
        assert again.returncode == 0, again.stdout + again.stderr
        refused = jepsen(*common)
        assert refused.returncode == 2
        assert "the cluster is not empty" in refused.stderr
        assert "--prefix" in refused.stderr


def test_raftctl_verify_is_the_short_form(tmp_path: Path) -> None:
    with Cluster(1) as cluster:
        ended = subprocess.run(
            [
                *(sys.executable, "-c", "from raftkv.cli.ctl import main; main()"),
                *("--endpoints", cluster.endpoint),
                *("verify", "--workload", "set", "--time", "2", "--store", str(tmp_path / "v")),
            ],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            cwd=HERE.parent,
            env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert "Everything is valid" in ended.stdout
        assert the_run(tmp_path / "v")[1]["valid"]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_run_that_is_told_to_end_heals_stops_what_it_started_and_writes_what_there_is(
    root: Path,
) -> None:
    words = ("run", "-w", "register", "-n", "partition,kill", "--time", "600")
    with begun(root, *words, written_bytes=100_000) as (process, _, errors):
        process.send_signal(signal.SIGTERM)
        told = errors.read()
        assert process.wait(120) == 130
    assert "interrupted" in told
    assert "healing" in told
    _, run = the_run(root)
    assert run["final"]["interrupted"]
    assert len(run["final"]["members"]) == 3
    assert not run["valid"]
    assert run["verdicts"]["witness"]["valid"]
    assert run["verdicts"]["floors"]["undecided"]


def test_a_run_that_is_interrupted_twice_stops_at_once_and_reports_what_there_is(
    root: Path,
) -> None:
    """Ctrl-C, and again as soon as it says that it heals; a third one changes nothing more."""
    words = ("run", "--system", "etcd", "--nodes", "1", "-w", "set", "-n", "pause", "--time", "600")
    with begun(root, *words, written_bytes=10_000) as (process, output, errors):
        process.send_signal(signal.SIGINT)
        wait_for_line(errors, "healing")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        told = output.read()
        assert process.wait(100) == 130
    _, run = the_run(root)
    assert run["final"]["interrupted"]
    assert not run["valid"]
    assert run["verdicts"]["floors"]["undecided"]
    assert run["verdicts"]["stats"]["facts"]["operations"] > 10
    assert "Not decided" in told


@pytest.mark.slow
def test_a_series_that_is_told_to_end_waits_for_its_run_to_report(root: Path) -> None:
    with begun(root, "series", "--minutes", "30", "--system", "etcd") as (process, *_):
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=100)
        assert process.returncode == 130
    assert told.count("---") == 1
    _, run = the_run(root)
    assert run["final"]["interrupted"]
    assert len(run["final"]["members"]) == 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_real_processes_and_four_kinds_of_faults_at_once(root: Path) -> None:
    words = ("-w", "register", "-n", "partition,kill,pause,clock", "--time", "45", "--seed", "7")
    ended = jepsen("run", *words, "--store", str(root), timeout=280)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    path, run = the_run(root)
    facts = run["verdicts"]["floors"]["facts"]
    assert facts["operations"] > 1000
    assert all(facts[f"faults: {kind}"] > 0 for kind in ("partition", "kill", "pause", "clock"))
    assert run["verdicts"]["hashes"]["facts"]["compared"] == 3
    again = jepsen("check", str(path))
    assert again.returncode == 0, again.stdout + again.stderr
    history = path / "history.jsonl"
    history.write_bytes(history.read_bytes()[:-7])
    cut = jepsen("check", str(path))
    assert cut.returncode == 2
    assert "--partial" in cut.stderr


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_real_etcd_is_run_broken_and_checked_likewise(root: Path) -> None:
    """But for its logs: etcd 3.5.1 panics where a transaction's reads meet their deadline."""
    words = ("--system", "etcd", "-w", "append", "-n", "partition,kill,pause", "--time", "20")
    ended = jepsen("run", *words, "--store", str(root), timeout=180)
    _, run = the_run(root)
    verdicts = run["verdicts"]
    logs = verdicts.pop("logs")
    assert ended.returncode == (0 if logs["valid"] else 1), ended.stdout + ended.stderr
    for anomaly in logs["anomalies"]:
        assert "unexpected error during txn" in anomaly["text"]
    for name, verdict in verdicts.items():
        assert verdict["valid"], (name, verdict["anomalies"])
        assert not verdict["undecided"], name
    assert verdicts["hashes"]["facts"]["compared"] == 3
    assert verdicts["floors"]["facts"]["faults"] >= 3


@pytest.mark.slow
def test_a_series_makes_runs_and_counts_them_and_ends_with_what_cannot_be_made(
    root: Path,
) -> None:
    ended = jepsen("series", "--minutes", "0.5", "--store", str(root))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = re.search(r"valid: runs (\d+), operations (\d+), faults (\d+)", ended.stdout)
    assert told is not None, ended.stdout
    assert int(told[1]) == len(list(root.iterdir())) >= 1
    assert int(told[2]) > 20
    never = jepsen("series", "--minutes=9", "--concurrency=0", "--go-on", f"--store={root}")
    assert never.returncode == 2
    assert never.stdout.count("---") == 1
    unknown = jepsen("series", "--minutes=9", "--system=nope", f"--store={root}")
    assert unknown.returncode == 2
    assert "there is no system 'nope'" in unknown.stderr
