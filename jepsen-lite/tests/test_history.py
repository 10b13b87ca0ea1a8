"""Histories: their files, their pairs, and what is wrong with them."""

from pathlib import Path

import pytest

from jepsen_lite.history import NEMESIS, Call, History, HistoryError, Journal, Op

GOOD = [
    Op(0, "invoke", "write", {"key": "k", "value": "ü\n"}, 5, 0),
    Op(1, "invoke", "read", None, 7, 1),
    Op(NEMESIS, "invoke", "start-kill", None, 8, 2),
    Op(0, "ok", "write", {"key": "k", "value": "ü\n", "revision": 3}, 9, 3),
    Op(NEMESIS, "info", "start-kill", [0], 9, 4),
    Op(1, "fail", "read", None, 12, 5, "NoLeader: none"),
    Op(0, "invoke", "write", 2, 13, 6),
    Op(0, "info", "write", 2, 20, 7, "TimedOut: late"),
    Op(2, "invoke", "read", None, 21, 8),
]


def _written(path: Path) -> Path:
    file = path / "history.jsonl"
    History(GOOD).write(file)
    return file


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    history = History.read(_written(tmp_path))
    assert list(history) == GOOD
    history.check_complete()


def test_a_journal_writes_the_same_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal")
    for op in GOOD:
        journal.add(op)
    journal.flush()
    journal.close()
    assert (tmp_path / "journal").read_bytes() == _written(tmp_path).read_bytes()


def test_calls_are_paired_in_the_order_of_their_invocations() -> None:
    history = History(GOOD)
    assert history.calls() == [
        Call(GOOD[0], GOOD[3]),
        Call(GOOD[1], GOOD[5]),
        Call(GOOD[6], GOOD[7]),
        Call(GOOD[8], None),
    ]
    assert [(call.ok, call.failed, call.unknown) for call in history.calls()] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, False, True),
    ]
    assert history.nemesis_calls() == [Call(GOOD[2], GOOD[4])]
    assert len(history.client_ops()) + len(history.nemesis_ops()) == len(history)


def test_a_file_cut_at_any_byte_says_where_and_can_be_checked_in_part(tmp_path: Path) -> None:
    whole = _written(tmp_path).read_bytes()
    ends = {place + 1 for place, byte in enumerate(whole) if byte == ord("\n")} | {0}
    cut = tmp_path / "cut.jsonl"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        lines = whole[:size].count(b"\n")
        if size in ends:
            assert len(History.read(cut)) == lines
            continue
        with pytest.raises(HistoryError, match=rf"cut.jsonl, line {lines + 1}: .*--partial"):
            History.read(cut)
        assert list(History.read(cut, partial=True)) == GOOD[:lines]


@pytest.mark.parametrize(
    "line",
    [
        "nonsense",
        "[]",
        "7",
        '{"index":0}',
        '{"index":0,"process":0,"type":"begin","f":"r","value":1,"time":1}',
        '{"index":0,"process":"0","type":"ok","f":"r","value":1,"time":1}',
    ],
)
def test_a_line_that_is_no_operation_is_refused(line: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(HistoryError, match="line 1"):
        History.read(file)


@pytest.mark.parametrize(
    ("ops", "text"),
    [
        ([Op(0, "ok", "r", None, 1, 0)], "completes no invocation"),
        ([Op(0, "invoke", "r", None, 1, 1)], "index is 1"),
        ([Op(0, "invoke", "r", None, 2, 0), Op(1, "invoke", "r", None, 1, 1)], "happened before"),
        ([Op(0, "invoke", "r", None, 1, 0), Op(0, "invoke", "r", None, 1, 1)], "busy already"),
        ([Op(0, "invoke", "r", None, 1, 0), Op(0, "ok", "w", None, 1, 1)], "completes no"),
        (
            [
                Op(0, "invoke", "w", None, 1, 0),
                Op(0, "info", "w", None, 2, 1),
                Op(0, "invoke", "w", None, 3, 2),
            ],
            "retired",
        ),
    ],
)
def test_a_history_that_contradicts_itself_is_found(ops: list[Op], text: str) -> None:
    with pytest.raises(HistoryError, match=text):
        History(ops).check_complete()


def test_the_nemesis_goes_on_after_an_info() -> None:
    History(
        [
            Op(NEMESIS, "invoke", "a", None, 1, 0),
            Op(NEMESIS, "info", "a", None, 2, 1),
            Op(NEMESIS, "invoke", "b", None, 3, 2),
        ]
    ).check_complete()
