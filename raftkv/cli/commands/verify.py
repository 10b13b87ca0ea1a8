"""`raftctl verify`: does this cluster keep its promises, now?

The short form of `jepsen-lite run`, which it starts as another process: some workloads against the
endpoints, one after the other, without faults; every answer is checked. All keys are under one
prefix, which must be empty; they are deleted at the end. Exit code: 0 if everything was right,
1 if something was wrong, raftctl's own after Ctrl-C, jepsen-lite's otherwise.

What raftctl was told of endpoints, TLS and the user is handed on, the password in the environment,
where no list of processes shows it. A user needs to read and write under `raftctl-verify-`.
"""

import os
import secrets
import signal
import subprocess
import sys
from importlib.util import find_spec
from typing import Final

import click

from raftkv.cli.connection import Target
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, INTERRUPTED, CtlError

WORKLOADS: Final = "register,append,set"
MODULE: Final = "jepsen_lite"
CHILD_INTERRUPTED: Final = 130


@click.command("verify", cls=CtlCommand)
@click.option("--workload", default=WORKLOADS, help=f"Names joined by commas. [{WORKLOADS}]")
@click.option("--time", "seconds", type=float, default=10.0, help="Seconds for each. [10]")
@click.option("--rate", type=float, default=100.0, help="Operations a second; 0: no limit. [100]")
@click.option("--store", default="jepsen-results", help="Directory for reports.")
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def verify(
    session: Session,
    /,
    args: tuple[str, ...],
    workload: str,
    seconds: float,
    rate: float,
    store: str,
) -> int:
    """Check the cluster's answers under load."""
    if args:
        raise CtlError("verify takes no arguments", BAD_ARGUMENTS)
    target = session.target
    if target.skip_verify:
        raise CtlError("verify checks the servers' certificates: name their --cacert", BAD_FEATURE)
    if find_spec(MODULE) is None:
        raise CtlError(f"verify needs the package {MODULE}, which is not installed", BAD_FEATURE)
    worst = 0
    for name in filter(None, (word.strip() for word in workload.split(","))):
        prefix = f"raftctl-verify-{secrets.token_hex(6)}/"
        command = [
            *(sys.executable, "-m", MODULE, "run", "--workload", name),
            *("--time", f"{seconds:g}", "--rate", f"{rate:g}", "--store", store),
            *("--prefix", prefix, "--clean-up", *_way_in(target)),
        ]
        code = _ended(command, _environment(target))
        if code == CHILD_INTERRUPTED:
            return INTERRUPTED
        worst = max(worst, code)
    return worst


def _ended(command: list[str], environment: dict[str, str]) -> int:
    """The exit code of a run. Ctrl-C is handed on: it reports and removes its keys first."""
    # Its own process group: a terminal would tell it as well, and twice means to make haste.
    with subprocess.Popen(command, env=environment, process_group=0) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)


def _way_in(target: Target) -> list[str]:
    """The words for the endpoints and how to get in there, but for the password."""
    endpoints = [
        f"https://{one}" if target.secure and "://" not in one else one for one in target.endpoints
    ]
    words = [f"--endpoints={','.join(endpoints)}", f"--timeout={target.command_timeout_seconds:g}"]
    given = {
        "cacert": target.ca_file,
        "cert": target.cert_file,
        "key": target.key_file,
        "user": target.user,
    }
    return [*words, *(f"--{name}={text}" for name, text in given.items())]


def _environment(target: Target) -> dict[str, str]:
    """This process's, with the password that raftctl was told."""
    return {**os.environ, "RAFTCTL_PASSWORD": target.password}
