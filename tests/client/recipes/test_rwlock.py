"""Read-write locks of both faces on both servers: who holds with whom, fairness, Go's keys."""

import pytest

from raftkv.client import LeaseLost, NotAcquired, Put, Txn
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.contention import Beside, lose_answers, queue_length, wait_until


def test_readers_hold_together_and_a_writer_alone(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    lock = client.rwlock(prefix + "rw")
    with lock.read() as one, lock.read() as two:
        assert one.is_held
        assert two.is_held
        assert one.key.startswith(f"{prefix}rw/read/".encode())
        with pytest.raises(NotAcquired):
            lock.write(timeout=0.2)
    with lock.write() as writer:
        assert writer.key.startswith(f"{prefix}rw/write/".encode())
        for attempt in (lock.write, lock.read):
            with pytest.raises(NotAcquired):
                attempt(timeout=0.2)
            with pytest.raises(NotAcquired):
                attempt(blocking=False)
    assert queue_length(client, prefix) == 0


def test_a_reader_that_comes_behind_a_waiting_writer_waits_for_it(
    server: Served, connect: Faces, prefix: str
) -> None:
    """So readers that keep coming cannot starve a writer."""
    client = connect(server.endpoints)
    lock = client.rwlock(prefix + "rw")
    early = lock.read()
    writing = Beside(lock.write)
    wait_until(lambda: queue_length(client, prefix) == 2)
    reading = Beside(lock.read)
    wait_until(lambda: queue_length(client, prefix) == 3)
    with pytest.raises(NotAcquired):
        lock.read(blocking=False)
    kinds = [kv.key.split(b"/")[-2] for kv in lock.queue()]
    assert kinds == [b"read", b"write", b"read"]
    early.release()
    writer = writing.result()
    assert not reading.is_done
    writer.release()
    reader = reading.result()
    assert early.fencing_token < writer.fencing_token < reader.fencing_token
    reader.release()


def test_a_writer_waits_for_all_readers_before_it(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    lock = client.rwlock(prefix + "rw")
    readers = [lock.read() for _ in range(3)]
    writing = Beside(lock.write)
    wait_until(lambda: queue_length(client, prefix) == 4)
    for reader in (readers[2], readers[0], readers[1]):
        assert not writing.is_done
        reader.release()
    writing.result().release()


def test_a_reader_whose_lease_ended_passes_its_guard_no_more(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C03."""
    client = connect(server.endpoints)
    lock = client.rwlock(prefix + "rw")
    reader = lock.read()
    assert client.txn(reader.guard(Txn()).then(Put(prefix + "v", "1"))).succeeded
    client.revoke(reader.lease.id)
    with lock.write():
        assert not client.txn(reader.guard(Txn()).then(Put(prefix + "v", "2"))).succeeded
    assert client.get(prefix + "v").text == "1"


def test_a_waiter_whose_lease_ends_gets_an_error(
    server: Served, connect: Faces, prefix: str
) -> None:
    """C04."""
    client = connect(server.endpoints)
    lock = client.rwlock(prefix + "rw")
    writer = lock.write()
    waiting = Beside(lambda: lock.read(timeout=40))
    wait_until(lambda: queue_length(client, prefix) == 2)
    client.revoke(client.get_prefix(prefix + "rw/read/").kvs[0].lease)
    writer.release()
    with pytest.raises(LeaseLost):
        waiting.result()
    assert queue_length(client, prefix) == 0


def test_a_lost_answer_makes_no_second_reader(server: Served, connect: Faces, prefix: str) -> None:
    """C02."""
    client = connect(server.endpoints)
    losing = lose_answers(client)
    with client.rwlock(prefix + "rw").read():
        assert losing.lost == 1
        assert queue_length(client, prefix) == 1
    assert queue_length(client, prefix) == 0


def test_keys_of_the_go_recipe_are_waited_for(server: Served, connect: Faces, prefix: str) -> None:
    """contrib/recipes.RWMutex puts <name>/read/<clock> and <name>/write/<clock>."""
    client = connect(server.endpoints)
    lock = client.rwlock(prefix + "rw")
    client.put(prefix + "rw/read/1700000000000000001", "")
    with lock.read(timeout=30):
        pass
    with pytest.raises(NotAcquired):
        lock.write(timeout=0.2)
    client.put(prefix + "rw/write/1700000000000000002", "")
    reading = Beside(lock.read)
    wait_until(lambda: queue_length(client, prefix) == 3)
    assert not reading.is_done
    client.delete(prefix + "rw/write/1700000000000000002")
    reading.result().release()
