"""The same random requests to a real etcd and to the state machine.

Every answer must be equal, and every event that a watch of everything tells. The machine flushes,
restarts and compacts at random meanwhile. Known freedoms of etcd (names of
cluster and member, order of ties above six sorted keys) are taken out by `canonical`.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from google.protobuf.message import Message

from raftkv.kv.encoding import decode_kv
from raftkv.kv.store import Change
from tests import processes
from tests.conformance import store as facts
from tests.conformance.differential import Differential, Report
from tests.conformance.streams import Event, WatchStream, event_tuple
from tests.conformance.target import Answer, Target
from tests.kv.adapter import RestlessDriver

REQUESTS = int(os.environ.get("RAFTKV_KV_DIFFERENTIAL_REQUESTS", "2500"))
SEED = int(os.environ.get("RAFTKV_KV_DIFFERENTIAL_SEED", "1"))


class _MachineNode(RestlessDriver):
    """A machine with the calls of `Target` that a differential uses.

    events: everything that changed, in order.
    """

    endpoint = "the machine"

    def __init__(self, random: Random) -> None:
        super().__init__(random)
        self.machine.collect_changes(True)
        self.events: list[Event] = []

    def reopen(self) -> None:
        super().reopen()
        self.machine.collect_changes(True)

    def call(self, request: Message) -> Answer:
        answer = super().call(request)
        self.events += map(_event, self.machine.take_changes())
        return answer

    def send(self, request: Message) -> "_Done":
        return _Done(self, request)


class _Done:
    def __init__(self, driver: RestlessDriver, request: Message) -> None:
        self._answer = driver.call(request)

    def answer(self) -> Answer:
        return self._answer


def _event(change: Change) -> Event:
    kind = "DELETE" if change.deleted else "PUT"
    kv = decode_kv(change.framed)
    numbers = kv.create_revision, kv.mod_revision, kv.version, kv.lease
    return kind, kv.key, kv.value, *numbers


def _compare(directory: Path, *, leases: bool) -> Report:
    node = _MachineNode(Random(SEED))
    with ExitStack() as stack:
        cluster = stack.enter_context(processes.etcd(directory, "--unsafe-no-fsync"))
        judge = stack.enter_context(Target(cluster.servers[0].endpoint))
        watch = WatchStream(judge)
        stack.callback(watch.close)
        watch.create(b"\0", b"\0")
        run = Differential(judge, [node], SEED, leases=leases)  # type: ignore[list-item]
        report = run.run(REQUESTS)
        told = [event_tuple(event) for event in watch.events(len(node.events))]
    assert report.requests == REQUESTS
    assert told == node.events
    return report


@pytest.mark.slow
def test_the_machine_answers_as_etcd_does(tmp_path: Path) -> None:
    report = _compare(tmp_path / "etcd", leases=False)
    answered = {code for _, code, _ in report.outcomes}
    assert {"OK", "INVALID_ARGUMENT", "OUT_OF_RANGE"} <= answered


@pytest.mark.slow
def test_the_machine_answers_as_etcd_does_about_leases(tmp_path: Path) -> None:
    """M11, M12, W17: which keys a lease takes along, in one revision and in key order."""
    report = _compare(tmp_path / "etcd", leases=True)
    assert set(report.outcomes) >= {
        ("LeaseGrantRequest", "OK", ""),
        ("LeaseGrantRequest", "FAILED_PRECONDITION", "etcdserver: lease already exists"),
        ("LeaseGrantRequest", "OUT_OF_RANGE", "etcdserver: too large lease TTL"),
        ("LeaseRevokeRequest", "OK", ""),
        ("LeaseRevokeRequest", *facts.NO_LEASE),
        ("LeaseTimeToLiveRequest", "OK", ""),
        ("PutRequest", *facts.NO_LEASE),
        ("TxnRequest", *facts.NO_LEASE),
    }
