"""The operations guide: its commands run as printed; what it names exists; no alert lacks an entry.

One shell runs every console block of the page in order, against members of its own on free ports.
"""

import re
import shutil
from functools import cache, partial
from pathlib import Path
from typing import Final

import click
import pytest
import yaml

from raftkv.cli.ctl import LazyGroup, cli
from raftkv.cli.flags import FLAGS
from tests import processes
from tests.architecture import ROOT
from tests.printed import (
    Step,
    console_steps,
    run,
    script,
    with_ports,
)

GUIDE: Final = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
METRICS: Final = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
RULES: Final = ROOT / "deploy/prometheus/raftkv.rules.yml"
PORTS: Final = (
    "2379",
    "2380",
    "22379",
    "22380",
    "32379",
    "32380",
    "42379",
    "42380",
    "12379",
    "12380",
)
# So slow a machine may be without an election that nobody has asked for.
PATIENT: Final = {"RAFTKV_HEARTBEAT_INTERVAL": "300", "RAFTKV_ELECTION_TIMEOUT": "3000"}
TIMEOUT_SECONDS: Final = 500.0  # half a minute on a machine that is idle


def section(title: str) -> str:
    """The text below one of the guide's chapters."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def named_metrics() -> set[str]:
    """All metrics that the guide speaks of."""
    return set(re.findall(r"\b(?:raftkv|etcd|grpc|process)_[a-z0-9_]+", GUIDE)) - {"grpc_code"}


def steps() -> list[Step]:
    """All commands of the guide."""
    blocks = re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [step for block in blocks for step in console_steps(block)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="the curl command is needed")
def test_every_command_of_the_guide_runs_as_printed(tmp_path: Path) -> None:
    """M17, M18, R33 as an operator meets them."""
    ports = dict(zip(PORTS, processes.free_ports(len(PORTS)), strict=True))
    text = with_ports(script(steps()), ports)
    run(steps(), text, tmp_path, ports, TIMEOUT_SECONDS, PATIENT)
    exposed = set(re.findall(r"^# TYPE (\S+) ", (tmp_path / "metrics.txt").read_text(), re.M))
    assert named_metrics() - exposed == set()


def test_no_command_of_the_guide_escapes_its_test() -> None:
    """Commands stand in console blocks, and in nothing else that looks like one."""
    assert len(steps()) > 80
    fences = re.findall(r"^ *```(.*)$", GUIDE, re.MULTILINE)
    assert set(fences[::2]) == {"console"}
    assert set(fences[1::2]) == {""}
    assert not re.search(r"^    \S", re.sub(r"^```.*?^```$", "", GUIDE, flags=re.M | re.S), re.M)


def test_the_guide_has_an_entry_for_every_alert_and_for_nothing_else() -> None:
    tree = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    alerts = {rule["alert"] for group in tree["groups"] for rule in group["rules"]}
    entries = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \|$", section("Alarms"), re.MULTILINE)
    assert len(entries) == len(alerts) > 20
    assert {name for name, _, _ in entries} == alerts
    mentioned = set(re.findall(r"`((?:etcd|raftkv)[A-Z]\w+)`", GUIDE))
    assert mentioned <= alerts


def test_the_guide_explains_its_metrics_and_the_page_of_metrics_knows_our_own() -> None:
    assert len(named_metrics()) > 15
    own = {name for name in named_metrics() if name.startswith("raftkv_")}
    assert {name for name in own if f"`{name}`" not in METRICS} == set()


@cache
def known_flags() -> set[str]:
    """Every flag of `raftkv serve` and of any command of raftctl."""
    flags = {f"--{flag.name}" for flag in FLAGS} | {"--help"}
    left: list[click.Command] = [cli]
    while left:
        command = left.pop()
        flags |= {name for param in command.params for name in param.opts}
        if isinstance(command, LazyGroup):
            context = click.Context(command)
            subcommands = map(partial(command.get_command, context), command.lazy)
            left += [one for one in subcommands if one is not None]
    return flags


def test_every_flag_that_the_guide_names_exists() -> None:
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", GUIDE))
    assert len(named) > 25
    assert named - known_flags() == set()


def test_the_guide_does_not_wait_by_the_clock() -> None:
    assert not re.search(r"\bsleep\b", "\n".join(step.command for step in steps()))
