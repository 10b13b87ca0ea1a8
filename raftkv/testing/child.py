"""A `raftkv` process that ends when whoever started it is gone.

    python -m raftkv.testing.child DESCRIPTOR serve FLAGS...

DESCRIPTOR is the reading end of a pipe. Its other end is held by the parent alone and is never
written: it is closed when the parent ends, however it ends, and then nobody would stop this
process any more.
"""

import os
import sys
import threading


def _end_with(descriptor: int) -> None:
    os.read(descriptor, 1)
    os._exit(1)


def run(descriptor: int, arguments: list[str]) -> None:
    """Runs `raftkv` with these arguments; does not return."""
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    from raftkv.cli.server import main

    main(arguments)


if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2:])
