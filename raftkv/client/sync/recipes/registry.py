# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""A service registry: instances register while they are well, others find them.

    with client.registry("services").register("web", "host-a", "10.0.0.7:80", health=ask):
        ...
    for instance in client.registry("services").discover("web"): ...

When things go wrong:

* The process dies: its registration goes with its lease, at most the TTL later. Until then others
  find it and must bear that nobody answers: a registry says who was well, not who will be.
* The process lives but its work hangs: that is what `health` is for. It is asked each `interval`;
  False, or an error, takes the registration away at once. A health function that does not answer
  renews nothing, so the lease runs out. When it answers True again, the registration is back.
* The servers are away for longer than the TTL: the registration is lost, and made again by itself
  as soon as they are back. `is_registered` says how it is, by the own clock.
* Somebody deletes the key by hand: it is written again at the next look, one per `interval`.
* Another process registers the same instance, as one that was started again does: the younger
  takes the place. The older one is told at its next look (`error` is Replaced) and gives up.
* The answer to a registration is lost: the key's lease tells whose it is.

Readers: `discover` asks the servers; `watch` keeps the instances in memory, and goes on serving the
last known ones while no server can be reached. `raftkv.client.naming` has the layout, which is that
of etcd's Go package for gRPC's resolver.
"""

import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from raftkv.client import naming
from raftkv.client.errors import (
    BadRequest,
    ClientError,
    ClusterChanged,
    LeaseError,
    OutcomeUnknown,
)
from raftkv.client.keys import Key, encoded
from raftkv.client.mirror import Snapshot
from raftkv.client.naming import Instance, Json, Replaced
from raftkv.client.patience import Patience
from raftkv.client.results import RangeResult
from raftkv.client.resuming import goes_on
from raftkv.client.sync import runtime
from raftkv.client.sync.recipes.cache import Cache
from raftkv.client.sync.recipes.marks import repeated
from raftkv.client.sync.recipes.queue import let_go
from raftkv.client.sync.recipes.view import View
from raftkv.client.txn import GetPrefix, Txn, key

if TYPE_CHECKING:
    from raftkv.client.sync.client import Client
    from raftkv.client.sync.lease import Lease

__all__ = ["Instance", "Registration", "Replaced", "ServiceRegistry"]

INTERVAL_SHARE: Final = 1 / 3  # of the TTL
RETRY_SECONDS: Final = 0.5  # after a look that no server could serve
STOP_SECONDS: Final = 5.0
REMEMBERED: Final = 64  # own leases: a put with an older one may have come late

Health = Callable[[], runtime.Eventually[bool]]

_log = logging.getLogger(__name__)


class Registration:
    """One instance, registered while this lasts. Ends with `close`, or its `with`.

    error: what has ended it by itself, or None.
    """

    def __init__(
        self,
        client: "Client",
        own: bytes,
        value: bytes,
        *,
        ttl: float,
        interval: float,
        health: Health | None,
    ) -> None:
        self.key = own
        self.error: ClientError | None = None
        self._client = client
        self._value = value
        self._ttl = ttl
        self._interval = interval
        self._health = health
        self._lease: Lease | None = None
        self._written = 0  # mod_revision of the own put; 0: there was none yet
        self._leases: deque[int] = deque(maxlen=REMEMBERED)  # that were ever this one's
        self._task: runtime.Task | None = None
        self._closing = runtime.Event()

    @property
    def is_registered(self) -> bool:
        """Whether others find it, by this process's own clock; asks nobody."""
        lease = self._lease
        return lease is not None and lease.alive

    def guard(self, txn: Txn) -> Txn:
        """`txn`, to succeed only while this registration is there."""
        lease = self._lease
        if lease is None:  # a missing key has lease 0, so that is no condition for "never"
            return txn.when(key(self.key).version < 0)
        return txn.when(key(self.key).lease == lease.id)

    def start(self, timeout: float | None = None) -> None:
        """Registers, if it is well, and begins to look after that. The recipe's own.

        timeout: seconds, None = the client's. Errors: ClientError, and then nothing of it is left.
        """
        if self._is_well():
            try:
                self._place(Patience(self._client.timeout if timeout is None else timeout))
            except BaseException:
                runtime.finish(self._withdraw)
                raise
        self._task = runtime.spawn(self._run)

    def close(self) -> None:
        """Takes the instance out of the registry; the second time nothing happens."""
        self._closing.set()
        try:
            if self._task is not None:
                self._task.stop(STOP_SECONDS)
        finally:
            self._withdraw()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        runtime.finish(self.close)

    # --- the task -----------------------------------------------------------------------------
    def _run(self) -> None:
        pause = self._interval
        try:
            while not self._closing.wait(pause):
                pause = self._look()
        except ClientError as error:
            self.error = error
            _log.warning("the registration of %r has ended: %s", self.key, error)
        except Exception as error:  # noqa: BLE001 - no thread to be had, or a fault of this library
            self.error = ClientError(f"the registration has failed: {error!r}")
            _log.exception("the registration of %r has failed", self.key)
        finally:
            if self.error is not None:
                self._withdraw()

    def _look(self) -> float:
        """Asks for the health and sees to what comes of it; returns seconds until the next look.

        Errors: what does not pass by itself.
        """
        is_well = self._is_well()
        if self._closing.is_set():
            return 0.0
        try:
            if is_well:
                self._keep()
            else:
                self._withdraw()
        except (LeaseError, OutcomeUnknown, ClusterChanged):
            return min(RETRY_SECONDS, self._interval)
        except ClientError as error:
            if not goes_on(error):
                raise
            return min(RETRY_SECONDS, self._interval)
        return self._interval

    def _is_well(self) -> bool:
        if self._health is None:
            return True
        try:
            return bool(self._health())
        except Exception as error:  # noqa: BLE001 - whatever it is, the instance is not well
            _log.warning("the health of %r cannot be told: %r", self.key, error)
            return False

    def _keep(self) -> None:
        lease = self._lease
        if lease is not None and lease.alive:
            if self._health is not None:
                lease.refresh(self._interval)
            there = self._client.get(self.key)
            if there.kv is not None and there.kv.lease == lease.id:
                return
        self._place(Patience(self._client.timeout))

    def _place(self, patience: Patience) -> None:
        """Puts the key, with a living lease. Errors: Replaced, other ClientErrors."""
        lease = self._lease
        if lease is None or not lease.alive:
            # What `health` vouches for is renewed by its answers, not by the keeper.
            lease = self._client.lease(
                self._ttl, keep_alive=self._health is None, timeout=patience.call_timeout()
            )
            older, self._lease = self._lease, lease
            self._leases.append(lease.id)
            if older is not None:
                let_go(older)
        there = (self._client.get(self.key, timeout=patience.call_timeout())).kv
        while True:
            if there is not None and there.lease == lease.id:
                self._written = there.mod_revision
                break
            if (
                there is not None
                and 0 < self._written < there.mod_revision
                and there.lease not in self._leases
            ):
                raise Replaced(f"another process has registered {self.key!r}")
            seen = 0 if there is None else there.mod_revision
            placing = naming.placing(self.key, seen, self._value, lease.id)
            result = repeated(self._client, placing, patience)
            if result.succeeded:
                self._written = result.revision
                break
            found = result.results[0]
            assert isinstance(found, RangeResult)
            there = found.kvs[0] if found.kvs else None
        if self._closing.is_set():
            self._withdraw()

    def _withdraw(self) -> None:
        """Ends the lease, and the key with it, unless another process has the key by now."""
        lease, self._lease = self._lease, None
        if lease is not None:
            runtime.finish(let_go, lease)


