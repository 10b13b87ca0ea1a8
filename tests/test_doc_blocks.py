"""Every Python block of the documents is executed, in order, against a real cluster.

The blocks of a page share their names, as they would in one session. The endpoint that the pages
name is replaced by the cluster's. A page fails with the line of the document in its traceback.
docs/testing.md is executed by tests/testing/test_document.py, for its blocks are tests.
"""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from raftkv.client import Client
from raftkv.testing import Cluster
from tests.architecture import ROOT

DOCS: Final = ROOT / "docs"
ENDPOINT: Final = "127.0.0.1:2379"
EXECUTED_ELSEWHERE: Final = {"testing.md"}
FENCE: Final = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES: Final = sorted(
    str(path.relative_to(DOCS))
    for path in DOCS.rglob("*.md")
    if path.name not in EXECUTED_ELSEWHERE and "```python" in path.read_text(encoding="utf-8")
)
RECIPES: Final = sorted(path.name for path in (DOCS / "recipes").glob("*.md"))


def blocks(path: Path) -> list[str]:
    """The Python blocks, each behind so many empty lines that its lines have their numbers."""
    text = path.read_text(encoding="utf-8")
    return [
        "\n" * (text.count("\n", 0, found.start()) + 1) + found[2]
        for found in FENCE.finditer(text)
        if found[1] == "python"
    ]


def run(path: Path, endpoint: str) -> dict[str, object]:
    """Executes a page; returns its names."""
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(path):
        code = compile(block.replace(ENDPOINT, endpoint), str(path), "exec")
        exec(code, names)
    return names


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(3, processes=True) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run_as_printed(page: str, cluster: Cluster) -> None:
    cluster.clear()
    threads = set(threading.enumerate())
    names: dict[str, object] = {}
    try:
        names = run(DOCS / page, cluster.endpoint)
    finally:
        for one in names.values():
            if isinstance(one, Client):
                one.close()
    left = [one for one in threading.enumerate() if one not in threads and not one.daemon]
    assert left == []


def test_a_block_that_is_wrong_fails_with_its_line(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n")
    with pytest.raises(AssertionError) as caught:
        run(page, "")
    assert caught.traceback[-1].lineno + 1 == 8


def test_no_block_escapes_by_its_spelling() -> None:
    """Blocks are fenced by three backticks at the line's beginning, Python's are called python."""
    known = {"python", "sh", "console", "toml", "ini", "yaml", "json", "text", "{toctree}", ""}
    known |= {"{eval-rst}", "{autoclass}", "{automodule}"}
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        text = path.read_text(encoding="utf-8")
        assert {found[1] for found in FENCE.finditer(text)} <= known, path
        assert text.count("```python") == len(blocks(path)), path
        for found in FENCE.finditer(text):
            assert found[1] or "import " not in found[2], f"{path}: {found[2]}"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipes_page_tells_of_failure_first_and_shows_both_faces(name: str) -> None:
    text = (DOCS / "recipes" / name).read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    if name == "index.md":
        return
    assert headings[1:3] == ["What can go wrong", "How to use it"]
    code = "".join(blocks(DOCS / "recipes" / name))
    assert "from raftkv.client import" in code
    assert "from raftkv.client import aio" in code
    assert "asyncio.run(" in code


def test_every_recipe_of_the_client_has_its_page() -> None:
    source = (ROOT / "raftkv/client/aio/factories.py").read_text(encoding="utf-8")
    factories = set(re.findall(r"^    (?:async )?def ([a-z]\w+)\(", source, re.MULTILINE))
    pages = {name.removesuffix(".md").replace("-", "_") for name in RECIPES} - {"index"}
    assert factories == pages


SOURCES: Final = sorted((ROOT / "raftkv/client/aio/recipes").glob("*.py"))


@pytest.mark.parametrize("path", [*SOURCES, *DOCS.rglob("*.md")], ids=lambda path: path.name)
def test_no_example_writes_into_the_queue_of_a_lock(path: Path) -> None:
    """Each key below a lock's name counts as one who waits: such a write blocks it for ever."""
    text = path.read_text(encoding="utf-8")
    named = re.findall(r"\.(?:lock|rwlock|election|leader_runner)\(\s*\"([^\"]+)\"", text)
    written = re.findall(r"(?:Put|\.put)\(\s*f?\"([^\"]+)\"", text)
    assert [key for key in written for name in named if key.startswith(name + "/")] == []
