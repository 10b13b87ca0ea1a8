"""Party: who takes part; ghosts, lost answers, lost leases; the view of it."""

import threading

import pytest

from raftkv.client import LeaseLost, NotHeld, Put, TimedOut, Txn
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.faces import Faces
from tests.client.recipes.contention import Beside, lose_answers, wait_until


def test_members_are_those_who_joined_and_have_not_left(
    server: Served, connect: Faces, prefix: str
) -> None:
    client = connect(server.endpoints)
    party = client.party(prefix + "p", ttl=5)
    assert party.members() == ()
    with party.join("host-a", "10.0.0.1") as first, party.join("host/b") as second:
        assert first.is_held
        found = party.members()
        assert [(one.identity_text, one.text) for one in found] == [
            ("host-a", "10.0.0.1"),
            ("host/b", ""),
        ]
        assert [one.joined for one in found] == [first.fencing_token, second.fencing_token]
        first.update("10.0.0.2")
        first.update(b"10.0.0.3")
        assert party.members()[0].text == "10.0.0.3"
        second.leave()
        second.leave()
        assert not second.is_held
        with pytest.raises(NotHeld):
            second.update("x")
        assert [one.identity for one in party.members()] == [b"host-a"]
        assert client.txn(first.guard(Txn()).then(Put(prefix + "x", "1"))).succeeded
    assert party.members() == ()
    assert not client.txn(first.guard(Txn()).then(Put(prefix + "x", "1"))).succeeded


@pytest.mark.slow
def test_a_dead_member_goes_with_its_lease_and_may_come_back_before(
    server: Served, prefix: str
) -> None:
    with Client(server.endpoints) as client:
        party = client.party(prefix + "p", ttl=2)
        dead = party.join("host-a")
        dead.lease.detach()  # as if the process had ended
        with party.join("host-a") as alive:
            found = party.members()
            assert [one.joined for one in found] == [dead.fencing_token, alive.fencing_token]
            with party.watch() as members:
                wait_until(lambda: len(members.value) == 1)
                assert members.value[0].joined == alive.fencing_token
            assert not dead.is_held


def test_a_lost_membership_is_told(server: Served, connect: Faces, prefix: str) -> None:
    told = threading.Event()
    client = connect(server.endpoints)
    membership = client.party(prefix + "p", ttl=5).join("host-a")
    membership.on_loss(told.set)
    with Client(server.endpoints) as other:
        other.revoke(membership.lease.id)
    assert told.wait(20)
    assert not membership.is_held
    assert membership.lost.wait(20)
    with pytest.raises(LeaseLost):
        membership.update("x")
    with pytest.raises(LeaseLost), membership:
        pass


def test_a_deleted_membership_takes_no_update(server: Served, prefix: str) -> None:
    with Client(server.endpoints) as client:
        membership = client.party(prefix + "p").join("host-a")
        client.delete(membership.key)
        with pytest.raises(LeaseLost):
            membership.update("x")
        assert client.count(prefix) == 0
        membership.leave()


@pytest.mark.parametrize("carry_out", [True, False])
def test_a_lost_answer_to_join_or_update_is_found_out(
    server: Served, connect: Faces, prefix: str, carry_out: bool
) -> None:
    """C02"""
    client = connect(server.endpoints)
    lose_answers(client, carry_out=carry_out)
    with client.party(prefix + "p").join("host-a", "1") as membership:
        assert len(client.party(prefix + "p").members()) == 1
        lose_answers(client, carry_out=carry_out)
        membership.update("2")
        membership.update("3")
        assert client.party(prefix + "p").members()[0].text == "3"


def test_a_join_that_fails_leaves_nothing(server: Served, prefix: str) -> None:
    """C09"""
    with Client(server.endpoints) as client:
        lose_answers(client, 2)
        with pytest.raises(Exception, match="may or may not"):
            client.party(prefix + "p").join("host-a")
        assert client.count(prefix) == 0


def test_the_view_tells_everybody_who_is_there_each_time_somebody_comes_or_goes(
    server: Served, connect: Faces, prefix: str
) -> None:
    party = connect(server.endpoints).party(prefix + "p")
    with Client(server.endpoints) as other, party.watch() as members:
        assert members.next(5) == ()
        with pytest.raises(TimedOut):
            members.next(0.1)
        coming = other.party(prefix + "p").join("a")
        assert [one.identity for one in members.next(10)] == [b"a"]
        with other.party(prefix + "p").join("b"):
            assert [one.identity for one in members.next(10)] == [b"a", b"b"]
            coming.leave()
            assert [one.identity for one in members.catch_up(10)] == [b"b"]
        wait_until(lambda: members.value == ())
        assert members.stale_for < 60


def test_closing_a_view_ends_the_iteration(server: Served, connect: Faces, prefix: str) -> None:
    members = connect(server.endpoints).party(prefix + "p").watch()
    members.__enter__()
    iterating = Beside(lambda: list(members))
    wait_until(lambda: members.revision > 0)
    members.close()
    assert iterating.result() in ([()], [])