class ServiceRegistry:
    """See the module's docstring. Made by `Client.registry`.

    name: what the keys begin with. ttl: seconds that a registration outlives its process.
    """

    def __init__(self, client: "Client", name: Key, *, ttl: float = 10.0) -> None:
        self.name: bytes = encoded(name)
        self._client = client
        self._ttl = ttl

    def register(
        self,
        service: Key,
        instance: Key,
        address: str,
        *,
        metadata: Json = None,
        health: Health | None = None,
        interval: float | None = None,
        timeout: float | None = None,
    ) -> runtime.Acquiring[Registration]:
        """Registers an instance of a service.

        instance: its name among the service's. address: where it is found. metadata: what else
        others should know. health: asked each `interval` seconds (a third of the TTL if not
        given) whether the instance is well; while it is not, it is not registered. timeout:
        seconds for the first registration, None = the client's.
        Errors: BadRequest, other ClientErrors; then nothing is registered.
        """
        return runtime.acquiring(
            self._register(
                naming.place(self.name, encoded(service), encoded(instance)),
                naming.written(address, metadata),
                health,
                self._ttl * INTERVAL_SHARE if interval is None else interval,
                timeout,
            )
        )

    def _register(
        self,
        own: bytes,
        value: bytes,
        health: Health | None,
        interval: float,
        timeout: float | None,
    ) -> Registration:
        if not 0 < interval < self._ttl:
            raise BadRequest("a registration must be looked after more often than its TTL")
        made = Registration(
            self._client, own, value, ttl=self._ttl, interval=interval, health=health
        )
        made.start(timeout)
        return made

    def discover(self, service: Key, timeout: float | None = None) -> tuple[Instance, ...]:
        """The instances of a service, by name. timeout: seconds, None = the client's."""
        prefix = naming.below(self.name, encoded(service))
        found = self._client.read(GetPrefix(prefix), timeout=timeout)
        return naming.instances(prefix, found.kvs)

    def watch(self, service: Key) -> View[tuple[Instance, ...]]:
        """The instances of a service, kept up to date: for `with`, and to be iterated."""
        prefix = naming.below(self.name, encoded(service))

        def read(snapshot: Snapshot) -> tuple[Instance, ...]:
            return naming.instances(prefix, snapshot.kvs.values())

        return View(Cache(self._client, prefix), read)
