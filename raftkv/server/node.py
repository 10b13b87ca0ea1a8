"""The composition root: one member of a cluster as a process.

Start: open the directory, find out who this member is, build machine, replica and driver,
listen for peers, make sure that a fresh directory may take part, start Raft's clock, listen
for clients. Stop (SIGTERM, SIGINT): say so to health checks, hand leadership over, let
running calls end, write everything out. A disk that failed ends the process at once: nothing
may be acknowledged after it.
"""

import asyncio
import contextlib
import gc
import logging
import os
import random
import signal
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import uvloop

from raftkv.config import ServerConfig, Url
from raftkv.errors import (
    INTERNAL_EXIT_CODE,
    ConfigError,
    MemberRemoved,
    RaftkvError,
    StorageError,
)
from raftkv.kv.backend import Backend
from raftkv.kv.machine import Bootstrap, MachineSettings, StateMachine
from raftkv.raft.core import CoreSettings
from raftkv.raft.membership import plain
from raftkv.raft.types import HardState, RecoveredLog, SnapshotMeta
from raftkv.replica.caretaker import UpkeepSettings
from raftkv.replica.replica import Replica, ReplicaSettings
from raftkv.server import counters, logs, tls
from raftkv.server.arrival import Arrival
from raftkv.server.autocompaction import AutoCompaction
from raftkv.server.clients import ClientListener, Door
from raftkv.server.descriptors import raise_limit
from raftkv.server.driver import Driver
from raftkv.server.entrance import Entrances
from raftkv.server.guard import Guard
from raftkv.server.http.building import Sites
from raftkv.server.membership import PEERS_FILE, KnownMembers
from raftkv.server.metrics.exposition import Exposition, measure
from raftkv.server.peers import Peers
from raftkv.server.restoring import first_members
from raftkv.server.routes import Routes
from raftkv.server.services.catalogue import known_services, register_all
from raftkv.server.services.context import Context
from raftkv.server.services.health import HealthService
from raftkv.server.services.inspect import InspectService
from raftkv.server.standing import REMOVED_TEXT, Standing
from raftkv.server.surroundings import PLAIN, Surroundings
from raftkv.server.timings import Timings
from raftkv.storage.recovery import DataDirectory, Identity
from raftkv.wire.h2 import ConnectionLimits

log = logging.getLogger("raftkv.server")

# The state of a new cluster counts as entry 1 of term 1: a member that joins later finds no
# entry before it and is sent the whole state, member table included.
FIRST_INDEX = 1
FIRST_TERM = 1
DRAIN_SECONDS = 3.0
CATCH_UP_ENTRIES = 5_000  # kept in the log behind a checkpoint (etcd's number)


def run(config: ServerConfig, surroundings: Surroundings = PLAIN) -> int:
    """Runs one member until it is told to stop; returns the process's exit code."""
    logs.configure(config.log_level, config.log_format, config.log_outputs)
    raise_limit()
    # Long switch intervals let a helper thread hold the interpreter lock against the loop.
    sys.setswitchinterval(0.0005)
    try:
        return uvloop.run(_serve(config, surroundings), loop_factory=surroundings.new_loop)
    except RaftkvError as error:
        log.error("%s", error)
        return error.exit_code if isinstance(error, StorageError) else 1


async def _serve(config: ServerConfig, surroundings: Surroundings) -> int:
    node = Node(config, surroundings)
    for name in (signal.SIGTERM, signal.SIGINT):
        node.loop.add_signal_handler(name, node.stopped.set)
    start = asyncio.create_task(node.start())
    stopped = asyncio.create_task(node.stopped.wait())
    try:
        await asyncio.wait((start, stopped), return_when=asyncio.FIRST_COMPLETED)
        while not start.done():  # it waits for other members; a cancellation may get lost in there
            start.cancel()
            await asyncio.wait((start,), timeout=0.1)
        if not start.cancelled():
            start.result()
            await stopped
    finally:
        stopped.cancel()
        await node.stop()
    return node.exit_code


def _log_behind(machine: StateMachine) -> RecoveredLog:
    """The empty log of a new cluster that begins with this state, a first or a restored one."""
    index, term = machine.applied_index, machine.applied_term
    return RecoveredLog(HardState(term), index, term, index, term, [], [])


