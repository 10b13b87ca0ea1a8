"""Fixtures of the tests of members in one process."""

import logging
from collections.abc import Iterator

import pytest

from tests.server.logged import Lines


@pytest.fixture
def lines() -> Iterator[Lines]:
    """Everything that is logged while the test runs."""
    handler = Lines()
    for name in ("raftkv", "asyncio"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("raftkv").setLevel(logging.INFO)
    yield handler
    for name in ("raftkv", "asyncio"):
        logging.getLogger(name).removeHandler(handler)
