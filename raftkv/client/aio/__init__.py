"""The asynchronous face of the client library. `raftkv.client.aio` lists what it offers."""

from raftkv.client.aio.client import Client
from raftkv.client.aio.kv import Transaction

__all__ = ["Client", "Transaction"]
