"""What members wrote to their logs that no fault excuses: panics, tracebacks, failed assertions.

The names stand for raftkv and for etcd. Lines that match the allow-list are what faults of the run
are expected to cause (a member that stops at a failed sync says so); a workload or a run adds its
own.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from jepsen_lite.checker.base import Evidence, Verdict
from jepsen_lite.checker.findings import Findings

PATTERNS: Final = {
    "panic": r"\bpanic(:|\b.*goroutine)|\"level\":\"(panic|dpanic)\"|fatal error:",
    "traceback": r"^Traceback \(most recent call last\)|\bunhandled exception\b",
    "assertion": r"\bAssertionError\b|\bassertion failed\b",
    # etcd names its checks for corruption in every log.
    "corruption": r"(?<!no )\bcorrupt(ed|ion)?\b(?![- ]check)|CorruptionError|checksum mismatch|"
    r"hash mismatch",
    "race": r"^WARNING: DATA RACE",
    "never-awaited": r"was never awaited|Task exception was never retrieved",
}

# Faults, by the nemesis, that make members say such things rightly.
EXCUSED: Final = {"corruption": ("files", "disk", "damage", "flip", "torn")}

_LONGEST: Final = 300  # characters of a line that are shown
_MOST_BYTES: Final = 64 * 1024 * 1024  # of one log that are read


class Logs:
    """See the module's docstring. allowed: regular expressions of lines that are all right."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._patterns = {name: re.compile(one, re.IGNORECASE) for name, one in PATTERNS.items()}
        self._allowed = [re.compile(one, re.IGNORECASE) for one in allowed]

    def check(self, run: Evidence) -> Verdict:
        """Undecided if a member's log cannot be read."""
        findings = Findings()
        kinds = " ".join([*run.options.nemeses, *(window.kind for window in run.windows)])
        excused = {n for n, words in EXCUSED.items() if any(word in kinds for word in words)}
        lines = size = unread = 0
        for member, path in run.member_logs.items():
            try:
                size += path.stat().st_size
                lines += self._read(member, path, excused, findings)
            except OSError as error:
                unread += 1
                findings.add("log-unread", f"The log of member {member} cannot be read: {error}.")
        return findings.verdict(
            unread > 0, logs=len(run.member_logs), lines=lines, bytes=size, excused=len(excused)
        )

    def _read(self, member: str, path: Path, excused: set[str], findings: Findings) -> int:
        """Line by line; returns how many."""
        number = read = 0
        with path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                read += len(raw)
                if read > _MOST_BYTES:
                    text = f"The log of member {member} is longer than {_MOST_BYTES} bytes."
                    findings.add("log-too-long", text)
                    break
                line = raw.decode("utf-8", "replace").rstrip()
                for name, pattern in self._patterns.items():
                    if not pattern.search(line) or name in excused:
                        continue
                    if not any(one.search(line) for one in self._allowed):
                        shown = line[:_LONGEST]
                        findings.add(name, f"Member {member}, line {number} of its log: {shown}")
                    break
        return number
