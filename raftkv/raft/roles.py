"""Names of the roles and the reasons for which the core refuses a request.

A refusal appends nothing, sends nothing and changes nothing: its outcome is
DEFINITE, and the caller may ask again here or elsewhere.
"""

from typing import Final

from raftkv.errors import RaftkvError

FOLLOWER: Final = "follower"
PRE_CANDIDATE: Final = "pre-candidate"  # asks whether it could win (dissertation 9.6)
CANDIDATE: Final = "candidate"
LEADER: Final = "leader"


class Refusal(RaftkvError):
    """The core did not take a request; nothing was appended."""


class NotLeader(Refusal):
    """Only a leader appends entries. `Core.leader` says who may know more."""


class NoLeader(Refusal):
    """A follower that knows no leader cannot start a read."""


class TransferInProgress(Refusal):
    """The leader hands over its leadership; retry after at most an election timeout."""


class UncommittedFull(Refusal):
    """Too many uncommitted bytes in the log (R40); retry when some are committed."""


class ChangePending(Refusal):
    """The newest configuration is not committed yet, or is a joint one (R24)."""


class ChangeTooEarly(Refusal):
    """The leader has not committed an entry of its own term yet (R22)."""


class BadChange(Refusal):
    """The wanted configuration contradicts itself; the text says how."""


class BadTransferTarget(Refusal):
    """Leadership can only be handed to another voter."""
