"""What workloads are made of: generators with a memory, calls as JSON, watches as records."""

import asyncio
from random import Random

import pytest

from jepsen_lite import registry
from jepsen_lite.checker.base import Evidence
from jepsen_lite.generator import PENDING, Context
from jepsen_lite.history import History, Op
from jepsen_lite.workload import WORKLOADS, workload_class
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.calls import end_of, perform, transaction
from jepsen_lite.workload.steps import latest_revision, learning, numbered
from jepsen_lite.workload.watching import Recording, Tape
from raftkv.client.txn import Delete, Get, Put, Txn, key
from raftkv.pb import kv_pb2, rpc_pb2
from workload.running import workload_of
from workload.store import MemorySession, MemoryStore


def context(*free: int, seed: int = 1) -> Context:
    return Context(0, free, Random(seed), free, max(len(free), 1))


def ok(value: object, f: str = "read", process: int = 0) -> Op:
    return Op(process, "ok", f, value, 0)


# --- generators -----------------------------------------------------------------------------
def test_numbers_grow_with_what_is_dispatched_only() -> None:
    generator = numbered(lambda number, _: {"f": "x", "value": number} if number < 2 else None)
    assert generator.op(context())[0] is PENDING
    first, after = generator.op(context(0))
    again, _ = generator.op(context(0))
    assert isinstance(first, Op)
    assert first == again
    second, after = after.op(context(0))
    assert isinstance(second, Op)
    assert (first.value, second.value) == (0, 1)
    assert after.op(context(0))[0] is None


def test_what_is_learnt_does_not_change_the_generator_it_was_learnt_from() -> None:
    before = learning(lambda _, known, __: {"f": "x", "value": known}, latest_revision, 0)
    after = before.update(context(0), ok({"revision": 9}))
    assert after.update(context(0), ok({"revision": 3})) is after
    assert after.update(context(0), ok(None)) is after
    for generator, revision in ((before, 0), (after, 9)):
        op, _ = generator.op(context(0))
        assert isinstance(op, Op)
        assert op.value == revision


# --- calls ----------------------------------------------------------------------------------
def test_a_transaction_in_json_is_the_transaction_that_it_says() -> None:
    described = {
        "compares": [["a", "mod_revision", "=", 5], ["b", "value", "!=", "x"]],
        "success": [["put", "a", "1"], ["delete", "b"], ["delete", "c", "d"]],
        "failure": [["get", "a"], ["range", "a", "z"]],
    }
    expected = (
        Txn()
        .when(key("a").mod_revision == 5, key("b").value != "x")
        .then(Put("a", "1"), Delete("b"), Delete("c", "d"))
        .otherwise(Get("a"), Get("a", "z"))
    )
    assert transaction(described) == expected


def test_every_call_completes_its_own_description() -> None:
    async def all_of_them() -> None:
        session = MemorySession(MemoryStore())
        made = await perform(session, {"f": "put", "key": "a", "value": "1"})  # type: ignore[arg-type]
        assert made == {"f": "put", "key": "a", "value": "1", "revision": 2}
        read = await perform(session, {"f": "get", "key": "a"})  # type: ignore[arg-type]
        assert (read["value"], read["mod_revision"], read["version"], read["revision"]) == (
            "1",
            2,
            1,
            2,
        )
        gone = await perform(session, {"f": "get", "key": "b"})  # type: ignore[arg-type]
        assert (gone["value"], gone["mod_revision"], gone["version"]) == (None, 0, 0)
        swap = {"f": "cas", "key": "a", "expected": "2", "value": "3"}
        failed = await perform(session, swap)  # type: ignore[arg-type]
        assert (failed["succeeded"], failed["seen"], failed["revision"]) == (False, "1", 2)
        fresh = {"f": "cas", "key": "b", "expected": None, "value": "3"}
        done = await perform(session, fresh)  # type: ignore[arg-type]
        assert (done["succeeded"], done["revision"]) == (True, 3)
        txn = {
            "f": "txn",
            "compares": [["a", "version", ">", 0]],
            "success": [["get", "a"], ["get", "x"], ["range", "a", "c"], ["delete", "b"]],
            "failure": [],
        }
        answer = await perform(session, txn)  # type: ignore[arg-type]
        first, missing, both, deleted = answer["responses"]
        assert (first["value"], missing, [kv["key"] for kv in both], deleted) == (
            "1",
            None,
            ["a", "b"],
            1,
        )

    asyncio.run(all_of_them())


def test_the_end_of_a_prefix_is_behind_all_its_keys() -> None:
    assert end_of("jepsen/k") == "jepsen/l"
    assert end_of("jepsen/") == "jepsen0"


# --- watches --------------------------------------------------------------------------------
def event(revision: int, name: bytes = b"a", kind: int = 0) -> kv_pb2.Event:
    kv = kv_pb2.KeyValue(key=name, mod_revision=revision, value=b"" if kind else b"v")
    return kv_pb2.Event(type=kv_pb2.Event.EventType.Name(kind), kv=kv)  # type: ignore[arg-type]


def response(**fields: object) -> rpc_pb2.WatchResponse:
    revision = fields.pop("revision", 0)
    header = rpc_pb2.ResponseHeader(revision=revision)  # type: ignore[arg-type]
    return rpc_pb2.WatchResponse(header=header, **fields)  # type: ignore[arg-type]


