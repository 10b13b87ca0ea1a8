"""The command line: `run`, `check`, `list`."""

import click


@click.group()
def main() -> None:
    """Drives a store of etcd's v3 API, breaks it, heals it and checks every answer."""
