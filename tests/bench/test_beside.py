"""What goes on beside a measurement."""

import pytest

from bench.beside import Beside


def test_something_is_done_again_and_again_until_it_is_left() -> None:
    calls = iter(range(1_000_000))
    with Beside(lambda: next(calls)) as beside:
        while len(beside.results) < 3:
            pass
    done = list(beside.results)
    assert done == list(range(len(done)))
    assert next(calls) == len(done), "nothing is done any more"


def test_what_a_call_raises_is_told_and_ends_the_calls() -> None:
    def fail() -> int:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"), Beside(fail):
        pass
