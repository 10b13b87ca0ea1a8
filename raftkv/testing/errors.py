"""What can go wrong with a test cluster itself, apart from what its clients meet."""

from raftkv.errors import RaftkvError


class StartFailed(RaftkvError):
    """A member did not come up in time, or ended at once; the text has the end of its log."""


class NoLeader(RaftkvError):
    """No member became a leader that a majority follows within the time that was given."""


class MemberDied(RaftkvError):
    """A member ended that nobody had stopped; the text has the end of its log."""
