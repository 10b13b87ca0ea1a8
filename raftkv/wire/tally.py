"""What is counted about the calls of one method, by the connections that carry them.

The usual unary call costs two additions: `quick` when it is handed over with its one message, and
`answered` when its reply is written. Everything rarer has counters of its own, so

    started            = started + quick
    messages received  = received + quick
    messages sent      = sent + answered
    ended with OK      = ended[0] + answered

A call that the client gave up, or whose connection is gone, ended with CANCELLED, as gRPC's servers
have it.
"""

from typing import Final

from raftkv.errors import Code
from raftkv.histogram import Histogram

CODES: Final = 17  # gRPC has status codes from 0 to 16


class Tally:
    """See the module's docstring.

    seconds: how long calls took; None: nobody wants to know.
    """

    __slots__ = ("answered", "ended", "quick", "received", "seconds", "sent", "started")

    def __init__(self, seconds: Histogram | None = None) -> None:
        self.quick = self.answered = 0
        self.started = self.received = self.sent = 0
        self.ended = [0] * CODES
        self.seconds = seconds

    def end(self, code: int) -> None:
        """A call has ended with this status."""
        self.ended[code if 0 <= code < CODES else Code.UNKNOWN] += 1


UNCOUNTED: Final = Tally()  # of calls that nobody asks about
