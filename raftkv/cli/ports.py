"""Who listens on a TCP port of this machine, read from /proc (Linux; elsewhere: nobody known)."""

import os
from pathlib import Path
from typing import Final

_LISTEN: Final = "0A"  # TCP_LISTEN in /proc/net/tcp
_PROC = Path("/proc")


def _listening_inodes(port: int) -> set[str]:
    """Socket inodes that listen on `port`. Columns of /proc/net/tcp: see proc(5)."""
    found = set()
    for table in ("tcp", "tcp6"):
        try:
            lines = (_PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            local_port = int(columns[1].rpartition(":")[2], 16)
            if columns[3] == _LISTEN and local_port == port:
                found.add(columns[9])
    return found


def holder_of(port: int) -> str:
    """ "process 123 (etcd)" for the process that listens on `port`; "" if it cannot be told."""
    links = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not links:
        return ""
    for entry in sorted(_PROC.iterdir()):
        if not entry.name.isdigit():
            continue
        try:
            for descriptor in (entry / "fd").iterdir():
                if os.readlink(descriptor) in links:
                    name = (entry / "comm").read_text().strip()
                    return f"process {entry.name} ({name})"
        except OSError:  # gone meanwhile, or another user's
            continue
    return ""
