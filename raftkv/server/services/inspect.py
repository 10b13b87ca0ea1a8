"""raftkv.v1.Inspect: what a member knows about itself and its peers, for operators' tools.

Nothing is collected for it: the answer is read from what the member keeps anyway, at the moment
of the call, so an unasked member pays nothing. It needs no leader and answers a learner's client.
"""

import os
import time
from collections.abc import Callable
from typing import Final

import raftkv
from raftkv.config import ServerConfig
from raftkv.pb import inspect_pb2 as pb
from raftkv.raft import describe
from raftkv.server.clients import ClientProtocol
from raftkv.server.latency import Summary
from raftkv.server.routes import Routes
from raftkv.server.services.context import Context
from raftkv.wire.grpc import RequestHead

PATH: Final = b"/raftkv.v1.Inspect/Inspect"


class InspectService:
    """raftkv.v1.Inspect of one member.

    counters: the member's counters by name, asked for at each call. wall_clock_ns: nanoseconds
    since 1970.
    """

    def __init__(
        self,
        context: Context,
        config: ServerConfig,
        counters: Callable[[], dict[str, int]],
        wall_clock_ns: Callable[[], int],
    ) -> None:
        self._context = context
        self._config = config
        self._counters = counters
        self._wall_clock_ns = wall_clock_ns
        self._settings = _settings(config)
        self._started = time.monotonic()

    def register(self, routes: Routes) -> None:
        """Adds the service's path."""
        routes.unary[PATH] = self.inspect

    def inspect(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Inspect.Inspect."""
        reply = pb.InspectResponse(
            name=self._config.name,
            version=raftkv.__version__,
            settings=self._settings,
            wall_clock_ns=self._wall_clock_ns(),
            uptime_ms=int((time.monotonic() - self._started) * 1000),
        )
        self._fill_log(reply)
        self._fill_state(reply)
        self._fill_disk(reply)
        reply.peers.extend(self._peers())
        reply.counters.update(self._counters())
        client.reply(stream, self._context.header_now() + reply.SerializeToString())

    def _fill_log(self, reply: pb.InspectResponse) -> None:
        replica = self._context.replica
        core = replica.core
        reply.role = "learner" if replica.is_learner else core.role
        reply.leader = replica.leader
        reply.first_index = core.log.first_index
        reply.last_index = core.last_index
        reply.stable_index = core.log.stable_index
        reply.commit_index = core.commit
        reply.applied_index = replica.machine.applied_index

    def _fill_state(self, reply: pb.InspectResponse) -> None:
        machine = self._context.replica.machine
        sizes = machine.status()
        reply.compacted_revision = machine.compacted_revision
        reply.db_bytes = sizes.db_size
        reply.db_in_use_bytes = sizes.db_size_in_use
        reply.quota_bytes = self._context.quota_backend_bytes

    def _fill_disk(self, reply: pb.InspectResponse) -> None:
        reply.log_sync.CopyFrom(_latency(self._context.driver.disk.syncs.summary()))
        try:
            disk = os.statvfs(self._config.data_dir)
        except OSError:
            return  # a total of 0 says that nothing is known
        reply.disk_free_bytes = disk.f_bavail * disk.f_frsize
        reply.disk_total_bytes = disk.f_blocks * disk.f_frsize

    def _peers(self) -> list[pb.Peer]:
        driver, replica = self._context.driver, self._context.replica
        assert driver.peers is not None
        progress = describe.followers(replica.core)
        found = []
        for member in replica.core.configuration.members():
            if member == replica.member:
                continue
            connected, round_trip_seconds = driver.peers.reach(member)
            record = replica.machine.members.get(member)
            peer = pb.Peer(
                id=member,
                name=record.name if record is not None else "",
                connected=connected,
                round_trip_us=round(round_trip_seconds * 1e6),
                voter=replica.core.configuration.is_voter(member),
            )
            seen = progress.get(member)
            if seen is not None:
                peer.match_index, peer.next_index = seen.match, seen.next
                peer.state, peer.active = seen.state, seen.active
                peer.unacknowledged_messages = seen.inflight_messages
                peer.unacknowledged_bytes = seen.inflight_bytes
            found.append(peer)
        return found


def _latency(summary: Summary) -> pb.Latency:
    return pb.Latency(
        count=summary.count,
        p50_us=round(summary.p50_seconds * 1e6),
        p99_us=round(summary.p99_seconds * 1e6),
        max_us=round(summary.max_seconds * 1e6),
    )


def _settings(config: ServerConfig) -> pb.Settings:
    client, peer = config.client_tls, config.peer_tls
    return pb.Settings(
        heartbeat_interval_ms=config.heartbeat_interval_ms,
        election_timeout_ms=config.election_timeout_ms,
        snapshot_count=config.snapshot_count,
        max_request_bytes=config.max_request_bytes,
        auto_compaction_seconds=int(config.auto_compaction_retention_seconds),
        auto_compaction_revisions=config.auto_compaction_retention_revisions,
        listen_client_urls=map(str, config.listen_client_urls),
        listen_peer_urls=map(str, config.listen_peer_urls),
        advertise_client_urls=map(str, config.advertise_client_urls),
        client_certificates_required=client is not None and client.require_client_cert,
        peer_certificates_required=peer is not None and peer.require_client_cert,
    )