class Node:
    """One member. `start`, then wait for `stopped`, then `stop`."""

    def __init__(self, config: ServerConfig, surroundings: Surroundings = PLAIN) -> None:
        self.config = config
        self._surroundings = surroundings
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        self.exit_code = 0
        self.health = HealthService()
        self.machine_settings = MachineSettings(max_txn_ops=config.max_txn_ops)
        self._servers: dict[str, list[asyncio.Server]] = {"client": [], "peer": []}
        self._entrances: list[Entrances] = []
        self._directory: DataDirectory | None = None
        self.driver: Driver | None = None
        self._context: Context | None = None
        self._peers: Peers | None = None
        self.clients: ClientListener | None = None
        self.exposition: Exposition | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._compaction: AutoCompaction | None = None
        self._standing: Standing | None = None
        self._guard: Guard | None = None
        self._closed = False

    # --- start --------------------------------------------------------------

    async def start(self) -> None:
        """Everything up to the moment when clients can connect."""
        config, around = self.config, self._surroundings
        peer_tls = config.peer_tls
        dial = tls.client_context(peer_tls) if peer_tls else None
        arrival = Arrival(config, around.files, dial)
        cluster, member, addresses = await arrival.place()
        config.data_dir.absolute().parent.mkdir(parents=True, exist_ok=True)
        directory = DataDirectory.open(
            str(config.data_dir), cluster, member, fs=around.files, engine=around.engine
        )
        self._directory = directory
        machine = self._machine(directory.state, cluster, member)
        recovered = directory.recovered
        bootstrapped = recovered.last_index >= FIRST_INDEX
        if bootstrapped:
            directory.check_applied(machine.applied_index)
        joining = machine.applied_index < FIRST_INDEX
        if not bootstrapped and not joining:
            recovered = _log_behind(machine)
        replica = self._replica(directory, machine, recovered)
        tick_seconds = config.heartbeat_interval_ms / 1000
        timings = Timings(config.warning_apply_seconds, config.warning_request_seconds)
        replica.writes.stopwatch.clock = time.perf_counter
        driver = Driver(self.loop, replica, directory, tick_seconds, self._failed, timings)
        self.driver = driver
        known = KnownMembers(os.path.join(config.data_dir, PEERS_FILE), around.files)
        known.begin_life(member, directory.identity.incarnation)
        known.learn_addresses(addresses)
        own_urls = tuple(str(url) for url in config.initial_advertise_peer_urls)
        peers = Peers(
            driver,
            directory.identity,
            known,
            own_urls,
            dial,
            config.election_timeout_ms / 1000,
            self.machine_settings,
        )
        peers.removed = self._removed
        driver.peers = peers
        self._peers = peers
        context = tls.server_context(peer_tls) if peer_tls else None
        for url in config.listen_peer_urls:
            await self._listen(url, peers.protocol, context, "peer")
        if joining:
            addresses = addresses or await arrival.ask_again(directory.identity)
            known.learn_addresses(addresses)
            await arrival.confirm(directory.identity, addresses)
        elif not bootstrapped:
            first = {number: one.peer_urls for number, one in machine.members.items()}
            known.learn_addresses(first)
            await arrival.confirm(directory.identity, first)
            self._bootstrap(directory, machine)
        peers.open = True
        self._freeze()
        driver.start()
        peers.members_changed()
        incarnation = directory.identity.incarnation
        self._standing = Standing(config, driver, incarnation, self._removed)
        driver.role_listeners.append(self._role_changed)
        peers.failover.started()
        await self._serve_clients(driver, directory.identity)
        self._timer = self.loop.call_later(0.2, self._tick)
        self._compaction = AutoCompaction(
            driver,
            config.auto_compaction_retention_seconds,
            config.auto_compaction_retention_revisions,
        )
        self._compaction.start()
        log.info(
            "serving",
            extra={
                "member-name": config.name,
                "cluster-id": f"{cluster:x}",
                "member-id": f"{member:x}",
                "client-urls": ",".join(str(url) for url in config.listen_client_urls),
                "peer-urls": ",".join(str(url) for url in config.listen_peer_urls),
            },
        )

    def _machine(self, backend: Backend, cluster: int, member: int) -> StateMachine:
        config = self.config
        bootstrap = None
        # Not for a member that has rejoined: its state comes from the others.
        described = config.name in config.initial_cluster and config.initial_cluster_state == "new"
        if described and (cluster, member) == (config.cluster_id, config.member_id):
            bootstrap = self._first_state()
        return StateMachine(backend, cluster, self.machine_settings, bootstrap)

    def _first_state(self) -> Bootstrap:
        config = self.config
        members = first_members(config)
        configuration = plain(one.id for one in members)
        return Bootstrap(configuration, members, FIRST_INDEX, FIRST_TERM)

    def _replica(
        self,
        directory: DataDirectory,
        machine: StateMachine,
        recovered: RecoveredLog,
    ) -> Replica:
        config = self.config
        heartbeat, election = config.heartbeat_interval_ms, config.election_timeout_ms
        settings = ReplicaSettings(
            core=CoreSettings(
                member=directory.identity.member,
                election_timeout_ticks=max(election // heartbeat, 2),
                heartbeat_ticks=1,
            ),
            request_timeout_seconds=5.0 + 2 * election / 1000,
            election_timeout_seconds=election / 1000,
            snapshot_count=config.snapshot_count,
            catch_up_entries=min(CATCH_UP_ENTRIES, config.snapshot_count),
            max_learners=config.max_learners,
            strict_changes=config.strict_reconfig_check,
            upkeep=UpkeepSettings(
                config.quota_backend_bytes,
                config.state_check_seconds,
                config.corrupt_check_seconds,
            ),
        )
        return Replica(
            settings,
            recovered,
            directory.log,
            machine,
            random.Random(random.SystemRandom().getrandbits(64)),
            random.SystemRandom().getrandbits(64),
        )

    def _bootstrap(self, directory: DataDirectory, machine: StateMachine) -> None:
        """Makes the state and the empty log of a new cluster durable."""
        machine.flush()
        directory.state.sync()
        index, term = machine.applied_index, machine.applied_term
        meta = SnapshotMeta(index, term, machine.configuration)
        directory.log.bootstrap(HardState(term), meta)

    async def _listen(
        self,
        url: Url,
        protocol: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext | None,
        side: str,
        protocols: Sequence[str] = tls.GRPC,
    ) -> None:
        if url.secure:
            assert context is not None
            entrances = Entrances(self.loop, context, protocol, side, protocols)
            if side == "client" and self.clients is not None:
                entrances.admits = self.clients.admits
                self.clients.entrances.append(entrances)
            self._entrances.append(entrances)
            protocol = entrances.protocol
        try:
            server = await self.loop.create_server(protocol, url.host, url.port, backlog=1024)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {url}: {error.strerror or error}; "
                "free the port or choose another URL"
            ) from None
        self._servers[side].append(server)

    async def _serve_clients(self, driver: Driver, identity: Identity) -> None:
        config = self.config
        context = Context(
            driver,
            identity.cluster,
            identity.member,
            config.max_request_bytes,
            config.max_txn_ops,
            config.quota_backend_bytes,
        )
        self._context = context
        asks_rows = config.initial_corrupt_check
        self._guard = Guard(driver, context, self.health, asks_rows=asks_rows)
        routes = Routes(known_services())
        register_all(
            routes,
            context,
            self.health,
            config.election_timeout_ms / 1000,
            config.watch_progress_notify_interval_seconds,
        )
        wall_clock_ns = self._surroundings.wall_clock_ns
        InspectService(context, config, self.counters, wall_clock_ns).register(routes)
        limits_ = ConnectionLimits(
            max_concurrent_streams=config.max_concurrent_streams,
            max_message_bytes=config.max_request_bytes + 512 * 1024,
            keepalive_min_time=config.grpc_keepalive_min_time_seconds,
            keepalive_interval=config.grpc_keepalive_interval_seconds,
            keepalive_timeout=config.grpc_keepalive_timeout_seconds,
        )
        clients = ClientListener(driver, routes, limits_)
        self.clients = clients
        assert self._peers is not None
        self.exposition = measure(config, context, self._peers, clients)
        max_bytes = limits_.max_message_bytes
        sites = Sites(config, context, routes, max_bytes, self.exposition, clients.tallies)
        await self._open_doors(clients, sites)
        clients.start()

    async def _open_doors(self, clients: ClientListener, sites: Sites) -> None:
        """Listens on every URL for clients, each with what is served there."""
        config = self.config
        self.health.draining.append(sites.stopping)
        web = Door(Routes({}), sites.clients)
        metrics = Door(Routes({}), sites.metrics)
        clients.door = Door(clients.routes, None if config.listen_client_http_urls else web.site)
        for urls, door in (
            (config.listen_client_urls, clients.door),
            (config.listen_client_http_urls, web),
            (config.listen_metrics_urls, metrics),
        ):
            protocols = tls.GRPC if door.site is None else tls.GRPC_AND_HTTP
            files = config.client_tls
            secure = tls.server_context(files, protocols) if files else None
            for url in urls:
                protocol = partial(clients.protocol, door)
                await self._listen(url, protocol, secure, "client", protocols)

    def _freeze(self) -> None:
        """What was loaded so far lives for ever: keep the collector from walking it."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 50, 100)

    def counters(self) -> dict[str, int]:
        """What this member has counted since it started, or counts now, by name."""
        assert self.clients is not None
        assert self._context is not None
        return {
            "client_connections": len(self.clients),
            "client_streams": self.clients.open_calls,
            "turns": self._context.driver.turns,
            **counters.of_services(self._context),
        }

    # --- while it runs --------------------------------------------------------

    def _tick(self) -> None:
        self._timer = self.loop.call_later(0.2, self._tick)
        assert self._peers is not None
        self._peers.tick(self.loop.time())
        assert self._standing is not None
        self._standing.review()
        if self._guard is not None:
            self._guard.tick()

    def _role_changed(self) -> None:
        assert self.driver is not None
        replica = self.driver.replica
        log.info(
            "raft state changed",
            extra={
                "role": replica.core.role,
                "term": replica.core.term,
                "leader": f"{replica.leader:x}",
            },
        )
        assert self._standing is not None
        self._standing.review()

    def _failed(self, error: Exception) -> None:
        """Disk or state cannot be trusted any more. Nothing is answered or sent from here on."""
        if isinstance(error, StorageError):
            log.critical("stopping: %s", error)
            code = error.exit_code
        else:
            log.critical("stopping: an error that should not exist", exc_info=error)
            code = INTERNAL_EXIT_CODE
        for handler in logging.getLogger("raftkv").handlers:
            handler.flush()
        os._exit(code)

    def _removed(self) -> None:
        if not self.stopped.is_set():
            log.error(REMOVED_TEXT)
            self.exit_code = MemberRemoved.exit_code
            self.stopped.set()

    # --- stop ---------------------------------------------------------------

    async def stop(self) -> None:
        """Hands over, drains, writes out. Safe after a failed start, and a second time."""
        if self._closed:
            return
        self._closed = True
        self.health.drain()
        if self._compaction is not None:
            self._compaction.stop()
        if self._timer is not None:
            self._timer.cancel()
        for server in self._servers["client"]:
            server.close()  # who comes now finds another member at once
        if self.driver is not None and self.clients is not None:
            await self._hand_over(self.driver.replica)
            self.clients.drain()
            await self._drain(self.clients)
        for server in self._servers["peer"]:
            server.close()
        for entrances in self._entrances:
            entrances.close()
        if self.driver is not None:
            self.driver.stop()
        if self.clients is not None:
            self.clients.stop()
        if self._peers is not None:
            self._peers.stop()
            await self._peers.intakes.settled()
        await asyncio.sleep(0)
        if self._directory is not None:
            self._directory.close()

    async def _hand_over(self, replica: Replica) -> None:
        """Moves leadership to the voter that has most of the log, within an election timeout."""
        target = replica.transfer_target()
        if not replica.is_leader or not target:
            return
        with contextlib.suppress(RaftkvError):
            replica.core.transfer(target)
        assert self.driver is not None
        self.driver.wake()
        for _ in range(self.config.election_timeout_ms // 10):
            if replica.leader == target:
                log.info("handed leadership over", extra={"to": f"{target:x}"})
                return
            await asyncio.sleep(0.01)

    async def _drain(self, clients: ClientListener) -> None:
        for _ in range(int(DRAIN_SECONDS / 0.01)):
            if not clients.open_calls:
                return
            await asyncio.sleep(0.01)
