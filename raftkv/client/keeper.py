"""Keeps a client's leases alive, and tells in time when one is lost. One thread per client.

It serves both faces, and no loop or thread of the user's can hold it up. What it does for each
lease, by `lifetime.now`:

    a third of the TTL after the last answered request was sent
                          asks for a renewal, over one LeaseKeepAlive stream for all leases, on a
                          connection of its own
    no answer for a sixth of the TTL (0.25 s to 1.5 s)
                          asks at the next endpoint as well, over a new connection. The old stream
                          stays until one of them answers, so a server that is merely slow is heard.
                          Renewing twice is harmless.
    the stream fails      asks at the next endpoint at once; after a round over all of them with a
                          pause that grows to half a second, or a tenth of the shortest TTL
    half the TTL without an answer
                          logs a warning, once until it is answered
    an answer with TTL 0, or the deadline of `Lifetime` passes
                          the lease is lost: it is never renewed again, and those who wait for it
                          are told, at the latest then, even if nothing can be sent or received

A lease's `Lifetime` is read without a lock and knows better than any thread: what this module
tells comes at the deadline, what `alive` says is right at every moment, also in a process that
was stopped for a while and has not run its threads yet.

Those who are told by a callback get it in a thread of its own, for one that blocks must not keep
other leases from being renewed.

Source: etcd api (Lease.LeaseKeepAlive), clientv3/lease.go (a third of the TTL).
"""

import itertools
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Final, Protocol

import grpc

from raftkv.client.errors import ForkedClient
from raftkv.client.kept import RENEW_SHARE, Kept, Renewed, guarded, in_own_thread
from raftkv.client.lifetime import Lifetime, now
from raftkv.client.logger import log
from raftkv.pb import rpc_pb2

RENEW: Final = "/etcdserverpb.Lease/LeaseKeepAlive"
LATE_SHARE: Final = 1 / 2  # of the TTL
TOGETHER_SHARE: Final = 0.05  # who is due so much of its TTL later is renewed along
PATIENCE_SHARE: Final = 1 / 6
LEAST_PATIENCE_SECONDS: Final = 0.25
MOST_PATIENCE_SECONDS: Final = 1.5
FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 0.5
LONGEST_WAIT_SECONDS: Final = 0.5  # waits do not count the time that a machine sleeps; now() does
CLOSE_SECONDS: Final = 2.0
CLOSED: Final = "the client was closed"


class Route(Protocol):
    """What the keeper needs of a client's connection. Called from the keeper's thread."""

    def endpoints(self) -> Sequence[str]:
        """The endpoints, best first; never empty."""
        ...

    def dial(self, endpoint: str) -> grpc.Channel:
        """A new blocking channel for the keeper alone, who closes it."""
        ...

    def metadata(self) -> Sequence[tuple[str, str]]:
        """What goes with each call: a token, the wish for a leader."""
        ...


class _Line:
    """One LeaseKeepAlive stream on a connection of its own. asked: when, by lease id."""

    def __init__(self, endpoint: str, keeper: "Keeper", route: Route) -> None:
        self.endpoint = endpoint
        self.asked: dict[int, float] = {}
        self._requests: queue.SimpleQueue[rpc_pb2.LeaseKeepAliveRequest | None] = (
            queue.SimpleQueue()
        )
        self._channel = route.dial(endpoint)
        requests = iter(self._requests.get, None)
        stub = self._channel.stream_stream(
            RENEW,
            request_serializer=rpc_pb2.LeaseKeepAliveRequest.SerializeToString,
            response_deserializer=rpc_pb2.LeaseKeepAliveResponse.FromString,
        )
        self._call: Any = stub(requests, metadata=route.metadata())
        self._reader = threading.Thread(
            target=self._read, args=(keeper,), name="raftkv keeper's answers", daemon=True
        )
        self._reader.start()

    def ask(self, lease_id: int) -> None:
        """Sends a request, unless one is under way: the answers could not be told apart.

        Its time is taken before it can have left.
        """
        if lease_id not in self.asked:
            self.asked[lease_id] = now()
            self._requests.put(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))

    def silent_since(self) -> float | None:
        """When the oldest request without an answer was sent; None: there is none."""
        return min(self.asked.values(), default=None)

    def hang_up(self) -> None:
        """Ends the stream and its connection. Waits for no one."""
        self._call.cancel()
        self._requests.put(None)
        self._channel.close()

    def join(self, timeout: float) -> None:
        """Waits until its thread has ended."""
        if self._reader is not threading.current_thread():
            self._reader.join(timeout)

    def _read(self, keeper: "Keeper") -> None:
        reason = "the server ended the stream"
        try:
            answers: Iterator[rpc_pb2.LeaseKeepAliveResponse] = self._call
            for answer in answers:
                keeper._answered(self, answer.ID, answer.TTL)
        except grpc.RpcError as error:
            reason = f"{self.endpoint}: {error.details() or error.code().name}"
        self._requests.put(None)
        keeper._failed(self, reason)


