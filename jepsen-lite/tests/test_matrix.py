"""All damages of four entries on three members (`damages`, `matrix`). D05, D06, D30."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from jepsen_lite import damages, matrix
from jepsen_lite.damages import GAP, GONE, LOST, REFUSED, REPAIRED, SHORT, WHOLE

MARKED = [
    {pattern: REFUSED if pattern else WHOLE for pattern in range(damages.PATTERNS)}
    for _ in range(damages.MEMBERS)
]
FORGETFUL = [{**labels, 0b1000: SHORT} for labels in MARKED]
ADVICE = "To rejoin: `raftctl member remove a1`, `raftctl member add` with its peer URL"


def test_every_combination_has_one_verdict() -> None:
    found = damages.count(MARKED)
    assert found == {"available": 1, REPAIRED: 45, GAP: 2401 - 46, GONE: 4096 - 2401}
    assert damages.with_good_copies() == 7**4
    assert sum(len(one) for one in damages.classes(MARKED).values()) == 4096
    assert len(damages.classes(MARKED)) == 8


def test_two_members_without_the_last_entry_may_outvote_the_third() -> None:
    found = damages.count(FORGETFUL)
    assert found[LOST] == 3 * 15 + 1
    assert len(damages.classes(FORGETFUL)) == 27
    one_short = damages.verdict_of((0b1000, 0, 0b0001), (SHORT, WHOLE, REFUSED))
    assert one_short == REPAIRED
    assert (damages.short(FORGETFUL), damages.short(MARKED)) == (3, 0)


def test_an_opening_that_lost_more_than_the_last_entry_is_no_class() -> None:
    assert damages.label("", [True] * 4) == WHOLE
    assert damages.label("", [True, True, True, False]) == SHORT
    assert damages.label(ADVICE, [False] * 4) == REFUSED
    for refusal, kept in (("", [True, False, True, True]), ("something is wrong", [])):
        with pytest.raises(ValueError, match=r"entries are lost|does not say"):
            damages.label(refusal, kept)


async def _play(directory: Path, lagging: bool) -> tuple[list[dict[int, str]], matrix.Trial]:
    random = Random(3)
    scene = await matrix.prepare(directory, lagging, random)
    try:
        opened = matrix.open_all(scene, directory, random)
        if lagging:  # two without the newest entry must not outvote the third
            labels, combination = (REFUSED, REFUSED, WHOLE), (0b1000, 0b1000, 0)
        else:
            labels, combination = (WHOLE, REFUSED, WHOLE), (0, 0b1010, 0)
        return opened, await matrix.attempt(scene, labels, combination, random)
    finally:
        await scene.target.stop()


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("lagging", [False, True], ids=["marked", "lagging"])
def test_real_members_do_what_their_class_says(tmp_path: Path, lagging: bool) -> None:
    """`python jepsen-lite matrix` tries every class."""
    opened, trial = asyncio.run(_play(tmp_path, lagging))
    assert opened == MARKED
    if lagging:
        assert trial.verdict == GAP
        assert trial.seen == "no answer of 1 running"
    else:
        assert trial.verdict == REPAIRED
        assert trial.seen == "all entries read; 1 replaced; hashes equal"
