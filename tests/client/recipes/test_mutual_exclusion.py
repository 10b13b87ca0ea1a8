"""Mutual exclusion while leaders are killed, cut off and paused, judged by two witnesses.

The store's own history (a watch over everything since the beginning) says at which revision which
key was in the queue: each guarded write must fall where its writer's key was among the oldest.
And the clock of this machine, which all contenders share, says when each believed that it held:
never more at a time than may.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import pytest

from raftkv.client import Client, ClientError, Event, OutcomeUnknown, Put, Txn
from raftkv.client.sync.recipes.leader_runner import Shift
from raftkv.testing import Cluster
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.contention import Beside, wait_until

TTL_SECONDS: Final = 2
WORKERS: Final = 4
STORM_SECONDS: Final = 9.0


@dataclass(frozen=True)
class Kind:
    """What is contended for. limit: how many may hold. queue: where its keys are."""

    limit: int
    queue: str
    acquire: Callable[[Any], Any]


KINDS: Final = {
    "lock": Kind(1, "l/", lambda client: client.lock("l", ttl=TTL_SECONDS).acquire(timeout=8)),
    "writer": Kind(1, "w/", lambda client: client.rwlock("w", ttl=TTL_SECONDS).write(timeout=8)),
    "semaphore": Kind(
        2, "s/holders/", lambda client: client.semaphore("s", 2, ttl=TTL_SECONDS).acquire(timeout=8)
    ),
    "election": Kind(
        1, "e/", lambda client: client.election("e", ttl=TTL_SECONDS).campaign("x", timeout=8)
    ),
}


@dataclass
class Held:
    """One holding. since, until: of this machine's clock, as its holder saw it."""

    token: int
    since: float
    until: float


@dataclass
class History:
    """What the contenders noted. written: token and revision of each guarded write."""

    held: list[Held] = field(default_factory=list)
    written: list[tuple[int, int]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)


def contend(client: Any, kind: Kind, history: History) -> None:
    """One contender: acquires, writes under guard while it holds, releases, again."""
    while not history.over.is_set():
        with suppress(ClientError), kind.acquire(client) as holding:
            note = Held(holding.fencing_token, time.monotonic(), 0.0)
            history.held.append(note)
            for _ in range(3):
                asked = time.monotonic()
                if not holding.is_held:
                    break
                note.until = asked
                with suppress(OutcomeUnknown):
                    token = str(holding.fencing_token)
                    answer = client.txn(holding.guard(Txn()).then(Put("v", token)), timeout=2)
                    if answer.succeeded:
                        history.written.append((holding.fencing_token, answer.revision))


def storm(cluster: Cluster, end: float) -> None:
    """Each fault in turn, each healed before the next."""

    def leader_dies() -> None:
        dead = cluster.kill_leader()
        calm(1.2)
        cluster.restart(dead)

    def leader_is_cut_off() -> None:
        cluster.isolate(cluster.wait_leader())
        calm(1.5)
        cluster.heal()

    def leader_stands_still() -> None:
        stopped = cluster.wait_leader()
        cluster.pause(stopped)
        calm(1.5)
        cluster.resume(stopped)

    def calm(seconds: float) -> None:
        threading.Event().wait(seconds)

    while True:
        for fault in (leader_dies, leader_is_cut_off, leader_stands_still):
            if time.monotonic() > end:
                return
            fault()
            calm(0.8)


def everything_since(client: Any, revision: int) -> list[Event]:
    """All events from a revision on, up to now."""
    now = client.get("v").revision
    events: list[Event] = []
    with client.watch("", prefix=True, start_revision=revision, progress_notify=True) as watch:
        client.put("end", "")
        while not events or events[-1].key != b"end":
            events += watch.next(20).events
    return [event for event in events if event.revision <= now]


def check_writes(events: list[Event], kind: Kind, written: list[tuple[int, int]]) -> int:
    """Each write of "v" was made by one of the oldest of the queue; returns their number."""
    queue: dict[bytes, int] = {}
    writes: dict[int, int] = {}
    for event in events:
        if event.key.startswith(kind.queue.encode()):
            if event.is_delete:
                queue.pop(event.key, None)
            else:
                queue[event.key] = event.kv.create_revision
        elif event.key == b"v":
            token = int(event.text)
            assert token in sorted(queue.values())[: kind.limit], f"{event} in {queue}"
            writes[event.revision] = token
    for token, revision in written:
        assert writes[revision] == token, "acknowledged, and not what the store says"
    return len(writes)


