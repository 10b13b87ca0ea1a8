# Made by scripts/generate_sync.py from raftkv/client/aio: edit that.
"""One client's connection: channels to its endpoints, and each call over as many as it needs.

What to do is decided elsewhere (`retrying.Trial`, `endpoints.Places`, `statuses.mapped`); here it
is done. A call goes to the endpoint that answered last. In front of it stands the login, if
there is a user: a refused token is renewed once per call. Behind it stands the watch over what
the answers say about the cluster: another cluster id, or a linearizable answer older than one
that was there before it was asked for, is a `ClusterChanged` (catalogue C15).
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Final, Generic, TypeVar

import grpc
from google.protobuf.message import Message

from raftkv.client import channels, once, process, retrying
from raftkv.client.endpoints import Places
from raftkv.client.errors import (
    AccountError,
    ClientClosed,
    ClientError,
    ClusterChanged,
    ForkedClient,
    OutcomeUnknown,
    PermissionDenied,
    SessionLost,
    TokenRefused,
)
from raftkv.client.keeper import CLOSE_SECONDS, Keeper
from raftkv.client.retrying import LONGEST_SECONDS, longest
from raftkv.client.route import OwnChannels
from raftkv.client.settings import Settings
from raftkv.client.statuses import mapped
from raftkv.client.sync.leadership import Leadership
from raftkv.client.sync.runtime import (
    CHANNEL_CLOSED,
    INTERRUPTED,
    Channel,
    Metadata,
    Mutex,
    Prepared,
    Stream,
    is_cancelled,
    prepared,
    sleep,
)
from raftkv.client.sync.sessions import Sessions
from raftkv.errors import Code, Outcome
from raftkv.pb import rpc_pb2

Reply = TypeVar("Reply", bound=Message)

NO_TOKEN: Final = "etcdserver: user name is empty"
AUTH_OFF: Final = "etcdserver: authentication is not enabled"


@dataclass(slots=True)
class Question(Generic[Reply]):
    """One call. See `Connection.call`; started: time.monotonic; only: the one place to ask."""

    path: str
    request: Message
    reply: type[Reply]
    write: bool
    leading: bool
    started: float
    seconds: float
    only: int | None

    @property
    def left(self) -> float:
        """Seconds until its deadline; may be negative."""
        return self.started + self.seconds - time.monotonic()


class Connection:
    """Channels to the endpoints of one client, opened when first used.

    settings: how to reach them. revision: the highest revision of the store that any answer
    has told of, 0 at first. cluster_id: the cluster's, 0 at first. heard: by place, when a
    watch last heard from the endpoint (`lifetime.now`), shared by all watches.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.revision: int = 0
        self.cluster_id: int = 0
        self.heard: list[float] = [0.0] * len(settings.endpoints)
        self.places: Places = Places(len(settings.endpoints))
        self._options = channels.options(settings)
        self._credentials = [channels.credentials(settings, each) for each in settings.endpoints]
        self._channels: dict[int, Channel] = {}
        self._pid = process.number
        self._closed = False
        self._several = self.places.count > 1
        self._login = Mutex()
        self._token: str | None = None if settings.user else ""
        self._metadata: tuple[Metadata, Metadata] = ((), ())  # without and with "hasleader"
        self._prepared: tuple[Prepared, Prepared] = self._metadata  # the same, for calls
        self._note_token(self._token)
        self._sessions = Sessions(self) if settings.exactly_once else None
        self._leadership = Leadership(self) if settings.prefer_leader and self._several else None
        self.keeper: Keeper = Keeper(
            OwnChannels(settings, self.places, partial(self.metadata, leading=True))
        )

    # --- unary calls ----------------------------------------------------------------------
    def call(
        self,
        path: str,
        request: Message,
        reply: type[Reply],
        *,
        write: bool,
        linearizable: bool = False,
        leading: bool = True,
        timeout: float | None = None,
        place: int | None = None,
    ) -> Reply:
        """One call, at one endpoint or over as many as it needs.

        path: "/package.Service/Method". write: it may change something, so it is not repeated
        when it may have been carried out. linearizable: the answer's revision is at least what
        was committed before. leading: a server without a leader may not answer. timeout:
        seconds, for all attempts together. place: the one endpoint to ask.
        Errors: ClientError.
        """
        self.check()
        seconds = self.settings.timeout if timeout is None else timeout
        if not seconds <= LONGEST_SECONDS:
            seconds = longest(seconds)
        if self._leadership is not None and self._leadership.stale:
            self._leadership.seek()
        question = Question(path, request, reply, write, leading, time.monotonic(), seconds, place)
        floor = self.revision
        if self._token is None:
            self._log_in(None, seconds)
        token = self._token
        if self._sessions is not None and write and path in once.PATHS:
            ask = self._sessions.write
        else:
            ask = self.ask
        try:
            answer = ask(question)
        except (TokenRefused, AccountError) as error:
            if not self.settings.user or not _is_stale(error):
                raise
            self._log_in(token, question.left)
            answer = ask(question)
        header: rpc_pb2.ResponseHeader | None = getattr(answer, "header", None)
        if header is not None:
            if self._leadership is not None:
                self._leadership.note(header.raft_term)
            revision = header.revision
            if header.cluster_id != self.cluster_id or revision < floor:
                self.note(header, floor, linearizable=linearizable, write=write)
            elif revision > self.revision:
                self.revision = revision
        return answer

    def ask(self, question: "Question[Reply]", within: once.Write | None = None) -> Reply:
        """Asks until one endpoint answers. Errors: ClientError, which is final.

        within: the write of a session that this is; then it may be repeated.
        """
        place = self.places.current if question.only is None else question.only
        others = self._several and question.only is None
        repeatable = within is not None or not question.write
        share = question.left
        if others and repeatable:
            share = retrying.share(share, others=True)
        metadata = self._prepared[question.leading]
        trial: retrying.Trial | None = None
        while True:
            try:
                answer = self._channel(place).unary(
                    question.path,
                    question.request,
                    question.reply,
                    share,
                    metadata if within is None else (*metadata, *within.metadata()),
                )
            except grpc.RpcError as error:
                failure = self.failure(error, place, write=question.write)
            except INTERRUPTED:
                # Closing a channel cancels its calls, but not those who wait for them.
                if not self._closed or is_cancelled():
                    raise
                failure = self._cut_off(place, question.write)
            except CHANNEL_CLOSED:
                self.check()
                raise
            else:
                if trial is not None:
                    trial.answered()
                    if self._leadership is not None:
                        self._leadership.stale = True
                return answer
            if within is not None and _leaves_open(failure):
                within.may_be_done = True
            if trial is None:
                trial = self._trial(question, place, not others, repeatable)
            pause = trial.failed(failure, time.monotonic())
            if pause:
                sleep(pause)
                self.check()
            place = trial.place
            share = trial.share(time.monotonic())

    def _trial(
        self, question: "Question[Reply]", place: int, alone: bool, repeatable: bool
    ) -> retrying.Trial:
        return retrying.Trial(
            self.places,
            place,
            alone=alone,
            repeatable=repeatable,
            started=question.started,
            timeout=question.seconds,
            dial_timeout=self.settings.dial_timeout,
        )

    def failure(self, error: grpc.RpcError, place: int, *, write: bool = False) -> ClientError:
        """What an error of grpcio's means, of a call at this endpoint."""
        if self._closed:
            return self._cut_off(place, write)
        endpoint = self.settings.endpoints[place].text
        code: int = error.code().value[0]
        failure = mapped(code, error.details() or "", write=write, endpoint=endpoint)
        failure.__cause__ = error
        return failure

    def _cut_off(self, place: int, write: bool) -> ClientError:
        """What it means that the client was closed during a call at this endpoint."""
        closed = ClientClosed("the client was closed", endpoint=self.settings.endpoints[place].text)
        return OutcomeUnknown(closed) if write else closed

    # --- streams --------------------------------------------------------------------------
    def stream(
        self, path: str, reply: type[Reply], *, leading: bool = True
    ) -> tuple[int, Stream[Reply]]:
        """A bidirectional call without a deadline, at the endpoint that is asked first now.

        Returns the endpoint's place as well: tell `broken(place)` when it fails. What the
        stream raises is made readable by `failure`. Errors: ClientError.
        """
        self.check()
        if self._token is None:
            self._log_in(None, self.settings.timeout)
        place = self.places.current
        try:
            return place, self._channel(place).stream(path, reply, self._metadata[leading])
        except CHANNEL_CLOSED:
            self.check()
            raise

    def broken(self, place: int) -> None:
        """A stream of this endpoint failed or fell silent: ask another one first."""
        self.places.failed(place, time.monotonic())

    def healthy(self, place: int) -> None:
        """A stream of this endpoint was answered."""
        self.places.answered(place)

    def renew_token(self, error: ClientError) -> bool:
        """After a stream failed so: whether a new login may help, which then was made.

        PermissionDenied is what etcd calls a stale token in a watch: try once.
        Errors: ClientError, of the login.
        """
        may_be_stale = _is_stale(error) or isinstance(error, PermissionDenied)
        if not self.settings.user or not may_be_stale:
            return False
        self._log_in(self._token, self.settings.timeout)
        return True

    # --- the login ------------------------------------------------------------------------
    def metadata(self, *, leading: bool) -> Metadata:
        """What every call carries now: the token, and that it wants a leader."""
        return self._metadata[leading]

    def _log_in(self, stale: str | None, seconds: float) -> None:
        """Gets a token unless somebody has replaced the stale one meanwhile."""
        with self._login:
            if self._token != stale:
                return
            request = rpc_pb2.AuthenticateRequest(
                name=self.settings.user, password=self.settings.password
            )
            self._note_token(None)
            try:
                question = Question(
                    "/etcdserverpb.Auth/Authenticate",
                    request,
                    rpc_pb2.AuthenticateResponse,
                    False,
                    True,
                    time.monotonic(),
                    seconds,
                    None,
                )
                answer = self.ask(question, None)
            except AccountError as error:
                if error.text != AUTH_OFF:
                    raise
                self._note_token("")
            else:
                self._note_token(answer.token)

    def _note_token(self, token: str | None) -> None:
        self._token = token
        plain: Metadata = (("token", token),) if token else ()
        leading: Metadata = (*plain, ("hasleader", "true"))
        self._metadata = (plain, leading if self.settings.require_leader else plain)
        if not self.settings.interceptors:  # which may write to what they are given
            self._prepared = (prepared(self._metadata[0]), prepared(self._metadata[1]))
        else:
            self._prepared = self._metadata

    # --- what the answers tell --------------------------------------------------------------
    def note(
        self, header: rpc_pb2.ResponseHeader, floor: int, *, linearizable: bool, write: bool = False
    ) -> None:
        """Compares an answer's header with what is known.

        floor: `revision` as it was when the call was made. Errors: ClusterChanged.
        """
        known, told = self.cluster_id, header.cluster_id
        outcome = Outcome.UNKNOWN if write else Outcome.DEFINITE
        if known and told and known != told:
            self.cluster_id, self.revision = told, header.revision
            raise ClusterChanged(
                f"the answer is from cluster {told:x}, earlier ones were from {known:x}",
                code=Code.FAILED_PRECONDITION,
                outcome=outcome,
            )
        if told:
            self.cluster_id = told
        if linearizable and header.revision < floor:
            self.revision = header.revision
            raise ClusterChanged(
                f"the store is at revision {header.revision}, earlier answers were at {floor}: "
                "it was restored to an older state",
                code=Code.FAILED_PRECONDITION,
                outcome=outcome,
            )
        if header.revision > self.revision:
            self.revision = header.revision

    # --- channels -------------------------------------------------------------------------
    def check(self) -> None:
        """Errors: ClientClosed, ForkedClient."""
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._pid != process.number:
            raise ForkedClient(
                "this client was made before the process forked and cannot be used in the child: "
                "make a new one there"
            )

    def _channel(self, place: int) -> Channel:
        channel = self._channels.get(place)
        if channel is None:
            endpoint = self.settings.endpoints[place]
            # Of two threads that get here one wins; the other's channel has dialled nobody yet.
            channel = self._channels.setdefault(
                place,
                Channel(
                    endpoint.address,
                    self._options,
                    self._credentials[place],
                    self.settings.interceptors,
                ),
            )
        return channel

    def close(self) -> None:
        """Closes every channel; calls that still run end with ClientClosed."""
        if self._sessions is not None and not self._closed and self._pid == process.number:
            self._sessions.close()
        self._closed = True
        if self._pid != process.number:
            return  # they belong to the parent
        self.keeper.stop()
        for channel in list(self._channels.values()):
            channel.close()
        give_up = time.monotonic() + CLOSE_SECONDS
        while not self.keeper.stopped and time.monotonic() < give_up:
            sleep(0.002)  # and not a join, which would block an event loop


def _leaves_open(failure: ClientError) -> bool:
    """Whether an attempt that failed so may have been carried out."""
    return isinstance(failure, OutcomeUnknown) and not isinstance(failure.reason, SessionLost)


def _is_stale(error: ClientError) -> bool:
    return isinstance(error, TokenRefused) or error.text == NO_TOKEN
