"""The clock, the network and the disk of the simulator keep their own promises."""

from raftkv.errors import DiskFailure
from raftkv.raft.types import LogBatch
from raftkv.sim.disk import VirtualDisk
from raftkv.sim.network import STORM, Network, Weather
from raftkv.sim.world import MILLISECOND, SECOND, World


def test_events_run_in_order_of_time_then_of_scheduling() -> None:
    world, seen = World(1), list[str]()
    world.after(20, seen.append, "c")
    world.after(10, seen.append, "a")
    world.after(10, seen.append, "b")
    world.run_until(30)
    assert seen == ["a", "b", "c"]
    assert world.now_us == 30


def test_cancelled_event_does_not_happen() -> None:
    world, seen = World(1), list[str]()
    world.after(10, seen.append, "a").cancel()
    world.run_until(30)
    assert seen == []


def test_streams_of_one_seed_differ_by_name_and_repeat() -> None:
    assert World(1).stream("a").random() == World(1).stream("a").random()
    assert World(1).stream("a").random() != World(1).stream("b").random()
    assert World(1).stream("a").random() != World(2).stream("a").random()


def test_trace_hash_depends_on_every_recorded_fact() -> None:
    hashes = set()
    for facts in ((), (1,), (2,), (1, b"x"), (1, b"y")):
        world = World(1)
        world.record("event", *facts)
        hashes.add(world.trace_hash())
    assert len(hashes) == 5


def test_run_while_stops_at_the_limit() -> None:
    world = World(1)
    world.after(5 * SECOND, lambda: None)
    assert not world.run_while(lambda: True, SECOND)
    assert world.now_us == SECOND


def frames(network: Network, world: World, count: int = 200) -> None:
    for number in range(count):
        network.send(1, 2, b"%d" % number)
    world.run_until(world.now_us + 10 * SECOND)


def test_fair_link_delivers_everything_once_in_order() -> None:
    world, got = World(1), list[bytes]()
    network = Network(world, lambda receiver, sender, frame: got.append(frame))
    network.add(1, [2])
    frames(network, world)
    assert got == [b"%d" % number for number in range(200)]


def test_storm_loses_duplicates_and_reorders() -> None:
    world, got = World(1), list[bytes]()
    network = Network(world, lambda receiver, sender, frame: got.append(frame))
    network.add(1, [2])
    network.set_weather(STORM)
    frames(network, world)
    assert len(set(got)) < 200
    assert len(got) > len(set(got))
    assert got != sorted(got, key=int)
    assert {"lost", "duplicated", "reordered", "delayed"} <= set(network.counts)


def test_cut_loses_what_is_on_its_way_in_that_direction_only() -> None:
    world, got = World(1), list[tuple[int, bytes]]()
    network = Network(world, lambda receiver, sender, frame: got.append((receiver, frame)))
    network.add(1, [2])
    network.set_weather(Weather(latency_us=MILLISECOND, jitter_us=0))
    network.send(1, 2, b"on its way")
    network.cut(1, 2)
    network.send(1, 2, b"while cut")
    network.send(2, 1, b"other direction")
    world.run_until(SECOND)
    network.mend(1, 2)
    network.send(1, 2, b"after")
    world.run_until(2 * SECOND)
    assert got == [(1, b"other direction"), (2, b"after")]


def test_two_cuts_need_two_mends() -> None:
    network = Network(World(1), lambda receiver, sender, frame: None)
    network.add(1, [2])
    network.cut(1, 2)
    network.cut(1, 2)
    network.mend(1, 2)
    assert not network.connected(1, 2)
    network.mend(1, 2)
    assert network.connected(1, 2)


class ListLog:
    """A log that remembers the numbers of written batches."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def write(self, batches: list[LogBatch]) -> None:
        self.numbers.extend(batch.number for batch in batches)


def disk_of(world: World) -> tuple[VirtualDisk, ListLog, list[int], list[DiskFailure]]:
    persisted: list[int] = []
    failed: list[DiskFailure] = []
    disk = VirtualDisk(world, "one", persisted.append, failed.append)
    log = ListLog()
    disk.start(log)
    return disk, log, persisted, failed


def submit(disk: VirtualDisk, first: int, last: int) -> None:
    for number in range(first, last + 1):
        disk.submit(LogBatch(number, None, None, 0, []))


def test_disk_writes_in_order_and_groups_what_queued_up() -> None:
    world = World(1)
    disk, log, persisted, _ = disk_of(world)
    submit(disk, 1, 4)
    world.run_until(SECOND)
    assert log.numbers == [1, 2, 3, 4]
    assert persisted == [1, 4]
    assert disk.writes == 2


def test_nothing_is_persisted_before_the_fsync_ends() -> None:
    world = World(1)
    disk, log, persisted, _ = disk_of(world)
    disk.slow_us = SECOND
    submit(disk, 1, 1)
    world.run_until(SECOND)
    assert persisted == []
    assert log.numbers == []


def test_stalled_disk_ends_writes_after_release() -> None:
    world = World(1)
    disk, _, persisted, _ = disk_of(world)
    submit(disk, 1, 1)
    disk.stall()
    world.run_until(10 * SECOND)
    assert persisted == []
    disk.release()
    world.run_until(11 * SECOND)
    assert persisted == [1]


def test_crash_tells_what_was_being_written_and_forgets_what_queued_up() -> None:
    world = World(1)
    disk, log, persisted, _ = disk_of(world)
    submit(disk, 1, 1)
    world.run_until(10 * MILLISECOND)
    submit(disk, 2, 3)
    assert [batch.number for batch in disk.crash()] == [2]
    world.run_until(SECOND)
    assert persisted == log.numbers == [1]


def test_broken_disk_fails_once_and_writes_nothing_more() -> None:
    world = World(1)
    disk, log, persisted, failed = disk_of(world)
    disk.broken = True
    submit(disk, 1, 3)
    world.run_until(SECOND)
    assert len(failed) == 1
    assert log.numbers == []
    assert persisted == []
