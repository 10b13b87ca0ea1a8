"""The quota: counted in rows, decided in log order, and without a way into it that has none out."""

import random

import pytest

from raftkv.errors import CORRUPT, LEASE_EXISTS, NO_SPACE, CorruptionError, ProtocolError
from raftkv.kv import commands
from raftkv.kv.alarms import NOSPACE
from raftkv.kv.leases import grant_request, put_with_ttl_request, revoke_request
from raftkv.kv.machine import Result
from raftkv.kv.space import LEASE_BYTES, PLAIN_PUT_BYTES, Told, growth_bytes, space_request
from raftkv.limits import MAX_ALL_KEPT_BYTES
from raftkv.pb import rpc_pb2 as pb
from raftkv.raft.types import Entry
from tests.kv.upkeep import Log

QUOTA = 100_000


def put(key: bytes, value: bytes = b"v") -> pb.RequestOp:
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value))


def get(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_range=pb.RangeRequest(key=key))


def delete(key: bytes) -> pb.RequestOp:
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key))


def full() -> Log:
    """A store that has just refused a write."""
    log = Log()
    log.tell(QUOTA)
    for number in range(100):
        if log.put(b"key-%d" % number, 5_000) is NO_SPACE:
            return log
    raise AssertionError("nothing was refused")


def test_without_a_quota_nothing_is_refused() -> None:
    log = Log()
    for number in range(60):
        assert log.put(b"key-%d" % number, 5_000) == b""
    assert log.machine.space.used_bytes > 2 * QUOTA
    assert not len(log.machine.alarms)


def test_a_write_that_would_exceed_the_quota_is_refused_and_raises_the_alarm_of_who_told_it() -> (
    None
):
    log = full()
    assert log.machine.space.used_bytes <= QUOTA
    assert log.machine.alarms.raised() == [(NOSPACE, 1)]
    assert log.machine.alarms.no_space


def test_what_grows_the_store_is_refused_and_everything_else_goes_on() -> None:
    log = full()
    read_only = pb.TxnRequest(success=[get(b"key-1")])
    nested = pb.TxnRequest(success=[pb.RequestOp(request_txn=pb.TxnRequest(success=[put(b"a")]))])
    untaken = pb.TxnRequest(success=[get(b"a")], failure=[put(b"a")])
    for request in (pb.TxnRequest(success=[put(b"a")]), nested, untaken):
        assert log.do(commands.TXN, request) is NO_SPACE
    assert log.do(commands.PUT, pb.PutRequest(key=b"a", lease=99)) is NO_SPACE
    for command in (commands.LEASE_GRANT, commands.LEASE_GRANT_DRAWN, commands.SESSION_OPEN):
        assert log.do(command, grant_request(5, 1000)) is NO_SPACE
    ttl_put = put_with_ttl_request(5, 1000, pb.PutRequest(key=b"a").SerializeToString())
    assert log.do(commands.PUT_WITH_TTL, ttl_put) is NO_SPACE
    assert isinstance(log.do(commands.TXN, read_only), bytes)
    assert isinstance(log.do(commands.TXN, pb.TxnRequest(success=[delete(b"key-1")])), bytes)
    gone = pb.DeleteRangeResponse.FromString(
        log.do(commands.DELETE_RANGE, pb.DeleteRangeRequest(key=b"key-0"))
    )
    assert gone.deleted == 1
    assert log.machine.alarms.no_space


def test_a_lease_can_be_revoked_in_a_full_store() -> None:
    log = Log()
    log.tell(QUOTA)
    assert log.do(commands.LEASE_GRANT, grant_request(5, 1000)) == b"\x10\x05\x18\x01"
    while log.put(b"key", 5_000) != NO_SPACE:
        pass
    assert log.do(commands.LEASE_REVOKE, revoke_request(5)) == b""


def test_compaction_lifts_the_alarm_by_itself_once_the_leader_tells_what_it_removed() -> None:
    """No disarming, no defragmenting: the way out is the same as the way in."""
    log = Log()
    log.tell(QUOTA)
    while log.put(b"the same key", 5_000) != NO_SPACE:
        pass
    log.compact()
    assert log.put(b"the same key", 1) is NO_SPACE, "nobody has told yet, on no member"
    log.tell(QUOTA)
    assert not len(log.machine.alarms)
    assert log.put(b"the same key", 5_000) == b""


