"""How the clients of a run get into a cluster that somebody else runs: TLS, user and password.

Nothing of it is stored: run.json has the command without the password (`without_password`), and
not these settings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from jepsen_lite.session import Session
from jepsen_lite.target.base import TargetError
from raftkv.client import TLS
from raftkv.client.errors import BadSettings

DIAL_SECONDS: Final = 3.0
_USER, _PASSWORD = "--user", "--password"


@dataclass(frozen=True, slots=True)
class Access:
    """ca, cert, key: files of PEM, "" = none. user: "" = nobody in particular."""

    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password: str = field(default="", repr=False)

    def session(self, endpoints: Sequence[str], timeout_seconds: float) -> Session:
        """A client that goes in so. Errors: TargetError, if these settings do not go together."""
        tls = None
        try:
            if self.ca or self.cert or self.key:
                tls = TLS(self.ca or None, self.cert or None, self.key or None)
            return Session(
                list(endpoints),
                timeout=timeout_seconds,
                dial_timeout=min(DIAL_SECONDS, timeout_seconds),
                tls=tls,
                user=self.user,
                password=self.password,
            )
        except BadSettings as error:
            raise TargetError(str(error)) from None


def without_password(words: Sequence[str]) -> list[str]:
    """A command line without the password that may stand in it, in any of the forms."""
    kept: list[str] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word.partition("=")
        if name == _PASSWORD:
            if not equals:
                del left[:1]
        elif name == _USER:
            user = text if equals else left.pop(0) if left else ""
            kept += [_USER, user.partition(":")[0]]
        else:
            kept.append(word)
    return kept
