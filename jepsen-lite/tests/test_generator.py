"""Generators, asked by a context that is made up: no clock, no tasks."""

from collections import Counter
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from jepsen_lite.generator import (
    PENDING,
    SECOND_NS,
    Context,
    Generator,
    Pending,
    any_of,
    clients,
    cycle,
    delay,
    each_process,
    lift,
    limit,
    mix,
    nemesis,
    once,
    phases,
    repeat,
    reserve,
    sleep,
    stagger,
    time_limit,
    until_ok,
)
from jepsen_lite.history import NEMESIS, Op

READ = {"f": "read"}
WRITE = {"f": "write", "value": 1}


class World:
    """Carries out what a generator says: every operation takes so long and ends so.

    It does what the interpreter does, without tasks: so tests can look at times and orders.
    """

    def __init__(
        self, threads: int = 3, took_ns: int = 1000, outcomes: list[str] | None = None
    ) -> None:
        self.now_ns = 0
        self.random = Random(5)
        self.concurrency = threads
        self.free = [NEMESIS, *range(threads)]
        self.scope = (NEMESIS, *range(threads))
        self.took_ns = took_ns
        self.outcomes = outcomes or []
        self.begun: list[Op] = []
        self._open: list[tuple[int, Op]] = []

    def context(self) -> Context:
        free = tuple(sorted(self.free))
        return Context(self.now_ns, free, self.random, self.scope, self.concurrency)

    def run(self, source: Any, most: int = 1000) -> list[Op]:
        generator = lift(source)
        for _ in range(most):
            found, after = generator.op(self.context())
            if found is None and not self._open:
                return self.begun
            if isinstance(found, Op) and found.time_ns <= self.now_ns:
                assert found.process in self.free, "only a free process begins something"
                generator = after
                self.free.remove(found.process)
                self.begun.append(found)
                generator = generator.update(self.context(), found)
                self._open.append((self.now_ns + self.took_ns, found))
                continue
            until = [end for end, _ in self._open[:1]]
            if isinstance(found, Pending):
                generator = after
                until += [] if found.until_ns is None else [found.until_ns]
            elif found is not None:
                until.append(found.time_ns)
            assert until, "it waits for nothing"
            self.now_ns = max(self.now_ns, min(until))
            generator = self._end_due(generator)
        return self.begun

    def _end_due(self, generator: Generator) -> Generator:
        while self._open and self._open[0][0] <= self.now_ns:
            _, op = self._open.pop(0)
            self.free.append(op.process)
            outcome = self.outcomes.pop(0) if self.outcomes else "ok"
            generator = generator.update(self.context(), op.done(outcome))
        return generator


def seen(ops: list[Op]) -> list[str]:
    return [op.f for op in ops]


def test_a_mapping_is_one_operation() -> None:
    ops = World().run({"f": "cas", "value": [1, 2]})
    assert [(op.f, op.value, op.type) for op in ops] == [("cas", [1, 2], "invoke")]


def test_a_function_is_asked_again_until_it_says_nothing() -> None:
    left = [3, 2, 1]
    assert (
        len(World().run(lambda context: {"f": "pop", "value": left.pop()} if left else None)) == 3
    )


def test_a_list_is_one_after_the_other_and_none_is_nothing() -> None:
    assert seen(World().run([READ, None, [WRITE, READ]])) == ["read", "write", "read"]
    assert World().run(None) == []


def test_what_is_no_generator_is_refused() -> None:
    with pytest.raises(TypeError, match="no generator"):
        lift(7)  # type: ignore[arg-type]


def test_an_operation_of_a_busy_process_waits() -> None:
    context = Context(0, (1,), Random(1), (0, 1), 2)
    assert lift({"f": "read", "process": 0}).op(context)[0] is PENDING
    found, _ = lift({"f": "read", "process": 1}).op(context)
    assert isinstance(found, Op)
    assert found.process == 1


def test_a_generator_is_a_value_and_asking_changes_nothing() -> None:
    generator = limit(2, repeat(READ))
    context = World().context()
    _, after = generator.op(context)
    _, again = after.op(context)
    assert again.op(context)[0] is None
    assert isinstance(after.op(context)[0], Op)
    assert isinstance(generator.op(context)[0], Op)


def test_limit_counts_operations_and_once_is_one() -> None:
    assert len(World().run(limit(7, repeat(READ)))) == 7
    assert len(World().run(once(repeat(READ)))) == 1
    assert World().run(limit(0, READ)) == []


