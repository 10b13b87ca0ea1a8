"""Where a client's write is until it is answered, and what a leader change makes of it."""

from raftkv.replica.pending import Pending, Write

PUT = 1


def local(pending: Pending, index: int, term: int, deadline: float = 9.0) -> None:
    pending.local.append((index, term, deadline, PUT, f"local-{index}", b"request"))


def waiting(pending: Pending, name: str, deadline: float = 9.0) -> Write:
    write = Write(PUT, b"request", name, deadline)
    pending.waiting.append(write)
    return write


def test_numbers_of_forwarded_writes_never_repeat_even_for_a_second_attempt() -> None:
    pending = Pending()
    write = Write(PUT, b"request", "a", 9.0)
    first = pending.forward(write, 3)
    pending.refused(first)
    again = pending.waiting.popleft()
    assert again is write
    assert pending.forward(again, 3) > first


def test_an_applied_entry_of_a_later_term_sends_undecided_writes_back_in_their_order() -> None:
    pending = Pending()
    local(pending, 10, 3)
    local(pending, 11, 3)
    pending.forward(Write(PUT, b"request", "forwarded", 9.0), 3)
    waiting(pending, "new")
    pending.take_back(4)
    assert [write.ticket for write in pending.waiting] == [
        "local-10",
        "local-11",
        "forwarded",
        "new",
    ]
    assert not pending.local
    assert not pending.forwarded


def test_an_applied_entry_of_the_same_term_decides_nothing() -> None:
    pending = Pending()
    local(pending, 10, 4)
    number = pending.forward(Write(PUT, b"request", "forwarded", 9.0), 4)
    pending.take_back(4)
    assert len(pending.local) == 1
    assert number in pending.forwarded


def test_a_refused_number_that_is_no_longer_pending_is_ignored() -> None:
    pending = Pending()
    pending.refused(7)
    assert len(pending) == 0


def test_a_write_past_its_deadline_is_answered_wherever_it_is() -> None:
    pending = Pending()
    local(pending, 10, 3, deadline=1.0)
    local(pending, 11, 3, deadline=3.0)
    pending.forward(Write(PUT, b"request", "forwarded", 1.0), 3)
    waiting(pending, "waiting", deadline=1.0)
    waiting(pending, "patient", deadline=3.0)
    assert pending.expired(2.0) == ["local-10", "forwarded", "waiting"]
    assert len(pending) == 2
    assert pending.expired(2.0) == []


def test_a_snapshot_makes_only_sent_writes_unknown() -> None:
    pending = Pending()
    local(pending, 10, 3)
    pending.forward(Write(PUT, b"request", "forwarded", 9.0), 3)
    waiting(pending, "unsent")
    assert pending.drop_sent() == ["local-10", "forwarded"]
    assert [write.ticket for write in pending.waiting] == ["unsent"]


def test_stopping_answers_everything_once() -> None:
    pending = Pending()
    local(pending, 10, 3)
    pending.forward(Write(PUT, b"request", "forwarded", 9.0), 3)
    waiting(pending, "waiting")
    assert pending.drain() == ["local-10", "forwarded", "waiting"]
    assert pending.drain() == []
