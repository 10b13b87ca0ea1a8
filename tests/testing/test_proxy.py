"""The network between nodes: what passes, what is held, what is refused.

Nodes are an echo server "b" and whoever says "a" first; a second client says "c".
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from raftkv.testing.ports import HOST, Ports
from raftkv.testing.proxy import Network

SILENCE_SECONDS = 0.15  # in which nothing may arrive
PATIENCE_SECONDS = 60.0  # in which what was let go must arrive


def first_letter(first_bytes: bytes) -> str | None:
    """Diallers say who they are in their first byte."""
    return first_bytes[:1].decode() or None


class Echo:
    """Sends back what it hears, one thread per connection. accepted: connections that spoke."""

    def __init__(self, port: int) -> None:
        self.accepted: list[socket.socket] = []
        self.heard = threading.Semaphore(0)
        self._listener = socket.create_server((HOST, port))
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._echo, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            spoke = False
            try:
                while data := connection.recv(65536):
                    if not spoke:
                        spoke = True
                        self.accepted.append(connection)
                    self.heard.release()
                    connection.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        """As the end of its process: listener first, then all connections."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.accepted:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for thread in self._threads:
            thread.join()


class Stage:
    """A network with a proxy at `door` in front of node "b" at `port`.

    thread: the network's own. Other tests' networks may live in this process, too.
    """

    def __init__(self, ports: Ports) -> None:
        before = set(threading.enumerate())
        self.network = network = Network()
        begun = set(threading.enumerate()) - before
        (self.thread,) = (thread for thread in begun if thread.name == "raftkv-network")
        self.door, self.port = ports.take(), ports.take()
        self.clients: list[socket.socket] = []
        network.add("b", self.door, self.port, first_letter)

    def dial(self) -> socket.socket:
        """A connection to the proxy."""
        client = socket.create_connection((HOST, self.door), PATIENCE_SECONDS)
        self.clients.append(client)
        return client

    def refuses(self) -> bool:
        """Whether nobody listens at the door. Its port is held, so nobody else can."""
        try:
            socket.create_connection((HOST, self.door), PATIENCE_SECONDS).close()
        except ConnectionRefusedError:
            return True
        return False


@pytest.fixture
def stage() -> Iterator[Stage]:
    ports = Ports()
    stage = Stage(ports)
    with stage.network:
        yield stage
        for client in stage.clients:
            client.close()
    ports.close()


@pytest.fixture
def echo(stage: Stage) -> Iterator[Echo]:
    echo = Echo(stage.port)
    yield echo
    for client in stage.clients:
        client.close()
    stage.network.close()
    echo.close()


def hear(client: socket.socket, count: int) -> bytes:
    """Exactly so many bytes."""
    client.settimeout(PATIENCE_SECONDS)
    heard = b""
    while len(heard) < count:
        chunk = client.recv(count - len(heard))
        assert chunk, "the connection ended"
        heard += chunk
    return heard


def is_silent(client: socket.socket) -> bool:
    """Whether neither bytes nor an end arrive for a while."""
    client.settimeout(SILENCE_SECONDS)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Fails if it does not come true."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def test_bytes_pass_both_ways_unchanged(stage: Stage, echo: Echo) -> None:
    client = stage.dial()
    sent = b"a" + os.urandom(3_000_000)
    threading.Thread(target=client.sendall, args=(sent,)).start()
    assert hear(client, len(sent)) == sent


def test_bytes_stay_in_order_when_cuts_and_delays_come_and_go(stage: Stage, echo: Echo) -> None:
    client = stage.dial()
    sent = b"a" + os.urandom(2_000_000)
    threading.Thread(target=client.sendall, args=(sent,)).start()
    network, heard = stage.network, b""
    for step in range(8):
        network.delay("a", "b", 0.02 if step % 2 else 0.0)
        network.cut(["b"], ["a"])
        time.sleep(0.01)
        network.heal()
        heard += hear(client, 200_000)
    assert heard + hear(client, len(sent) - len(heard)) == sent


def test_a_partition_holds_both_ways_and_passes_everything_when_it_heals(
    stage: Stage, echo: Echo
) -> None:
    client = stage.dial()
    client.sendall(b"a1")
    assert hear(client, 2) == b"a1"
    stage.network.partition(["a"], ["b"])
    client.sendall(b"234")
    assert is_silent(client)
    stage.network.heal()
    assert hear(client, 3) == b"234"


