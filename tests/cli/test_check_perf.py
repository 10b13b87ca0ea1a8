"""`raftctl check perf`: its verdicts, their form, and a short run against a real server."""

import json
import re
from collections.abc import Iterator

import pytest

from raftkv.cli.commands.check import LOADS, judge
from raftkv.cli.loading import Load, Measured
from tests.cli.running import raftctl
from tests.processes import raftkv

# What etcdctl 3.5 prints for a load that passed and for one that did not.
FORM = (
    r"(?:FAIL: too many errors\n(?:FAIL: ERROR\(.*\) -> \d+\n)+)?"
    r"(?:PASS: Throughput is \d+ writes/s|FAIL: Throughput too low: \d+ writes/s)\n"
    r"(?:PASS: Slowest request took \d+\.\d{6}s|Slowest request took too long: \d+\.\d{6}s)\n"
    r"(?:PASS: Stddev is \d+\.\d{6}s|Stddev too high: \d+\.\d{6}s)\n"
    r"(?:PASS|FAIL)"
)
LOAD = Load(100, 50, 10.0)
# A load that is too much leaves servers with work to do, behind which its keys are deleted.
PATIENT = ("--dial-timeout=60s", "--command-timeout=60s")


def measured(seconds: list[float], elapsed_seconds: float = 10.0, **errors: int) -> Measured:
    found = Measured(elapsed_seconds=elapsed_seconds)
    for one in seconds:
        found.note(one)
    found.errors.update(errors)
    return found


@pytest.mark.parametrize(
    ("found", "lines"),
    [
        (
            measured([0.01] * 1000),
            [
                "PASS: Throughput is 101 writes/s",
                "PASS: Slowest request took 0.010000s",
                "PASS: Stddev is 0.000000s",
                "PASS",
            ],
        ),
        (
            measured([0.01] * 900),
            [
                "FAIL: Throughput too low: 91 writes/s",
                "PASS: Slowest request took 0.010000s",
                "PASS: Stddev is 0.000000s",
                "FAIL",
            ],
        ),
        (
            measured([0.0, 0.6] * 500),
            [
                "PASS: Throughput is 101 writes/s",
                "Slowest request took too long: 0.600000s",
                "Stddev too high: 0.300000s",
                "FAIL",
            ],
        ),
        (
            measured([0.01] * 1000, overloaded=3),
            [
                "FAIL: too many errors",
                "FAIL: ERROR(overloaded) -> 3",
                "PASS: Throughput is 101 writes/s",
                "PASS: Slowest request took 0.010000s",
                "PASS: Stddev is 0.000000s",
                "FAIL",
            ],
        ),
    ],
    ids=["good", "slow", "uneven", "errors"],
)
def test_the_verdict_has_etcdctls_lines(found: Measured, lines: list[str]) -> None:
    passed, said = judge(LOAD, found)
    assert said == lines
    assert passed == (lines[-1] == "PASS")
    assert re.fullmatch(FORM, "\n".join(said))


def test_nothing_at_all_is_a_failure() -> None:
    passed, said = judge(LOAD, Measured())
    assert not passed
    assert re.fullmatch(FORM, "\n".join(said))


def test_the_loads_are_etcdctls() -> None:
    limits = {
        name: (load.limit, load.clients, load.duration_seconds) for name, load in LOADS.items()
    }
    assert limits == {
        "s": (150, 50, 60.0),
        "m": (1_000, 200, 60.0),
        "l": (8_000, 500, 60.0),
        "xl": (15_000, 1_000, 60.0),
    }


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with raftkv(tmp_path_factory.mktemp("perf")) as cluster:
        yield cluster.endpoints


def test_a_run_keeps_to_the_rate_and_cleans_up_behind_itself(endpoint: str) -> None:
    flags = ["--endpoints", endpoint, *PATIENT, "check", "perf", "--duration=1s"]
    done = raftctl(flags)
    text = done.out.decode()
    assert re.fullmatch(FORM + "\n", text)
    assert done.exit_code == (0 if text.endswith("PASS\n") else 1)
    as_json = raftctl([*flags, "-w", "json", "--auto-compact", "--load=small"])
    tree = json.loads(as_json.out)
    assert tree["errors"] == {}
    assert 0 < tree["writes_per_second"] <= 160
    assert tree["passed"] == (as_json.exit_code == 0)
    left = raftctl(["--endpoints", endpoint, *PATIENT, "get", "--prefix", "/etcdctl-check-perf/"])
    assert left.out == b""
    compacted = re.search(r"Compacted with revision (\d+)", as_json.err)
    assert compacted is not None
    old = raftctl(["--endpoints", endpoint, *PATIENT, "get", "a", f"--rev={int(compacted[1]) - 1}"])
    assert "compacted" in old.err


def test_a_load_that_no_server_carries_fails_with_exit_code_1(endpoint: str) -> None:
    flags = ["--endpoints", endpoint, *PATIENT, "check", "perf", "--load=xl", "--duration=500ms"]
    done = raftctl(flags)
    assert done.exit_code == 1, done
    assert done.out.endswith(b"\nFAIL\n")
    assert re.fullmatch(FORM + "\n", done.out.decode())


def test_defragmentation_is_refused_before_anything_is_put(endpoint: str) -> None:
    done = raftctl(["--endpoints", endpoint, *PATIENT, "check", "perf", "--auto-defrag"])
    assert done.exit_code == 4
    assert done.out == b""
