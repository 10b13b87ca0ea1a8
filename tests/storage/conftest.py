"""Every test that takes `place` runs on the real LevelDB and on the disk in memory."""

from pathlib import Path

import pytest

from tests.storage.rig import Place, memory_place, real_place


@pytest.fixture(params=["leveldb", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return real_place(str(tmp_path / "member")) if request.param == "leveldb" else memory_place()


@pytest.fixture
def real(tmp_path: Path) -> Place:
    return real_place(str(tmp_path / "member"))
