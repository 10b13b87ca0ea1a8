"""What it takes to replace a member that is gone: the plan of `raftctl member replace`.

Pure: from a survey of the cluster to the steps that are left. A run that was interrupted leaves a
cluster that works, and the next run finds the rest by looking again:

    target there, no heir           all steps
    target there, heir there        the heir came first: start it, promote it, remove the target
                                    (a voter with the new URLs counts as the heir by its name)
    target gone, heir there         start the heir, promote it
    target gone, no heir            add the heir (its peer URLs must be named), start it, promote it

The heir is the member with the peer URLs of the new node. Which goes first, the removal or the
addition, is a matter of what can be lost:

* With the same peer URLs only the removal can, for no two members have one URL.
* If the voters that are healthy are more than a quorum, the removal goes first: the quorum never
  grows by it, and a dead voter no longer counts in any.
* If they are just a quorum, the loss of one more would stop the cluster, and the dead one might be
  the only way back. It stays a member until the new one has all the data and votes. A learner
  does not count, and when it becomes a voter it is healthy, so the quorum holds at every step.
  Two members of one name would be confused, so the new one has another name then.
"""

from dataclasses import dataclass
from enum import Enum

from raftkv.cli.exits import BAD_ARGUMENTS, CtlError
from raftkv.cli.surveying import MemberView, Survey


class Unsettled(CtlError):
    """What speaks against the plan may pass by itself within seconds: a member has just ended."""


