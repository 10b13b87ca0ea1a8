"""What a process talks to the store with: one client of its own.

On real clusters it is a `raftkv.client.aio.Client`; in the simulator a `target.sim.SimClient`,
which is one as well but for what needs a thread or true time (kept leases and recipes).
"""

from typing import TypeAlias

from raftkv.client.aio import Client

Session: TypeAlias = Client
