"""Puts the services together. What a service does not register yet answers Unimplemented."""

from google.protobuf.descriptor import ServiceDescriptor

from raftkv.pb import election_pb2, health_pb2, inspect_pb2, lock_pb2, rpc_pb2, v1_pb2
from raftkv.server.routes import Routes
from raftkv.server.services.alarms import AlarmService
from raftkv.server.services.backups import BackupService
from raftkv.server.services.cluster import ClusterService
from raftkv.server.services.context import Context
from raftkv.server.services.election import ElectionService
from raftkv.server.services.extras import ExtrasService
from raftkv.server.services.health import HealthService
from raftkv.server.services.kv import KvService
from raftkv.server.services.lease import LeaseService
from raftkv.server.services.lock import LockService
from raftkv.server.services.maintenance import MaintenanceService
from raftkv.server.services.queueing import Queues
from raftkv.server.services.range_stream import RangeStreamService
from raftkv.server.services.sessions import SessionsService
from raftkv.server.services.watch import WatchService


def service_descriptors() -> list[ServiceDescriptor]:
    """Every service of the API, built or not."""
    return [
        service
        for module in (rpc_pb2, lock_pb2, election_pb2, health_pb2, v1_pb2, inspect_pb2)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]


def known_services() -> dict[str, list[str]]:
    """Every service of the API, built or not, with its methods."""
    return {
        service.full_name: [method.name for method in service.methods]
        for service in service_descriptors()
    }


def register_all(
    routes: Routes,
    context: Context,
    health: HealthService,
    election_timeout_seconds: float,
    notify_seconds: float = 600.0,
) -> None:
    """Fills the table of paths.

    notify_seconds: between the bookmarks of quiet watches.
    """
    watching = context.driver.watches
    KvService(context).register(routes)
    RangeStreamService(context).register(routes)
    LeaseService(context).register(routes)
    ExtrasService(context).register(routes)
    SessionsService(context).register(routes)
    ClusterService(context).register(routes)
    MaintenanceService(context, election_timeout_seconds).register(routes)
    AlarmService(context).register(routes)
    BackupService(context).register(routes)
    WatchService(context, notify_seconds).register(routes)
    queues = Queues(context, watching)
    LockService(context, queues).register(routes)
    ElectionService(context, queues, watching).register(routes)
    health.register(routes)
    routes.ends.append(context.long_streams.drain)