class Step(Enum):
    """One thing to do."""

    REMOVE = "remove"
    ADD = "add"
    START = "start"
    PROMOTE = "promote"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is left to do.

    target: the member that goes; None if it is gone. heir: the new member, None if it is still
    to be added. urls: its peer URLs. name: to start it with. reason: why in this order.
    """

    target: MemberView | None
    heir: MemberView | None
    urls: tuple[str, ...]
    name: str
    steps: tuple[Step, ...]
    reason: str
    voters: tuple[MemberView, ...]
    healthy: tuple[MemberView, ...]

    @property
    def quorum(self) -> int:
        """Voters that must agree at the moment."""
        return len(self.voters) // 2 + 1


def make_plan(survey: Survey, wanted: str, urls: tuple[str, ...], name: str) -> Plan:
    """The plan for replacing the member `wanted` (a hexadecimal id, or a name).

    urls: peer URLs of the new node, () for those of the old one. name: of the new node, "" for
    that of the old one. Errors: CtlError saying what speaks against it and what to do; Unsettled
    if it may pass.
    """
    voters = tuple(member for member in survey.members if not member.is_learner)
    leaders = {one.reply.leader for one in survey.answers if one.reply.leader}
    target = find(survey, wanted)
    if not survey.answers:
        raise CtlError(f"no member answers: {_reasons(survey)}")
    healthy = tuple(
        voter for voter in voters if voter.answer is not None and voter.answer.reply.leader
    )
    if not leaders or len(healthy) < len(voters) // 2 + 1:
        up = [voter for voter in voters if voter.answer is not None]
        kind = Unsettled if len(up) > len(voters) // 2 else CtlError  # an election may be under way
        raise kind(
            f"{len(healthy)} of {len(voters)} voters are healthy ({_reasons(survey)}): without a "
            "quorum and a leader no member can be changed. Bring members back first"
        )
    heir = _heir(survey, target, urls)
    if target is not None and target is not heir:
        _check_down(survey, target)
    if not urls:
        known = heir or target
        if known is None:
            raise CtlError(
                f"no member has the id or name {wanted!r}. If an earlier run has removed it, go "
                "on with: --peer-urls=URL, the peer URLs of the new node",
                BAD_ARGUMENTS,
            )
        urls = known.peer_urls
    if target is heir:
        target = None
    steps, reason = _order(target, heir, urls, len(healthy), len(voters))
    name = name or _name(target, heir, wanted, last=bool(steps) and steps[-1] is Step.REMOVE)
    _check_free(survey, target, heir, urls, name)
    return Plan(target, heir, urls, name, steps, reason, voters, healthy)


def _name(target: MemberView | None, heir: MemberView | None, wanted: str, last: bool) -> str:
    """What the new node is called if nobody says. last: the old member goes last."""
    if target is not None:
        return f"{target.label}-2" if last else target.label
    if heir is not None and heir.name:
        return heir.name
    return wanted if _as_id(wanted) is None else "NAME"


def find(survey: Survey, wanted: str) -> MemberView | None:
    """The member with this hexadecimal id or this name."""
    number = _as_id(wanted)
    for member in survey.members:
        if member.id == number:
            return member
    named = [member for member in survey.members if member.name == wanted]
    if len(named) > 1:
        ids = ", ".join(f"{member.id:x}" for member in named)
        raise CtlError(f"several members are called {wanted!r}: name one by its id ({ids})")
    return named[0] if named else None


def _as_id(text: str) -> int | None:
    try:
        return int(text, 16)
    except ValueError:
        return None


def _reasons(survey: Survey) -> str:
    reasons = [f"{one.label}: {one.problem}" for one in survey.members if one.answer is None]
    reasons += [f"{endpoint}: {why}" for endpoint, why in survey.unreachable.items()]
    return ", ".join(reasons) or "all answer"


def _heir(survey: Survey, target: MemberView | None, urls: tuple[str, ...]) -> MemberView | None:
    """The new member, if it was added already."""
    if target is not None and target.is_learner and target.answer is not None:
        return target  # it has started: what is left is its vote
    for member in survey.members:
        if urls and sorted(member.peer_urls) == sorted(urls) and member is not target:
            return member
    if target is None and not urls:
        waiting = [one for one in survey.members if one.is_learner and not one.name]
        return waiting[0] if len(waiting) == 1 else None
    return None


def _check_down(survey: Survey, target: MemberView) -> None:
    """Only what is down is replaced. Errors: CtlError."""
    if target.answer is not None:
        raise CtlError(
            f"member {target.label} ({target.id:x}) answers at {target.answer.endpoint}: it is not "
            "down. Stop it first, or use `raftctl member remove` for one that works"
        )
    for one in survey.answers:
        if one.reply.header.member_id != one.reply.leader:
            continue
        for peer in one.reply.peers:
            if peer.id == target.id and peer.connected:
                raise Unsettled(
                    f"member {target.label} ({target.id:x}) cannot be reached from here, but the "
                    "leader is connected to it: stop it first"
                )


def _check_free(
    survey: Survey,
    target: MemberView | None,
    heir: MemberView | None,
    urls: tuple[str, ...],
    name: str,
) -> None:
    """Nobody else may have the URLs or the name, nor wait to be promoted. Errors: CtlError."""
    if heir is not None and not heir.is_learner and target is not None and heir.name != name:
        raise CtlError(f"{urls[0]} is a peer URL of member {heir.label} ({heir.id:x})")
    for member in survey.members:
        if member is target or member is heir:
            continue
        taken = sorted(set(member.peer_urls).intersection(urls))
        if taken:
            raise CtlError(f"{taken[0]} is a peer URL of member {member.label} ({member.id:x})")
        if member.name == name:
            raise CtlError(
                f"{name!r} is the name of member {member.id:x}: give the new one its own (--name)"
            )
        if member.is_learner and heir is None:
            raise CtlError(
                f"learner {member.label} ({member.id:x}, {','.join(member.peer_urls)}) is pending: "
                "promote or remove it first"
            )
    if heir is not None and not heir.is_learner and target is None:
        raise CtlError(f"nothing is left to do: {heir.label} ({heir.id:x}) is a voter")


def _order(
    target: MemberView | None,
    heir: MemberView | None,
    urls: tuple[str, ...],
    healthy: int,
    voters: int,
) -> tuple[tuple[Step, ...], str]:
    arriving = [
        *([Step.ADD] if heir is None else []),
        *([Step.START] if heir is None or heir.answer is None else []),
        *([Step.PROMOTE] if heir is None or heir.is_learner else []),
    ]
    if target is None:
        return tuple(arriving), "the old member is gone, the rest is left"
    spare = healthy - (voters // 2 + 1)
    if heir is not None:
        reason = "the new member is there already; the old one goes when that one votes"
    elif sorted(urls) == sorted(target.peer_urls):
        reason = "the new node has the old one's peer URLs, which no two members can have"
        return (Step.REMOVE, *arriving), reason
    elif target.is_learner or spare > 0:
        reason = (
            f"{healthy} voters are healthy and {healthy - spare} are a quorum: a dead member that "
            "does not count any more is one risk less"
        )
        return (Step.REMOVE, *arriving), reason
    else:
        reason = (
            f"{healthy} voters are healthy, no more than a quorum: until the new one votes the old "
            "one stays, as the last way back if another is lost"
        )
    return (*arriving, Step.REMOVE), reason
