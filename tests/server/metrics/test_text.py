"""The text format: what Prometheus' own parser reads out of it is what was put in."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from raftkv.histogram import Histogram, exponential
from raftkv.server.metrics import text
from raftkv.server.metrics.text import Family, Number


@given(
    st.text(
        st.characters(
            exclude_categories=["Cs"],
            exclude_characters="\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e",
        ),
        max_size=30,
    )
)
def test_any_label_value_comes_back(value: str) -> None:
    family = Family[None]("a_b", "gauge", "Help.", lambda _: [(text.labels(l=value), 1)])
    (found,) = text_string_to_metric_families(text.render(family, None))
    assert [sample.labels for sample in found.samples] == [{"l": value}]


@given(st.one_of(st.integers(-(2**70), 2**70), st.floats(allow_nan=False)))
def test_any_number_comes_back(value: Number) -> None:
    family = Family[None]("a_b", "gauge", "Help.", lambda _: value)
    (found,) = text_string_to_metric_families(text.render(family, None))
    assert [sample.value for sample in found.samples] == [float(value)]


def test_truth_counts_as_one() -> None:
    assert text.sample("a", "", True) == "a 1\n"


def test_a_family_without_values_has_no_lines() -> None:
    """Prometheus takes a head without samples, but nobody can say what it means."""
    assert text.render(Family[None]("a", "gauge", "Help.", lambda _: []), None) == ""


@given(st.lists(st.floats(0, 20), max_size=50))
def test_a_histogram_counts_every_value_in_the_buckets_that_hold_it(values: list[float]) -> None:
    kept = Histogram(exponential(0.001, 2, 14))
    for value in values:
        kept.note(value)
    family = Family[None]("h_seconds", "histogram", "Help.", lambda _: kept)
    (found,) = text_string_to_metric_families(text.render(family, None))
    by_name: dict[str, dict[str, float]] = {}
    for sample in found.samples:
        by_name.setdefault(sample.name, {})[sample.labels.get("le", "")] = sample.value
    buckets = by_name["h_seconds_bucket"]
    assert len(buckets) == 15
    for bound, count in buckets.items():
        assert count == sum(value <= float(bound) for value in values)
    assert by_name["h_seconds_count"] == {"": len(values)}
    assert abs(by_name["h_seconds_sum"][""] - sum(values)) < 1e-6


def test_many_equal_values_are_noted_at_once() -> None:
    one, many = Histogram((1.0, 2.0)), Histogram((1.0, 2.0))
    for _ in range(5):
        one.note(1.5)
    many.note(1.5, 5)
    assert (one.counts, one.sum) == (many.counts, many.sum) == ([0, 5, 0], 7.5)


def test_exponential_bounds_are_written_as_etcd_writes_them() -> None:
    bounds = [text.number(bound) for bound in exponential(0.0001, 2, 20)]
    assert bounds[:4] == ["0.0001", "0.0002", "0.0004", "0.0008"]
    assert bounds[-2:] == ["26.2144", "52.4288"]
    assert text.number(exponential(0.001, 2, 14)[-1]) == "8.192"
