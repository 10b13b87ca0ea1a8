"""A cron job that runs on one of many hosts: on the leader, and again elsewhere when that dies.

    python examples/leader_cron.py --endpoints 127.0.0.1:2379 --name host-a --every 1

Start it several times with different names. The time of the last run is stored, so a new leader
goes on where the old one was; the write is guarded, so a leader that was paused and wakes up late
cannot undo what its successor has done.
"""

import argparse
import signal
import time

from raftkv.client import Client, ClientError, Put, Txn
from raftkv.client.sync import Shift

LAST_RUN = "cron/last-run"
ELECTION = "cron-leader"


def job(name: str, number: int) -> None:
    """What is to be done; put your own work here."""
    print(f"{name}: run {number}", flush=True)


def main() -> None:
    """Runs until it is interrupted or terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--endpoints", default="127.0.0.1:2379")
    parser.add_argument("--name", required=True, help="of this host")
    parser.add_argument("--every", type=float, default=60.0, help="seconds")
    parser.add_argument(
        "--ttl", type=float, default=5.0, help="seconds until a dead leader is replaced"
    )
    given = parser.parse_args()

    with Client(given.endpoints) as client:

        def lead(shift: Shift) -> None:
            print(f"{given.name}: leads", flush=True)
            while shift.is_leader:
                started = time.monotonic()
                try:
                    number = int(client.get(LAST_RUN).text or "0") + 1
                    job(given.name, number)
                    noted = client.txn(shift.term.guard(Txn()).then(Put(LAST_RUN, str(number))))
                    if not noted:
                        return  # somebody else leads
                except ClientError as error:
                    print(f"{given.name}: {error}; the run is repeated", flush=True)
                shift.stop.wait(max(0.0, given.every - (time.monotonic() - started)))

        runner = client.leader_runner(ELECTION, lead, value=given.name, ttl=given.ttl)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: runner.stop())
        runner.run()
    print(f"{given.name}: ended", flush=True)


if __name__ == "__main__":
    main()
