"""The hub of watches of one simulated member, driven as the server drives its own.

At the end of a turn it is told of a state that was replaced and of what the turn changed. Watchers
that are behind are served in slices between the turns, smaller ones than a server's, so that much
comes between two of them. The hub dies with its process, and its sessions with it.
"""

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Final, Protocol

from raftkv.kv.watches import Sink, Watcher, Watches
from raftkv.replica.effects import Effects
from raftkv.sim.world import MILLISECOND

if TYPE_CHECKING:
    from raftkv.sim.node import Node

SLICE_US: Final = 300  # from one slice to the next
POLL_US: Final = 30 * MILLISECOND  # how often full sinks are looked at


class Outlet(Sink, Protocol):
    """A sink whose connection ends with the process."""

    def lost(self) -> None:
        """The process has ended."""


class Hub:
    """See the module's docstring. stalls: how often a watcher met a full sink, over all processes.
    replaced: how often a state from another member came while there were watchers.

    watches: the hub of the running process, None while there is none.
    """

    def __init__(self, node: "Node", random: Random) -> None:
        self.watches: Watches | None = None
        self._node = node
        self._random = random
        self.replaced = 0
        self._stalls = 0
        self._slicing = False
        self._outlets: dict[Outlet, None] = {}

    @property
    def stalls(self) -> int:
        """See the class."""
        return self._stalls + (self.watches.stalls if self.watches is not None else 0)

    def begin(self) -> None:
        """A process has started."""
        self.watches = Watches(
            self._node.replica.machine, self._random.choice(self._node.cluster.timing.published)
        )

    def end(self) -> None:
        """The process has ended."""
        self._stalls = self.stalls
        self.watches = None
        self._slicing = False
        outlets, self._outlets = self._outlets, {}
        for outlet in outlets:
            outlet.lost()

    def open(self, outlet: Outlet) -> None:
        """A connection has begun: its outlet hears of the end of the process."""
        self._outlets[outlet] = None

    def add(self, watcher: Watcher, outlet: Outlet) -> int:
        """Begin to serve a watcher; the revision of the answer. Between two turns only."""
        assert self.watches is not None
        self._outlets[outlet] = None
        self.watches.add(watcher)
        self._serve()
        return self.watches.machine.revision

    def remove(self, watcher: Watcher, outlet: Outlet) -> None:
        """Serve a watcher of this outlet no more. Harmless if either is gone."""
        if outlet in self._outlets and self.watches is not None:
            self.watches.remove(watcher)

    def close(self, outlet: Outlet) -> None:
        """The connection is closed; its watchers were removed."""
        self._outlets.pop(outlet, None)

    def wake(self, watchers: Iterable[Watcher]) -> None:
        """The sink of these watchers has room again."""
        if self.watches is not None:
            self.watches.wake(watchers)
            self._serve()

    def turned(self, effects: Effects) -> None:
        """A turn has ended."""
        watches = self.watches
        assert watches is not None
        if effects.installed is not None:
            self.replaced += watches.count > 0
            watches.replaced(self._node.replica.machine)
        if effects.applied and watches.count:
            watches.publish(effects.changes, watches.machine.revision)
        self._serve()

    def _serve(self) -> None:
        watches = self.watches
        if watches is not None and (watches.behind or watches.unfinished) and not self._slicing:
            self._slicing = True
            self._node.later(SLICE_US, self._slice)

    def _slice(self) -> None:
        watches = self.watches
        assert watches is not None
        if watches.unfinished:
            watches.go_on()
        more = watches.catch_up(self._random.choice(self._node.cluster.timing.slice_units))
        more = more or watches.unfinished
        self._slicing = more or watches.behind > 0
        if self._slicing:
            self._node.later(SLICE_US if more else POLL_US, self._slice)
