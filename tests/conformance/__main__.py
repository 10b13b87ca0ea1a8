"""Long differential runs: python -m tests.conformance --ops 100000 --seed 7 --nodes 3

Ends with status 1 at the first difference. `--against etcd` compares etcd with itself,
which shows that the comparison asks nothing that two correct servers could not give.
"""

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click

from tests import processes
from tests.conformance.differential import Difference, Differential
from tests.conformance.target import Target

FSYNC_OFF = "--unsafe-no-fsync"  # the judge's disk is not under test


@click.command()
@click.option("--ops", default=10_000, show_default=True, help="Requests to send.")
@click.option("--seed", default=0, show_default=True, help="First seed.")
@click.option(
    "--runs", default=1, show_default=True, help="Fresh stores, one seed after the other."
)
@click.option("--nodes", default=1, show_default=True, help="raftkv nodes, each asked in turn.")
@click.option("--leases", is_flag=True, help="Leases, and keys attached to them, as well.")
@click.option("--against", type=click.Choice(["raftkv", "etcd"]), default="raftkv")
def main(ops: int, seed: int, runs: int, nodes: int, leases: bool, against: str) -> None:
    """Compare raftkv with a real etcd, request by request."""
    for one in range(seed, seed + runs):
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            judge = stack.enter_context(processes.etcd(directory / "judge", FSYNC_OFF))
            if against == "etcd":
                subject = stack.enter_context(processes.etcd(directory / "subject", FSYNC_OFF))
            else:
                subject = stack.enter_context(processes.raftkv(directory / "subject", nodes))
            targets = [
                stack.enter_context(Target(server.endpoint))
                for server in (*judge.servers, *subject.servers)
            ]
            try:
                report = Differential(targets[0], targets[1:], one, leases=leases).run(ops)
            except Difference as difference:
                click.echo(str(difference))
                sys.exit(1)
        click.echo(f"seed {one}: {report.requests} requests, no difference")
        for (name, code, text), times in sorted(report.outcomes.items()):
            click.echo(f"  {times:8}  {name:20} {code} {text}")


if __name__ == "__main__":
    main()
