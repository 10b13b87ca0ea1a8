"""One thing that `raftctl doctor` found."""

from dataclasses import dataclass
from typing import Final

CRITICAL: Final = "critical"
WARNING: Final = "warning"
NOTE: Final = "note"
SEVERITIES: Final = (CRITICAL, WARNING, NOTE)  # the gravest first


@dataclass(frozen=True, slots=True)
class Finding:
    """severity: one of SEVERITIES. check: a word for scripts. advice: what to do."""

    severity: str
    check: str
    text: str
    advice: str
