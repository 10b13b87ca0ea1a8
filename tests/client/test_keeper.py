"""The thread that keeps leases, against servers that answer, refuse, hang or lie.

The servers are real gRPC servers that know nothing but LeaseKeepAlive, so that each can be told
what to do; times are real. Where no lease may be lost, the TTL leaves seconds to a machine that
stands still now and then; a lease that was granted a while ago need not be waited for.
"""

import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import pytest

from raftkv.client import lifetime
from raftkv.client.keeper import RENEW, Keeper
from raftkv.client.kept import Kept
from raftkv.client.lifetime import now
from raftkv.pb import rpc_pb2


class Server(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers renewals as it is told to.

    mode: "renew", "silent" (reads and does not answer), "gone" (TTL 0) or "break" (ends the
    stream). delay: seconds before each answer. asked: lease ids in order of arrival. asked_at:
    when they arrived, by `now`.
    """

    def __init__(self, ttl: int) -> None:
        self.mode = "renew"
        self.delay = 0.0
        self.ttl = ttl
        self.asked: list[int] = []
        self.asked_at: list[float] = []
        self.streams = 0
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=[self])
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        """Called by grpcio."""
        if details.method != RENEW:
            return None
        return grpc.stream_stream_rpc_method_handler(
            self._renew,
            request_deserializer=rpc_pb2.LeaseKeepAliveRequest.FromString,
            response_serializer=rpc_pb2.LeaseKeepAliveResponse.SerializeToString,
        )

    def _renew(
        self, requests: Iterator[rpc_pb2.LeaseKeepAliveRequest], context: grpc.ServicerContext
    ) -> Iterator[rpc_pb2.LeaseKeepAliveResponse]:
        self.streams += 1
        if self.mode == "break":
            context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
        for request in requests:
            self.asked_at.append(now())
            self.asked.append(request.ID)
            if self.mode == "break":
                context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
            if self.mode == "silent":
                continue
            time.sleep(self.delay)
            yield rpc_pb2.LeaseKeepAliveResponse(
                ID=request.ID, TTL=0 if self.mode == "gone" else self.ttl
            )

    def stop(self) -> None:
        """Ends it at once; its port refuses connections from now on."""
        self._server.stop(0).wait()


class Servers:
    """Is the keeper's Route to some servers."""

    def __init__(self, count: int, ttl: int) -> None:
        self.all = [Server(ttl) for _ in range(count)]
        self.dialled: list[str] = []

    def endpoints(self) -> Sequence[str]:
        return [f"127.0.0.1:{server.port}" for server in self.all]

    def dial(self, endpoint: str) -> grpc.Channel:
        self.dialled.append(endpoint)
        return grpc.insecure_channel(
            endpoint, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        )

    def metadata(self) -> Sequence[tuple[str, str]]:
        return (("hasleader", "true"),)


Make = Callable[..., tuple[Servers, Keeper]]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(count: int = 1, ttl: int = 1) -> tuple[Servers, Keeper]:
            servers = Servers(count, ttl)
            for server in servers.all:
                stack.callback(server.stop)
            keeper = Keeper(servers)
            stack.callback(keeper.close)
            return servers, keeper

        yield made


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, "did not come about"
        threading.Event().wait(0.01)


class Told:
    """When a lease's end was told, by `now`; 0 = not yet."""

    def __init__(self, kept: Kept) -> None:
        self.over = self.lost = 0.0
        self.calls = 0
        self.event = threading.Event()
        kept.when_over(self._note_over)
        kept.when_lost(self._note_lost)

    def _note_over(self) -> None:
        self.over = now()

    def _note_lost(self) -> None:
        self.lost = now()
        self.calls += 1
        self.event.set()


def assert_told_at_the_deadline(told: Told, kept: Kept, metronome: "Metronome") -> None:
    """Not before it, and behind it no more than a busy machine takes to switch threads."""
    assert kept.lifetime.deadline <= told.over < metronome.woke() + 1.5


class Metronome:
    """A thread that does nothing but wait for a lease's deadline: so late is this machine."""

    def __init__(self, kept: Kept) -> None:
        self._woke = 0.0
        self._thread = threading.Thread(target=self._wait, args=(kept.lifetime.deadline,))
        self._thread.start()

    def _wait(self, deadline: float) -> None:
        while (left := deadline - now()) > 0:
            threading.Event().wait(left)
        self._woke = now()

    def woke(self) -> float:
        """When it went on, by `now`."""
        self._thread.join()
        return self._woke


def test_leases_are_renewed_at_a_third_of_their_ttl_over_one_stream(make: Make) -> None:
    servers, keeper = make(ttl=6)
    began = now()
    kept = [keeper.keep(number, 6, now()) for number in range(1, 51)]
    wait_until(lambda: len(servers.all[0].asked) >= 100)
    # Two thirds of the TTL, but those that are due a moment later are renewed along.
    assert servers.all[0].asked_at[50] > began + 3.3
    assert all(one.alive for one in kept)
    assert servers.all[0].streams == 1


def test_a_server_that_says_the_lease_is_gone_is_believed_at_once(make: Make) -> None:
    servers, keeper = make()
    servers.all[0].mode = "gone"
    kept = keeper.keep(5, 30, now() - 10)
    told = Told(kept)
    assert told.event.wait(15)
    assert not kept.alive
    assert told.over <= told.lost < kept.lifetime.deadline
    assert "the server has ended" in kept.reason


def test_loss_is_told_at_the_deadline_although_nothing_answers(make: Make) -> None:
    """C07: the request vanishes. The deadline lies before the end of the TTL."""
    servers, keeper = make()
    servers.all[0].mode = "silent"
    kept = keeper.keep(5, 3, now() - 0.9)
    metronome = Metronome(kept)
    told = Told(kept)
    assert told.event.wait(20)
    assert_told_at_the_deadline(told, kept, metronome)
    assert servers.all[0].asked, "it was asked"
    assert "clock" in kept.reason


def test_loss_is_told_at_the_deadline_although_nobody_can_be_reached(make: Make) -> None:
    """C07: all ports refuse."""
    servers, keeper = make(3)
    for server in servers.all:
        server.stop()
    kept = keeper.keep(5, 1, now())
    metronome = Metronome(kept)
    told = Told(kept)
    assert told.event.wait(20)
    assert_told_at_the_deadline(told, kept, metronome)
    assert len(servers.dialled) < 20, "no busy loop"
    assert told.calls == 1


@pytest.mark.parametrize("fault", ["silent", "break", "stopped"])
def test_another_endpoint_takes_over_in_time(make: Make, fault: str) -> None:
    """C06: two of three endpoints fail in one way or another; no lease is lost."""
    servers, keeper = make(3, ttl=9)
    for server in servers.all[:2]:
        if fault == "stopped":
            server.stop()
        else:
            server.mode = fault
    kept = keeper.keep(5, 9, now() - 2.9)
    told = Told(kept)
    wait_until(lambda: bool(servers.all[2].asked))
    wait_until(lambda: kept.lifetime.remaining > 6 or bool(told.over))
    assert not told.over


def test_an_outage_shorter_than_the_ttl_costs_nothing(make: Make) -> None:
    """C06: the only endpoint is silent for more than half of the TTL, then answers again."""
    servers, keeper = make(1, ttl=12)
    server = servers.all[0]
    kept = keeper.keep(5, 12, now() - 3.9)
    told = Told(kept)
    wait_until(lambda: kept.lifetime.remaining > 10)
    server.mode = "silent"
    asked = len(server.asked)
    wait_until(lambda: kept.lifetime.remaining < 5.5)
    assert len(server.asked) > asked
    server.mode = "renew"
    wait_until(lambda: kept.lifetime.remaining > 6 or bool(told.over))
    assert not told.over


def test_a_slow_server_is_heard_although_another_was_asked_meanwhile(make: Make) -> None:
    """Its answer counts from when it was asked; it is not given up for being slow."""
    servers, keeper = make(2, ttl=9)
    servers.all[0].delay = 2.4  # longer than the patience of one and a half seconds
    servers.all[1].mode = "silent"
    kept = keeper.keep(5, 9, now() - 2.9)
    told = Told(kept)
    least = kept.lifetime.remaining
    while len(servers.all[0].asked) < 2:
        threading.Event().wait(0.01)
        least = min(least, kept.lifetime.remaining)
    assert servers.all[1].asked, "meanwhile"
    assert least > 1.5, "not asked anew, which would take three seconds more"
    assert not told.over


def test_an_answer_counts_from_the_sending_of_its_request(make: Make) -> None:
    servers, keeper = make(1, ttl=60)
    servers.all[0].delay = 1.2  # less than the keeper's patience
    kept = keeper.keep(5, 60, now() - 19.5)
    before = kept.lifetime.deadline
    wait_until(lambda: kept.lifetime.deadline > before)
    assert kept.lifetime.deadline > before + 19.9, "a third of the TTL"
    arrived = servers.all[0].asked_at[0]
    assert kept.lifetime.deadline <= arrived + 60 - lifetime.margin(60), "not 1.2 s on top"


def test_an_answer_is_never_taken_for_that_of_a_later_request(make: Make) -> None:
    """Asked again while the first request is under way: its answer counts from the first."""
    servers, keeper = make(1, ttl=60)
    servers.all[0].delay = 0.8  # so that no patience ends, and the second one comes meanwhile
    kept = keeper.keep(5, 60, now() - 30)
    keeper.renew_now(kept, lambda renewed: None)
    wait_until(lambda: bool(servers.all[0].asked))
    outcome: list[bool] = []
    second = now()
    keeper.renew_now(kept, outcome.append)
    wait_until(lambda: bool(outcome))
    assert kept.lifetime.deadline < second + 60 - lifetime.margin(60)


def test_a_callback_that_blocks_does_not_hold_up_other_leases(make: Make) -> None:
    servers, keeper = make(1, ttl=6)
    blocked = threading.Event()
    short = keeper.keep(1, 1, now() - 0.7)
    short.when_lost(lambda: blocked.wait(60))
    servers.all[0].mode = "silent"
    wait_until(lambda: not short.alive)
    servers.all[0].mode = "renew"
    other = keeper.keep(2, 6, now() - 1.9)
    told = Told(other)
    wait_until(lambda: servers.all[0].asked.count(2) >= 2)
    assert not told.over
    blocked.set()


def test_a_callback_that_fails_does_not_keep_others_from_being_told(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    servers, keeper = make()
    servers.all[0].mode = "gone"
    kept = keeper.keep(5, 1, now())
    kept.when_over(lambda: 1 / 0)
    kept.when_lost(lambda: 1 / 0)
    told = Told(kept)
    assert told.event.wait(20)
    assert "ZeroDivisionError" in caplog.text


def test_who_asks_too_late_is_told_at_once(make: Make) -> None:
    servers, keeper = make()
    servers.all[0].mode = "gone"
    kept = keeper.keep(5, 1, now())
    assert Told(kept).event.wait(20)
    late = Told(kept)
    assert late.over
    assert late.calls == 1


def test_a_released_lease_is_not_alive_and_nobody_hears_of_a_loss(make: Make) -> None:
    _, keeper = make()
    kept = keeper.keep(5, 1, now())
    told = Told(kept)
    keeper.release(kept)
    assert not kept.alive
    assert told.over
    assert not told.calls
    assert not Told(kept).calls


def test_a_detached_lease_is_not_renewed_and_its_deadline_is_told(make: Make) -> None:
    servers, keeper = make()
    kept = keeper.keep(5, 1, now())
    keeper.detach(kept)
    metronome = Metronome(kept)
    told = Told(kept)
    assert told.event.wait(20)
    assert_told_at_the_deadline(told, kept, metronome)
    assert servers.all[0].asked == []


def test_a_renewal_on_demand_is_told_when_it_came(make: Make) -> None:
    servers, keeper = make(ttl=60)
    kept = keeper.keep(5, 60, now() - 10, renewing=False)
    before = kept.lifetime.deadline
    outcome: list[bool] = []
    keeper.renew_now(kept, outcome.append)
    wait_until(lambda: bool(outcome))
    assert outcome == [True]
    assert kept.lifetime.deadline > before + 9
    assert servers.all[0].asked == [5]


def test_a_renewal_on_demand_of_what_is_over_says_so(make: Make) -> None:
    servers, keeper = make()
    servers.all[0].mode = "gone"
    kept = keeper.keep(5, 60, now())
    outcome: list[bool] = []
    keeper.renew_now(kept, outcome.append)
    wait_until(lambda: bool(outcome))
    keeper.renew_now(kept, outcome.append)
    assert outcome == [False, False]


def test_closing_ends_every_thread_and_tells_that_leases_are_not_kept(make: Make) -> None:
    before = set(threading.enumerate())
    servers, keeper = make(2)
    servers.all[0].mode = "silent"
    kept = [keeper.keep(number, 1, now()) for number in range(1, 4)]
    told = [Told(one) for one in kept]
    wait_until(lambda: bool(servers.all[0].asked))
    began = time.monotonic()
    keeper.close()
    assert time.monotonic() - began < 20
    assert all(one.event.wait(20) for one in told)
    assert not any(one.alive for one in kept)
    wait_until(
        lambda: (
            not [
                thread for thread in set(threading.enumerate()) - before if "raftkv" in thread.name
            ]
        )
    )
    after = keeper.keep(9, 1, now())
    assert not after.alive
    assert after.reason == "the client was closed"


def test_a_keeper_without_leases_has_no_thread_and_no_connection(make: Make) -> None:
    servers, keeper = make()
    assert keeper.stopped
    kept = keeper.keep(5, 1, now())
    wait_until(lambda: len(servers.all[0].asked) >= 1)
    keeper.release(kept)
    asked = len(servers.all[0].asked)
    wait_until(lambda: not [one for one in threading.enumerate() if "answers" in one.name])
    assert len(servers.all[0].asked) == asked


def test_a_late_renewal_is_warned_of_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    servers, keeper = make()
    servers.all[0].mode = "silent"
    with caplog.at_level(logging.WARNING, "raftkv.client"):
        kept = keeper.keep(0x5EED, 6, now() - 1.9)
        assert Told(kept).event.wait(60)
        wait_until(lambda: any("no renewal" in record.message for record in caplog.records))
    late = [record for record in caplog.records if "no renewal" in record.message]
    assert len(late) == 1
    assert "lease 5eed" in late[0].message
    # Whether its time for an answer is over when half of the TTL is, is up to the machine.
    assert re.search("does not answer|no answer yet", late[0].message)


def test_after_the_machine_slept_a_lease_is_over_before_anybody_was_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock leaps as CLOCK_BOOTTIME does over a suspension; no thread has run yet."""
    _, keeper = make(ttl=60)
    kept = keeper.keep(5, 60, now())
    told = Told(kept)
    real = lifetime.now
    monkeypatch.setattr(lifetime, "now", lambda: real() + 3600)
    assert not kept.alive
    assert not told.over


def test_warnings_are_silent_without_a_handler() -> None:
    """An application that sets up no logging sees nothing of the library's on stderr."""
    program = "from raftkv.client.keeper import log; log.warning('late')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stderr == ""


_STOPPED = """
import os, threading
from raftkv.client.keeper import Keeper
from raftkv.client.lifetime import now
from tests.client.test_keeper import Servers
servers = Servers(1, 1)
keeper = Keeper(servers)
kept = keeper.keep(5, 1, now())
told = threading.Event()
kept.when_lost(lambda: (os.write(1, b"lost\\n"), told.set()))
os.write(1, b"kept\\n")
while kept.alive:
    pass
os.write(1, b"not alive\\n")
told.wait()
keeper.close()
servers.all[0].stop()
"""


def test_a_stopped_process_finds_its_lease_over_when_it_goes_on() -> None:
    """SIGSTOP for longer than the TTL: `alive` is false at once, the loss is told soon."""
    with subprocess.Popen(
        [sys.executable, "-c", _STOPPED], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "kept\n"
            assert threading.Event().wait(0.5) is False
            process.send_signal(signal.SIGSTOP)
            threading.Event().wait(1.2)
            process.send_signal(signal.SIGCONT)
            lines = {process.stdout.readline(), process.stdout.readline()}
            assert lines == {"not alive\n", "lost\n"}
            assert process.wait(30) == 0
        finally:
            process.kill()


_FORKED = """
import os
from raftkv.client.errors import ForkedClient
from raftkv.client.keeper import Keeper
from raftkv.client.lifetime import now

class Nowhere:
    def endpoints(self):
        return ["127.0.0.1:1"]
    def dial(self, endpoint):
        raise OSError("nobody may dial here")
    def metadata(self):
        return ()

keeper = Keeper(Nowhere())
kept = keeper.keep(5, 60, now())
child = os.fork()
if not child:
    told = int(kept.alive)
    try:
        keeper.keep(6, 60, now())
    except ForkedClient:
        told += 2
    os._exit(told)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), kept.alive)
keeper.close()
"""


def test_a_forked_child_gets_a_clear_error_and_no_lease() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORKED], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.stdout.split() == ["2", "True"], done.stderr
