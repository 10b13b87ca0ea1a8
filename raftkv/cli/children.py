"""Runs a command for raftctl and says how it ended in the words of Go's os/exec."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from raftkv.cli.exits import ERROR, CtlError

_BY_SIGNAL: Final = 255


def run_child(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Runs a command to its end; it shares standard output and error and has no input.

    Errors: CtlError, with the command's exit code; 255 if a signal ended it.
    """
    sys.stdout.flush()
    if "/" not in argv[0] and shutil.which(argv[0], path=env.get("PATH", "")) is None:
        raise CtlError(f'exec: "{argv[0]}": executable file not found in $PATH', ERROR)
    try:
        code = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, check=False).returncode
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise CtlError(f"fork/exec {argv[0]}: {reason}", ERROR) from None
    if code > 0:
        raise CtlError(f"exit status {code}", code)
    if code < 0:
        name = signal.strsignal(-code) or f"signal {-code}"
        raise CtlError(f"signal: {name[0].lower() + name[1:]}", _BY_SIGNAL)
