"""Two of Patroni's stores through an election and a failover, in a process of their own.

Patroni keeps threads that watch for as long as their process lives.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

from patroni.dcs import get_dcs


def store(endpoint: str, name: str) -> Any:
    """What one Patroni daemon keeps its state in."""
    times = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}
    names = {"scope": "demo", "namespace": "/service/", "name": name}
    etcd3 = {"host": endpoint}
    return get_dcs({**names, **times, "etcd3": etcd3, "postgresql": {}, "patronictl": False})


def eventually(ask: Callable[[], Any]) -> Any:
    """The first true answer: what the other one wrote is learned by watching."""
    deadline = time.monotonic() + 60
    while not (answer := ask()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return answer


def play(one: Any, two: Any) -> None:
    """The daemons of one PostgreSQL cluster: bootstrap, leadership, settings, failover, removal."""
    assert one.initialize(create_new=True, sysid="7")
    assert not two.initialize(create_new=True, sysid="8")
    for store, role in ((one, "primary"), (two, "replica")):
        name = store._name
        member = {"conn_url": f"postgres://{name}", "api_url": f"http://{name}", "role": role}
        assert store.touch_member(member)
    assert one.attempt_to_acquire_leader()
    assert not two.attempt_to_acquire_leader()
    seen = eventually(lambda: (found := one.get_cluster()).leader and found)
    assert (seen.leader.name, seen.initialize) == ("one", "7")
    assert {member.name for member in seen.members} == {"one", "two"}

    assert one.update_leader(seen, 100, {"slot": 1}, ["two"])
    assert eventually(lambda: two.get_cluster().status.last_lsn) == 100
    assert one.set_config_value('{"ttl":30}')
    assert eventually(lambda: two.get_cluster().config).data == {"ttl": 30}
    assert two.manual_failover("one", "two")
    assert eventually(lambda: one.get_cluster().failover).candidate == "two"

    seen = eventually(lambda: (found := one.get_cluster()).leader and found)
    assert one.delete_leader(seen.leader, 110)
    assert eventually(two.attempt_to_acquire_leader)
    assert eventually(lambda: one.get_cluster().leader and one.get_cluster().leader.name) == "two"
    assert one.delete_cluster()
    assert eventually(lambda: two.get_cluster().leader is None)


if __name__ == "__main__":
    play(store(sys.argv[1], "one"), store(sys.argv[1], "two"))
