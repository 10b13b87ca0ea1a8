"""What starting costs, counted in modules: a slow import would be paid by every command."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest

# A server, a chart or a second framework has no place in a command that puts one key.
HEAVY = (
    "asyncio",
    "uvloop",
    "yaml",
    "rich",
    "matplotlib",
    "plyvel",
    "hpack",
    "sortedcontainers",
    "psutil",
    "ssl",
    "urllib.request",
    "http.client",
    "raftkv.server",
    "raftkv.raft",
    "raftkv.kv",
    "raftkv.storage",
    "raftkv.wire",
    "raftkv.client",
    "raftkv.sim",
    "raftkv.pb.rpc_pb2_grpc",
    "raftkv.cli.commands.txn",
    "raftkv.cli.commands.member",
    "raftkv.cli.commands.endpoint",
    "raftkv.cli.table",
    "raftkv.cli.terminal",
    "raftkv.cli.surveying",
    "raftkv.cli.diagnosis",
    "raftkv.cli.loading",
    "raftkv.cli.importing",
    "raftkv.pb.inspect_pb2",
)
PROGRAM = """
import sys
from raftkv.cli import {module}
code = {module}.run(sys.argv[1:])
import json
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def modules_after(module: str, argv: Sequence[str]) -> set[str]:
    """The modules that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module), *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stderr.splitlines()[-1]))


def _heavy(modules: set[str], but: Sequence[str] = ()) -> list[str]:
    return [name for name in HEAVY if name in modules and name not in but]


@pytest.mark.parametrize("command", [("put", "k", "v"), ("get", "k"), ("del", "k")])
def test_a_kv_command_imports_grpc_and_nothing_else_that_is_heavy(command: Sequence[str]) -> None:
    flags = ["--endpoints=127.0.0.1:1", "--dial-timeout=1ms"]
    modules = modules_after("ctl", [*flags, *command])
    assert "grpc" in modules, "the command went as far as its call"
    allowed = ("asyncio", "ssl") if _grpc_imports_asyncio() else ()
    assert _heavy(modules, allowed) == []


def _grpc_imports_asyncio() -> bool:
    """True if `import grpc` alone does so: then it is not ours to avoid."""
    program = "import grpc, sys; print('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("argv", [("version",), ("put",), ("get", "--help")])
def test_a_command_that_makes_no_call_does_not_import_grpc(argv: Sequence[str]) -> None:
    modules = modules_after("ctl", argv)
    assert "grpc" not in modules
    assert _heavy(modules) == []


@pytest.mark.parametrize(
    "argv", [("top", "--help"), ("doctor", "-w", "table"), ("diff",), ("import", "a", "b")]
)
def test_an_operator_command_draws_and_dials_only_when_it_has_to(argv: Sequence[str]) -> None:
    modules = modules_after("ctl", argv)
    assert {"grpc", "rich", "raftkv.server"} & modules == set()


def test_wrong_server_arguments_are_refused_before_the_server_is_imported() -> None:
    modules = modules_after("server", ["serve", "--election-timeout=1"])
    assert _heavy(modules, ("urllib.request",)) == []
    assert "grpc" not in modules