def test_what_comes_is_written_down_in_order() -> None:
    recording = Recording()
    assert not recording.created
    recording.add(response(created=True, revision=4, watch_id=7))
    recording.add(response(revision=6, events=[event(5), event(6, b"b", 1)]))
    recording.add(response(revision=9))
    recording.add(response(canceled=True, compact_revision=8, cancel_reason="why"))
    kinds = [one[0] for one in recording.received]
    assert kinds == ["created", "events", "progress", "cancelled"]
    assert recording.received[0] == ["created", 4]
    assert [one["value"] for one in recording.received[1][1]] == ["v", None]
    assert recording.received[3] == ["cancelled", 8, "why"]
    assert (recording.seen, recording.watch_id, recording.cancelled) == (9, 7, True)


def test_half_a_revision_does_not_count_as_seen() -> None:
    recording = Recording()
    recording.add(response(created=True, revision=4))
    recording.add(response(revision=5, events=[event(5)]))
    recording.add(response(revision=6, events=[event(6)], fragment=True))
    recording.add(response(revision=6, events=[event(6, b"b")], fragment=True))
    recording.drop_half()
    assert len(recording.received) == 2
    assert recording.seen == 5


def test_progress_of_the_stream_says_nothing_to_a_watch_that_begins_later() -> None:
    recording = Recording(start_revision=9)
    recording.add(response(created=True, revision=4, watch_id=7))
    recording.add(response(revision=5, watch_id=-1))
    assert recording.received == [["created", 4]]
    recording.add(response(revision=9, watch_id=-1))
    recording.add(response(revision=8, watch_id=7))  # of its own: that would be wrong
    assert recording.received[1:] == [["progress", 9], ["progress", 8]]


def test_answers_go_to_their_watch_and_progress_to_all_of_the_stream() -> None:
    tape = Tape([Recording(), Recording(start_revision=20), Recording()])
    tape.add(response(created=True, revision=4, watch_id=5))
    tape.add(response(created=True, revision=4, watch_id=2))
    tape.add(response(revision=6, watch_id=2, events=[event(6)]))
    tape.add(response(revision=9, watch_id=-1))
    tape.add(response(canceled=True, watch_id=5))
    tape.add(response(revision=21, watch_id=-1))
    first, second, third = tape.recordings
    assert [one[0] for one in first.received] == ["created", "progress", "cancelled"]
    assert [one[0] for one in second.received] == ["created", "events", "progress"]
    assert not third.received
    assert not tape.over


def test_an_answer_for_a_watch_that_nobody_asked_for_is_told() -> None:
    tape = Tape([Recording()])
    tape.add(response(created=True, revision=4, watch_id=5))
    tape.add(response(revision=6, watch_id=7, events=[event(6)]))
    assert "watch 7" in tape.trouble
    assert tape.over
    tape = Tape([Recording()])
    tape.add(response(created=True, watch_id=0))
    tape.add(response(created=True, watch_id=1))
    assert "more watches" in tape.trouble


# --- leases ---------------------------------------------------------------------------------
def test_behind_the_faults_a_process_lets_one_more_lease_run_out() -> None:
    generator = workload_of("lease").final_generator()
    assert generator is not None
    there, gone = {"value": "x", "revision": 5}, {"value": None, "revision": 9}
    asked: list[str] = []
    lease = 0
    for answer in ({}, {}, there, there, gone):
        op, generator = generator.op(context(0))
        assert isinstance(op, Op)
        asked.append(op.f)
        lease = op.value.get("lease", lease)
        generator = generator.update(context(0), op)
        generator = generator.update(context(0), op.done("ok", {**op.value, **answer}))
    assert asked == ["grant", "put", "get", "get", "get"]
    assert isinstance(op, Op)
    assert op.value["key"].endswith(f"{lease:x}")
    assert generator.op(context(0))[0] is None
    first, _ = workload_of("lease").generator().op(context(0))
    assert isinstance(first, Op)
    assert first.value["lease"] != lease


# --- all of them ----------------------------------------------------------------------------
@pytest.mark.parametrize("name", WORKLOADS)
def test_a_workload_has_its_name_a_summary_and_a_generator_that_begins(name: str) -> None:
    cls = workload_class(name)
    assert issubclass(cls, Workload)
    assert cls.name == name
    assert cls.summary
    assert cls.worlds
    workload = workload_of(name)
    free = tuple(range(workload.options.concurrency))
    op, _ = workload.generator().op(context(*free))
    assert isinstance(op, Op)
    assert op.type == "invoke"


def test_an_answer_that_the_client_refused_as_older_is_an_anomaly() -> None:
    asked = Op(3, "invoke", "read", {"key": "a"}, 0, 0)
    refused = Op(3, "fail", "read", {"key": "a"}, 9, 1, "ClusterChanged: the store is at 5, was 7")
    other = Op(4, "fail", "read", {"key": "a"}, 9, 3, "TimedOut: no answer")
    history = History([asked, refused, Op(4, "invoke", "read", {"key": "a"}, 9, 2), other])
    for name in WORKLOADS:
        checker = workload_of(name).checkers()["one-past"]
        verdict = checker.check(Evidence(history, None, workload_of(name).options))
        assert [anomaly.ops for anomaly in verdict.anomalies] == [(1,)]
        assert not verdict.valid


def test_an_unknown_workload_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(registry.UnknownName, match="append, bank, cache"):
        workload_class("registr")
