"""Alarms, downgrades and checks as entries of the log."""

import pytest

from raftkv.errors import DOWNGRADE_IN_PROGRESS, NO_DOWNGRADE, ProtocolError
from raftkv.kv import commands
from raftkv.kv.alarms import CORRUPT, NOSPACE, alarm_field
from raftkv.kv.machine import StateMachine
from raftkv.kv.upkeep import ROLLING, ROWS
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.membership import encode_change, plain
from raftkv.raft.types import CONFIG
from raftkv.storage.memory import MemoryBackend
from tests.kv.upkeep import Log

ACTIVATE, DEACTIVATE = pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE


def test_an_alarm_is_answered_with_itself_raised_or_not_and_listed_once() -> None:
    log = Log()
    assert log.alarm(ACTIVATE, NOSPACE, 7) == [(NOSPACE, 7)]
    assert log.alarm(ACTIVATE, NOSPACE, 7) == [(NOSPACE, 7)]
    assert log.alarm(ACTIVATE, NOSPACE, 0) == [(NOSPACE, 0)]
    assert log.alarm(ACTIVATE, CORRUPT, 7) == [(CORRUPT, 7)]
    assert log.machine.alarms.raised() == [(NOSPACE, 0), (NOSPACE, 7), (CORRUPT, 7)]
    assert log.machine.alarms.raised(CORRUPT) == [(CORRUPT, 7)]
    assert log.alarm(DEACTIVATE, NOSPACE, 8) == []
    assert log.alarm(DEACTIVATE, NOSPACE, 7) == [(NOSPACE, 7)]
    assert log.machine.alarms.raised() == [(NOSPACE, 0), (CORRUPT, 7)]


@pytest.mark.parametrize("kind", [0, 5])
def test_what_is_no_alarm_is_answered_with_none(kind: int) -> None:
    log = Log()
    assert log.alarm(ACTIVATE, kind, 7) == []
    assert log.alarm(DEACTIVATE, kind, 7) == []
    assert not len(log.machine.alarms)


def test_alarms_and_downgrade_survive_a_restart() -> None:
    log = Log()
    log.alarm(ACTIVATE, CORRUPT, 2**64 - 1)
    log.alarm(ACTIVATE, NOSPACE, 3)
    log.alarm(DEACTIVATE, NOSPACE, 3)
    log.do(
        commands.DOWNGRADE, pb.DowngradeRequest(action=pb.DowngradeRequest.ENABLE, version="3.4.0")
    )
    again = log.reopened()
    assert again.alarms.raised() == [(CORRUPT, 2**64 - 1)]
    assert again.alarms.everybody
    assert again.upkeep.downgrade == "3.4.0"
    assert again.state_hash == log.machine.state_hash


def test_a_received_state_has_the_alarms_and_the_quota() -> None:
    log = Log()
    log.tell(1_000)
    log.put(b"k", 2_000)
    log.put(b"k", 900)
    log.put(b"k", 900)
    log.alarm(ACTIVATE, CORRUPT, 2)
    view, _ = log.machine.snapshot_view()
    received = MemoryBackend.alone()
    received.write(list(view.scan(b"", b"\xff")))
    view.close()
    other = StateMachine(received, 7)
    assert other.alarms.raised() == log.machine.alarms.raised() == [(NOSPACE, 1), (CORRUPT, 2)]
    assert other.alarms.own
    assert other.space.told == log.machine.space.told


def test_a_removed_member_takes_its_corrupt_alarm_with_it() -> None:
    log = Log()
    for kind in (NOSPACE, CORRUPT):
        log.alarm(ACTIVATE, kind, 3)
    log.machine.apply(log.entry(0, encode_change(plain((1, 2)), b""), CONFIG))
    assert log.machine.alarms.raised() == [(NOSPACE, 3)]
    assert not log.machine.alarms.everybody


def test_a_corrupt_alarm_concerns_whom_it_names_and_everybody_if_that_is_no_member() -> None:
    log = Log()
    log.alarm(ACTIVATE, CORRUPT, 3)
    alarms = log.machine.alarms
    assert [alarms.concerning(member) for member in (1, 2, 3)] == [[], [], [CORRUPT]]
    log.alarm(ACTIVATE, NOSPACE, 3)
    assert [alarms.concerning(member) for member in (1, 3)] == [[NOSPACE], [NOSPACE, CORRUPT]]
    log.alarm(ACTIVATE, CORRUPT, 0)
    assert alarms.concerning(1) == [NOSPACE, CORRUPT]


def test_members_that_differ_in_an_alarm_differ_in_the_hash() -> None:
    one, other = Log(), Log()
    one.alarm(ACTIVATE, CORRUPT, 1)
    other.alarm(ACTIVATE, CORRUPT, 2)
    assert one.machine.state_hash != other.machine.state_hash


def test_the_changes_of_alarms_are_counted_so_that_readers_know() -> None:
    log = Log()
    before = log.machine.alarms.changes
    log.alarm(ACTIVATE, CORRUPT, 1)
    assert log.machine.alarms.changes > before
    before = log.machine.alarms.changes
    log.put(b"k", 1)
    log.alarm(ACTIVATE, CORRUPT, 1)
    assert log.machine.alarms.changes == before


@pytest.mark.parametrize("alarm", [(1, 0), (2, 7), (1, 2**64 - 1)])
def test_an_alarms_bytes_are_protobufs(alarm: tuple[int, int]) -> None:
    made = pb.AlarmResponse.FromString(alarm_field(alarm))
    assert [(one.alarm, one.memberID) for one in made.alarms] == [alarm]


def test_one_downgrade_at_a_time() -> None:
    log = Log()
    enable = pb.DowngradeRequest(action=pb.DowngradeRequest.ENABLE, version="3.4.0")
    cancel = pb.DowngradeRequest(action=pb.DowngradeRequest.CANCEL)
    assert log.do(commands.DOWNGRADE, cancel) is NO_DOWNGRADE
    assert log.do(commands.DOWNGRADE, enable) == b""
    assert log.do(commands.DOWNGRADE, enable) is DOWNGRADE_IN_PROGRESS
    assert log.do(commands.DOWNGRADE, cancel) == b""
    assert log.machine.upkeep.downgrade == ""
    assert log.reopened().upkeep.downgrade == ""


def test_a_check_notes_the_hash_and_revision_just_there() -> None:
    log = Log()
    log.put(b"k", 1)
    log.do(commands.CHECK, b"\0")
    first = log.machine.state_hash
    log.do(commands.CHECK, b"\1")
    assert log.machine.upkeep.checks == [
        (3, ROLLING, first, 2),
        (4, ROWS, log.machine.state_hash, 2),
    ]
    with pytest.raises(ProtocolError):
        log.machine.apply(log.entry(commands.CHECK, b"\2"))
