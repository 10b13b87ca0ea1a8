"""The command line: `run`, `check`, `list`."""

import click

from jepsen_lite.teeth import teeth_command


@click.group()
def main() -> None:
    """Drives a store of etcd's v3 API, breaks it, heals it and checks every answer."""


main.add_command(teeth_command)
