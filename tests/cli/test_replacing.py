"""Plans of `raftctl member replace`, from surveys made by hand. R26, R32, R33."""

from dataclasses import replace

import pytest

from raftkv.cli.exits import CtlError
from raftkv.cli.replacing import Plan, Step, Unsettled, make_plan
from raftkv.cli.surveying import MemberView, Survey
from tests.cli.surveys import changed, healthy, reply_in, reply_of, silent, view_of

NEW_URL = "https://10.0.0.9:2380"
ARRIVING = (Step.ADD, Step.START, Step.PROMOTE)


def down(members: int, *positions: int) -> Survey:
    """So many members, of which these are down, as the leader sees it too."""
    survey = silent(healthy(members), *positions)
    gone = {survey.members[position].id for position in positions}
    for answer in survey.answers:
        for peer in answer.reply.peers:
            peer.connected = peer.id not in gone
    return survey


def with_member(survey: Survey, member: MemberView) -> Survey:
    return replace(survey, members=(*survey.members, member))


def newcomer(*, started: bool, learner: bool = True) -> MemberView:
    """The member that a run before has added."""
    answer = reply_of(9, members=(1, 2, 3, 9)) if started else None
    view = view_of(9, answer, "" if started else "never started")
    return replace(
        view,
        name="n3-2" if started else "",
        peer_urls=(NEW_URL,),
        client_urls=view.client_urls if started else (),
        is_learner=learner,
    )


def without(survey: Survey, position: int) -> Survey:
    views = [one for at, one in enumerate(survey.members) if at != position]
    return replace(survey, members=tuple(views))


def refusal(survey: Survey, wanted: str, *urls: str) -> str:
    with pytest.raises(CtlError) as caught:
        make_plan(survey, wanted, urls, "")
    return caught.value.text


def may_pass(survey: Survey, wanted: str) -> bool:
    """True if the refusal is of the kind that is worth another look."""
    with pytest.raises(CtlError) as caught:
        make_plan(survey, wanted, (), "")
    return isinstance(caught.value, Unsettled)


def planned(survey: Survey, wanted: str, *urls: str) -> Plan:
    return make_plan(survey, wanted, urls, "")


@pytest.mark.parametrize("wanted", ["n3", "3", "03"])
def test_with_its_peer_url_the_dead_member_goes_first(wanted: str) -> None:
    plan = planned(down(3, 2), wanted)
    assert plan.steps == (Step.REMOVE, *ARRIVING)
    assert plan.target is not None
    assert (plan.target.id, plan.urls) == (3, ("https://10.0.0.3:2380",))
    assert "no two members" in plan.reason
    assert (plan.name, plan.quorum, len(plan.healthy)) == ("n3", 2, 2)


def test_with_voters_to_spare_the_dead_member_goes_first() -> None:
    plan = planned(down(5, 4), "n5", NEW_URL)
    assert plan.steps == (Step.REMOVE, *ARRIVING)
    assert "4 voters are healthy and 3 are a quorum" in plan.reason


def test_without_voters_to_spare_the_dead_member_stays_until_the_new_one_votes() -> None:
    """It may be the last way back."""
    for survey in (down(3, 2), down(5, 3, 4)):
        wanted = survey.members[-1].name
        plan = planned(survey, wanted, NEW_URL)
        assert plan.steps == (*ARRIVING, Step.REMOVE)
        assert "last way back" in plan.reason
        assert plan.name == f"{wanted}-2"  # both are members for a while


def test_a_member_that_answers_is_not_replaced() -> None:
    assert "is not down" in refusal(healthy(), "n2", NEW_URL)


def test_a_member_that_only_the_leader_reaches_is_not_replaced() -> None:
    survey = silent(healthy(), 2)
    assert "the leader is connected to it" in refusal(survey, "n3")
    assert may_pass(survey, "n3")
    leader = reply_in(survey, 0)
    leader.peers[1].connected = False
    assert planned(survey, "n3").target is not None


