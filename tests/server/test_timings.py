"""What is slow is counted, and said with what it waited for, not more often than is bearable."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from raftkv.kv import commands
from raftkv.pb import rpc_pb2
from raftkv.raft.types import CONFIG, NOOP, NORMAL, Entry
from raftkv.replica.stopwatch import Applied, Run, Stopwatch
from raftkv.server.portrait import KEY_BYTES, portrait
from raftkv.server.timings import QUIET_SECONDS, Timings

SECRET = b"secret-value"


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> Callable[[], list[dict[str, str]]]:
    """The lines so far: text and fields."""
    monkeypatch.setattr(logging.getLogger("raftkv"), "propagate", True)
    caplog.set_level(logging.WARNING, "raftkv.server")
    wanted = (
        *("took", "waited-for", "times", "request", "requests", "expected-duration", "index"),
        *("writes", "reads"),
    )

    def lines() -> list[dict[str, str]]:
        return [
            {"msg": one.getMessage(), **{k: v for k, v in vars(one).items() if k in wanted}}
            for one in caplog.records
        ]

    return lines


def entry(index: int, command: int = commands.PUT, request: Any = None) -> Entry:
    request = request or rpc_pb2.PutRequest(key=b"key", value=SECRET)
    return Entry(index, 1, NORMAL, commands.encode(command, request.SerializeToString()))


def never(index: int) -> float:
    return 0.0


def applied(took: float, runs: list[Run] | None = None, *, at: float = 100.0) -> Applied:
    """A turn that applied entries 5 to 8 for so long."""
    timing = Applied([entry(index) for index in range(5, 9)], at)
    timing.lap(at + took, 0, 4)
    timing.runs = runs or []
    return timing


def test_slow_applying_is_said_with_its_slowest_entries(
    said: Callable[[], list[dict[str, str]]],
) -> None:
    timings = Timings(0.1, 0.3)
    timing = Applied([entry(index) for index in range(1, 4)], 10.0)
    timing.lap(10.01, 0, 1)
    timing.lap(10.25, 1, 2)
    timing.lap(10.26, 2, 3)
    timings.applied(timing, never)
    (line,) = said()
    assert line["msg"] == "apply request took too long"
    assert (line["took"], line["expected-duration"], line["index"]) == ("240ms", "100ms", "2")
    assert line["request"] == 'put:<key:"key" value_size:12 >'
    assert timings.slow_applies == 1


def test_what_is_quick_is_counted_and_not_said(said: Callable[[], list[dict[str, str]]]) -> None:
    timings = Timings(0.1, 0.3)
    timings.applied(applied(0.05, [Run(8, 1, 4, 99.9, 99.9)]), lambda index: 99.95)
    assert said() == []
    assert sum(timings.apply_seconds.counts) == 1
    assert sum(timings.proposal_seconds.counts) == 4
    assert timings.proposal_seconds.sum == pytest.approx(4 * 0.15)


@pytest.mark.parametrize(
    ("since", "appended", "durable", "took", "reason"),
    [
        (90.0, 99.8, 99.9, 0.0, "leader"),
        (98.0, 98.0, 99.9, 0.0, "log-sync"),
        (98.0, 98.0, 98.1, 0.0, "quorum"),
        (99.9, 99.9, 99.95, 2.0, "apply"),
    ],
)
def test_a_slow_write_says_what_it_waited_for(
    since: float,
    appended: float,
    durable: float,
    took: float,
    reason: str,
    said: Callable[[], list[dict[str, str]]],
) -> None:
    timings = Timings(10.0, 0.3)
    run = Run(6, 1, 2, since, appended)
    timings.applied(applied(took, [run]), lambda index: durable)
    (line,) = said()
    assert (line["msg"], line["waited-for"], line["requests"]) == ("slow request", reason, "2")
    assert line["request"].count("put:<") == 2


def test_a_slow_write_that_was_forwarded_waited_for_the_cluster(
    said: Callable[[], list[dict[str, str]]],
) -> None:
    timings = Timings(10.0, 0.3)
    timings.applied(applied(0.0, [Run(0, 0, 7, 98.0, 98.0)]), lambda index: 99.0)
    (line,) = said()
    assert (line["waited-for"], line["requests"], line["took"]) == ("cluster", "7", "2s")


def test_slow_reads_and_long_reads_are_said(said: Callable[[], list[dict[str, str]]]) -> None:
    timings = Timings(0.1, 0.3)
    timings.served(0.4, 3, 10.0)
    timings.sliced(2.0, 0.1)
    timings.sliced(0.1, 2.0)
    assert [line["waited-for"] for line in said()] == ["read-index", "queue"]
    assert timings.slow_reads == 0
    timings.served(0.6, 1, 11.0)
    assert timings.slow_reads == 1


def test_a_sick_disk_is_said_now_and_then_with_how_often_it_happened(
    said: Callable[[], list[dict[str, str]]],
) -> None:
    timings = Timings(0.1, 0.3)
    for second in range(int(QUIET_SECONDS) + 1):
        timings.synced(1.5, 100.0 + second)
    lines = said()
    assert [line["msg"] for line in lines] == ["slow fdatasync"] * 2
    assert lines[0].get("times") is None
    assert lines[1]["times"] == str(int(QUIET_SECONDS))
    assert timings.slow_syncs == int(QUIET_SECONDS) + 1


def test_a_heartbeat_counts_as_late_on_the_leader_only(
    said: Callable[[], list[dict[str, str]]],
) -> None:
    timings = Timings(0.1, 0.3)
    timings.ticked(0.25, 0.1, leads=False, now=1.0)
    timings.ticked(0.05, 0.1, leads=True, now=1.0)
    assert (timings.late_beats, said()) == (0, [])
    timings.ticked(0.25, 0.1, leads=True, now=1.0)
    assert timings.late_beats == 1
    assert len(said()) == 1


def test_requests_that_time_out_are_said_with_their_numbers(
    said: Callable[[], list[dict[str, str]]],
) -> None:
    timings = Timings(0.1, 0.3)
    timings.failing(0, 0, has_leader=False, now=1.0)
    assert said() == []
    timings.failing(3, 1, has_leader=False, now=2.0)
    timings.failing(3, 1, has_leader=True, now=20.0)
    timings.failing(4, 1, has_leader=True, now=30.0)
    timings.failing(9, 1, has_leader=True, now=30.1)
    timings.failing(9, 1, has_leader=True, now=40.0)
    assert [(line["waited-for"], line["writes"], line["reads"]) for line in said()] == [
        ("leader", "3", "1"),
        ("quorum", "1", "0"),
        ("quorum", "5", "0"),
    ]


def test_a_bound_of_zero_says_nothing(said: Callable[[], list[dict[str, str]]]) -> None:
    timings = Timings(0.0, 0.0)
    timings.applied(applied(50.0, [Run(8, 1, 1, 1.0, 1.0)]), never)
    timings.served(50.0, 1, 1.0)
    timings.sliced(50.0, 50.0)
    assert said() == []


# --- portraits of requests --------------------------------------------------------


def _txn() -> rpc_pb2.TxnRequest:
    put = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"p", value=SECRET))
    delete = rpc_pb2.DeleteRangeRequest(key=b"d", range_end=b"e")
    read = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"r"))
    inner = rpc_pb2.RequestOp(request_txn=rpc_pb2.TxnRequest(success=[put]))
    compare = rpc_pb2.Compare(key=b"c", target=rpc_pb2.Compare.CompareTarget.VALUE, value=SECRET)
    return rpc_pb2.TxnRequest(
        compare=[compare],
        success=[put, rpc_pb2.RequestOp(request_delete_range=delete), read, inner],
        failure=[put] * 6,
    )


def test_no_value_is_ever_shown() -> None:
    requests = (
        (commands.PUT, rpc_pb2.PutRequest(key=b"k", value=SECRET)),
        (commands.TXN, _txn()),
        (commands.LEASE_GRANT, rpc_pb2.PutRequest(key=b"k", value=SECRET)),
        (200, rpc_pb2.PutRequest(key=b"k", value=SECRET)),
    )
    for command, request in requests:
        shown = portrait(entry(1, command, request))
        assert SECRET.decode() not in shown
        assert len(shown) < 400


def test_a_transaction_shows_its_operations() -> None:
    shown = portrait(entry(1, commands.TXN, _txn()))
    assert 'compare:<key:"c" >' in shown
    assert 'delete_range:<key:"d" range_end:"e" >' in shown
    assert 'range:<key:"r" >' in shown
    assert "and 2 more" in shown


def test_long_keys_are_cut_and_strange_ones_are_quoted() -> None:
    long = portrait(entry(1, commands.PUT, rpc_pb2.PutRequest(key=b"k" * 5000)))
    assert f'key:"{"k" * KEY_BYTES}..."' in long
    strange = portrait(entry(1, commands.PUT, rpc_pb2.PutRequest(key=b"a\"\n\xff'")))
    assert "\n" not in strange
    assert strange.startswith('put:<key:"a\\"\\n\\xff')


@pytest.mark.parametrize(
    ("made", "shown"),
    [
        (Entry(1, 1, NOOP, b""), "raft:<>"),
        (Entry(1, 1, CONFIG, b"anything"), "member-change:<>"),
        (Entry(1, 1, NORMAL, b"\0\1\xff\xff"), "command-1:<size:2 >"),
    ],
)
def test_other_entries_have_portraits_too(made: Entry, shown: str) -> None:
    assert portrait(made) == shown


# --- the stopwatch ------------------------------------------------------------------


def test_a_run_is_given_back_once_when_the_log_is_applied_up_to_its_end() -> None:
    watch = Stopwatch()
    now = iter(range(100))
    watch.clock = lambda: float(next(now))
    watch.appended(3, 3, term=1)
    watch.appended(5, 2, term=1, since=-7.0)
    watch.stable(4)
    watch.stable(9)
    assert watch.applied(2) == []
    assert watch.applied(3) == [Run(3, 1, 3, 0.0, 0.0)]
    assert watch.applied(9) == [Run(5, 1, 2, -7.0, 1.0)]
    assert (watch.durable_at(3), watch.durable_at(5), watch.durable_at(10)) == (2.0, 3.0, 0.0)


def test_forwarded_writes_that_were_sent_together_are_one_run() -> None:
    watch = Stopwatch()
    for since, sent in ((1.0, 2.0), (1.0, 2.0), (3.0, 4.0)):
        watch.answered(since, sent)
    assert watch.applied(0) == [Run(0, 0, 2, 1.0, 2.0), Run(0, 0, 1, 3.0, 4.0)]
    assert watch.applied(0) == []


def test_a_forwarded_write_whose_beginning_nobody_knows_has_waited_since_it_was_sent() -> None:
    watch = Stopwatch()
    watch.answered(0.0, 50.0)
    assert watch.applied(0) == [Run(0, 0, 1, 50.0, 50.0)]


def test_writes_that_go_back_to_waiting_keep_the_time_of_their_beginning() -> None:
    watch = Stopwatch()
    watch.appended(3, 1, term=1, since=10.0)
    watch.appended(4, 1, term=1, since=11.0)
    watch.appended(5, 1, term=2, since=12.0)
    assert watch.lost(2) == 10.0
    assert watch.lost(2) == 0.0
    assert [run.last for run in watch.applied(9)] == [5]
