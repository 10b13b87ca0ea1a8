"""Linearizability of one register by search (Wing and Gong 1993, Lowe 2017).

The history's calls and returns stand in time order in a linked list. The search
picks a call whose operation could come next, applies it to the state, takes the
pair out of the list and starts again at the front; at a return whose operation
is not placed yet it goes back. A set of (operations placed, state) already tried
keeps the search from trying an arrangement twice; the placed operations are a
bit set in one int.

This checker does not trust revisions, so it finds what a broken revision counter
would hide from `sim.witness`. Operations that touch one key only may be checked
key by key (Herlihy and Wing 1990, locality).

An operation without a return (its outcome is unknown) may take effect at any time
after its call, or never. A search that spends its step budget is UNDECIDED, and a
run counts that as a failure: an oracle that gives up must be loud.
"""

from collections.abc import Hashable, Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

DEFAULT_STEPS: Final = 3_000_000

State: TypeAlias = Hashable


class Verdict(Enum):
    """What the search found."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    UNDECIDED = "undecided"


class Write(NamedTuple):
    """Set the register; value None deletes the key."""

    value: bytes | None


class Read(NamedTuple):
    """The register's value as it was answered, None: no key."""

    value: bytes | None


class Swap(NamedTuple):
    """Compare and set. succeeded None: the answer is unknown.

    seen: the value that a failed swap read in the same step.
    """

    expected: bytes | None
    value: bytes | None
    succeeded: bool | None
    seen: bytes | None


Action: TypeAlias = Write | Read | Swap


class Interval(NamedTuple):
    """One operation on the register.

    called, returned: times in one unit; returned None: unknown outcome.
    """

    called: int
    returned: int | None
    action: Action


def step(state: bytes | None, action: Action) -> tuple[bool, bytes | None]:
    """Is `action` possible in `state`, and what is the state after it?"""
    if isinstance(action, Read):
        return action.value == state, state
    if isinstance(action, Write):
        return True, action.value
    if action.succeeded is None:
        return True, action.value if state == action.expected else state
    if action.succeeded:
        return state == action.expected, action.value
    return state != action.expected and action.seen == state, state


class _Node:
    __slots__ = ("match", "next", "number", "previous")

    def __init__(self, number: int, match: "_Node | None") -> None:
        self.number = number
        self.match = match  # a call's return; None in a return
        self.previous: _Node | None = None
        self.next: _Node | None = None


def prune_unseen(history: Sequence[Interval]) -> list[Interval]:
    """Drop writes of unknown outcome that nobody can have noticed.

    A value is written by one operation only, so an unknown write whose value no read
    and no swap names may be left out of any linearization, and leaving it out never
    makes one impossible. A value that a successful swap expected counts as noticed.
    """
    seen: set[bytes | None] = {None}
    for interval in history:
        action = interval.action
        if isinstance(action, Read):
            seen.add(action.value)
        elif isinstance(action, Swap):
            seen.add(action.seen)
            if action.succeeded is not False:
                seen.add(action.expected)
    kept = []
    for interval in history:
        action = interval.action
        if interval.returned is None and (
            isinstance(action, Read)
            or (isinstance(action, Write | Swap) and action.value not in seen)
        ):
            continue
        kept.append(interval)
    return kept


def check_register(
    history: Sequence[Interval], *, initial: bytes | None = None, steps: int = DEFAULT_STEPS
) -> Verdict:
    """Search a linearization of `history` that starts with `initial`.

    steps: how many list nodes the search may visit before it is UNDECIDED.
    """
    intervals = prune_unseen(history)
    actions = [interval.action for interval in intervals]
    completed = 0
    for number, interval in enumerate(intervals):
        if interval.returned is not None:
            completed |= 1 << number
    head = _linked(intervals)
    state = initial
    placed = 0
    tried: set[tuple[int, State]] = set()
    stack: list[tuple[_Node, bytes | None]] = []
    node = head.next
    while completed & ~placed:
        steps -= 1
        if steps < 0:
            return Verdict.UNDECIDED
        if node is not None and node.match is not None:
            possible, after = step(state, actions[node.number])
            if possible:
                mark = placed | (1 << node.number)
                if (mark, after) not in tried:
                    tried.add((mark, after))
                    stack.append((node, state))
                    state, placed = after, mark
                    _lift(node)
                    node = head.next
                    continue
            node = node.next
            continue
        if not stack:
            return Verdict.VIOLATION
        node, state = stack.pop()
        placed &= ~(1 << node.number)
        _unlift(node)
        node = node.next
    return Verdict.LINEARIZABLE


def _linked(intervals: Sequence[Interval]) -> _Node:
    """The list of calls and returns in time order; calls first among equals."""
    events: list[tuple[float, int, int]] = []
    for number, interval in enumerate(intervals):
        returned = float("inf") if interval.returned is None else interval.returned
        events.append((interval.called, 0, number))
        events.append((returned, 1, number))
    events.sort()
    returns = [_Node(number, None) for number in range(len(intervals))]
    head = last = _Node(-1, None)
    for _, is_return, number in events:
        node = returns[number] if is_return else _Node(number, returns[number])
        last.next, node.previous = node, last
        last = node
    return head


def _lift(node: _Node) -> None:
    """Take a call and its return out of the list."""
    assert node.match is not None
    for one in (node, node.match):
        assert one.previous is not None
        one.previous.next = one.next
        if one.next is not None:
            one.next.previous = one.previous


def _unlift(node: _Node) -> None:
    """Put them back, in the reverse order of `_lift`."""
    assert node.match is not None
    for one in (node.match, node):
        assert one.previous is not None
        one.previous.next = one
        if one.next is not None:
            one.next.previous = one
