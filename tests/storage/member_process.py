"""A child process that lives on a data directory until it is killed.

    python -m tests.storage.member_process PATH marked|lagging

Prints `INDEX` after every acknowledged batch. In mode "marked" the mark is brought up to date
before that, as after a second of rest; in mode "lagging" it is left to its own timing.
"""

import sys

from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import CLUSTER, MEMBER, batch, entries
from tests.storage.workload import rows_for


def main(path: str, mode: str) -> None:
    directory = DataDirectory.open(path, CLUSTER, MEMBER, state_buffer_bytes=1 << 16)
    log, number, index = directory.log, 0, 0
    while True:
        number += 1
        count = 1 + number % 5
        hard = (1, 1) if number == 1 else None
        log.write([batch(number, entries(index + 1, index + count, 1, 150), hard=hard)])
        index += count
        directory.state.write(rows_for(index - count + 1, index))
        if number % 40 == 0:
            directory.state.sync()
            log.truncate_front(index - 100, 1)
        if mode == "marked":
            log.write_mark_behind(force=True)
        print(index, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
