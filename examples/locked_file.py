"""Many processes, on many hosts, append to one file that they share, one at a time.

    python examples/locked_file.py --endpoints 127.0.0.1:2379 --file /shared/log --lines 10

A lock alone cannot keep out a writer that was paused inside and wakes up when another one holds the
lock. So the file remembers the greatest fencing token that has written to it, and a writer with
a smaller one is refused. That check is made under a lock of the file system, which lasts only for
the moment of the write.
"""

import argparse
import fcntl
import os
import sys
from pathlib import Path

from raftkv.client import Client, LeaseLost, NotAcquired


class TooLate(Exception):
    """Another holder of the lock has written since this one got it."""


def append(path: Path, line: str, token: int) -> None:
    """Appends a line unless a greater token has written before. Errors: TooLate, OSError."""
    fence = path.with_name(path.name + ".token")
    with fence.open("a+") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        guard.seek(0)
        greatest = int(guard.read() or "0")
        if token < greatest:
            raise TooLate(f"token {token}, but {greatest} has written already")
        with path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        guard.seek(0)
        guard.truncate()
        guard.write(str(token))


def main() -> int:
    """Writes its lines, each under the lock. Returns 1 if it could not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", default="127.0.0.1:2379")
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=1)
    parser.add_argument("--lock", default="locked-file")
    parser.add_argument("--wait", type=float, default=30.0, help="seconds")
    given = parser.parse_args()

    with Client(given.endpoints) as client:
        lock = client.lock(given.lock, identity=str(os.getpid()))
        for number in range(given.lines):
            try:
                with lock.acquire(timeout=given.wait) as holding:
                    before = given.file.stat().st_size if given.file.exists() else 0
                    line = f"{os.getpid()} {number} at {before}"
                    append(given.file, line, holding.fencing_token)
            except (NotAcquired, LeaseLost, TooLate) as error:
                print(error, file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