def test_a_one_way_cut_lets_the_other_way_through(stage: Stage, echo: Echo) -> None:
    client = stage.dial()
    client.sendall(b"a")
    assert hear(client, 1) == b"a"
    assert echo.heard.acquire(timeout=PATIENCE_SECONDS)
    stage.network.cut(["b"], ["a"])
    assert stage.network.is_cut("b", "a")
    assert not stage.network.is_cut("a", "b")
    client.sendall(b"1")
    assert echo.heard.acquire(timeout=PATIENCE_SECONDS), "what a says arrives"
    assert is_silent(client)
    stage.network.heal()
    assert hear(client, 1) == b"1"


def test_a_cut_concerns_those_who_are_named(stage: Stage, echo: Echo) -> None:
    stage.network.partition(["a"], ["b"])
    cut, other = stage.dial(), stage.dial()
    cut.sendall(b"a")
    other.sendall(b"c")
    assert hear(other, 1) == b"c"
    assert is_silent(cut)


def test_an_end_is_held_like_bytes(stage: Stage, echo: Echo) -> None:
    client = stage.dial()
    client.sendall(b"a")
    assert hear(client, 1) == b"a"
    stage.network.partition(["a"], ["b"])
    echo.accepted[0].shutdown(socket.SHUT_RDWR)
    assert is_silent(client)
    stage.network.heal()
    client.settimeout(PATIENCE_SECONDS)
    assert client.recv(1) == b""


def test_who_dials_in_a_cut_and_gives_up_was_never_there(stage: Stage, echo: Echo) -> None:
    stage.network.partition(["a"], ["b"])
    client = stage.dial()
    client.sendall(b"a")
    assert is_silent(client)
    client.close()
    time.sleep(SILENCE_SECONDS)
    stage.network.heal()
    other = stage.dial()
    other.sendall(b"c")
    assert hear(other, 1) == b"c"
    assert len(echo.accepted) == 1


def test_who_dials_in_a_cut_and_waits_gets_through(stage: Stage, echo: Echo) -> None:
    stage.network.cut(["a"], ["b"])
    client = stage.dial()
    client.sendall(b"a")
    assert is_silent(client)
    stage.network.heal()
    assert hear(client, 1) == b"a"


def test_a_delay_is_felt_and_ends(stage: Stage, echo: Echo) -> None:
    client = stage.dial()
    client.sendall(b"a")
    assert hear(client, 1) == b"a"
    stage.network.delay(["a"], ["b"], 0.2)
    stage.network.delay(["b"], ["a"], 0.1)
    began = time.monotonic()
    client.sendall(b"1")
    assert hear(client, 1) == b"1"
    assert time.monotonic() - began >= 0.29
    stage.network.heal()
    for _ in range(20):  # a slow machine is slow now and then, not twenty times
        began = time.monotonic()
        client.sendall(b"2")
        assert hear(client, 1) == b"2"
        if time.monotonic() - began < 0.1:
            return
    pytest.fail("the delay has not ended")


def test_diallers_wait_for_a_target_that_has_not_listened_yet(stage: Stage) -> None:
    client = stage.dial()
    client.sendall(b"a")
    assert is_silent(client)
    echo = Echo(stage.port)
    try:
        assert hear(client, 1) == b"a"
    finally:
        client.close()
        stage.network.close()
        echo.close()


def test_diallers_are_refused_while_the_target_is_gone_and_served_when_it_is_back(
    stage: Stage,
) -> None:
    first = Echo(stage.port)
    client = stage.dial()
    client.sendall(b"a")
    assert hear(client, 1) == b"a"
    first.close()
    client.settimeout(PATIENCE_SECONDS)
    assert client.recv(1) == b"", "the end arrives"
    assert stage.refuses(), "and then the door is shut already"
    second = Echo(stage.port)
    try:
        wait_until(lambda: not stage.refuses())
        again = stage.dial()
        again.sendall(b"a2")
        assert hear(again, 2) == b"a2"
    finally:
        stage.network.close()
        second.close()


def test_a_network_ends_with_its_thread_and_its_connections(stage: Stage, echo: Echo) -> None:
    client = stage.dial()
    client.sendall(b"a")
    assert hear(client, 1) == b"a"
    stage.network.close()
    stage.network.close()
    client.settimeout(PATIENCE_SECONDS)
    assert client.recv(1) == b""
    assert stage.refuses()
    assert not stage.thread.is_alive()
