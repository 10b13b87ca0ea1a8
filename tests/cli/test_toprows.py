"""The table of `raftctl top` from surveys made by hand."""

from dataclasses import replace

import pytest

from raftkv.cli.terminal import wants_to_quit
from raftkv.cli.toprows import lines, rows_of, short_bytes, short_count, short_time, summary
from tests.cli.surveys import changed, healthy, reply_in, silent


def test_rates_are_what_the_counters_grew_by_per_second() -> None:
    before, now = healthy(), healthy(at_seconds=104.0)
    reply_in(now, 0).counters["puts_total"] += 100
    reply_in(now, 1).counters["ranges_total"] += 8
    rows = rows_of(before, now)
    assert [row.puts_per_second for row in rows] == [25.0, 0.0, 0.0]
    assert [row.gets_per_second for row in rows] == [0.0, 2.0, 0.0]
    assert summary(rows) == "3 members; leader n1; 25 puts/s, 2 gets/s"


def test_a_member_that_restarted_has_no_rate_rather_than_a_wrong_one() -> None:
    before, now = healthy(), healthy(at_seconds=101.0)
    reply_in(now, 2).counters["puts_total"] = 3
    assert [row.puts_per_second for row in rows_of(before, now)] == [0.0, 0.0, None]


def test_the_first_look_has_no_rates() -> None:
    assert {row.puts_per_second for row in rows_of(None, healthy())} == {None}


def test_lag_counts_committed_entries_that_are_still_to_apply() -> None:
    now = healthy()
    reply_in(now, 0).commit_index = 1_000
    reply_in(now, 1).applied_index = 990
    reply_in(now, 0).applied_index = 1_000
    assert [row.lag_entries for row in rows_of(None, now)] == [0, 10, 100]


def test_a_member_that_does_not_answer_keeps_its_row_with_the_reason() -> None:
    rows = rows_of(None, silent(healthy(), 1))
    assert [row.problem for row in rows] == ["", "no answer", ""]
    assert "n2 unreachable: no answer" in " ".join(lines(rows, 80)[2].split())
    assert "1 unreachable" in summary(rows)


def test_without_any_member_the_endpoints_are_the_rows() -> None:
    lost = replace(healthy(), members=(), unreachable={"h:1": "connection refused"})
    (row,) = rows_of(None, lost)
    assert (row.endpoint, row.problem) == ("h:1", "connection refused")


@pytest.mark.parametrize("columns", [80, 92, 120, 200])
def test_no_line_is_wider_than_the_terminal_whatever_the_values(columns: int) -> None:
    before, now = healthy(), healthy(at_seconds=100.1)
    now = changed(now, 0, name="a-very-long-name-for-one-member.of.a.large.company.example")
    for position in range(3):
        reply = reply_in(now, position)
        reply.header.raft_term = 123_456
        reply.header.revision = 987_654_321_012
        reply.role = "pre-candidate"
        reply.commit_index = 5_000_000
        reply.log_sync.p99_us = 12_345_678
        reply.db_bytes = 123 << 30
        for name in ("puts_total", "ranges_total", "watchers", "leases"):
            reply.counters[name] = 987_654_321
    shown = lines(rows_of(before, now), columns)
    assert max(map(len, shown)) <= columns
    assert len(shown) == 4
    assert shown[0].split()[:4] == ["NAME", "ROLE", "TERM", "REV"]
    assert shown[1].startswith("a-ver")


def test_a_wide_terminal_shows_more_columns() -> None:
    rows = rows_of(None, healthy())
    assert "ENDPOINT" not in lines(rows, 80)[0]
    assert lines(rows, 140)[0].split()[-3:] == ["CONN", "RTT", "ENDPOINT"]


@pytest.mark.parametrize(
    ("number", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1_234, "1.23k"), (12_345, "12.3k"), (5e6, "5.00M")],
)
def test_counts_are_short(number: float | None, text: str) -> None:
    assert short_count(number) == text


def test_sizes_and_times_are_short() -> None:
    assert [short_bytes(one) for one in (None, 5, 2048, 20 << 20)] == ["-", "5B", "2.0K", "20M"]
    times = [None, 850, 3_210, 150_000, 1_500_000]
    assert [short_time(one) for one in times] == ["-", "850us", "3.2ms", "150ms", "1.5s"]


@pytest.mark.parametrize(
    "pressed", [b"q", b"Q", b"\x1b", b"\x03", b"\x1b[Aq", b"xq", b"\x1bOB\x04", b""]
)
def test_a_key_to_quit_is_seen_whatever_was_pressed_before_it(pressed: bytes) -> None:
    """All that is pressed between two looks comes at once."""
    assert wants_to_quit(pressed)


@pytest.mark.parametrize(
    "pressed", [b"x", b"\x1b[A", b"\x1bOA\x1bOB", b"\x1b[1;5C", b"\x1b[5~", b"\x1bx"]
)
def test_other_keys_arrows_among_them_are_no_wish_to_leave(pressed: bytes) -> None:
    assert not wants_to_quit(pressed)
