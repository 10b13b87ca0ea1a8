"""Nemeses overlap: each undoes its own faults, however often, and leaves the others'."""

import asyncio
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from jepsen_lite.generator import Context
from jepsen_lite.history import NEMESIS, Op
from jepsen_lite.nemesis import NEMESES, damage, nemesis_class
from jepsen_lite.nemesis.base import Nemesis
from jepsen_lite.nemesis.board import Links, board_of
from jepsen_lite.nemesis.files import Files
from jepsen_lite.registry import UnknownName
from jepsen_lite.target.base import TargetError
from nemesis.fake import FakeTarget


def _op(f: str, what: str = "", seed: int = 1) -> Op:
    return Op(NEMESIS, "invoke", f, {"what": what, "seed": seed}, 0)


async def _set_up(target: FakeTarget, *names: str) -> list[Nemesis]:
    found = [nemesis_class(name)() for name in names]
    for nemesis in found:
        await nemesis.setup(target)
    return found


def test_wishes_that_come_at_once_are_carried_out_one_after_the_other() -> None:
    """A flapping nemesis changes links while another one does."""

    async def scenario() -> None:
        target = FakeTarget(3)
        board = board_of(target)
        inside: list[str] = []

        def heal() -> None:
            inside.append("in")
            assert inside == ["in"], "two at once"
            time.sleep(0.01)
            inside.clear()

        target.links.heal = heal  # type: ignore[method-assign]
        wishes = [Links(cut=frozenset({(0, 1)})), Links(cut=frozenset({(1, 2)})), None]
        await asyncio.gather(
            *(board.links(f"{place % 3}", wishes[place % 3]) for place in range(12)),
        )
        assert target.links.cuts == {(0, 1), (1, 2)}

    asyncio.run(scenario())


def test_who_ends_leaves_the_links_that_others_cut() -> None:
    async def scenario() -> None:
        target = FakeTarget(3, leads=1)
        partition, slow, loss = await _set_up(target, "partition", "slow", "loss")
        links = target.links
        await partition.invoke(_op("start-partition", "leader"))
        await slow.invoke(_op("start-slow", "all"))
        await loss.invoke(_op("start-loss", "leader"))
        cut = {(1, 0), (1, 2), (0, 1), (2, 1)}
        assert links.cuts == cut
        assert len(links.delays) == 6
        assert set(links.losses) == cut
        await slow.invoke(_op("stop-slow"))
        assert (links.cuts, links.delays, set(links.losses)) == (cut, {}, cut)
        await partition.heal()
        await partition.heal()
        assert (links.cuts, set(links.losses)) == (set(), cut)
        await loss.heal()
        assert links.losses == {}

    asyncio.run(scenario())


def test_a_member_starts_again_only_when_nobody_wants_it_down() -> None:
    async def scenario() -> None:
        target = FakeTarget(3, leads=0)
        kill, kill_all = await _set_up(target, "kill", "kill-all")
        killed = await kill.invoke(_op("start-kill", "leader"))
        assert killed.value == {"killed": [0], "what": "leader"}
        await kill_all.invoke(_op("start-kill-all", "all"))
        assert target.up == set()
        await kill_all.invoke(_op("stop-kill-all"))
        assert target.up == {1, 2}
        await kill.heal()
        await kill.heal()
        assert target.up == {0, 1, 2}

    asyncio.run(scenario())


def test_completions_say_what_was_really_done() -> None:
    async def scenario() -> None:
        target = FakeTarget(3, leads=None)
        kill, pause = await _set_up(target, "kill", "pause")
        end = await kill.invoke(_op("start-kill", "leader"))
        assert end.type == "info"
        assert end.value == {"nothing": "no member says that it leads"}
        target.up.clear()
        end = await pause.invoke(_op("start-pause", "one"))
        assert end.value == {"nothing": "nobody was running"}

    asyncio.run(scenario())


