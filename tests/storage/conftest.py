"""Every test that takes `place` runs on the real LevelDB and on the disk in memory."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from raftkv.testing.scratch import Scratch
from tests.storage.rig import Place, memory_place, real_place


@pytest.fixture(params=["leveldb", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return real_place(str(tmp_path / "member")) if request.param == "leveldb" else memory_place()


@pytest.fixture
def real(tmp_path: Path) -> Place:
    return real_place(str(tmp_path / "member"))


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A directory in memory if there is room, for tests that open hundreds of members' files.

    They sync a lot, and nothing that these tests do to the files needs a disk: processes die there,
    not machines.
    """
    made = Scratch()
    yield made.path
    made.close()
