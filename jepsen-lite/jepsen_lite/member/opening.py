"""Opens data directories as a starting member does, and tells what it would start with.

    python -m jepsen_lite.member.opening PAYLOAD...       (directories: lines of standard input)

For each directory one line of JSON: see `Opened`. Opening changes a directory: give it copies.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from raftkv.errors import CorruptionError
from raftkv.kv.machine import MachineSettings, StateMachine
from raftkv.storage.records import Anchor, identity_seed
from raftkv.storage.recovery import DataDirectory, Identity
from raftkv.storage.waltail import find_records


@dataclass(slots=True)
class Opened:
    """refusal: why the directory must not be used; empty: it was opened.

    kept: which of the payloads the log holds, whole and in their order. last_index: of the log.
    applied_index: of the state. marked_index: how far the mark knew the log to be durable.
    batches: number of the disk batch of each payload's record in the log's raw write-ahead files,
    as they were before they were opened; 0: there is no such whole record.
    """

    refusal: str = ""
    kept: list[bool] = field(default_factory=list)
    last_index: int = 0
    applied_index: int = 0
    marked_index: int = 0
    batches: list[int] = field(default_factory=list)


def look(path: str, payloads: list[bytes]) -> Opened:
    """Opens the directory at `path` and closes it again. payloads: parts of entries' payloads."""
    identity = DataDirectory.peek(path)
    assert identity is not None, f"{path} is no data directory"
    raws = [file.read_bytes() for file in sorted(Path(path).glob("log/*/*.log"))]
    try:
        directory = DataDirectory.open(path, identity.cluster, identity.member)
    except CorruptionError as error:
        return Opened(str(error), [False for _ in payloads])
    try:
        log = directory.log
        entries = log.entries(log.first_index, log.last_index, 1 << 40)
        machine = StateMachine(directory.state, identity.cluster, MachineSettings())
        directory.check_applied(machine.applied_index)
        return Opened(
            "",
            [any(payload in entry.payload for entry in entries) for payload in payloads],
            log.last_index,
            machine.applied_index,
            directory._mark.value.last_index,
            [_batch_of(payload, raws, identity, log.anchor) for payload in payloads],
        )
    finally:
        directory.close(checkpoint=False)


def _batch_of(payload: bytes, raws: list[bytes], identity: Identity, anchor: Anchor) -> int:
    seed = identity_seed(identity.cluster, identity.member, identity.incarnation)
    for raw in raws:
        at = raw.find(payload)
        before = [number for start, number in find_records(raw, seed, anchor) if start < at]
        if before:
            return before[-1]
    return 0


def main(payloads: list[str]) -> int:
    """See the module's docstring."""
    for line in sys.stdin:
        found = look(line.strip(), [payload.encode() for payload in payloads])
        sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
