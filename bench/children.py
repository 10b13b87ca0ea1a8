"""Child processes that cannot outlive the benchmark, not even when it is killed."""

import ctypes
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """For `preexec_fn`: the kernel kills this process when its parent dies (Linux).

    Safe because the benchmark starts its children from a process without threads.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