class Keeper:
    """See the module's docstring. Every method may be called from any thread."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._changed = threading.Condition()
        self._leases: dict[int, Kept] = {}
        self._gone: list[Kept] = []  # the server has ended them
        self._lines: list[_Line] = []  # the last one is asked
        self._dropped: list[_Line] = []
        self._endpoints: Iterator[str] = iter(())
        self._attempts = 0  # lines opened since the last answer
        self._not_before = 0.0
        self._trouble = ""
        self._late = ""  # a warning to be logged; a handler of the log may block
        self._thread: threading.Thread | None = None
        self._closed = False
        self._pid = os.getpid()

    def keep(self, lease_id: int, ttl: float, sent: float, *, renewing: bool = True) -> Kept:
        """Takes charge of a lease.

        ttl: as granted, in seconds. sent: when the grant was sent, by `lifetime.now`.
        renewing: False only watches its deadline. Errors: ForkedClient.
        """
        if self._is_forked:
            raise ForkedClient("a forked child cannot keep leases with its parent's client")
        kept = Kept(lease_id, Lifetime(ttl, sent), renewing, sent)
        with self._changed:
            closed = self._closed
            if not closed:
                self._leases[lease_id] = kept
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=self._run, name="raftkv keeper", daemon=True
                    )
                    self._thread.start()
                self._changed.notify_all()
        if closed:
            kept.tell(CLOSED, lost=True)
        return kept

    def detach(self, kept: Kept) -> None:
        """Renews it no more. Its deadline is still watched. In a forked child: nothing."""
        if self._is_forked:
            return
        with self._changed:
            kept.renewing = False
            self._changed.notify_all()

    def release(self, kept: Kept, reason: str = "the lease was revoked") -> None:
        """Its owner ends it: from now on it is not alive, and nobody is told of a loss.

        In a forked child, where it never is alive, nothing: the lease is the parent's, and the
        locks here may have been copied while a thread of the parent's had them.
        """
        if self._is_forked:
            return
        with self._changed:
            if self._leases.get(kept.id) is kept:
                del self._leases[kept.id]
            self._changed.notify_all()
        kept.tell(reason, lost=False)

    def renew_now(self, kept: Kept, answered: Renewed) -> None:
        """Asks for a renewal now. answered: called with whether it came, or False if it is over."""
        with self._changed:
            waits = kept.when_renewed(answered)
            if waits:
                kept.due = now()
                kept.asked = None
                self._changed.notify_all()
        if not waits:
            answered(False)

    def stop(self) -> None:
        """Ends the thread soon. Leases that are still there count as lost: nobody keeps them."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def _is_forked(self) -> bool:
        return os.getpid() != self._pid

    @property
    def stopped(self) -> bool:
        """Whether there is no thread, or no more."""
        return self._thread is None or not self._thread.is_alive()

    def close(self) -> None:
        """`stop`, and waits for it: at most two seconds, whatever the network does."""
        self.stop()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(CLOSE_SECONDS)

    # --- the thread ---------------------------------------------------------------
    def _run(self) -> None:
        while True:
            with self._changed:
                closed = self._closed
                moment = now()
                over = self._collect(moment)
                if not over and not closed:
                    wake = self._attempt(moment)
                    if not self._dropped and not self._late:
                        self._wait(wake, moment)
                dropped, self._dropped = self._dropped, []
                late, self._late = self._late, ""
            for kept, reason in over:
                kept.tell(reason, lost=True)
            for line in dropped:
                line.hang_up()
            if late:
                in_own_thread(partial(log.warning, late))
            if closed:
                self._finish()
                return

    def _wait(self, wake: float, moment: float) -> None:
        if wake == float("inf") and not self._leases:
            self._changed.wait()
            return
        self._changed.wait(min(max(wake - moment, 0.0), LONGEST_WAIT_SECONDS))

    def _collect(self, moment: float) -> list[tuple[Kept, str]]:
        """Takes out what is over."""
        over = [(kept, "the server has ended the lease") for kept in self._gone]
        self._gone.clear()
        for kept in list(self._leases.values()):
            if self._closed:
                reason = CLOSED
            elif moment >= kept.lifetime.deadline:
                trouble = f" ({self._trouble})" if self._trouble else ""
                reason = f"the lease ran out by this client's clock{trouble}"
            else:
                continue
            del self._leases[kept.id]
            over.append((kept, reason))
        return over

    def _attempt(self, moment: float) -> float:
        """`_step`, whose errors must not end the thread; returns when to look again."""
        try:
            return self._step(moment)
        except Exception as error:  # noqa: BLE001 - who waits for a deadline is told, come what may
            self._pace(f"cannot ask for a renewal: {error!r}", moment)
            return max(self._not_before, moment + FIRST_PAUSE_SECONDS)

    def _step(self, moment: float) -> float:
        """Asks for what is due, moves away from who is silent; returns when to look again."""
        renewing = [one for one in self._leases.values() if one.wanted]
        if not renewing:
            self._drop(self._lines)
            return self._next_deadline()
        shortest = min(kept.lifetime.ttl for kept in renewing)
        line = self._lines[-1] if self._lines else None
        if line is not None:
            silent_since = line.silent_since()
            if silent_since is not None and moment >= silent_since + self._patience(shortest):
                self._trouble = f"{line.endpoint} does not answer"
                line = None
        due = any(moment >= kept.due for kept in renewing)
        if due:
            if line is None and moment >= self._not_before:
                line = self._open()
            if line is not None:
                self._ask(line, renewing, moment)
        self._warn(renewing, moment)
        return min(self._next_deadline(), self._next_step(renewing, shortest, line))

    def _next_deadline(self) -> float:
        return min((kept.lifetime.deadline for kept in self._leases.values()), default=float("inf"))

    def _next_step(self, renewing: list[Kept], shortest: float, line: _Line | None) -> float:
        wake = min(
            (kept.due for kept in renewing if line is None or kept.asked is not line),
            default=float("inf"),
        )
        if line is None:
            return max(wake, self._not_before)
        silent_since = line.silent_since()
        if silent_since is not None:
            wake = min(wake, silent_since + self._patience(shortest))
        return wake

    def _patience(self, shortest: float) -> float:
        """Seconds for an answer; more in each further round, for servers that are slow."""
        base = min(max(shortest * PATIENCE_SHARE, LEAST_PATIENCE_SECONDS), MOST_PATIENCE_SECONDS)
        rounds = max(self._attempts - 1, 0) // max(len(self._route.endpoints()), 1)
        return float(min(base * 2 ** min(rounds, 8), max(shortest * RENEW_SHARE, base)))

    def _open(self) -> _Line:
        """A line to the next endpoint; an older one to the same endpoint goes."""
        endpoint = next(self._endpoints, "")
        known = self._route.endpoints()
        if endpoint not in known:
            self._endpoints = itertools.cycle(known)
            endpoint = next(self._endpoints)
        self._drop([line for line in self._lines if line.endpoint == endpoint])
        self._attempts += 1
        line = _Line(endpoint, self, self._route)
        self._lines.append(line)
        return line

    def _ask(self, line: _Line, renewing: list[Kept], moment: float) -> None:
        for kept in renewing:
            together = TOGETHER_SHARE * kept.lifetime.ttl
            if kept.asked is not line and moment >= kept.due - together:
                kept.asked = line
                line.ask(kept.id)

    def _warn(self, renewing: list[Kept], moment: float) -> None:
        late = [
            kept
            for kept in renewing
            if not kept.warned and moment - kept.answered > kept.lifetime.ttl * LATE_SHARE
        ]
        if not late:
            return
        for kept in late:
            kept.warned = True
        first = late[0]
        held_up = "this process was held up" if first.asked is None else "no answer yet"
        others = f" and {len(late) - 1} more" if len(late) > 1 else ""
        self._late = (
            f"lease {first.id & 0xFFFF_FFFF_FFFF_FFFF:x}{others}: no renewal for "
            f"{moment - first.answered:.1f} s of its {first.lifetime.ttl:g} s: "
            f"{self._trouble or held_up}"
        )

    def _drop(self, lines: list[_Line]) -> None:
        for line in list(lines):
            self._lines.remove(line)
            self._dropped.append(line)

    def _finish(self) -> None:
        with self._changed:
            lines = [*self._lines, *self._dropped]
            self._lines.clear()
            self._dropped.clear()
        for line in lines:
            line.hang_up()
        give_up = now() + CLOSE_SECONDS / 2
        for line in lines:
            line.join(max(give_up - now(), 0.0))

    # --- from the lines' threads ------------------------------------------------------
    def _answered(self, line: _Line, lease_id: int, ttl: int) -> None:
        renewed: list[Renewed] = []
        with self._changed:
            sent = line.asked.pop(lease_id, None)
            kept = self._leases.get(lease_id)
            if line in self._lines:
                self._prefer(line)
            if kept is None or sent is None:
                return
            if ttl <= 0 and sent < kept.answered:
                # Before this lease was granted there was another one with its id. Or the answer is
                # late, and the next one says the same.
                kept.due = now()
                if kept.asked is line:
                    kept.asked = None
            elif ttl <= 0:
                kept.lifetime.end()
                self._gone.append(self._leases.pop(lease_id))
            elif kept.lifetime.renew(ttl, sent):
                kept.asked = None
                kept.answered = max(kept.answered, sent)
                kept.due = kept.answered + ttl * RENEW_SHARE
                kept.warned = False
                renewed = kept.renewed()
            self._changed.notify_all()
        for callback in renewed:
            guarded(partial(callback, True))

    def _prefer(self, line: _Line) -> None:
        """This one answers: the others are not needed, and what they were asked goes to it."""
        self._drop([other for other in self._lines if other is not line])
        self._attempts = 1
        self._not_before = 0.0
        self._trouble = ""

    def _failed(self, line: _Line, reason: str) -> None:
        with self._changed:
            if line not in self._lines:
                return
            was_asked = line is self._lines[-1]
            self._drop([line])
            line.asked.clear()
            if was_asked:
                self._pace(reason, now())
            for kept in self._leases.values():
                if kept.asked is line:
                    kept.asked = None
            self._changed.notify_all()

    def _pace(self, reason: str, moment: float) -> None:
        """After a failure: the next endpoint at once, the next round after a pause."""
        self._trouble = reason
        rounds, within = divmod(self._attempts, max(len(self._route.endpoints()), 1))
        if within:
            return
        shortest = min((kept.lifetime.ttl for kept in self._leases.values()), default=10.0)
        longest = min(LONGEST_PAUSE_SECONDS, shortest / 10)
        self._not_before = moment + min(FIRST_PAUSE_SECONDS * 2 ** min(rounds, 8), longest)
