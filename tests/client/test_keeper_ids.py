"""A client's leases that are revoked and granted again under their ids."""

from raftkv.client.lifetime import now
from tests.client.test_keeper import Make, Told, wait_until
from tests.client.test_keeper import make as make  # the fixture


def test_that_an_earlier_lease_of_the_same_id_is_gone_says_nothing_about_this_one(
    make: Make,
) -> None:
    """C07: it was asked for when it was revoked and granted again; the answer comes after that."""
    servers, keeper = make(ttl=60)
    (server,) = servers.all
    server.mode = "silent"
    first = keeper.keep(7, 60, now())
    keeper.renew_now(first, lambda _: None)
    wait_until(lambda: server.asked == [7])
    line = keeper._lines[-1]
    keeper.release(first)
    second = keeper.keep(7, 60, now())
    granted = second.answered
    told = Told(second)
    server.mode = "renew"
    keeper._answered(line, 7, 0)
    wait_until(lambda: second.answered > granted)  # asked anew at once
    assert second.alive
    assert not told.calls
    server.mode = "gone"
    keeper.renew_now(second, lambda _: None)
    assert told.event.wait(20)
    assert second.reason == "the server has ended the lease"
