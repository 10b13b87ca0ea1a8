"""When the driver runs a turn, and when it only sets a timer."""

import queue
import threading
from types import SimpleNamespace
from typing import Any

from raftkv.errors import STOPPED
from raftkv.replica.effects import Effects
from raftkv.server.driver import NEWS_SECONDS, Driver


class Loop:
    """Remembers what it is asked to call."""

    def __init__(self) -> None:
        self.soon: list[Any] = []
        self.later: list[tuple[float, Any]] = []
        self.threads: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def call_soon_threadsafe(self, *call: Any) -> None:
        self.threads.put(call)

    def call_soon(self, call: Any) -> None:
        self.soon.append(call)

    def call_later(self, seconds: float, call: Any) -> object:
        self.later.append((seconds, call))
        return object()


def driver(*, work: bool, news: bool) -> tuple[Driver, Loop]:
    """A driver of a replica that has work or news for followers, or neither."""
    loop: Any = Loop()
    core = SimpleNamespace(has_news=lambda: news)
    replica: Any = SimpleNamespace(has_work=lambda: work, core=core)
    directory: Any = SimpleNamespace(log=None)
    return Driver(loop, replica, directory, 0.1, lambda error: None), loop


def test_messages_that_leave_no_work_cost_no_turn() -> None:
    idle, loop = driver(work=False, news=False)
    idle.heard()
    assert loop.soon == loop.later == []


def test_messages_that_leave_work_cost_one_turn() -> None:
    busy, loop = driver(work=True, news=True)
    busy.heard()
    busy.heard()
    assert len(loop.soon) == 1


def test_an_answer_that_only_makes_news_due_sets_the_timer_once() -> None:
    """Without it, a follower whose acknowledgement came late would wait for a heartbeat."""
    late, loop = driver(work=False, news=True)
    late.heard()
    late.heard()
    assert loop.soon == []
    assert [seconds for seconds, _ in loop.later] == [NEWS_SECONDS]


def test_all_that_waited_for_one_sync_is_sent_at_once_and_in_order() -> None:
    one, _ = driver(work=False, news=False)
    one.replica.on_persisted = lambda number: None  # type: ignore[method-assign]
    one.replica.core.has_ready = lambda: False  # type: ignore[method-assign]
    sent: list[Any] = []
    one.peers = SimpleNamespace(send=sent.append)
    one._held.extend([(1, ["a"]), (2, ["b", "c"]), (3, ["d"])])  # type: ignore[list-item]
    one._persisted(2)
    assert sent == [["a", "b", "c"]]
    one._persisted(3)
    assert sent == [["a", "b", "c"], ["d"]]


def test_a_replaced_state_is_not_removed_while_a_chore_may_use_it() -> None:
    """R37: LevelDB is not to be closed while the housekeeping thread is in it."""
    one, loop = driver(work=False, news=False)
    one.replica.on_persisted = lambda number: None  # type: ignore[method-assign]
    one.replica.core.has_ready = lambda: False  # type: ignore[method-assign]
    dropped: list[bool] = []

    def drop() -> int:
        dropped.append(True)
        return 1

    one.directory.drop_old_states = drop  # type: ignore[method-assign]
    go = threading.Event()
    one.keep_house(go.wait, lambda _: None)
    one._old_states = True
    one._persisted(1)
    assert not dropped
    go.set()
    callback, *arguments = loop.threads.get(timeout=60)
    callback(*arguments)
    assert dropped == [True]
    assert not one._old_states
    one._worker.shutdown()


def test_work_done_counts_clients_work_and_not_the_writing_of_output() -> None:
    """Or what a snapshot sends would look like clients, and hold up the snapshot itself."""
    one, loop = driver(work=False, news=False)
    coming: list[Effects] = []
    loop.time = lambda: 0.0  # type: ignore[attr-defined]
    one.replica.machine = SimpleNamespace(applied_index=7)  # type: ignore[assignment]
    one.replica.turn = lambda now: coming.pop(0)  # type: ignore[method-assign]
    one.peers = SimpleNamespace()
    one._housekeep = lambda effects: None  # type: ignore[method-assign]
    one.replica.caretaker = SimpleNamespace(rows_wanted=None)  # type: ignore[assignment]

    def turn(*, brief: bool, replies: int = 0) -> int:
        effects = Effects()
        effects.brief = brief
        ticket: Any = (lambda ticket, result: None,)
        effects.replies = [(ticket, STOPPED)] * replies
        coming.append(effects)
        before = one.work_done
        one.mark_dirty(SimpleNamespace(dirty=False, flush=lambda: None))
        loop.soon.pop()()
        return one.work_done - before

    assert turn(brief=True) == 0, "only output"
    assert turn(brief=True, replies=3) == 1, "keepalives"
    assert turn(brief=False) == 1
    one.replica.machine.applied_index += 5
    assert turn(brief=False) == 1
    assert one.work_done == 7 + 5 + 3
    assert one.turns == 4
