"""/debug/vars: the process and its Raft state as one JSON object.

etcd has it from Go's expvar, with these four names at the top: cmdline, file_descriptor_limit,
memstats and raft.status. What is in `raft.status` is etcd's to the letter; `memstats` cannot be
Go's, so it says under names of its own what there is to say of a Python process.

    {"cmdline": ["raftkv", "serve", ...],
     "file_descriptor_limit": 20000,
     "memstats": {"ResidentBytes": N, "PeakResidentBytes": N, "VirtualBytes": N,
                  "NumGC": N, "EnableGC": true},
     "raft.status": {"id": "HEX", "term": N, "vote": "HEX", "commit": N, "lead": "HEX",
                     "raftState": "StateLeader", "applied": N,
                     "progress": {"HEX": {"match": N, "next": N, "state": "StateReplicate"}},
                     "leadtransferee": "HEX"}}
"""

import gc
import json
import resource
import sys
from typing import Any, Final

from raftkv.raft import describe
from raftkv.replica.replica import Replica
from raftkv.server.http.messages import Exchange, Field, Request
from raftkv.server.http.site import Page, only_get

_CONTENT: Final[Field] = (b"Content-Type", b"application/json; charset=utf-8")
_KIB: Final = 1024
_PAGE_BYTES: Final = resource.getpagesize()
_STATES: Final = {
    "follower": "StateFollower",
    "pre-candidate": "StatePreCandidate",
    "candidate": "StateCandidate",
    "leader": "StateLeader",
    "probe": "StateProbe",
    "replicate": "StateReplicate",
    "snapshot": "StateSnapshot",
}


def variables_page(replica: Replica) -> Page:
    """/debug/vars of a member."""

    def answer(exchange: Exchange, request: Request) -> None:
        variables = {
            "cmdline": sys.argv,
            "file_descriptor_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "memstats": _memory(),
            "raft.status": raft_status(replica),
        }
        lines = ",\n".join(
            f"{json.dumps(name)}: {json.dumps(value, separators=(',', ':'))}"
            for name, value in variables.items()
        )
        exchange.respond(200, (_CONTENT,), f"{{\n{lines}\n}}\n".encode())

    return only_get(answer)


def _memory() -> dict[str, Any]:
    """NumGC: runs of the collector, of all generations."""
    found: dict[str, Any] = {}
    try:
        with open("/proc/self/statm", "rb") as file:
            virtual, resident = map(int, file.read().split()[:2])
    except OSError:
        pass  # only Linux has it
    else:
        found = {"ResidentBytes": resident * _PAGE_BYTES, "VirtualBytes": virtual * _PAGE_BYTES}
    found["PeakResidentBytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
    found["NumGC"] = sum(one["collections"] for one in gc.get_stats())
    found["EnableGC"] = gc.isenabled()
    return found


def raft_status(replica: Replica) -> dict[str, Any]:
    """The state as etcd writes its `raft.Status`: ids in hexadecimal, progress only of a leader."""
    core = replica.core
    progress = {
        f"{member:x}": {"match": seen.match, "next": seen.next, "state": _STATES[seen.state]}
        for member, seen in describe.followers(core).items()
    }
    if replica.is_leader:
        stable = core.log.stable_index
        own = {"match": stable, "next": core.last_index + 1, "state": _STATES["replicate"]}
        progress = dict(sorted([*progress.items(), (f"{replica.member:x}", own)]))
    return {
        "id": f"{replica.member:x}",
        "term": core.term,
        "vote": f"{core.vote:x}",
        "commit": core.commit,
        "lead": f"{replica.leader:x}",
        "raftState": _STATES[core.role],
        "applied": replica.machine.applied_index,
        "progress": progress,
        "leadtransferee": f"{core.transferee:x}",
    }
