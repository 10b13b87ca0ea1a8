"""What is done next: pure generators (`base` explains them)."""

from jepsen_lite.generator.base import (
    PENDING,
    SECOND_NS,
    Answer,
    Context,
    Generator,
    Pending,
    Source,
    Wish,
    lift,
    repeat,
    sleep,
)
from jepsen_lite.generator.order import cycle, delay, limit, once, phases, stagger, time_limit
from jepsen_lite.generator.together import (
    any_of,
    clients,
    each_process,
    mix,
    nemesis,
    reserve,
    until_ok,
)

__all__ = [
    "PENDING",
    "SECOND_NS",
    "Answer",
    "Context",
    "Generator",
    "Pending",
    "Source",
    "Wish",
    "any_of",
    "clients",
    "cycle",
    "delay",
    "each_process",
    "lift",
    "limit",
    "mix",
    "nemesis",
    "once",
    "phases",
    "repeat",
    "reserve",
    "sleep",
    "stagger",
    "time_limit",
    "until_ok",
]
