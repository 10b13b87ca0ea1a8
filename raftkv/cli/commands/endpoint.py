"""`raftctl endpoint status`, `health` and `hashkv`: each endpoint asked for itself, all at once."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final, NamedTuple, TypeVar

import click

from raftkv.cli.connection import CallFailed, Connection
from raftkv.cli.ctl import CtlCommand, GoDuration, GoInt, LazyGroup, Session
from raftkv.cli.exits import CtlError
from raftkv.cli.printers import EndpointHash, EndpointHealth, EndpointStatus
from raftkv.pb import rpc_pb2

Found = TypeVar("Found")
UNIMPLEMENTED: Final = "rpc error: code = Unimplemented"
ALARM_NAMES: Final = {1: "NOSPACE", 2: "CORRUPT"}
PAUSE_SECONDS: Final = 0.2


@click.group(
    "endpoint",
    cls=LazyGroup,
    lazy={
        "status": "endpoint:status",
        "health": "endpoint:health",
        "hashkv": "endpoint:hashkv",
    },
    no_args_is_help=False,
    invoke_without_command=True,
)
@click.option("--cluster", is_flag=True, help="Every endpoint in the member list.")
@click.pass_context
def endpoint(ctx: click.Context, /, **_: Any) -> None:
    """Ask each endpoint in --endpoints."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _cluster_option() -> Callable[..., Any]:
    return click.option("--cluster", is_flag=True, help="Every endpoint in the member list.")


def _endpoints(connection: Connection, cluster: bool) -> list[str]:
    """The endpoints to ask. Errors: CallFailed."""
    if not _of_cluster(cluster):
        return list(connection.target.endpoints)
    return _client_urls(_members(connection))


def _of_cluster(cluster: bool) -> bool:
    """Whether --cluster was given, here or in front of the subcommand."""
    ctx = click.get_current_context()
    return cluster or bool(ctx.parent is not None and ctx.parent.params.get("cluster"))


def _members(connection: Connection) -> Sequence[rpc_pb2.Member]:
    try:
        request = rpc_pb2.MemberListRequest(linearizable=True)
        return connection.read("Cluster/MemberList", request, rpc_pb2.MemberListResponse).members
    except CallFailed as error:
        text = f"failed to fetch endpoints from etcd cluster member list: {error.text}"
        raise CallFailed(text) from None


def _client_urls(members: Sequence[rpc_pb2.Member]) -> list[str]:
    return list(dict.fromkeys(url for member in members for url in member.clientURLs))


def _ask_all(
    connection: Connection, endpoints: list[str], ask: Callable[[Connection, str], Found]
) -> Iterator[tuple[str, Found | CallFailed]]:
    """Each endpoint with what `ask` found or why it failed, in the order they answer."""

    def one(where: str) -> Found | CallFailed:
        alone = connection.only(where)
        try:
            return ask(alone, where)
        except CallFailed as error:
            return error
        finally:
            alone.close()

    with ThreadPoolExecutor(max_workers=max(len(endpoints), 1)) as pool:
        futures = {pool.submit(one, where): where for where in endpoints}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _in_order(
    session: Session, cluster: bool, what: str, ask: Callable[[Connection, str], Found]
) -> tuple[list[Found], CallFailed | None]:
    """(findings in the order of the endpoints, the last failure). Failures are printed."""

    def run(connection: Connection) -> tuple[list[Found], CallFailed | None]:
        endpoints = _endpoints(connection, cluster)
        results = dict(_ask_all(connection, endpoints, ask))
        failure = None
        found = []
        for where in endpoints:
            result = results[where]
            if isinstance(result, CallFailed):
                failure = result
                print(
                    f"Failed to get the {what} of endpoint {where} ({result.text})",
                    file=sys.stderr,
                )
            else:
                found.append(result)
        return found, failure

    found, failure = session.call(run)
    return found, failure


@click.command("status", cls=CtlCommand)
@_cluster_option()
@click.pass_obj
def status(session: Session, cluster: bool) -> int:
    """Print what each endpoint says of itself."""

    def ask(alone: Connection, where: str) -> EndpointStatus:
        request = rpc_pb2.StatusRequest()
        return EndpointStatus(
            where, alone.read("Maintenance/Status", request, rpc_pb2.StatusResponse)
        )

    found, failure = _in_order(session, cluster, "status", ask)
    session.printer.endpoint_status(found)
    return 0 if failure is None else failure.exit_code