def test_time_limit_ends_at_its_time_and_not_before() -> None:
    world = World(threads=1, took_ns=SECOND_NS // 10)
    ops = world.run(time_limit(1.0, clients(repeat(READ))))
    assert len(ops) == 10
    assert max(op.time_ns for op in ops) == 9 * SECOND_NS // 10


def test_time_limit_begins_when_it_is_first_asked() -> None:
    world = World(threads=1, took_ns=SECOND_NS // 4)
    ops = world.run([sleep(5.0), time_limit(1.0, clients(repeat(READ)))])
    assert ops[0].time_ns == 5 * SECOND_NS
    assert len(ops) == 4


def test_time_limit_ends_what_would_wait_for_ever() -> None:
    world = World(threads=1)
    world.run(time_limit(2.0, delay(100.0, repeat(READ))))
    assert world.now_ns == 2 * SECOND_NS


def test_delay_keeps_a_distance() -> None:
    world = World(threads=3)
    ops = world.run(limit(5, delay(0.5, repeat(READ))))
    assert [op.time_ns for op in ops] == [number * SECOND_NS // 2 for number in range(5)]


def test_stagger_keeps_a_rate_in_the_mean() -> None:
    world = World(threads=20)
    ops = world.run(time_limit(100.0, stagger(0.1, repeat(READ))), most=10_000)
    assert 900 < len(ops) < 1100
    pauses = {two.time_ns - one.time_ns for one, two in pairwise(ops)}
    assert len(pauses) > 100, "they are drawn"


def test_stagger_makes_up_for_a_slow_time_but_not_for_a_long_one() -> None:
    """A cluster that stood still is not overrun by all that was missed."""
    world = World(threads=1, took_ns=1000)
    generator = stagger(0.1, clients(repeat(READ)))
    found, generator = generator.op(world.context())
    world.now_ns = 1000 * SECOND_NS
    at_once = 0
    while True:
        found, generator = generator.op(world.context())
        assert isinstance(found, Op)
        if found.time_ns > world.now_ns:
            break
        at_once += 1
    assert 2 < at_once < 40


def test_stagger_of_no_pause_is_the_generator_itself() -> None:
    inner = repeat(READ)
    assert stagger(0.0, inner) is inner


def test_a_future_operation_is_asked_again_and_stays_due_at_its_time() -> None:
    context = World().context()
    generator = delay(1.0, repeat(READ))
    _, generator = generator.op(context)
    first, _ = generator.op(context)
    again, _ = generator.op(context._replace(time_ns=SECOND_NS // 2))
    assert isinstance(first, Op)
    assert isinstance(again, Op)
    assert first.time_ns == again.time_ns == SECOND_NS


def test_sleep_waits_its_time_from_when_it_is_reached() -> None:
    world = World(threads=1, took_ns=1)
    ops = world.run([READ, sleep(2.0), WRITE, sleep(1.0), READ])
    assert [op.time_ns // SECOND_NS for op in ops] == [0, 2, 3]


def test_cycle_begins_again_for_ever() -> None:
    ops = World().run(limit(5, cycle([READ, WRITE])))
    assert seen(ops) == ["read", "write", "read", "write", "read"]


def test_a_cycle_of_nothing_ends() -> None:
    assert World().run(cycle([])) == []
    assert World().run(cycle([None, None])) == []


def test_phases_wait_until_all_threads_are_free() -> None:
    world = World(threads=3, took_ns=SECOND_NS)
    ops = world.run(clients(phases(limit(3, repeat(READ)), limit(3, repeat(WRITE)))))
    assert {op.time_ns for op in ops if op.f == "read"} == {0}
    assert {op.time_ns for op in ops if op.f == "write"} == {SECOND_NS}


def test_phases_within_clients_do_not_wait_for_the_nemesis() -> None:
    world = World(threads=1, took_ns=SECOND_NS)
    world.free.remove(NEMESIS)
    ops = world.run(clients(phases(READ, WRITE)))
    assert seen(ops) == ["read", "write"]


def test_clients_and_nemesis_keep_to_their_threads() -> None:
    world = World(threads=2)
    ops = world.run(
        any_of(nemesis(limit(3, repeat({"f": "break"}))), clients(limit(4, repeat(READ))))
    )
    assert Counter((op.f, op.process == NEMESIS) for op in ops) == {
        ("break", True): 3,
        ("read", False): 4,
    }


def test_any_of_does_what_is_due_first_whoever_says_it() -> None:
    """A nemesis that waits a second is not held up by clients that wait ten."""
    world = World(threads=1, took_ns=1)
    slow = clients(delay(10.0, repeat(READ)))
    ops = world.run(limit(4, any_of(slow, nemesis([sleep(1.0), {"f": "break"}]))))
    assert [(op.f, op.time_ns // SECOND_NS) for op in ops] == [
        ("read", 0),
        ("break", 1),
        ("read", 10),
        ("read", 20),
    ]


def test_any_of_prefers_the_first_of_two_that_are_due() -> None:
    assert seen(World().run(limit(3, any_of(repeat(READ), repeat(WRITE))))) == ["read"] * 3


def test_several_nemeses_overlap() -> None:
    world = World(threads=1, took_ns=1)
    one = [{"f": "start-a"}, sleep(3.0), {"f": "stop-a"}]
    two = [sleep(1.0), {"f": "start-b"}, sleep(1.0), {"f": "stop-b"}]
    three = [sleep(1.5), {"f": "start-c"}, sleep(3.0), {"f": "stop-c"}]
    ops = world.run(nemesis(any_of(one, two, three)))
    assert seen(ops) == ["start-a", "start-b", "start-c", "stop-b", "stop-a", "stop-c"]


def test_mix_draws_from_all_and_goes_on_when_some_have_ended() -> None:
    ops = World(threads=4).run(mix(limit(300, repeat(READ)), limit(30, repeat(WRITE))))
    assert Counter(seen(ops)) == {"read": 300, "write": 30}
    first = seen(ops)[:40]
    assert {"read", "write"} <= set(first)


def test_each_process_does_all_of_it_once_for_every_thread() -> None:
    ops = World(threads=3).run(clients(each_process([READ, WRITE])))
    done = {process: [op.f for op in ops if op.process == process] for process in range(3)}
    assert done == {process: ["read", "write"] for process in range(3)}


def test_each_process_waits_for_threads_that_are_busy() -> None:
    context = Context(0, (0,), Random(1), (0, 1), 2)
    generator = each_process(READ)
    found, generator = generator.op(context)
    assert isinstance(found, Op)
    assert generator.op(context)[0] is PENDING
    found, generator = generator.op(context._replace(free=(1,)))
    assert isinstance(found, Op)
    assert generator.op(context._replace(free=(0, 1)))[0] is None


def test_each_process_knows_threads_whose_process_was_retired() -> None:
    """Process 5 of 2 runs on thread 1, which has had its turn."""
    context = Context(0, (1,), Random(1), (0, 1), 2)
    _, generator = each_process(READ).op(context)
    assert generator.op(context._replace(free=(5,)))[0] is PENDING


def test_reserve_divides_threads() -> None:
    ops = World(threads=5).run(
        limit(60, clients(reserve(1, repeat(READ), 2, repeat(WRITE), repeat({"f": "cas"}))))
    )
    threads = {f: {op.process for op in ops if op.f == f} for f in ("read", "write", "cas")}
    assert threads == {"read": {0}, "write": {1, 2}, "cas": {3, 4}}


def test_until_ok_goes_on_until_one_is_carried_out() -> None:
    world = World(threads=1, outcomes=["fail", "info", "fail", "ok"])
    assert len(world.run(clients(until_ok(repeat(READ))))) == 4


def test_until_ok_does_not_take_the_success_of_others_for_its_own() -> None:
    context = Context(0, (0, 1), Random(1), (0, 1), 2)
    generator: Generator = until_ok(repeat({"f": "lock", "process": 0}))
    found, generator = generator.op(context)
    assert isinstance(found, Op)
    generator = generator.update(context, Op(1, "ok", "lock", None, 5))
    assert isinstance(generator.op(context)[0], Op)
    generator = generator.update(context, found.done("ok"))
    assert generator.op(context)[0] is None


def test_updates_reach_through_everything_that_stands_around() -> None:
    def around(inner: Generator) -> Generator:
        return time_limit(
            9.0, limit(99, clients(mix(any_of(phases(cycle([delay(0.0, [inner])]))))))
        )

    world = World(threads=1, outcomes=["fail", "fail", "ok"])
    ops = world.run(limit(6, around(until_ok(repeat(READ)))))
    assert len(ops) == 6  # three until the first ok; then the cycle begins again


def test_equal_seeds_give_equal_operations() -> None:
    def ops() -> list[Op]:
        return World(threads=7).run(
            limit(
                200, clients(stagger(0.01, mix(repeat(READ), repeat(WRITE), each_process(READ))))
            ),
        )

    assert ops() == ops()
