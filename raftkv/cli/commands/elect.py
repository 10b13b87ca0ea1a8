"""`raftctl elect`: leads an election until a signal comes, or follows who leads it."""

import itertools
import os
import time
from collections.abc import Iterator

import click

from raftkv.cli.connection import ROUND_PAUSE_SECONDS, Connection
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.keeping import DEFAULT_TTL_SECONDS, KeptLease
from raftkv.cli.queueing import become_first
from raftkv.cli.signals import Interrupted, caught
from raftkv.pb import election_pb2, rpc_pb2

OBSERVE = "/v3electionpb.Election/Observe"
EXPIRED = "elect: session expired"


@click.command("elect", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="NAME [PROPOSAL]")
@click.option("-l", "--listen", is_flag=True, help="Print who leads, and every change.")
@click.pass_obj
def elect(session: Session, /, args: tuple[str, ...], listen: bool) -> None:
    """Campaign in the election NAME with PROPOSAL, and lead until a signal comes."""
    if len(args) not in (1, 2):
        raise CtlError(
            "elect takes one election name argument and an optional proposal argument",
            BAD_ARGUMENTS,
        )
    if len(args) == 1 and not listen:
        raise CtlError("no proposal argument but -l not set", BAD_ARGUMENTS)
    if len(args) == 2 and listen:
        raise CtlError("proposal given but -l is set", BAD_ARGUMENTS)
    name = os.fsencode(args[0])
    if listen:
        session.call(lambda connection: _listen(session, connection, name))
    else:
        value = os.fsencode(args[1])
        session.call(lambda connection: _lead(session, connection, name, value))


def _lead(session: Session, connection: Connection, name: bytes, value: bytes) -> None:
    with caught() as signals:
        lease = KeptLease(connection, DEFAULT_TTL_SECONDS)
        try:
            place = become_first(connection, lease, name, value, EXPIRED)
            request = rpc_pb2.RangeRequest(key=place.key)
            reply = connection.read("KV/Range", request, rpc_pb2.RangeResponse)
            try:
                session.printer.get(reply)
                lease.lost.wait()
            except Interrupted:
                return
            raise CtlError(EXPIRED)
        finally:
            signals.defer()
            lease.revoke()


def _listen(session: Session, connection: Connection, name: bytes) -> None:
    """Prints who leads, at whichever endpoint answers, until a signal comes. Errors: CtlError."""
    seen = (0, 0)
    with caught():
        try:
            for answer in _observe(connection, name):
                newest = (answer.kv.create_revision, answer.kv.mod_revision)
                if newest > seen:
                    seen = newest
                    session.printer.get(
                        rpc_pb2.RangeResponse(header=answer.header, kvs=[answer.kv])
                    )
        except Interrupted:
            return
    raise CtlError("elect: observer lost")


def _observe(connection: Connection, name: bytes) -> Iterator[election_pb2.LeaderResponse]:
    """What Observe answers; goes on at another endpoint while one is unavailable."""
    import grpc

    give_up = time.monotonic() + connection.target.dial_timeout_seconds
    connected = False
    endpoints = connection.target.endpoints
    for number, endpoint in enumerate(itertools.cycle(endpoints), 1):
        requests = iter([election_pb2.LeaderRequest(name=name)])
        answers = connection.stream(endpoint, OBSERVE, requests, election_pb2.LeaderResponse)
        try:
            for answer in answers:
                connected = True
                yield answer
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                return
        finally:
            answers.cancel()
        if not connected and time.monotonic() > give_up:
            return
        if number % len(endpoints) == 0:
            time.sleep(ROUND_PAUSE_SECONDS)