@click.command("hashkv", cls=CtlCommand)
@_cluster_option()
@click.option("--rev", type=GoInt(), default=0, help="Up to this revision (0: all).")
@click.pass_obj
def hashkv(session: Session, cluster: bool, rev: int) -> None:
    """Print a hash of each endpoint's keys and their history."""

    def ask(alone: Connection, where: str) -> EndpointHash:
        request = rpc_pb2.HashKVRequest(revision=rev)
        return EndpointHash(
            where, alone.read("Maintenance/HashKV", request, rpc_pb2.HashKVResponse)
        )

    found, failure = _in_order(session, cluster, "hash", ask)
    session.printer.endpoint_hashes(found)
    if failure is not None:
        raise failure


def _check_health(alone: Connection, where: str) -> EndpointHealth:
    """A linearizable read, then the alarms: both must be fine."""
    started = time.perf_counter_ns()
    problem = ""
    try:
        alone.read("KV/Range", rpc_pb2.RangeRequest(key=b"health"), rpc_pb2.RangeResponse)
    except CallFailed as error:
        # A refused read shows that the member takes part: only its keys are closed to us.
        if error.text != "etcdserver: permission denied":
            problem = error.text
    took = time.perf_counter_ns() - started
    if not problem:
        problem = _alarms(alone)
    return EndpointHealth(where, not problem, took, problem)


def _alarms(alone: Connection) -> str:
    try:
        reply = alone.read("Maintenance/Alarm", rpc_pb2.AlarmRequest(), rpc_pb2.AlarmResponse)
    except CallFailed as error:
        if error.text.startswith(UNIMPLEMENTED):  # a server without alarms has none
            return ""
        return "Unable to fetch the alarm list"
    names = [ALARM_NAMES.get(int(one.alarm), "Unknown") for one in reply.alarms]
    return "Active Alarm(s): " + " ".join(names) + " " if names else ""


@click.command("health", cls=CtlCommand)
@_cluster_option()
@click.option(
    "--wait", type=GoDuration(), default=0.0, help="Ask again, so long, until all are healthy. [0s]"
)
@click.pass_obj
def health(session: Session, cluster: bool, wait: float) -> None:
    """Try a linearizable read on each endpoint."""
    deadline = time.monotonic() + wait
    of_cluster = _of_cluster(cluster)

    def run(connection: Connection) -> Health:
        members = _members(connection) if of_cluster else ()
        endpoints = _client_urls(members) if of_cluster else list(connection.target.endpoints)
        results = dict(_ask_all(connection, endpoints, _check_health))
        found = [results[where] for where in endpoints]
        return Health(
            [one for one in found if isinstance(one, EndpointHealth)],
            # etcdctl overlooks whoever has never started; who waits is waiting for them
            [f"{one.ID:x}" for one in members if wait and not one.clientURLs],
        )

    health = _until_healthy(lambda: session.call(run), deadline)
    session.printer.endpoint_health(health.found)
    if health.not_started:
        raise CtlError(f"unhealthy cluster: not started yet: {', '.join(health.not_started)}")
    if not health.all_well:
        raise CtlError("unhealthy cluster")


class Health(NamedTuple):
    """One round. not_started: ids of members that have no endpoint to ask yet."""

    found: list[EndpointHealth]
    not_started: list[str]

    @property
    def all_well(self) -> bool:
        """Whether there is nothing to wait for."""
        return not self.not_started and all(one.healthy for one in self.found)


def _until_healthy(ask: Callable[[], Health], deadline: float) -> Health:
    """What the last round found: the first in which all are healthy, or the one at the deadline.

    deadline: on the monotonic clock; one round is asked in any case. Errors: CallFailed.
    """
    while True:
        last = time.monotonic() >= deadline
        try:
            health = ask()
        except CallFailed:
            if last:
                raise
        else:
            if last or health.all_well:
                return health
        time.sleep(PAUSE_SECONDS)
