"""A short run of the fuzzer; `python -m tests.fuzz.fuzz_wire` runs longer."""

import pytest

from tests.fuzz.fuzz_wire import run_case


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_mutated_frames_and_noise_break_nothing(first: int) -> None:
    """O12, O13."""
    for seed in range(first, first + 20):
        run_case(seed)


@pytest.mark.parametrize("seed", [1493])
def test_seeds_that_once_found_something_find_nothing(seed: int) -> None:
    run_case(seed)
