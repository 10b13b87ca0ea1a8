"""Linearizable reads between their arrival and the moment when they may be served."""

from raftkv.replica.reading import Reading


def test_a_read_is_served_only_when_its_index_is_applied() -> None:
    """R21."""
    reading = Reading()
    reading.add(9.0, "a")
    reading.ask(1)
    reading.confirm(1, 20)
    assert reading.served(19) == []
    assert reading.served(20) == ["a"]
    assert len(reading) == 0


def test_a_confirmation_covers_all_earlier_requests_and_no_later_one() -> None:
    reading = Reading()
    for number in (1, 2, 3):
        reading.add(9.0, f"read-{number}")
        reading.ask(number)
    reading.confirm(2, 5)
    assert reading.served(5) == ["read-1", "read-2"]
    assert len(reading) == 1


def test_a_lost_read_asks_again_and_is_never_served_from_the_old_request() -> None:
    """R17."""
    reading = Reading()
    reading.add(9.0, "a")
    reading.ask(1)
    reading.lose([1])
    reading.confirm(1, 5)
    assert reading.served(100) == []
    reading.ask(2)
    reading.confirm(2, 6)
    assert reading.served(6) == ["a"]


def test_a_read_that_arrives_later_does_not_join_an_earlier_request() -> None:
    reading = Reading()
    reading.add(9.0, "early")
    reading.ask(1)
    reading.add(9.0, "late")
    reading.confirm(1, 5)
    assert reading.served(5) == ["early"]
    assert len(reading) == 1


def test_a_read_past_its_deadline_is_given_up_wherever_it_is() -> None:
    reading = Reading()
    reading.add(1.0, "confirmed")
    reading.ask(1)
    reading.confirm(1, 50)
    reading.add(1.0, "asked")
    reading.add(5.0, "patient")
    reading.ask(2)
    reading.add(1.0, "new")
    assert sorted(map(str, reading.expired(2.0))) == ["asked", "confirmed", "new"]
    assert len(reading) == 1
    reading.confirm(2, 60)
    assert reading.served(60) == ["patient"]


def test_stopping_answers_everything_once() -> None:
    reading = Reading()
    reading.add(9.0, "a")
    reading.ask(1)
    reading.add(9.0, "b")
    assert reading.drain() == ["b", "a"]
    assert len(reading) == 0


def test_a_refused_read_waits_for_the_next_look_or_for_another_leader() -> None:
    """Asked at once, it would be refused as fast as the network carries it."""
    reading = Reading()
    for number in (1, 2):
        reading.add(9.0, f"read-{number}")
        reading.ask(number)
    reading.lose([1], again=False)
    assert not reading.new
    assert reading.expired(1.0) == []
    assert [ticket for _, ticket in reading.new] == ["read-1"]
    reading.ask(3)
    reading.lose([2, 3], again=False)
    assert not reading.new
    reading.lose([], again=True)
    assert len(reading.new) == len(reading) == 2
    reading.ask(4)
    reading.lose([4], again=False)
    assert sorted(map(str, reading.expired(9.5))) == ["read-1", "read-2"]
    assert len(reading) == 0
