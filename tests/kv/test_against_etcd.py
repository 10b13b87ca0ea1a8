"""The same random requests to a real etcd and to the state machine: every answer must be equal.

The machine flushes, restarts and compacts at random meanwhile. Known freedoms of etcd (names of
cluster and member, order of ties above six sorted keys) are taken out by `canonical`.
"""

import os
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest
from google.protobuf.message import Message

from tests import processes
from tests.conformance.differential import Differential
from tests.conformance.target import Answer, Target
from tests.kv.adapter import RestlessDriver

REQUESTS = int(os.environ.get("RAFTKV_KV_DIFFERENTIAL_REQUESTS", "2500"))
SEED = int(os.environ.get("RAFTKV_KV_DIFFERENTIAL_SEED", "1"))


class _MachineNode:
    """`RestlessDriver` with the calls of `Target` that a differential uses."""

    endpoint = "the machine"

    def __init__(self, driver: RestlessDriver) -> None:
        self._driver = driver

    def send(self, request: Message) -> "_Done":
        return _Done(self._driver, request)


class _Done:
    def __init__(self, driver: RestlessDriver, request: Message) -> None:
        self._answer = driver.call(request)

    def answer(self) -> Answer:
        return self._answer


@pytest.mark.slow
def test_the_machine_answers_as_etcd_does(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = stack.enter_context(processes.etcd(tmp_path / "etcd", "--unsafe-no-fsync"))
        judge = stack.enter_context(Target(cluster.servers[0].endpoint))
        node = _MachineNode(RestlessDriver(Random(SEED)))
        run = Differential(judge, [node], SEED)  # type: ignore[list-item]
        report = run.run(REQUESTS)
    assert report.requests == REQUESTS
    answered = {code for _, code, _ in report.outcomes}
    assert {"OK", "INVALID_ARGUMENT", "OUT_OF_RANGE"} <= answered
