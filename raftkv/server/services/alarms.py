"""Maintenance.Alarm and Maintenance.Downgrade: what operators tell the cluster about itself.

Both go through the log, so every member knows of it; a list of alarms is a linearizable read. They
are answered also by a member that an alarm has put out of service: that is how it gets back.

A downgrade is only noted: raftkv's version is one, and there is no older storage format to go to.
The checks and their answers are etcd's (api/v3rpc/maintenance.go, server.go).
"""

import re
from typing import Any, Final

from google.protobuf.message import DecodeError

import raftkv
from raftkv.errors import (
    DOWNGRADE_BAD_FORMAT,
    DOWNGRADE_BAD_TARGET,
    DOWNGRADE_IN_PROGRESS,
    UNKNOWN_ALARM_ACTION,
    UNKNOWN_METHOD,
    ApiError,
)
from raftkv.kv import commands
from raftkv.kv.alarms import CORRUPT, NOSPACE, alarm_field
from raftkv.kv.machine import Result, StateMachine
from raftkv.pb import rpc_pb2
from raftkv.server.clients import ClientProtocol
from raftkv.server.routes import Routes
from raftkv.server.services.context import CANNOT_DECODE, Context
from raftkv.wire.grpc import RequestHead

_NAMES: Final = {NOSPACE: "NOSPACE", CORRUPT: "CORRUPT"}
# Major, minor and maybe a patch with what semantic versions allow behind it.
_VERSION: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)(\.(0|[1-9]\d*)([-+][0-9A-Za-z.+-]+)?)?")


def alarm_texts(machine: StateMachine) -> list[str]:
    """Every alarm as Go prints its message, for Status.errors."""
    return [
        (f"memberID:{member} " if member else "") + f"alarm:{_NAMES[kind]} "
        for kind, member in machine.alarms.raised()
    ]


def cluster_version() -> str:
    """The version that the members of a cluster have in common, as etcd tells it."""
    return ".".join((*raftkv.ETCD_VERSION.split(".")[:2], "0"))


def check_target(version: str) -> ApiError | None:
    """May the cluster be downgraded to this version? Exactly one minor version is allowed."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return DOWNGRADE_BAD_FORMAT
    major, minor = map(int, cluster_version().split(".")[:2])
    wanted = int(match[1]), int(match[2])
    return None if wanted == (major, minor - 1) else DOWNGRADE_BAD_TARGET


class AlarmService:
    """Alarm and Downgrade of the Maintenance service of one member."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def register(self, routes: Routes) -> None:
        """Adds the paths."""
        routes.unary[b"/etcdserverpb.Maintenance/Alarm"] = self.alarm
        routes.unary[b"/etcdserverpb.Maintenance/Downgrade"] = self.downgrade

    # --- alarms --------------------------------------------------------------------
    def alarm(self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes) -> None:
        """Maintenance.Alarm: list (of one type, or all), raise or disarm one."""
        context = self._context
        try:
            request = rpc_pb2.AlarmRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        error: ApiError | None
        if request.action == rpc_pb2.AlarmRequest.GET:
            error = context.read((self._list, client, stream, request.alarm))
        elif request.action in rpc_pb2.AlarmRequest.AlarmAction.values():
            error = context.propose(commands.ALARM, message, (self._answer, client, stream))
        else:
            error = UNKNOWN_ALARM_ACTION
        if error is not None:
            client.fail(stream, error)

    def _list(self, ticket: Any, error: ApiError | None) -> None:
        kind = ticket[3]
        machine = self._context.replica.machine
        found = b"".join(map(alarm_field, machine.alarms.raised(kind)))
        self._answer(ticket, error or Result(machine.revision, found))

    def _answer(self, ticket: Any, result: Result | ApiError) -> None:
        client, stream = ticket[1:3]
        if isinstance(result, ApiError):
            client.fail(stream, result)
        else:
            client.reply(stream, self._context.header(result.revision) + result.body)
        client.driver.mark_dirty(client)

    # --- downgrades ------------------------------------------------------------------
    def downgrade(
        self, client: ClientProtocol, stream: int, head: RequestHead, message: bytes
    ) -> None:
        """Maintenance.Downgrade: validate, enable or cancel."""
        context = self._context
        try:
            request = rpc_pb2.DowngradeRequest.FromString(message)
        except DecodeError:
            client.fail(stream, CANNOT_DECODE)
            return
        actions = rpc_pb2.DowngradeRequest
        error: ApiError | None
        if request.action == actions.VALIDATE:
            error = check_target(request.version)
            error = error or context.read((self._validated, client, stream))
        elif request.action in actions.DowngradeAction.values():
            error = check_target(request.version) if request.action == actions.ENABLE else None
            ticket = (self._downgraded, client, stream)
            error = error or context.propose(commands.DOWNGRADE, message, ticket)
        else:
            error = UNKNOWN_METHOD
        if error is not None:
            client.fail(stream, error)

    def _validated(self, ticket: Any, error: ApiError | None) -> None:
        machine = self._context.replica.machine
        if error is None and machine.upkeep.downgrade:
            error = DOWNGRADE_IN_PROGRESS
        self._downgraded(ticket, error or Result(machine.revision, b""))

    def _downgraded(self, ticket: Any, result: Result | ApiError) -> None:
        if isinstance(result, Result):
            body = rpc_pb2.DowngradeResponse(version=cluster_version()).SerializeToString()
            result = Result(result.revision, body)
        self._answer(ticket, result)
