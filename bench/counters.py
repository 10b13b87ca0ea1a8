"""What a server process has used so far, read from /proc.

CPU: user and system time of the process, of its ended children and of its living
descendants (`stat`). Disk: `write_bytes` of `io`, that is bytes the process caused to be
sent to the storage layer. Memory: VmRSS, and the part of it that is not file pages
(RssAnon), because etcd maps its database file into memory.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

PROC: Final = Path("/proc")
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


class Usage(NamedTuple):
    """cpu_seconds and write_bytes since the start; rss_bytes and anon_bytes now."""

    cpu_seconds: float
    write_bytes: int
    rss_bytes: int
    anon_bytes: int


def _children(pid: int) -> list[int]:
    found = []
    for task in (PROC / str(pid) / "task").iterdir():
        try:
            found += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
            continue
    return found


def cpu_seconds(stat: str) -> float:
    """Seconds in the text of /proc/PID/stat: utime, stime, cutime and cstime."""
    fields = stat[stat.rindex(")") + 2 :].split()  # the name may hold spaces
    return sum(map(int, fields[11:15])) / _TICKS_PER_SECOND


def labelled(text: str, label: str) -> int:
    """The number behind `label:` in the text of /proc/PID/io or status; 0 if it is not there."""
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name == label:
            return int(rest.split()[0])
    return 0


def usage(pid: int) -> Usage:
    """What the process and its descendants have used; zeros if it does not exist."""
    directory = PROC / str(pid)
    try:
        status = (directory / "status").read_text()
        own = Usage(
            cpu_seconds((directory / "stat").read_text()),
            labelled((directory / "io").read_text(), "write_bytes"),
            labelled(status, "VmRSS") * 1024,
            labelled(status, "RssAnon") * 1024,
        )
        below = [usage(child) for child in _children(pid)]
    except (FileNotFoundError, ProcessLookupError):
        return Usage(0.0, 0, 0, 0)
    return Usage(
        own.cpu_seconds + sum(one.cpu_seconds for one in below),
        own.write_bytes + sum(one.write_bytes for one in below),
        own.rss_bytes + sum(one.rss_bytes for one in below),
        own.anon_bytes + sum(one.anon_bytes for one in below),
    )


class ThreadUsage(NamedTuple):
    """One thread since its start. queued_seconds: ready to run, but without a CPU.

    kernel_ticks of all_ticks: the part of the CPU time in the kernel. waits, preemptions:
    how often it gave the CPU up, and how often it lost it.
    """

    name: str
    cpu_seconds: float = 0.0
    queued_seconds: float = 0.0
    kernel_ticks: int = 0
    all_ticks: int = 0
    waits: int = 0
    preemptions: int = 0
    write_bytes: int = 0


def threads(pid: int) -> dict[int, ThreadUsage]:
    """Thread id -> what it has used; empty if the process does not exist."""
    found: dict[int, ThreadUsage] = {}
    try:
        for task in (PROC / str(pid) / "task").iterdir():
            stat = (task / "stat").read_text()
            user, kernel = map(int, stat[stat.rindex(")") + 2 :].split()[11:13])
            status = (task / "status").read_text()
            run, queued, _ = map(int, (task / "schedstat").read_text().split())
            found[int(task.name)] = ThreadUsage(
                stat[stat.index("(") + 1 : stat.rindex(")")],
                run / 1e9,
                queued / 1e9,
                kernel,
                user + kernel,
                labelled(status, "voluntary_ctxt_switches"),
                labelled(status, "nonvoluntary_ctxt_switches"),
                labelled((task / "io").read_text(), "write_bytes"),
            )
    except (FileNotFoundError, ProcessLookupError):
        pass
    return found
