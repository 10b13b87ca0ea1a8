"""Random histories with watches and leases: raftkv tells what etcd tells.

etcd is compared with itself first: the comparison asks nothing that two correct servers
could not give.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests import processes
from tests.conformance.stream_differential import LeaseDifferential, WatchDifferential
from tests.conformance.streams import skip_unless_offered
from tests.conformance.target import Target

pytestmark = pytest.mark.slow

Start = Callable[[str, str], tuple[Target, list[Target]]]

# A run that meets none of these has gone blind.
WATCHED = {
    "created watch",
    "created mvcc: watcher range is empty",
    "created mvcc: duplicate watch ID provided on the WatchStream",
    "compacted",
    "cancel",
    "progress",
    "events",
    "PutRequest OK",
    "TxnRequest OK",
    "DeleteRangeRequest OK",
    "LeaseRevokeRequest OK",
    "CompactionRequest OK",
}
LEASED = {
    "LeaseGrantRequest OK ",
    "LeaseGrantRequest FAILED_PRECONDITION etcdserver: lease already exists",
    "LeaseGrantRequest OUT_OF_RANGE etcdserver: too large lease TTL",
    "LeaseRevokeRequest OK ",
    "LeaseRevokeRequest NOT_FOUND etcdserver: requested lease not found",
    "PutRequest NOT_FOUND etcdserver: requested lease not found",
    "renewal found",
    "renewal unknown",
    "left of some",
    "left of none",
    "leases",
}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function: the kind of the subject, an RPC it must offer -> (a fresh etcd, its nodes)."""
    with ExitStack() as stack:

        def begin(subject: str, rpc: str) -> tuple[Target, list[Target]]:
            judge = processes.etcd(tmp_path / "judge", "--unsafe-no-fsync")
            if subject == "etcd":
                other = processes.etcd(tmp_path / "subject", "--unsafe-no-fsync")
            else:
                other = processes.raftkv(tmp_path / "subject", int(subject[-1]))
            stack.enter_context(other)
            nodes = [stack.enter_context(Target(server.endpoint)) for server in other.servers]
            skip_unless_offered(nodes[0], rpc)
            (server,) = stack.enter_context(judge).servers
            return stack.enter_context(Target(server.endpoint)), nodes

        yield begin


@pytest.mark.parametrize(("subject", "seed"), [("etcd", 1), ("raftkv1", 2), ("raftkv3", 4)])
def test_watches_are_told_the_same(start: Start, subject: str, seed: int) -> None:
    with closing(WatchDifferential(*start(subject, "Watch.Watch"), seed)) as differential:
        outcomes = differential.run(600)
    assert set(outcomes) >= WATCHED
    assert outcomes["events"] > 4000


@pytest.mark.parametrize(("subject", "seed"), [("etcd", 1), ("raftkv1", 2), ("raftkv3", 3)])
def test_leases_answer_the_same(start: Start, subject: str, seed: int) -> None:
    with closing(LeaseDifferential(*start(subject, "Lease.LeaseLeases"), seed)) as differential:
        outcomes = differential.run(400)
    assert set(outcomes) >= LEASED
