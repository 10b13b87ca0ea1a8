"""Clients of either face whose methods block, and what else the recipes' tests share."""

from collections.abc import Iterator

import pytest

from tests.client.faces import Faces


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Faces]:
    """Makes clients of each face in turn, and closes them."""
    faces = Faces(request.param)
    yield faces
    faces.close()
