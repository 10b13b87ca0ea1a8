"""What a member finds around itself: files, row stores, an event loop with its clock.

The composition root (`server/node.py`) takes these once, when it is built, and hands them to
whoever needs them. Programs that test a member give others, with faults in them; for everybody
else they are the plain functions themselves, so nothing on any path asks whether there is a fault.

Raft's clock, the leases' clock, every deadline and every timer of a member are its event loop's
(`loop.time`), so whoever makes the loop makes the clock. What else is measured (durations of a few
milliseconds, for pacing and for figures) changes no answer and stays `time.perf_counter`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import uvloop

from raftkv.storage.backend import Engine
from raftkv.storage.files import REAL, FileSystem
from raftkv.storage.leveldb import LEVELDB


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a member is built upon.

    files: everything on disk outside the row stores. engine: opens the row stores. new_loop:
    makes the event loop that `node.run` runs on. wall_clock_ns: nanoseconds since 1970, for
    operators to read; nothing is decided by it.
    """

    files: FileSystem = REAL
    engine: Engine = LEVELDB
    new_loop: Callable[[], uvloop.Loop] = uvloop.new_event_loop
    wall_clock_ns: Callable[[], int] = time.time_ns


PLAIN: Final = Surroundings()