def check_clocks(held: list[Held], limit: int) -> None:
    """At no moment did more believe that they hold than may."""
    moments = [(each.since, 1) for each in held] + [(each.until, -1) for each in held]
    inside = 0
    for _, step in sorted(moments):
        inside += step
        assert inside <= limit


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "connect"),
    [
        ("lock", "sync"),
        ("lock", "aio"),
        ("writer", "aio"),
        ("semaphore", "sync"),
        ("election", "aio"),
    ],
    indirect=["connect"],
)
def test_no_two_hold_at_once_while_leaders_are_killed_cut_off_and_paused(
    name: str, connect: Faces
) -> None:
    """C03, C06, C08; with a local clock that all share."""
    kind, history = KINDS[name], History()
    with Cluster(3, processes=True) as cluster:
        clients = [connect(cluster.endpoint, timeout=4.0) for _ in range(WORKERS)]
        start = clients[0].put("v", "0").revision + 1
        observed: list[Any] = []
        observer = Beside(lambda: observe(clients[0], observed, history.over))
        workers = [
            Beside(lambda client=client: contend(client, kind, history))  # type: ignore[misc]
            for client in clients
        ]
        storm(cluster, time.monotonic() + STORM_SECONDS)
        history.over.set()
        cluster.recover()
        for worker in workers:
            worker.result(30)
        observer.result(30)
        reader = connect(cluster.endpoint)
        events = everything_since(reader, start)
        wait_until(lambda: reader.count(kind.queue) == 0, TTL_SECONDS + 10)  # no ghosts (C09)
    noted = [each for each in history.held if each.until]
    assert check_writes(events, kind, history.written) >= len(history.written) >= 10
    check_clocks(noted, kind.limit)
    assert len(noted) >= 5
    orders = [(kv.create_revision, kv.mod_revision) for kv in observed]
    assert orders == sorted(set(orders)), "C08: an older leader after a newer"
    assert bool(observed) == (name == "election")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_no_two_runners_work_at_once_while_leaders_are_killed_cut_off_and_paused() -> None:
    """Their functions stop within the grace, so not even the ends overlap."""
    history = History()
    kind = KINDS["election"]

    def work(client: Client, shift: Shift) -> None:
        note = Held(shift.term.fencing_token, time.monotonic(), 0.0)
        history.held.append(note)
        while shift.is_leader:
            with suppress(ClientError):
                txn = shift.term.guard(Txn()).then(Put("v", str(note.token)))
                answer = client.txn(txn, timeout=0.3)
                if answer.succeeded:
                    history.written.append((note.token, answer.revision))
            shift.stop.wait(0.05)
            if len(history.written) % 10 == 9:  # somebody else's turn
                note.until = time.monotonic()  # the next one need not wait for the answer
                with suppress(ClientError):
                    shift.term.resign()
                break
        note.until = note.until or time.monotonic()
        if not history.over.is_set():
            raise RuntimeError("leads no more, and wants to again")

    with Cluster(3, processes=True) as cluster, ExitStack() as stack:
        clients = [stack.enter_context(Client(cluster.endpoint, timeout=4.0)) for _ in range(3)]
        start = clients[0].put("v", "0").revision + 1
        runners = [
            client.leader_runner("e", partial(work, client), ttl=TTL_SECONDS) for client in clients
        ]
        running = [Beside(runner.run) for runner in runners]
        storm(cluster, time.monotonic() + STORM_SECONDS)
        history.over.set()
        for runner in runners:
            runner.stop()
        cluster.recover()
        for one in running:
            one.result(30)
        events = everything_since(clients[0], start)
    assert check_writes(events, kind, history.written) >= len(history.written) >= 10
    assert all(each.until for each in history.held)
    check_clocks(history.held, 1)
    assert len(history.held) >= 3


def observe(client: Any, observed: list[Any], over: threading.Event) -> None:
    """Notes who leads the election, until it is over."""
    with client.election("e").observe() as observation:
        while not over.is_set():
            with suppress(TimeoutError):
                observed.append(observation.next(0.5))


# --- a holder that is stopped -----------------------------------------------------------------
_HOLDER: Final = """
import sys
from raftkv.client import Client, Put, Txn
with Client(sys.argv[1]) as client:
    holding = client.lock(sys.argv[2], ttl=2).acquire()
    print(holding.fencing_token, flush=True)
    sys.stdin.readline()
    late = client.txn(holding.guard(Txn()).then(Put(sys.argv[2] + "-value", "late")))
    print(holding.is_held, holding.lost.wait(20), late.succeeded, flush=True)
"""


@pytest.mark.slow
def test_a_holder_that_was_stopped_for_three_ttls_writes_nothing(
    server: Served, prefix: str
) -> None:
    """C03: it never noticed, another acquired; every guarded write of it fails."""
    name = prefix + "l"
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", _HOLDER, server.endpoints, f"{name}{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    try:
        with Client(server.endpoints) as client:
            tokens = [int(_line(holder)) for holder in holders]
            for holder in holders:
                holder.send_signal(signal.SIGSTOP)
            stopped = time.monotonic()
            for number, token in enumerate(tokens):
                with client.lock(f"{name}{number}").acquire(timeout=20) as mine:
                    assert mine.fencing_token > token
                    client.txn(mine.guard(Txn()).then(Put(f"{name}{number}-value", "mine")))
            threading.Event().wait(max(0.0, stopped + 6 - time.monotonic()))
            for number, holder in enumerate(holders):
                holder.send_signal(signal.SIGCONT)
                answer, _ = holder.communicate("\n", timeout=20)
                assert answer.split() == ["False", "True", "False"]
                assert client.get(f"{name}{number}-value").text == "mine"
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


def _line(holder: "subprocess.Popen[str]") -> str:
    assert holder.stdout is not None
    return holder.stdout.readline()
