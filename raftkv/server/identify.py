"""Finding out who this member is, before it may vote.

Four cases, by the data directory and --initial-cluster-state:

    directory exists         it names cluster and member
    new                      both follow from the initial cluster; every member computes the same
    existing                 the member was added by MemberAdd; the others know its id by its
                             peer URLs
    any, with --rejoin       the cluster replaces the member of these peer URLs by a new learner

A directory that was just made may be a lost one's replacement. Before it takes part, a
majority of the other members must have said that it knows no other directory under this member
id. Whoever says so has noted this directory on disk first. So the majority that a later directory
asks has a member in common with this one's, whoever this one spoke to afterwards.
"""

import asyncio
import logging
import random
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import cast
from urllib.parse import urlsplit

from google.protobuf.message import DecodeError

from raftkv.errors import (
    MEMBER_NOT_FOUND,
    ConfigError,
    CorruptionError,
    MemberRemoved,
    ProtocolError,
)
from raftkv.pb import peer_pb2
from raftkv.server.dialling import connect
from raftkv.server.links import IDENTIFY_PATH, REJOIN_PATH, link_limits
from raftkv.wire.h2_client import ClientConnection

log = logging.getLogger("raftkv.identify")

ASK_SECONDS = 1.0
CHANGE_SECONDS = 10.0  # more than a member waits for its leader
RETRY_SECONDS = 0.2
SAY_ROUNDS = 50
STRANGER_ROUNDS = 25  # in which nobody who answers knows this member


class _Call(asyncio.Protocol):
    """One unary call on its own connection."""

    def __init__(self, path: bytes, request: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[bytes] = loop.create_future()
        self._path = path
        self._request = request
        self._connection = ClientConnection(
            self, b"identify", limits=link_limits(), now=loop.time()
        )
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connection.request(self._path, self._request, end=True)
        self._transport.write(self._connection.take_output())

    def data_received(self, data: bytes) -> None:
        self._connection.receive(data, asyncio.get_running_loop().time())
        output = self._connection.take_output()
        if output and self._transport is not None:
            self._transport.write(output)

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was closed")

    def headers(self, stream: int) -> None:
        pass

    def message(self, stream: int, message: bytes) -> None:
        if not self.answer.done():
            self.answer.set_result(message)

    def finished(self, stream: int, code: int, text: str) -> None:
        self._fail(text or f"status {code}")

    def writable(self, stream: int) -> None:
        pass

    def _fail(self, reason: str) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionError(reason))


async def ask(
    url: str,
    request: peer_pb2.IdentifyRequest,
    context: ssl.SSLContext | None,
    path: bytes = IDENTIFY_PATH,
    patience_seconds: float = ASK_SECONDS,
) -> peer_pb2.IdentifyReply | str:
    """One member's answer to `request`, or why it cannot be had now."""
    parts = urlsplit(url)
    transport: asyncio.BaseTransport | None = None
    try:
        transport, call = await asyncio.wait_for(
            connect(
                lambda: _Call(path, request.SerializeToString()),
                parts.hostname or "",
                parts.port or 0,
                context if parts.scheme == "https" else None,
            ),
            ASK_SECONDS,
        )
        answer = await asyncio.wait_for(call.answer, patience_seconds)
        return peer_pb2.IdentifyReply.FromString(answer)
    except TimeoutError:
        return "no answer"
    except (OSError, DecodeError, ProtocolError, ValueError) as error:
        return str(error) or type(error).__name__
    finally:
        if transport is not None:
            transport.abort()  # type: ignore[attr-defined]


