"""Sends the same requests to etcd and to raftkv and compares code, text and the whole answer.

Requests go one at a time, to one etcd and to one raftkv node chosen at random. A
serializable read may lag on a node that had no part in the last write, and rightly so;
it goes to the node that last succeeded with a write or a linearizable read.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import Message

from raftkv.pb import rpc_pb2
from tests.conformance.canonical import canonical
from tests.conformance.generate import Requests
from tests.conformance.target import Answer, Target

LOST: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})


class Difference(AssertionError):
    """The two answered differently; the text has the request and both answers."""


class JudgeLost(Exception):
    """etcd itself stopped answering; the text has the request that it met last."""


@dataclass
class Report:
    """What a run covered. outcomes: (request type, code, text) -> how often."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return self.outcomes.total()


class Differential:
    """One run over one pair of fresh stores."""

    def __init__(
        self, judge: Target, nodes: Sequence[Target], seed: int, *, leases: bool = False
    ) -> None:
        self._judge = judge
        self._nodes = list(nodes)
        self._random = Random(seed)
        self._requests = Requests(Random(seed + 1), leases=leases)
        self._current = self._nodes[0]
        self._seed = seed
        self.report = Report()

    def run(self, count: int) -> Report:
        """Sends `count` requests. Errors: Difference at the first answer that differs."""
        for _ in range(count):
            self.step(self._requests.next())
        return self.report

    def step(self, request: Message) -> Answer:
        """Sends one request to both and returns etcd's answer. Errors: Difference."""
        node = self._choose(request)
        pending = node.send(request)
        expected = self._judge.call(request)
        actual = pending.answer()
        number = self.report.requests + 1
        if expected.code in LOST:
            raise JudgeLost(
                f"seed {self._seed}, request {number}: {_text(request)}: {expected.text}"
            )
        if not _same(request, expected, actual):
            raise Difference(
                f"seed {self._seed}, request {number} to {node.endpoint}:\n"
                f"{type(request).__name__} {{ {_text(request)} }}\n"
                f"  etcd:   {_answer_text(expected)}\n  raftkv: {_answer_text(actual)}"
            )
        self._learn(request, expected, node)
        name = request.DESCRIPTOR.name
        self.report.outcomes[name, expected.code, expected.text] += 1
        return expected

    def _choose(self, request: Message) -> Target:
        return self._current if is_serializable(request) else self._random.choice(self._nodes)

    def _learn(self, request: Message, answer: Answer, node: Target) -> None:
        if answer.message is None:
            return  # refused at the door, perhaps, by a node that lags
        self._current = node
        header: rpc_pb2.ResponseHeader = getattr(answer.message, "header")  # noqa: B009
        self._requests.revision = max(self._requests.revision, header.revision)
        if isinstance(request, rpc_pb2.CompactionRequest):
            self._requests.compacted = max(self._requests.compacted, request.revision)


def is_serializable(request: Message) -> bool:
    """True when any node may answer from its own state: no write, and no read that asks more."""
    if isinstance(request, rpc_pb2.RangeRequest):
        return request.serializable
    if isinstance(request, rpc_pb2.TxnRequest):
        ops = [*request.success, *request.failure]
        return all(
            op.WhichOneof("request") == "request_range" and op.request_range.serializable
            for op in ops
        )
    return False


def _same(request: Message, expected: Answer, actual: Answer) -> bool:
    if (expected.code, expected.text) != (actual.code, actual.text):
        return False
    if expected.message is None or actual.message is None:
        return expected.message is actual.message
    return canonical(request, expected.message) == canonical(request, actual.message)


def _text(message: Message) -> str:
    return text_format.MessageToString(message, as_one_line=True)


def _answer_text(answer: Answer) -> str:
    if answer.message is None:
        return f"{answer.code} {answer.text!r}"
    return f"{answer.code} {_text(answer.message)}"
