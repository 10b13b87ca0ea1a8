"""All damages of four entries on three members (`damages`, `matrix`). D05, D06, D30."""

import asyncio
from pathlib import Path
from random import Random

import pytest

from jepsen_lite import damages, matrix
from jepsen_lite.damages import GAP, GONE, LIMIT, REFUSED, REPAIRED, SHORT, WHOLE

MARKED = [
    {pattern: REFUSED if pattern else WHOLE for pattern in range(damages.PATTERNS)}
    for _ in range(damages.MEMBERS)
]
LAGGING = [{**labels, 0b1000: SHORT} for labels in MARKED]
ADVICE = "To rejoin: `raftctl member remove a1`, `raftctl member add` with its peer URL"


def test_every_combination_has_one_verdict() -> None:
    found = damages.count(MARKED)
    assert found == {"available": 1, REPAIRED: 45, GAP: 2401 - 46, GONE: 4096 - 2401}
    assert damages.with_good_copies() == 7**4
    assert sum(len(one) for one in damages.classes(MARKED).values()) == 4096
    assert len(damages.classes(MARKED)) == 8


def test_two_members_without_the_last_entry_may_outvote_the_third() -> None:
    found = damages.count(LAGGING)
    assert found[LIMIT] == 3 * 15 + 1
    assert len(damages.classes(LAGGING)) == 27
    one_short = damages.verdict_of((0b1000, 0, 0b0001), (SHORT, WHOLE, REFUSED))
    assert one_short == REPAIRED


def test_an_opening_that_lost_more_than_the_last_entry_is_no_class() -> None:
    assert damages.label("", [True] * 4) == WHOLE
    assert damages.label("", [True, True, True, False]) == SHORT
    assert damages.label(ADVICE, [False] * 4) == REFUSED
    for refusal, kept in (("", [True, False, True, True]), ("something is wrong", [])):
        with pytest.raises(ValueError, match=r"entries are lost|does not say"):
            damages.label(refusal, kept)


async def _play(directory: Path) -> tuple[list[dict[int, str]], list[matrix.Trial]]:
    random = Random(3)
    scene = await matrix.prepare(directory, False, random)
    try:
        opened = matrix.open_all(scene, directory, random)
        trials = [
            await matrix.attempt(scene, (WHOLE, REFUSED, WHOLE), (0, 0b1010, 0), random),
            await matrix.attempt(scene, (REFUSED, WHOLE, REFUSED), (0b1000, 0, 0b0111), random),
        ]
    finally:
        await scene.target.stop()
    return opened, trials


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_real_members_do_what_their_class_says(tmp_path: Path) -> None:
    """With the mark up to date. `python jepsen-lite matrix` tries every class, and a lagging
    mark."""
    opened, trials = asyncio.run(_play(tmp_path))
    assert opened == MARKED
    served, silent = trials
    assert served.verdict == REPAIRED
    assert served.seen == "all entries read; 1 replaced; hashes equal"
    assert silent.verdict == GAP
    assert silent.seen == "no answer of 1 running"
