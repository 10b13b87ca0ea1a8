"""The blocks of docs/testing.md are tests of a project that has installed raftkv: they pass."""

import re

import pytest

import raftkv.testing.cluster
import raftkv.testing.thread_member  # noqa: F401 see test_plugin
from raftkv.testing import Cluster
from raftkv.testing.proxy import Network
from tests.architecture import ROOT
from tests.testing.test_plugin import PLUGIN, pytest_plugins

__all__ = ["pytest_plugins"]

TEXT = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_blocks_run_as_printed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    blocks = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    tests = [name for block in blocks for name in re.findall(r"^def (test_\w+)", block, re.M)]
    assert len(tests) >= len(blocks) > 4, "each block has a test"
    pytester.makepyfile(test_document="\n\n".join(blocks))
    result = pytester.runpytest_inprocess(*PLUGIN, "-p", "no:xdist", "--strict-markers")
    result.assert_outcomes(passed=len(tests))


def test_the_table_of_faults_names_methods_that_exist() -> None:
    table = TEXT[TEXT.index("| method |") : TEXT.index("A partition is silence")]
    named = re.findall(r"`([\w.]+)\(", table)
    assert len(named) > 10
    for name in named:
        owner = Network if name.startswith("network.") else Cluster
        assert callable(getattr(owner, name.removeprefix("network."))), name


def test_the_table_of_options_names_those_of_the_plugin() -> None:
    named = set(re.findall(r"^\| `(raftkv_\w+)` \|", TEXT, re.MULTILINE))
    source = (ROOT / "raftkv" / "testing" / "plugin.py").read_text(encoding="utf-8")
    assert named == set(re.findall(r'addini\("(\w+)"', source))
