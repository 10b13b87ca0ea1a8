"""What a process talks to the store with: one client of its own.

It is a `raftkv.client.aio.Client`; in the simulator a `target.sim.SimClient`, which is one as well,
over simulated channels.
"""

from typing import TypeAlias

from raftkv.client.aio import Client

Session: TypeAlias = Client
