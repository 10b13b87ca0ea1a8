"""Which process this is, without asking the kernel at every call.

`number` is the process's id. A fork changes it in the child, before any other code runs there.
"""

import os

number: int = os.getpid()


def _in_child() -> None:
    global number
    number = os.getpid()


if hasattr(os, "register_at_fork"):  # elsewhere nothing forks
    os.register_at_fork(after_in_child=_in_child)
