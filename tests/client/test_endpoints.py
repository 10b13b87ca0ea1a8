"""Which endpoint is asked next, and how endpoints are written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client.endpoints import LONGEST_SICK_SECONDS, Places
from raftkv.client.errors import BadSettings
from raftkv.client.settings import TLS, Settings, parsed


def test_a_client_stays_with_the_first_endpoint_while_it_answers() -> None:
    places = Places(3)
    assert places.order(0.0) == [0, 1, 2]
    places.answered(0)
    assert places.order(5.0) == [0, 1, 2]


def test_a_failed_endpoint_goes_last_until_its_time_is_over() -> None:
    places = Places(3)
    places.failed(0, 0.0)
    assert places.current == 1
    assert places.order(0.0) == [1, 2, 0]
    assert places.order(0.6) == [1, 2, 0], "the present one stays first"
    places.failed(1, 1.0)
    assert places.order(1.0) == [2, 0, 1]


def test_an_endpoint_that_keeps_failing_is_sick_for_longer_and_longer() -> None:
    places = Places(2)
    now = 0.0
    lengths = []
    for _ in range(8):
        places.failed(0, now)
        step = 0.0
        while places.order(now + step)[-1] == 0 and step < 60:
            step += 0.25
            places.current = 0
        lengths.append(step)
        now += 100
    assert lengths == sorted(lengths)
    assert lengths[0] == 0.5
    assert lengths[-1] == LONGEST_SICK_SECONDS


def test_an_answer_makes_an_endpoint_healthy_and_the_first() -> None:
    places = Places(3)
    for place in (0, 1, 2):
        places.failed(place, 0.0)
    places.answered(2)
    assert places.order(0.0)[0] == 2


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.floats(0, 3)), max_size=30),
)
def test_every_endpoint_is_in_every_order_once_and_the_present_one_first(
    count: int, steps: list[tuple[int, bool, float]]
) -> None:
    places, now = Places(count), 0.0
    for place, well, passed in steps:
        now += passed
        if well:
            places.answered(place % count)
        else:
            places.failed(place % count, now)
        order = places.order(now)
        assert sorted(order) == list(range(count))
        healthy = [each for each in order if places.is_healthy(each, now)]
        assert order[: len(healthy)] == healthy, "no sick one in front of a healthy one"


# --- how they are written -----------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "address", "secure"),
    [
        ("host:2379", "host:2379", False),
        (" host:2379 ", "host:2379", False),
        ("http://host:2379/", "host:2379", False),
        ("https://host:2379", "host:2379", True),
        ("[::1]:2379", "[::1]:2379", False),
        ("unix:/run/raftkv", "unix:/run/raftkv", False),
    ],
)
def test_an_endpoint_may_be_written_like_this(written: str, address: str, secure: bool) -> None:
    (endpoint,) = parsed([written], None)
    assert (endpoint.address, endpoint.secure) == (address, secure)


def test_several_endpoints_are_a_text_with_commas_or_a_sequence() -> None:
    assert [each.text for each in parsed("a:1,b:2, c:3", None)] == ["a:1", "b:2", "c:3"]
    assert [each.text for each in parsed(("a:1", "b:2"), None)] == ["a:1", "b:2"]


def test_tls_makes_endpoints_without_a_scheme_secure() -> None:
    assert parsed("a:1", TLS(ca=b""))[0].secure


@pytest.mark.parametrize(
    "written",
    ["", ",", "host", "host:", ":1", "host:0", "host:70000", "host:x", "ftp://host:1", "a/b:1"],
)
def test_a_malformed_endpoint_is_refused_at_once(written: str) -> None:
    with pytest.raises(BadSettings) as caught:
        parsed(written, None)
    assert isinstance(caught.value, ValueError)


def test_plain_http_is_refused_where_tls_was_set_up() -> None:
    with pytest.raises(BadSettings):
        parsed("http://a:1", TLS(ca=b""))


def test_settings_that_make_no_sense_are_refused() -> None:
    endpoints = parsed("a:1", None)
    with pytest.raises(BadSettings):
        Settings(endpoints, timeout=0)
    with pytest.raises(BadSettings):
        Settings(endpoints, password="secret")
    with pytest.raises(BadSettings):
        TLS(cert=b"only")


def test_a_password_is_never_shown() -> None:
    settings = Settings(parsed("a:1", None), user="u", password="secret", tls=TLS(None, b"c", b"k"))
    assert "secret" not in repr(settings)
    assert "key" not in repr(settings.tls)
