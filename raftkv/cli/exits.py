"""The exit codes of raftctl (etcdctl's) and the error that carries one."""

from typing import Final

ERROR: Final = 1
BAD_CONNECTION: Final = 2
INVALID_INPUT: Final = 3  # text on standard input
BAD_FEATURE: Final = 4  # an output format or option that is not offered
INTERRUPTED: Final = 5
IO: Final = 6
BAD_ARGUMENTS: Final = 128


class CtlError(Exception):
    """Ends a command: `Error: <text>` on standard error and this exit code."""

    def __init__(self, text: str, exit_code: int = ERROR) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = exit_code
