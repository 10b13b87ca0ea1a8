"""How much the process logs, which a command line sets for all of it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def levels_kept() -> Iterator[None]:
    """Sets the levels back that whatever runs inside has changed."""
    loggers = [logging.getLogger(name) for name in ("", "raftkv", "jepsen_lite")]
    before = [(one, one.level) for one in loggers]
    yield
    for one, level in before:
        one.setLevel(level)