def test_deleting_and_compacting_lifts_the_alarm() -> None:
    log = full()
    log.do(commands.DELETE_RANGE, pb.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
    log.compact()
    log.put(b"newer", 1)
    log.tell(QUOTA)
    assert not log.machine.alarms.no_space


def test_the_alarm_stays_until_there_is_a_tenth_of_room() -> None:
    """Hysteresis: a store at its limit does not go on and off with every write."""
    log = full()
    quota = log.machine.space.used_bytes * 105 // 100
    log.tell(quota)
    assert log.machine.alarms.no_space, "there is room for one more, but not a tenth"
    log.tell(log.machine.space.used_bytes * 12 // 10)
    assert not log.machine.alarms.no_space


def test_a_leader_without_a_quota_lifts_the_alarm() -> None:
    log = full()
    log.tell(0)
    assert not log.machine.alarms.no_space
    assert log.put(b"more", 5_000) == b""


def test_a_single_write_that_is_too_large_is_refused_and_leaves_no_alarm() -> None:
    log = Log()
    log.tell(QUOTA)
    assert log.put(b"huge", 2 * QUOTA) is NO_SPACE
    assert not len(log.machine.alarms)
    assert log.put(b"small", 10) == b""


def test_leases_count_and_lift_the_alarm_when_they_end() -> None:
    log = Log()
    log.tell(20 * LEASE_BYTES)
    granted = 0
    while log.do(commands.LEASE_GRANT, grant_request(granted + 1, 1000)) is not NO_SPACE:
        granted += 1
    assert 10 < granted <= 20
    for number in range(1, 5):
        log.do(commands.LEASE_REVOKE, revoke_request(number))
    assert not log.machine.alarms.no_space
    assert log.do(commands.LEASE_GRANT, grant_request(granted, 1000)) is LEASE_EXISTS


def test_a_disarmed_alarm_comes_back_with_the_next_write_that_exceeds() -> None:
    log = full()
    assert log.alarm(pb.AlarmRequest.DEACTIVATE, NOSPACE, 1) == [(NOSPACE, 1)]
    assert not log.machine.alarms.no_space
    assert log.put(b"key", 5_000) is NO_SPACE
    assert log.machine.alarms.raised() == [(NOSPACE, 1)]


def test_an_operators_alarm_is_never_lifted_by_itself() -> None:
    log = Log()
    log.tell(QUOTA)
    log.alarm(pb.AlarmRequest.ACTIVATE, NOSPACE, 9)
    assert log.put(b"key", 1) is NO_SPACE
    log.compact()
    log.tell(QUOTA)
    assert log.machine.alarms.raised() == [(NOSPACE, 9)]


def test_members_that_apply_in_runs_and_one_by_one_refuse_the_same_writes() -> None:
    """M23: alarm raised and lifted while writes fly; the state hash covers who was refused."""
    for seed in range(6):
        source = random.Random(seed)
        log = Log()
        refused = lifted = 0
        for _ in range(400):
            raised = log.machine.alarms.no_space
            chance = source.random()
            if chance < 0.03:
                log.tell(source.choice((QUOTA, QUOTA, 3 * QUOTA)), source.choice((1, 2)))
            elif chance < 0.06:
                log.compact()
                log.tell(QUOTA)
            elif chance < 0.1:
                key = b"k%d" % source.randrange(20)
                log.do(commands.DELETE_RANGE, pb.DeleteRangeRequest(key=key))
            elif chance < 0.3:
                compare = pb.Compare(key=b"k1", version=0, result=pb.Compare.GREATER)
                value = b"v" * source.choice((1, 3_000, 16_000, 40_000))
                swap = pb.TxnRequest(compare=[compare], success=[put(b"k1", value)])
                log.do(commands.TXN, swap)
            else:
                log.put(b"k%d" % source.randrange(20), source.choice((1, 100, 5_000, 16_000)))
            refused += log.machine.alarms.no_space
            lifted += raised and not log.machine.alarms.no_space
        assert refused
        assert lifted
        in_runs = log.replayed_with_compactions()
        assert in_runs.state_hash == log.machine.state_hash
        assert in_runs.alarms.raised() == log.machine.alarms.raised()
        assert in_runs.space.told == log.machine.space.told
        again = log.reopened()
        assert again.alarms.raised() == log.machine.alarms.raised()
        assert again.alarms.own == log.machine.alarms.own
        assert again.space.told == log.machine.space.told
        assert again.space.used_bytes == log.machine.space.used_bytes


def test_far_from_the_quota_as_near_it_the_same_writes_are_refused() -> None:
    """The quick way of a roomy store never lets through what the exact one refuses."""
    log = Log()
    quota = 2 * MAX_ALL_KEPT_BYTES
    log.tell(quota)
    for number in range(1, 40):
        log.do(commands.LEASE_GRANT, grant_request(number, 1000))
    space = log.machine.space
    room = quota - space.used_bytes
    assert space.plain_puts() * PLAIN_PUT_BYTES <= room
    log.machine.store.written_bytes += room - 100  # as if it had been written
    assert space.plain_puts() == 0
    assert log.put(b"k", 200) is NO_SPACE
    log.do(commands.LEASE_REVOKE, revoke_request(1))
    assert log.machine.alarms.no_space


def test_no_plain_put_costs_or_adds_more_than_a_run_reckons_with() -> None:
    log = Log()
    largest = pb.PutRequest(key=b"\0" * 127, value=b"v" * 16_383)
    before = log.machine.store.written_bytes
    assert log.do(commands.PUT, largest) == b""
    assert log.machine.store.written_bytes - before <= PLAIN_PUT_BYTES
    assert len(log.entries[-1].payload) + 24 <= PLAIN_PUT_BYTES  # with an origin


def test_every_member_reclaims_the_same_bytes_whatever_its_pace() -> None:
    hurried, slow = Log(), Log()
    for number in range(30):
        for log in (hurried, slow):
            if number % 7 == 3:
                log.do(commands.DELETE_RANGE, pb.DeleteRangeRequest(key=b"k%d" % (number % 5)))
            log.put(b"k%d" % (number % 5), 50 + number)
            if number % 6 == 5:
                request = pb.CompactionRequest(revision=log.machine.revision - 2)
                log.do(commands.COMPACT, request)
                if log is hurried:
                    while log.machine.compact_slice(1):
                        pass
    while slow.machine.compact_slice(3):
        pass
    assert hurried.machine.reclaimed == slow.machine.reclaimed
    assert hurried.machine.reclaimed[1] > 0
    assert slow.reopened().reclaimed == slow.machine.reclaimed


def test_a_member_in_the_middle_of_a_removal_tells_the_finished_one_only() -> None:
    log = Log()
    for number in range(40):
        log.put(b"k", number)
    log.compact()
    finished = log.machine.reclaimed
    for number in range(40):
        log.put(b"k", number)
    log.do(commands.COMPACT, pb.CompactionRequest(revision=log.machine.revision))
    assert log.machine.compact_slice(5), "there is more to remove"
    assert log.machine.reclaimed == finished
    assert log.reopened().reclaimed == (0, 0), "how many bytes the finished one was is not stored"


def test_what_an_older_leader_says_about_removals_is_not_taken_back() -> None:
    log = Log()
    log.put(b"k", 1_000)
    log.put(b"k", 1_000)
    log.compact()
    log.tell(QUOTA)
    told = log.machine.space.told
    assert told.reclaimed_bytes > 1_000
    log.do(commands.SPACE, space_request(Told(2, 2 * QUOTA, 1, 3)))
    assert log.machine.space.told == told._replace(member=2, quota_bytes=2 * QUOTA)
    log.do(commands.SPACE, space_request(Told(2, QUOTA, 1 << 40, 1 << 40)))
    assert log.machine.space.told.reclaimed_bytes == told.reclaimed_bytes, "never compacted so far"


def test_a_transaction_costs_its_larger_branch() -> None:
    request = pb.TxnRequest(success=[put(b"a", b"12"), put(b"b")], failure=[put(b"c", b"1" * 50)])
    assert growth_bytes(request) == 52
    nested = pb.TxnRequest(success=[pb.RequestOp(request_txn=request), put(b"d")])
    assert growth_bytes(nested) == 52 + 3
    assert growth_bytes(pb.TxnRequest(success=[get(b"a"), delete(b"b")])) == 0


def test_a_request_about_space_of_another_form_stops_the_member() -> None:
    log = Log()
    with pytest.raises(ProtocolError):
        log.machine.apply(log.entry(commands.SPACE, b"short"))


def test_a_row_of_another_form_is_refused_when_a_machine_opens() -> None:
    for row in ((b"q", b"short"), (b"o\x01" + bytes(8), b"\x09\0"), (b"o\x01", b"\x01\0")):
        log = Log()
        log.put(b"k", 1)
        log.machine.flush()
        log.backend.write([row])
        with pytest.raises(CorruptionError):
            log.reopened()


def test_a_cluster_that_knows_nobody_to_trust_refuses_every_write() -> None:
    log = Log()
    log.put(b"k", 1)
    log.do(commands.LEASE_GRANT, grant_request(5, 1000))
    assert log.alarm(pb.AlarmRequest.ACTIVATE, 2, 0) == [(2, 0)]
    assert log.put(b"k", 1) is CORRUPT
    assert log.do(commands.DELETE_RANGE, pb.DeleteRangeRequest(key=b"k")) is CORRUPT
    assert log.do(commands.TXN, pb.TxnRequest(success=[put(b"k")])) is CORRUPT
    assert log.do(commands.TXN, pb.TxnRequest(success=[delete(b"k")])) is CORRUPT
    assert log.do(commands.COMPACT, pb.CompactionRequest(revision=1)) is CORRUPT
    assert log.do(commands.LEASE_GRANT, grant_request(6, 1000)) is CORRUPT
    assert log.do(commands.LEASE_REVOKE, revoke_request(5)) is CORRUPT
    entries: list[Entry] = [log.entry(commands.PUT, b"\x0a\x01k\x12\x01v") for _ in range(3)]
    outcomes = [one for at in (0, 1, 2) for one in log.machine.apply_some(entries, at)]
    assert outcomes == [CORRUPT] * 3, "no run goes past the alarm"
    assert log.alarm(pb.AlarmRequest.DEACTIVATE, 2, 0) == [(2, 0)]
    assert isinstance(log.machine.apply(log.entry(commands.PUT, b"\x0a\x01k\x12\x01v")), Result)


def test_a_wrong_member_of_the_cluster_stops_nobody_else() -> None:
    log = Log()
    log.alarm(pb.AlarmRequest.ACTIVATE, 2, 3)
    assert log.machine.alarms.names(3)
    assert not log.machine.alarms.names(1)
    assert log.put(b"k", 1) == b""
