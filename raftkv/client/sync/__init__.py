# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""The asynchronous face of the client library. `raftkv.client.sync` lists what it offers."""

from raftkv.client.sync.client import Client
from raftkv.client.sync.kv import Transaction

__all__ = ["Client", "Transaction"]
