"""The documents as a site: made without a warning, and its tables name what there is."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from raftkv import client
from raftkv.client import Client
from tests.architecture import ROOT

DOCS = ROOT / "docs"


@pytest.mark.slow
def test_the_site_is_made_without_a_warning(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, tmp_path],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reference = (tmp_path / "api.html").read_text(encoding="utf-8")
    for name in ("LeaderRunner", "fencing_token", "OutcomeUnknown", "put_with_ttl"):
        assert name in reference
    fetched = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?:[^"]+)', reference)
    assert fetched == [], "pages must not need a network"


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_plain_docstrings_become_markup(conf: ModuleType) -> None:
    plain = [
        "Takes *all* of `a_b`.",
        "",
        "    indented = 1",
        "",
        "* one",
        "  more",
        "* two_",
        "",
        "x",
    ]
    assert conf.as_rst(plain) == [
        r"Takes \*all\* of ``a_b``.",
        *("", "", "::", "", "    indented = 1", ""),
        *("* one", "  more", r"* two\_", "", "x"),
    ]


@pytest.mark.parametrize("name", ["python-etcd3", "kazoo"])
def test_the_tables_for_movers_name_what_there_is(name: str) -> None:
    text = (DOCS / "migrating" / f"{name}.md").read_text(encoding="utf-8")
    table = text[text.index("## Name by name") : text.index("## The same program")]
    ours = [row.split("|")[2] for row in re.findall(r"^\|.*\|$", table, re.MULTILINE)]
    methods = {word for cell in ours for word in re.findall(r"client\.(\w+)\(", cell)}
    assert len(methods) > 15
    assert {method for method in methods if not hasattr(Client, method)} == set()
    names = {word for cell in ours for word in re.findall(r"\b([A-Z][a-z]\w+|TLS)\(", cell)}
    assert {word for word in names if not hasattr(client, word)} == set()
