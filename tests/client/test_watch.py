"""Watches of both faces on both servers: what they bring, and how they end."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftkv.client import (
    BadRequest,
    ClientClosed,
    Compacted,
    EventType,
    NotConnected,
    TimedOut,
    WatchBatch,
)
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.processes import free_ports


@pytest.fixture(params=["sync", "aio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Faces]:
    faces = Faces(request.param)
    yield faces
    faces.close()


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "did not come about"
        threading.Event().wait(0.01)


def take(watch: Any, count: int) -> list[Any]:
    """The next so many events."""
    events: list[Any] = []
    while len(events) < count:
        events += watch.next(60).events
    assert len(events) == count
    return events


def in_thread(function: Callable[[], object]) -> Callable[[], object]:
    """Runs a function beside the test; what it returns, or the error it raises, comes of a call."""
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(function())
        except Exception as error:  # noqa: BLE001 - handed to the test
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result() -> object:
        thread.join(30)
        assert not thread.is_alive(), "it still waits"
        return outcome[0]

    return result


def test_events_come_in_order_and_say_what_happened(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    with client.watch(prefix, prefix=True, prev_kv=True) as watch:
        client.put(prefix + "a", "1")
        client.put(prefix + "a", "2")
        client.delete(prefix + "a")
        client.put(prefix[:-1], "outside")
        client.put(prefix + "b", "3")
        created, changed, deleted, other = take(watch, 4)
    assert created.is_create
    assert created.text == "1"
    assert created.previous is None
    assert (changed.type, changed.text, changed.previous.text) == (EventType.PUT, "2", "1")
    assert not changed.is_create
    assert deleted.is_delete
    assert deleted.previous.text == "2"
    assert other.kv.key_text == prefix + "b"
    revisions = [event.revision for event in (created, changed, deleted, other)]
    assert revisions == sorted(set(revisions))


def test_one_revision_comes_in_one_batch(server: Served, connect: Faces, prefix: str) -> None:
    from raftkv.client import Put, Txn

    client = connect(server.endpoints)
    with client.watch(prefix, prefix=True) as watch:
        done = client.txn(Txn().then(*[Put(f"{prefix}{n}", "x") for n in range(20)]))
        batch = watch.next(60)
    assert len(batch) == 20
    assert {event.revision for event in batch} == {done.revision}


def test_filters_and_ranges_are_the_servers(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    with (
        client.watch(prefix + "b", end=prefix + "d", no_put=True) as deletions,
        client.watch(prefix + "b", end=prefix + "d", no_delete=True) as puts,
    ):
        for name in "abcd":
            client.put(prefix + name, "x")
            client.delete(prefix + name)
        assert [event.key[-1:] for event in take(deletions, 2)] == [b"b", b"c"]
        assert [event.is_put for event in take(puts, 2)] == [True, True]
        with pytest.raises(TimedOut):
            deletions.next(0.1)


def test_history_is_replayed_from_the_revision_asked_for(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    revisions = [client.put(prefix + "k", str(number)).revision for number in range(5)]
    with client.watch(prefix + "k", start_revision=revisions[2]) as watch:
        assert [event.text for event in take(watch, 3)] == ["2", "3", "4"]
        assert watch.next_revision == revisions[4] + 1


def test_from_now_on_begins_with_the_confirmation(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    before = client.put(prefix + "k", "before").revision
    watch = client.watch(prefix + "k")
    watch.open()
    assert watch.next_revision > before
    client.put(prefix + "k", "after")
    assert take(watch, 1)[0].text == "after"
    watch.close()


def test_nothing_is_lost_by_a_timeout(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    with client.watch(prefix + "k") as watch:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            watch.next(0.2)
        assert 0.15 < time.monotonic() - began < 15
        client.put(prefix + "k", "1")
        assert take(watch, 1)[0].text == "1"


def test_events_can_be_iterated_one_by_one(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    first = client.put(prefix + "a", "0").revision
    for number in range(1, 4):
        client.put(f"{prefix}{number}", str(number))
    watch = client.watch(prefix, prefix=True, start_revision=first)
    got = []
    for batch in watch:
        got += [event.text for event in batch]
        if len(got) == 4:
            watch.close()
    assert got == ["0", "1", "2", "3"]


def test_keys_are_those_of_the_namespace(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints, namespace=prefix)
    with client.watch("", prefix=True, prev_kv=True) as watch:
        client.put("k", "1")
        client.put("k", "2")
        first, second = take(watch, 2)
    assert first.key == second.key == second.previous.key == b"k"


def test_large_answers_in_fragments_are_joined(server: Served, connect: Faces, prefix: str) -> None:
    from raftkv.client import Delete, Put, Txn

    client = connect(server.endpoints)
    value = b"x" * 300_000
    for number in range(12):
        client.put(f"{prefix}{number:02}", value)
    with client.watch(prefix, prefix=True, prev_kv=True, fragment=True) as watch:
        client.txn(Txn().then(Delete(prefix, prefix=True), Put(prefix[:-1] + "#", "end")))
        batch = watch.next(60)
    assert len(batch) == 12, "one revision of 3.6 MB of previous values"
    assert all(event.previous.value == value for event in batch)


# --- how they end ---------------------------------------------------------------------
def test_a_compacted_start_says_from_where_to_go_on(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    revisions = [client.put(prefix + "k", str(number)).revision for number in range(5)]
    client.compact(revisions[3])
    watch = client.watch(prefix + "k", start_revision=revisions[0])
    with pytest.raises(Compacted) as caught:
        watch.next(60)
    assert caught.value.compact_revision == revisions[3]
    with pytest.raises(Compacted):
        watch.next(60)
    watch.close()
    with client.watch(prefix + "k", start_revision=caught.value.compact_revision) as again:
        assert [event.text for event in take(again, 2)] == ["3", "4"]


def test_closing_wakes_whoever_waits(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    watch = client.watch(prefix + "k")
    watch.open()
    result = in_thread(watch.next)
    iterated = in_thread(lambda: list(connect(server.endpoints).watch(prefix + "other")))
    threading.Event().wait(0.1)
    began = time.monotonic()
    watch.close()
    assert isinstance(result(), ClientClosed)
    assert time.monotonic() - began < 15
    with pytest.raises(ClientClosed):
        watch.next(1)
    assert list(watch) == []
    connect.close_clients()
    assert isinstance(iterated(), ClientClosed), "the client was closed, not the watch"


def test_no_server_is_one_clear_error_in_time(connect: Faces) -> None:
    client = connect(f"127.0.0.1:{free_ports(1)[0]}", timeout=60.0, dial_timeout=0.5)
    began = time.monotonic()
    with pytest.raises(NotConnected) as caught, client.watch("k"):
        pass
    assert 0.4 < time.monotonic() - began < 15
    assert "refused" in str(caught.value)


def test_a_start_before_all_history_is_refused_here(connect: Faces) -> None:
    with pytest.raises(BadRequest):
        connect("127.0.0.1:1").watch("k", start_revision=-1)


# --- callbacks --------------------------------------------------------------------------
def test_a_callback_gets_every_batch_in_order(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    got: list[str] = []

    def note(batch: WatchBatch) -> None:
        got.extend(event.text for event in batch)

    handle = client.add_watch_callback(prefix, note, prefix=True)
    for number in range(50):
        client.put(prefix + "k", str(number))
    wait_until(lambda: len(got) >= 50)
    handle.close()
    client.put(prefix + "k", "after the end")
    assert handle.ended.wait(20)
    assert handle.error is None
    assert got == [str(number) for number in range(50)]


def test_a_callback_is_told_when_its_watch_has_ended(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    told: list[Exception] = []

    def fail(batch: WatchBatch) -> None:
        raise KeyError(batch.events[0].text)

    handle = client.add_watch_callback(prefix, fail, prefix=True, on_error=told.append)
    client.put(prefix + "k", "bad")
    assert handle.ended.wait(20)
    assert [type(error) for error in told] == [KeyError]
    assert handle.error is told[0]
    handle.close()


def test_a_callback_is_told_of_a_compaction(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    first = client.put(prefix + "k", "1").revision
    compacted = client.put(prefix + "k", "2").revision
    client.compact(compacted)
    told: list[Exception] = []
    handle = client.add_watch_callback(
        prefix + "k", print, start_revision=first, on_error=told.append
    )
    assert handle.ended.wait(20)
    assert isinstance(told[0], Compacted)
    assert told[0].compact_revision == compacted


# --- nothing is left --------------------------------------------------------------------
def test_watches_leave_no_thread_behind(server: Served, connect: Faces, prefix: str) -> None:
    client = connect(server.endpoints)
    client.get(prefix)
    before = set(threading.enumerate())
    watches = [client.watch(f"{prefix}{number}") for number in range(10)]
    for watch in watches:
        watch.open()
    began = time.monotonic()
    for watch in watches:
        watch.close()
    assert time.monotonic() - began < 30, "less than a call for each"
    wait_until(lambda: not _raftkv_threads(before))


def _raftkv_threads(before: set[threading.Thread]) -> list[str]:
    return [
        thread.name
        for thread in set(threading.enumerate()) - before
        if "raftkv" in thread.name or "consume_request" in thread.name
    ]


def test_an_idle_watch_stays_where_it_is(server: Served, connect: Faces, prefix: str) -> None:
    """It asks whether the server lives, several times here, and is content with the answers."""
    client = connect(server.endpoints, keepalive_time=0.2, keepalive_timeout=2.0)
    with client.watch(prefix + "k") as watch:
        stream = watch._stream
        with pytest.raises(TimedOut):
            watch.next(1.5)
        assert watch._trouble is None
        assert getattr(watch._stream, "_wrapped", watch._stream) is getattr(
            stream, "_wrapped", stream
        )
        client.put(prefix + "k", "1")
        assert take(watch, 1)[0].text == "1"


_FORK = """
import os, sys
from raftkv.client import Client, ForkedClient
with Client(sys.argv[1]) as client, client.watch("forked") as watch:
    child = os.fork()
    if not child:
        try:
            watch.next(5)
        except ForkedClient:
            watch.close()
            os._exit(7)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    client.put("forked", "1")
    print(os.waitstatus_to_exitcode(status), watch.next(60).events[0].text)
"""


def test_a_forked_child_gets_a_clear_error(server: Served) -> None:
    """Its parent's watch goes on. In a process of its own, with nothing but one client in it."""
    done = subprocess.run(
        [sys.executable, "-c", _FORK, server.endpoints],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["7", "1"], done.stderr