def test_only_a_minority_is_damaged_at_a_time() -> None:
    async def scenario() -> None:
        for size, minority in ((1, 0), (3, 1), (4, 1), (5, 2)):
            board = board_of(FakeTarget(size))
            damaged = 0
            for member in range(size):
                if board.may_damage(member):
                    board.damage("files", member)
                    damaged += 1
            assert damaged == minority
            if damaged:
                assert board.may_damage(0)  # a damaged one may be damaged more
                board.recovered(0)
                assert board.may_damage(size - 1)

    asyncio.run(scenario())


def test_faults_that_cost_a_member_need_more_than_two() -> None:
    async def scenario() -> None:
        with pytest.raises(TargetError, match="needs 3 members"):
            await Files().setup(FakeTarget(2))

    asyncio.run(scenario())


def _drawn(nemesis: Nemesis, seed: int, count: int) -> list[Op]:
    """The first operations of its generator, with time running as they ask for it."""
    generator = nemesis.generator(Random(seed))
    context = Context(0, (NEMESIS,), Random(seed))
    found: list[Op] = []
    while len(found) < count:
        answer, generator = generator.op(context)
        if isinstance(answer, Op):
            found.append(answer)
        else:
            assert answer is not None
            context = context._replace(time_ns=answer.until_ns or context.time_ns + 10**8)
    return found


@pytest.mark.parametrize("name", sorted(NEMESES))
def test_faults_come_without_end_in_turn_and_the_same_for_the_same_seed(name: str) -> None:
    nemesis = nemesis_class(name)()
    ops = _drawn(nemesis, 3, 40)
    assert ops == _drawn(nemesis_class(name)(), 3, 40)
    assert {op.f for op in ops} <= nemesis.fs
    if name != "transfer":
        assert [op.f.split("-")[0] for op in ops] == ["start", "stop"] * 20
        variants: Any = {op.value["what"] for op in ops if op.f.startswith("start-")}
        again = {op.value["what"] for op in _drawn(nemesis, 4, 40) if op.f.startswith("start-")}
        assert variants == again  # every variant has its turn, whatever the seed
    assert nemesis.summary
    assert nemesis.needs


def test_an_unknown_nemesis_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownName, match="no nemesis 'earthquake'; there are: clock, disk"):
        nemesis_class("earthquake")


def test_bits_are_flipped_within_what_was_written(tmp_path: Path) -> None:
    """D05, D07, D08."""
    log = tmp_path / "log" / "00000001"
    log.mkdir(parents=True)
    (log / "000003.log").write_bytes(b"\x01" * 500 + bytes(5_000))
    state = tmp_path / "state-1"
    state.mkdir()
    (state / "000005.ldb").write_bytes(b"\x02" * 300)
    (state / "000009.log").symlink_to("/dev/null")
    for name in ("mark.a", "mark.b"):
        (tmp_path / name).write_bytes(b"\x03" * 108)
    for where in (damage.LOG, damage.STATE, damage.MARK):
        for seed in range(4):  # a member that is being replaced has no directory
            assert damage.flip_bits(tmp_path / "none", where, Random(seed)) == []
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        done = damage.flip_bits(tmp_path, where, Random(5))
        assert done
        changed = {path for path in before if path.read_bytes() != before[path]}
        assert {str(path.relative_to(tmp_path)) for path in changed} == {one.path for one in done}
        for path in changed:
            pairs = enumerate(zip(before[path], path.read_bytes(), strict=True))
            places = tuple(at for at, (old, new) in pairs if old != new)
            assert (str(path.relative_to(tmp_path)), places) in {(d.path, d.at) for d in done}
            assert all(at < damage.written(path) for at in places)


def test_a_tail_is_cut_from_the_newest_file_that_holds_something(tmp_path: Path) -> None:
    """D04."""
    for number, content in (("00000001", b"x" * 9_000), ("00000002", b"y" * 10 + bytes(90))):
        segment = tmp_path / "log" / number
        segment.mkdir(parents=True)
        (segment / "000003.log").write_bytes(content)
    (done,) = damage.cut_tail(tmp_path, Random(1))
    assert done.path == "log/00000002/000003.log"
    assert (tmp_path / done.path).stat().st_size == done.at[0] < 10
    assert damage.cut_tail(tmp_path / "empty", Random(1)) == []
