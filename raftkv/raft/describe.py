"""What a core looks like from outside: for status pages, logs and golden transcripts."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftkv.raft.leader import Leader
from raftkv.raft.types import NOBODY, Configuration

if TYPE_CHECKING:
    from raftkv.raft.core import Core


@dataclass(frozen=True, slots=True)
class FollowerView:
    """A leader's knowledge of one other member.

    match: highest index known to be durable there. next: first index to send.
    state: "probe", "replicate" or "snapshot". active: it answered something in this term.
    inflight_messages, inflight_bytes: sent but not acknowledged.
    regressed: it lost acknowledged entries and counts no more (R33).
    """

    match: int
    next: int
    state: str
    active: bool
    voter: bool
    inflight_messages: int
    inflight_bytes: int
    regressed: bool


def followers(core: "Core") -> dict[int, FollowerView]:
    """Every other member as the leader `core` sees it; empty if it is no leader."""
    if not isinstance(core.state, Leader):
        return {}
    return {
        member: FollowerView(
            known.match,
            known.next,
            known.state,
            known.acked_round > 0,
            known.voter,
            len(known.inflight),
            known.inflight_bytes,
            known.regressed,
        )
        for member, known in sorted(core.state.progress.items())
        if member != core.member
    }


def answering(core: "Core") -> list[int]:
    """On a leader: itself and every member that answered something that was sent within the last
    election timeout, ascending; else empty.
    """
    if not isinstance(core.state, Leader):
        return []
    return [member for member in sorted(core.state.progress) if core.state.answers(member)]


def leading_ticks(core: "Core") -> int:
    """For how many ticks this member has led; 0 if it does not."""
    return core.now - core.state.since if isinstance(core.state, Leader) else 0


def rounds(core: "Core") -> tuple[int, int]:
    """On a leader: the newest round that its messages carry, and the newest that a quorum has
    echoed (`progress.EVER` if it is a quorum alone). Else (0, 0). See `raft.progress`.
    """
    return core.state.rounds_now() if isinstance(core.state, Leader) else (0, 0)


def newest_round(core: "Core") -> int:
    """On a leader: the newest round that its messages carry; else 0."""
    return core.state.rounds.newest if isinstance(core.state, Leader) else 0


def configuration_text(configuration: Configuration) -> str:
    """One line: voters, outgoing voters if joint, learners."""
    text = "voters=" + ",".join(map(str, configuration.voters))
    if configuration.outgoing:
        text += " outgoing=" + ",".join(map(str, configuration.outgoing))
    if configuration.learners:
        text += " learners=" + ",".join(map(str, configuration.learners))
    if configuration.learners_next:
        text += " learners_next=" + ",".join(map(str, configuration.learners_next))
    return text


def status(core: "Core") -> dict[str, object]:
    """The core's state in plain values."""
    return {
        "member": core.member,
        "role": core.role,
        "term": core.term,
        "vote": core.vote,
        "leader": core.leader,
        "commit": core.commit,
        "applied": core.applied,
        "stable": core.log.stable_index,
        "last": core.last_index,
        "first": core.log.first_index,
        "configuration": configuration_text(core.configuration),
        "uncommitted_bytes": core.uncommitted_bytes,
        "transferee": core.transferee,
        "regressed": list(core.regressed),
        "followers": followers(core),
    }


def line(core: "Core") -> str:
    """One line for a log or a transcript."""
    leader = "nobody" if core.leader == NOBODY else str(core.leader)
    return (
        f"{core.member} {core.role} term={core.term} vote={core.vote} leader={leader} "
        f"commit={core.commit} last={core.last_index} stable={core.log.stable_index} "
        f"{configuration_text(core.configuration)}"
    )
