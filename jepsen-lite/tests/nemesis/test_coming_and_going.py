"""Members that come and go: which changes are made, again and again until they are done."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from random import Random
from typing import Any

import pytest

from jepsen_lite.generator import Context
from jepsen_lite.history import NEMESIS, Op
from jepsen_lite.nemesis.board import board_of
from jepsen_lite.nemesis.member import FIRST, Member
from jepsen_lite.planning import BadPlan, nemeses_for
from jepsen_lite.target.base import TargetError
from nemesis.fake import FakeTarget


class FakePlaces:
    """Remembers the steps. refused: so many of the next ones are."""

    rejoins = True

    def __init__(self, target: "Movable") -> None:
        self.target = target
        self.steps: list[tuple[str, int]] = []
        self.refused = 0

    def _step(self, name: str, place: int) -> None:
        if self.refused:
            self.refused -= 1
            raise TargetError("not now")
        self.steps.append((name, place))

    def free(self) -> list[int]:
        return [place for place in range(self.target.count) if place not in self.target.here]

    async def admit(self, place: int) -> None:
        self._step("admit", place)
        self.target.here = sorted([*self.target.here, place])
        self.target.up.add(place)

    async def dismiss(self, place: int) -> None:
        self._step("dismiss", place)
        self.target.here.remove(place)

    async def empty(self, place: int) -> None:
        self._step("empty", place)
        self.target.up.discard(place)

    async def lose(self, place: int) -> None:
        assert not self.target.running(place)
        self._step("lose", place)
        self.target.up.add(place)

    async def rejoin(self, place: int) -> None:
        self._step("rejoin", place)

    async def evidence(self) -> Mapping[str, Any]:
        return {"tables": {}}


class Movable(FakeTarget):
    """Three members in five places."""

    def __init__(self) -> None:
        super().__init__(5)
        self.here = [0, 1, 2]
        self.up = {0, 1, 2}
        self.moves = FakePlaces(self)

    @property
    def present(self) -> list[int]:
        return list(self.here)

    @property
    def places(self) -> FakePlaces:
        return self.moves


def run(scenario: Callable[[Movable, Member], Awaitable[None]]) -> None:
    async def whole() -> None:
        target, member = Movable(), Member()
        await member.setup(target)
        await scenario(target, member)
        await member.heal()

    asyncio.run(whole())


async def begin(member: Member, what: str, seed: int = 1) -> Any:
    value = {"what": what, "seed": seed}
    return (await member.invoke(Op(NEMESIS, "invoke", "start-member", value, 0))).value


async def make(member: Member, what: str, seed: int = 1) -> Any:
    """A change, to its end."""
    begun = await begin(member, what, seed)
    await member.heal()
    return begun


def test_every_kind_has_its_turn_before_one_comes_again() -> None:
    generator = Member().generator(Random(1))
    context = Context(0, (NEMESIS,), Random(1))
    kinds: list[str] = []
    while len(kinds) < len(FIRST):
        found, generator = generator.op(context)
        if isinstance(found, Op):
            kinds += [found.value["what"]] if found.f == "start-member" else []
        else:
            assert found is not None
            context = context._replace(time_ns=found.until_ns or context.time_ns + 10**8)
    assert tuple(kinds) == FIRST


def test_the_cluster_grows_into_a_free_place_and_shrinks_by_a_follower() -> None:
    async def scenario(target: Movable, member: Member) -> None:
        grown = await make(member, "grow")
        assert grown["member"] in (3, 4)
        assert target.moves.steps == [("admit", grown["member"])]
        assert len(target.present) == 4
        target.moves.steps.clear()
        shrunk = await make(member, "shrink")
        assert shrunk["member"] != target.leads
        assert target.moves.steps == [(step, shrunk["member"]) for step in ("dismiss", "empty")]
        assert len(target.present) == 3

    run(scenario)


def test_what_has_no_room_is_the_other_way_round() -> None:
    async def scenario(target: Movable, member: Member) -> None:
        assert (await make(member, "shrink"))["what"] == "grow"
        assert (await make(member, "grow"))["what"] == "grow"
        assert (await make(member, "grow"))["what"] == "shrink"

    run(scenario)


def test_a_leader_that_is_removed_from_three_has_an_heir_and_from_more_it_has_none() -> None:
    """R30."""

    async def scenario(target: Movable, member: Member) -> None:
        assert (await make(member, "remove-leader"))["member"] == 0
        assert [step for step, _ in target.moves.steps] == ["dismiss", "empty", "admit"]
        assert len(target.present) == 3
        target.leads = target.present[0]
        await make(member, "grow")
        target.moves.steps.clear()
        await make(member, "remove-leader")
        assert [step for step, _ in target.moves.steps] == ["dismiss", "empty"]

    run(scenario)


def test_a_dead_member_is_down_while_it_is_removed_and_may_find_that_out_later() -> None:
    """R31: its next start is its last."""

    async def scenario(target: Movable, member: Member) -> None:
        begun = await make(member, "replace-dead")
        assert target.killed == [begun["member"]]
        assert [step for step, _ in target.moves.steps] == ["dismiss", "empty", "admit"]
        assert not board_of(target).is_down(begun["member"])

    run(scenario)


def test_a_member_that_lost_its_disk_comes_back_by_itself() -> None:
    """R33."""

    async def scenario(target: Movable, member: Member) -> None:
        begun = await make(member, "rejoin")
        assert [step for step, _ in target.moves.steps] == ["lose", "rejoin"]
        assert target.running(begun["member"])
        target.moves.rejoins = False
        assert "nothing" in await begin(member, "rejoin")

    run(scenario)


def test_a_step_that_is_refused_is_made_again_and_only_one_change_is_under_way() -> None:
    """R24."""

    async def scenario(target: Movable, member: Member) -> None:
        target.moves.refused = 2
        await begin(member, "replace")
        assert await begin(member, "grow") == {"nothing": "a change is still under way"}
        await member.heal()
        stopped = await member.invoke(Op(NEMESIS, "invoke", "stop-member", None, 0))
        (told,) = stopped.value["done"]
        assert told["what"] == "replace"
        counts = (await member.evidence())["membership"]
        assert counts["begun"] == counts["done"] == {"replace": 1}

    run(scenario)


def test_a_place_is_not_taken_again_while_another_nemesis_keeps_its_process_down() -> None:
    async def scenario(target: Movable, member: Member) -> None:
        board = board_of(target)
        await board.keep_down("kill", [0, 1, 2])
        await begin(member, "replace")
        while not target.moves.steps:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        assert [step for step, _ in target.moves.steps] == ["dismiss"]
        await member.heal()  # ends the other's fault as well
        assert [step for step, _ in target.moves.steps] == ["dismiss", "empty", "admit"]

    run(scenario)


def test_what_replaces_members_as_well_is_refused_beside_it() -> None:
    with pytest.raises(BadPlan, match="member and files both replace members"):
        nemeses_for(["member", "files"], Movable(), Random(1))
