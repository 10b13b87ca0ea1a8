"""A lease that raftctl keeps alive while it holds or waits for something.

A thread renews it three times per TTL, at whichever endpoint answers; a silent one is given a sixth
of the TTL. The lease counts as lost
when the servers say so, or when a whole TTL has passed since the last renewal was sent.
"""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from raftkv.cli.connection import Connection
from raftkv.cli.exits import CtlError
from raftkv.pb import rpc_pb2

RENEW: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
DEFAULT_TTL_SECONDS: Final = 60
_GONE_TEXT: Final = "etcdserver: requested lease not found"


class KeptLease:
    """See the module's docstring. lost: set when it is lost."""

    def __init__(self, connection: Connection, ttl_seconds: int) -> None:
        """Grants it. Errors: CtlError."""
        self._connection = connection
        ttl_seconds = ttl_seconds if ttl_seconds > 0 else DEFAULT_TTL_SECONDS
        self._renewed = time.monotonic()
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_seconds)
        answer = connection.write("Lease/LeaseGrant", request, rpc_pb2.LeaseGrantResponse)
        self.id = answer.ID
        self.lost = threading.Event()
        self._endpoints = list(connection.target.endpoints)  # who answered last comes first
        self._ttl_seconds = answer.TTL
        self._over = threading.Event()
        self._on_loss: list[Callable[[], None]] = []
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def when_lost(self, call: Callable[[], None]) -> None:
        """`call` is called, in another thread, when the lease is lost; at once if it is."""
        self._on_loss.append(call)
        if self.lost.is_set():
            call()

    def revoke(self) -> None:
        """Ends the lease, and its keys with it. Errors: CtlError, unless it has ended before."""
        self._over.set()
        request = rpc_pb2.LeaseRevokeRequest(ID=self.id)
        try:
            self._connection.write("Lease/LeaseRevoke", request, rpc_pb2.LeaseRevokeResponse)
        except CtlError as error:
            if error.text != _GONE_TEXT:
                raise

    def _keep(self) -> None:
        pause = self._ttl_seconds / 3
        while not self._over.wait(pause):
            sent = time.monotonic()
            ttl = self._renew()
            if ttl > 0:
                self._renewed = sent
                pause = ttl / 3
            elif ttl == 0 or time.monotonic() - self._renewed >= self._ttl_seconds:
                self._lose()
                return
            else:
                pause = min(self._ttl_seconds / 10, 0.5)

    def _renew(self) -> int:
        """The TTL that the lease has again, in seconds; 0: it is gone; -1: nobody answers."""
        import grpc

        request = rpc_pb2.LeaseKeepAliveRequest(ID=self.id)
        for endpoint in tuple(self._endpoints):
            try:
                answer = self._ask(endpoint, iter([request]))
            except (grpc.RpcError, CtlError, ValueError):
                continue  # ValueError: the channel was closed
            if answer is not None:
                self._endpoints.remove(endpoint)
                self._endpoints.insert(0, endpoint)
                return answer.TTL
        return -1

    def _ask(
        self, endpoint: str, requests: Iterator[rpc_pb2.LeaseKeepAliveRequest]
    ) -> rpc_pb2.LeaseKeepAliveResponse | None:
        reply = rpc_pb2.LeaseKeepAliveResponse
        call = self._connection.stream(endpoint, RENEW, requests, reply)
        patience = threading.Timer(max(self._ttl_seconds / 6, 0.5), call.cancel)
        patience.daemon = True
        patience.start()
        try:
            answer: rpc_pb2.LeaseKeepAliveResponse | None = next(call, None)
            return answer
        finally:
            patience.cancel()
            call.cancel()

    def _lose(self) -> None:
        if not self._over.is_set():
            self.lost.set()
            for call in self._on_loss:
                call()
