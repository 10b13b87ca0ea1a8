"""A program whose settings follow what is stored, without a restart and without asking.

    python examples/config_reload.py --endpoints 127.0.0.1:2379 --prefix config/

Change a key below the prefix (`raftctl put config/colour blue`) and see it printed. All keys that
change in one transaction change here in one step too, so a half-changed configuration is never
seen. While no server can be reached the last known settings go on.
"""

import argparse
from dataclasses import dataclass

from raftkv.client import Client
from raftkv.client.sync import Snapshot


@dataclass(frozen=True)
class Config:
    """The settings of this program, as of one revision of the store."""

    colour: str = "grey"
    limit: int = 10


def read(snapshot: Snapshot, prefix: str) -> Config:
    """The settings in a snapshot; what is missing or wrong keeps its default."""
    colour = snapshot.get(prefix + "colour")
    limit = snapshot.get(prefix + "limit")
    return Config(
        colour=Config.colour if colour is None else colour.text,
        limit=int(limit.text) if limit is not None and limit.text.isdecimal() else Config.limit,
    )


def main() -> None:
    """Prints the settings and each change of them; ends when `stop` is written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", default="127.0.0.1:2379")
    parser.add_argument("--prefix", default="config/")
    given = parser.parse_args()

    with (
        Client(given.endpoints) as client,
        client.cache(given.prefix) as cache,
        cache.changes() as changes,
    ):
        config = read(cache.snapshot(), given.prefix)
        print(config, flush=True)
        for _ in changes:
            now = cache.snapshot()
            if given.prefix + "stop" in now:
                break
            if (changed := read(now, given.prefix)) != config:
                config = changed
                print(config, flush=True)


if __name__ == "__main__":
    main()