def test_without_a_quorum_nothing_is_planned() -> None:
    """R26: nothing could be carried out, and what was asked would hang."""
    survey = down(3, 1, 2)
    text = refusal(survey, "n3")
    assert "1 of 3 voters are healthy" in text
    assert "n2: no answer" in text
    assert not may_pass(survey, "n3")
    leaderless = down(3, 2)
    for answer in leaderless.answers:
        answer.reply.leader = 0
    assert "without a quorum and a leader" in refusal(leaderless, "n3")
    assert may_pass(leaderless, "n3")  # an election


def test_nobody_answers() -> None:
    assert "no member answers" in refusal(down(3, 0, 1, 2), "n3")


def test_a_peer_url_that_another_member_has_is_refused() -> None:
    text = refusal(down(3, 2), "n3", "https://10.0.0.2:2380")
    assert text == "https://10.0.0.2:2380 is a peer URL of member n2 (2)"


def test_a_name_that_another_member_has_is_refused() -> None:
    with pytest.raises(CtlError, match="'n2' is the name of member 2"):
        make_plan(down(3, 2), "n3", (NEW_URL,), "n2")
    with pytest.raises(CtlError, match="'n3' is the name") as caught:
        make_plan(with_member(down(3, 2), newcomer(started=False)), "n4", (), "n3")
    assert "--name" in caught.value.text


def test_another_learner_that_is_pending_comes_first() -> None:
    survey = with_member(down(3, 2), newcomer(started=False))
    assert "is pending: promote or remove it first" in refusal(survey, "n3")


def test_a_name_that_nobody_has_needs_the_new_urls() -> None:
    assert "no member has the id or name 'n7'" in refusal(healthy(), "n7")


def test_several_members_of_one_name_are_named_by_id() -> None:
    survey = changed(down(3, 2), 1, name="n3")
    assert "several members are called 'n3'" in refusal(survey, "n3")


# --- runs that were interrupted ---------------------------------------------------


def test_after_the_removal_the_rest_is_left() -> None:
    plan = planned(without(healthy(), 2), "n3", NEW_URL)
    assert (plan.target, plan.heir, plan.steps) == (None, None, ARRIVING)
    assert plan.name == "n3"
    assert planned(without(healthy(), 2), "3", NEW_URL).name == "NAME"  # an id is no name


@pytest.mark.parametrize("urls", [(), (NEW_URL,)])
def test_after_the_addition_the_start_and_the_promotion_are_left(urls: tuple[str, ...]) -> None:
    survey = with_member(without(healthy(), 2), newcomer(started=False))
    plan = planned(survey, "n3", *urls)
    assert plan.steps == (Step.START, Step.PROMOTE)
    assert plan.heir is not None
    assert (plan.heir.id, plan.urls) == (9, (NEW_URL,))


def test_after_the_start_the_promotion_is_left() -> None:
    survey = with_member(without(healthy(), 2), newcomer(started=True))
    assert planned(survey, "n3", NEW_URL).steps == (Step.PROMOTE,)
    assert planned(survey, "n3-2").steps == (Step.PROMOTE,)


def test_when_the_new_one_came_first_the_old_one_still_goes_last() -> None:
    for started, left in ((False, ARRIVING[1:]), (True, ARRIVING[2:])):
        survey = with_member(down(3, 2), newcomer(started=started))
        plan = planned(survey, "n3", NEW_URL)
        assert plan.steps == (*left, Step.REMOVE)
        assert plan.name == "n3-2"
    voting = with_member(down(3, 2), newcomer(started=True, learner=False))
    assert planned(voting, "n3", NEW_URL).steps == (Step.REMOVE,)


def test_when_all_is_done_nothing_is_left() -> None:
    survey = with_member(without(healthy(), 2), newcomer(started=True, learner=False))
    assert "nothing is left to do" in refusal(survey, "n3", NEW_URL)


def test_a_dead_learner_is_replaced_too() -> None:
    survey = changed(down(3, 2), 2, is_learner=True)
    assert planned(survey, "n3", NEW_URL).steps == (Step.REMOVE, *ARRIVING)
