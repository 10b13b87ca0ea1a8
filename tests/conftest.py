"""For every test: Hypothesis repeats itself exactly, and nobody leaves a process behind."""

import os
import signal
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Final

import hypothesis
import psutil
import pytest

# raftkv's own fixtures, as pytest finds them by itself where raftkv is installed.
_FIXTURES = "raftkv.testing.plugin"
_INSTALLED = {point.value for point in entry_points(group="pytest11")}
pytest_plugins = [] if _FIXTURES in _INSTALLED else [_FIXTURES]

# A shell without job control starts what runs in its background with SIGINT ignored, and every
# program of a test would inherit that: none could be interrupted.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Slow tests end by themselves; this ends only what hangs, on a busy machine too.
SLOW_TIMEOUT_SECONDS: Final = 600

# The same examples on every run. To look for new ones: RAFTKV_HYPOTHESIS=explore make test
hypothesis.settings.register_profile("repeat", derandomize=True, deadline=None)
hypothesis.settings.register_profile("explore", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("RAFTKV_HYPOTHESIS", "repeat"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives slow tests that name no timeout a longer one."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_SECONDS))


@pytest.fixture(scope="session", autouse=True)
def no_process_is_left_behind() -> Iterator[None]:
    """Set up before every other fixture, so torn down after them."""
    yield
    left = [child for child in psutil.Process().children(recursive=True) if _counts(child)]
    names = [f"{child.pid}: {' '.join(child.cmdline())}" for child in left]
    for child in left:
        child.kill()
    assert not names, f"tests left processes behind: {names}"


def _counts(child: psutil.Process) -> bool:
    try:
        tracker = "multiprocessing.resource_tracker" in " ".join(child.cmdline())
        return child.status() != psutil.STATUS_ZOMBIE and not tracker
    except psutil.NoSuchProcess:
        return False
