"""Scales, words for figures, and what is counted."""

import pytest

from jepsen_lite.report.markup import element, plain, shown
from jepsen_lite.report.scales import Linear, Logarithmic, amount, seconds
from jepsen_lite.report.series import gathered, row, row_seconds
from report.runs import busy_history, written


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (0.00025, "250 us"),
        (0.012, "12 ms"),
        (0.9999, "1 s"),
        (3.5, "3.5 s"),
        (250, "4 min 10 s"),
        (3600 * 2 + 300, "2 h 5 min"),
        (0.1, "100 ms"),
    ],
)
def test_times_are_written_as_people_do(value: float, text: str) -> None:
    assert seconds(value) == text


def test_amounts_keep_their_thousands_apart() -> None:
    assert [amount(1234567), amount(0.1234), amount(12.0), amount(0)] == [
        "1,234,567",
        "0.123",
        "12",
        "0",
    ]


def test_marks_are_round_and_within() -> None:
    for high in (0.3, 1, 7, 60, 3600, 99_999):
        marks = Linear(0, high, 0, 100).marks(8)
        assert 3 <= len(marks) <= 12
        assert marks[0] == 0
        assert marks[-1] <= high
    assert Linear(5, 5, 0, 1).marks(3) == [5]
    assert Logarithmic(0.001, 10, 0, 1).marks() == pytest.approx([0.001, 0.01, 0.1, 1, 10])


def test_scales_lead_ends_to_ends() -> None:
    assert Linear(0, 10, 100, 200)(10) == 200
    upwards = Logarithmic(0.01, 1, 300, 0)
    assert upwards(0.01) == 300
    assert upwards(1) == 0
    assert upwards(0.1) == pytest.approx(150)
    assert upwards(0) == 300


def test_a_row_of_cells_holds_its_latency() -> None:
    for latency in (1e-5, 0.0003, 0.02, 1.0, 500.0):
        place = row(latency)
        assert row_seconds(place) <= latency * 1.0001
        assert latency < row_seconds(place + 1) * 1.0001


def test_every_call_is_counted_once() -> None:
    history = busy_history(5000)
    series = gathered(history.calls(), 60)
    assert series.calls == 5000
    assert sum(series.cells.values()) == 5000
    assert sum(series.rates.values()) == 5000
    assert sum(series.total().values()) == 5000
    assert not series.dots


def test_quantiles_are_of_what_ended_ok() -> None:
    lines: list[tuple[int, str, str, object]] = []
    for process in range(10):
        lines += [(process, "invoke", "read", {}), (process, "ok", "read", {})]
    lines += [(20, "invoke", "read", {})]
    series = gathered(written(*lines).calls(), 100)
    kind = series.kinds["read"]
    assert kind.count == {"ok": 10, "info": 1}
    assert kind.quantile(0.5) == pytest.approx(0.001)
    assert kind.quantile(1.0) == pytest.approx(0.001)
    assert len(series.dots) == 11


def test_hidden_characters_are_shown_as_escapes() -> None:
    assert plain("a\u202eb\x1b\u200d") == "a\\u202eb\\x1b\\u200d"
    assert plain("größer 🙂") == "größer 🙂"
    assert plain("abcdef", 4) == "abc…"
    assert shown("<a \"b\" & 'c'>") == "&lt;a &quot;b&quot; &amp; &#x27;c&#x27;&gt;"


def test_attributes_are_escaped_and_absent_ones_left_out() -> None:
    made = element("p", "x", class_='"><script>', stroke_width=1.5, id=None)
    assert made == '<p class="&quot;&gt;&lt;script&gt;" stroke-width="1.5">x</p>'