async def join(
    urls: Iterable[str],
    request: peer_pb2.IdentifyRequest,
    context: ssl.SSLContext | None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> peer_pb2.IdentifyReply:
    """What the existing cluster says of the member with the peer URLs in `request`.

    Asks until a member answers that knows it. Raises ConfigError if most members, or all that
    answer for a while, know no such member (one may lag behind); CorruptionError if the member
    was removed, or is known with another data directory than the one that `request` names.
    """
    own_urls = request.peer_urls
    others = [url for url in urls if url not in own_urls]
    if not others:
        raise ConfigError("--initial-cluster-state existing needs other members' peer URLs")
    waiting = _Waiting("waiting for a member of the existing cluster to answer")
    rounds = 0
    while True:
        strangers = []
        lost = 0  # a member that had another directory; but who says so may lag, so ask all
        for url in others:
            reply = await ask(url, request, context)
            if isinstance(reply, str):
                waiting.because(url, reply)
                continue
            if reply.you_were_removed:
                raise MemberRemoved(removed_text(request.member_id))
            if reply.your_incarnation not in (0, request.incarnation):
                lost = reply.your_id or request.member_id
                continue
            if reply.your_id:
                return reply
            waiting.because(url, "it knows no member with these peer URLs (yet)")
            strangers.append(url)
        if lost:
            raise CorruptionError(rejoin_text(lost))
        rounds += bool(strangers)
        if 2 * len(strangers) > len(others) or rounds > STRANGER_ROUNDS:
            raise ConfigError(
                f"the cluster at {', '.join(strangers)} has no member with the peer URLs "
                f"{','.join(own_urls)}: add it first (raftctl member add)"
            )
        waiting.say()
        await pause(RETRY_SECONDS)


async def rejoin(
    urls: Iterable[str],
    request: peer_pb2.IdentifyRequest,
    context: ssl.SSLContext | None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> peer_pb2.IdentifyReply:
    """Has the cluster replace the member with the peer URLs in `request` by a new learner; what
    it says of that one. Asks until a member can have it done. Raises ConfigError without others, or
    if those that answer know no such member for a while.
    """
    others = [url for url in urls if url not in request.peer_urls]
    random.shuffle(others)  # one may know more than another
    if not others:
        raise ConfigError(
            "--rejoin needs other members' peer URLs: name them with --initial-cluster"
        )
    waiting = _Waiting("waiting for the cluster to take this member in again")
    strangers = 0
    while True:
        for url in others:
            reply = await ask(url, request, context, REJOIN_PATH, CHANGE_SECONDS)
            if not isinstance(reply, str):
                log.info("member %016x joins as a learner", reply.your_id)
                return reply
            waiting.because(url, reply)
            strangers += reply == MEMBER_NOT_FOUND.text
        if strangers > STRANGER_ROUNDS:
            raise ConfigError(
                f"--rejoin: the cluster has no member with the peer URLs "
                f"{','.join(request.peer_urls)}: add it first (raftctl member add)"
            )
        waiting.say()
        await pause(RETRY_SECONDS)


def removed_text(member: int) -> str:
    """What is said to a member that starts and was removed."""
    return (
        f"member {member:016x} has been removed from the cluster: its id is never used again. To "
        "take part again start with an empty data directory and --rejoin, or after "
        "raftctl member add"
    )


def rejoin_text(member: int) -> str:
    """What to do with a member whose data directory was lost."""
    return (
        f"member {member:016x} has taken part in this cluster with another data directory; "
        "this one has lost its votes and its log and must not take its place. "
        "To rejoin: start again with an empty data directory and --rejoin. By hand: "
        f"raftctl member replace {member:x}, or raftctl member remove {member:x} and "
        "raftctl member add NAME --peer-urls=URL, then start with an empty data directory and "
        "--initial-cluster-state existing. A new cluster that never had a leader has nothing to "
        "lose: it can begin again with empty data directories on all members"
    )


async def confirm_fresh(
    request: peer_pb2.IdentifyRequest,
    others: Mapping[int, Sequence[str]],
    context: ssl.SSLContext | None,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Returns when a majority of the other members has noted this directory as the only one.

    request: names the cluster, this member, and the directory's incarnation. others: peer URLs of
    every other member. Raises CorruptionError if one knows another directory, or the member as
    removed.
    """
    needed = len(others) // 2 + 1 if others else 0
    agreed: dict[int, None] = {}
    waiting = _Waiting("waiting for other members to confirm that this data directory is new")
    while len(agreed) < needed:
        for number, urls in others.items():
            if number in agreed:
                continue
            for url in urls:
                reply = await ask(url, request, context)
                problem = reply if isinstance(reply, str) else _problem(reply, request, number)
                if not problem:
                    agreed[number] = None
                    break
                waiting.because(url, problem)
        if len(agreed) < needed:
            waiting.say(answered=len(agreed), needed=needed)
            await pause(RETRY_SECONDS)


def _problem(reply: peer_pb2.IdentifyReply, request: peer_pb2.IdentifyRequest, number: int) -> str:
    """Why the answer of whoever should be member `number` confirms nothing; empty if it does."""
    if (reply.cluster_id, reply.member_id) != (request.cluster_id, number):
        return (
            f"it is member {reply.member_id:016x} of cluster {reply.cluster_id:016x}, not "
            f"member {number:016x} of cluster {request.cluster_id:016x}: compare "
            "--initial-cluster and --initial-cluster-token"
        )
    if reply.you_were_removed:
        raise MemberRemoved(removed_text(request.member_id))
    if reply.your_id != request.member_id:  # or still the one who had these peer URLs before
        return "it knows no such member (yet)"
    if reply.your_incarnation not in (0, request.incarnation):
        raise CorruptionError(rejoin_text(request.member_id))
    return "" if reply.your_incarnation else "it has not noted this directory (yet)"


class _Waiting:
    """Says what a start waits for and why, at first, when a reason changes, and now and then."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._reasons: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._rounds = 0

    def because(self, url: str, reason: str) -> None:
        """Why nothing was learned from `url` in this round."""
        self._reasons[url] = reason

    def say(self, **fields: int) -> None:
        """The end of a round."""
        if self._rounds == 0 or self._reasons != self._said:
            self._said = dict(self._reasons)
            log.info(self._text, extra={**fields, "reasons": self._said})
            self._rounds = SAY_ROUNDS
        self._rounds -= 1
