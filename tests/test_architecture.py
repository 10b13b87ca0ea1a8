"""The house keeps to the plan of raftkv/README.md: who imports whom, what is pure, how long it is.

Each rule is run twice: over the tree, and over a few lines that break it, so that a
rule which has gone blind is noticed.
"""

import ast
import filecmp
import subprocess
import sys
from pathlib import Path

import pytest

from tests import architecture
from tests.architecture import PACKAGE, ROOMS, ROOT, room_of, sources

MODULES = list(sources())
PURE = [(module, path) for module, path in MODULES if ROOMS[room_of(module)].pure]


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_every_module_belongs_to_a_room_of_the_table() -> None:
    assert {room_of(module) for module, _ in sources()} <= set(ROOMS)


def test_the_table_of_the_readme_and_of_this_test_name_the_same_rooms() -> None:
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = {name.strip("`/ ") for row in rows for name in row.split()}
    assert named == set(ROOMS) - {"__init__", "__main__"}


def test_rooms_import_only_what_their_row_allows() -> None:
    found = [
        f for module, path in MODULES for f in architecture.import_findings(module, _tree(path))
    ]
    assert found == []


def test_jepsen_lite_imports_only_what_its_rows_allow() -> None:
    found = [
        finding
        for module, path in architecture.jepsen_sources()
        for finding in architecture.jepsen_findings(module, _tree(path))
    ]
    assert found == []


def test_the_form_of_jepsen_lite_is_that_of_all_else() -> None:
    for module, path in architecture.jepsen_sources():
        assert architecture.form_findings(module, _tree(path)) == []
        assert len(path.read_text().splitlines()) <= architecture.FILE_LINES, module
        if room_of(module) == "generator":
            assert architecture.purity_findings(module, _tree(path)) == []


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("generator.base", "import asyncio"),
        ("generator.base", "import time"),
        ("generator.base", "from raftkv.client.aio import Client"),
        ("checker.witness", "import asyncio"),
        ("checker.witness", "from raftkv.server.node import Node"),
        ("workload.register", "from raftkv.server.node import Node"),
        ("run", "from raftkv.storage.files import Files"),
        ("run", "from jepsen_lite.member.launch import main"),
        ("report.page", "import urllib.request"),
    ],
)
def test_an_import_against_the_rows_of_jepsen_lite_is_found(module: str, code: str) -> None:
    assert len(architecture.jepsen_findings(module, ast.parse(code))) == 1


def test_nobody_prints_or_swallows_everything_and_functions_stay_short() -> None:
    found = [f for module, path in MODULES for f in architecture.form_findings(module, _tree(path))]
    assert found == []


def test_pure_rooms_depend_on_nothing_but_their_arguments() -> None:
    """Covers randomness, hash order of sets, hash() and, in kv/, floats."""
    found = [f for module, path in PURE for f in architecture.purity_findings(module, _tree(path))]
    assert found == []


def test_files_stay_below_the_cap() -> None:
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES}
    assert {m: n for m, n in lengths.items() if n > architecture.FILE_LINES} == {}


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("raft.core", "import time"),
        ("raft.core", "from asyncio import Queue"),
        ("raft.core", "def f():\n    import socket"),
        ("raft.core", "from raftkv import config"),
        ("raft.core", "from raftkv.kv.machine import Result"),
        ("kv.machine", "import grpc"),
        ("kv.machine", "from raftkv.raft.core import Core"),
        ("replica.replica", "from raftkv.storage.raftlog import RaftLog"),
        ("replica.replica", "from raftkv.wire.h2 import ServerConnection"),
        ("wire.h2", "import h2"),
        ("storage.raftlog", "import plyvel"),
        ("storage.raftlog", "from raftkv.raft.core import Core"),
        ("sim.world", "from raftkv.server.node import Node"),
        ("client.kv", "from raftkv.kv import machine"),
        ("server.node", "from raftkv.client import kv"),
        ("cli.server", "from raftkv.server.node import Node"),
        ("server.node", "import jepsen_lite"),
        ("server.node", "from . import disk"),
    ],
)
def test_an_import_against_the_table_is_found(module: str, code: str) -> None:
    assert len(architecture.import_findings(module, ast.parse(code))) == 1


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("raft.core", "from raftkv.raft.types import Entry"),
        ("raft.core", "from random import Random"),
        ("kv.machine", "from raftkv.pb import rpc_pb2"),
        ("replica.replica", "from raftkv.wire.record import encode"),
        ("storage.leveldb", "import plyvel"),
        ("cli.server", "def f():\n    from raftkv.server.node import Node"),
        ("cli.server", "from raftkv import __version__"),
    ],
)
def test_an_import_within_the_table_is_not(module: str, code: str) -> None:
    assert architecture.import_findings(module, ast.parse(code)) == []


@pytest.mark.parametrize(
    "code",
    [
        "import random\nx = random.random()",
        "import random\nr = random.Random(1)",
        "from random import randrange",
        "r = Random(1)",
        "x = hash(b'a')",
        "x = 0.5",
        "x = a / b",
        "for x in {1, 2}: pass",
        "s = set(); y = [x for x in s]",
        "s: frozenset[int] = f()\nfor x in s: pass",
        "def f(s: set[int] | None): return list(s)",
        "class A:\n    def f(self):\n        self._s = set()\n        return tuple(self._s)",
        "for x in a.keys() | b.keys(): pass",
        "s = set(); t = (*s,)",
        "s = set(); d = {x: 1 for x in s}",
    ],
)
def test_code_that_differs_from_run_to_run_is_found(code: str) -> None:
    assert architecture.purity_findings("kv.machine", ast.parse(code)) != []


@pytest.mark.parametrize(
    "code",
    [
        "for x in sorted({1, 2}): pass",
        "s = set(); n = sum(x > 1 for x in s)",
        "s = set(); y = sorted([x for x in s])",
        "s = set(); t = {x for x in s}",
        "for x in {1: 2}: pass",
        "x = a // b",
        "import random\ndef f(r: random.Random): return r.random()",
    ],
)
def test_code_that_does_not_is_left_alone(code: str) -> None:
    assert architecture.purity_findings("kv.machine", ast.parse(code)) == []


@pytest.mark.parametrize(
    "code",
    [
        "try: pass\nexcept: pass",
        "print(1)",
        "def f():\n" + "    x = 1\n" * (architecture.FUNCTION_LINES + 1),
    ],
)
def test_bad_form_is_found(code: str) -> None:
    assert len(architecture.form_findings("kv.machine", ast.parse(code))) == 1


def test_generated_code_is_what_the_protos_generate(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "generate-protos.sh"
    subprocess.run([script, sys.executable, tmp_path], check=True, timeout=100)
    fresh = tmp_path / "raftkv" / "pb"
    names = {path.name for path in fresh.iterdir()}
    committed = {p.name for p in (PACKAGE / "pb").iterdir() if p.is_file()}
    assert committed - {"__init__.py"} == names
    _, differing, errors = filecmp.cmpfiles(fresh, PACKAGE / "pb", sorted(names), shallow=False)
    assert (differing, errors) == ([], []), "run `make proto`"
