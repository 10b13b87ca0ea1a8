"""A process that takes part in everything is killed; what it had comes back to the others."""

import subprocess
import sys
import threading
from typing import Final

import pytest

from raftkv.client import Share
from raftkv.client.sync import Client
from tests.client.conftest import Served
from tests.client.recipes.contention import Beside, wait_until

TTL_SECONDS: Final = 2

# Holds a place in each recipe and says so; never leaves by itself.
PROCESS: Final = """
import sys, threading
from raftkv.client import Client

client, name, ttl = Client(sys.argv[1]), sys.argv[2], int(sys.argv[3])
client.party(name + "party", ttl=ttl).join("victim")
client.registry(name + "services", ttl=ttl).register("web", "victim", "10.0.0.1:80")
client.registry(name + "services", ttl=ttl).register(
    "asked", "victim", "10.0.0.1:80", health=lambda: True, interval=0.3
)
claim = client.queue(name + "queue").claim(ttl=ttl)
client.barrier(name + "barrier").hold(ttl=ttl)
begun = threading.Event()

def work(share):
    begun.set()
    share.stop.wait()

partitioner = client.partitioner(name + "parts", ["a", "b"], work, identity="victim", ttl=ttl)
threading.Thread(target=partitioner.run, daemon=True).start()
begun.wait()
print("ready", flush=True)
threading.Event().wait()
"""


@pytest.mark.slow
def test_all_that_a_killed_process_had_is_free_again(server: Served, prefix: str) -> None:
    """C05, C07: nothing says goodbye; the leases run out."""
    working: list[str] = []

    def work(share: Share) -> None:
        working.append(share.text)
        share.stop.wait(60)

    with Client(server.endpoints) as client:
        client.queue(prefix + "queue").put("job")
        victim = subprocess.Popen(
            [sys.executable, "-c", PROCESS, server.endpoints, prefix, str(TTL_SECONDS)],
            stdout=subprocess.PIPE,
        )
        try:
            assert victim.stdout is not None
            assert victim.stdout.readline() == b"ready\n"
            party, registry = client.party(prefix + "party"), client.registry(prefix + "services")
            # Longer than its TTL it lives, and keeps everything.
            alive = threading.Event()
            assert not alive.wait(1.5 * TTL_SECONDS)
            assert len(party.members()) == 1
            assert len(registry.discover("web")) == len(registry.discover("asked")) == 1
            mine = client.partitioner(prefix + "parts", ["a", "b"], work, ttl=TTL_SECONDS)
            beside = Beside(mine.run)
            wait_until(lambda: len(working) == 1)
        finally:
            victim.kill()
            victim.wait()
            assert victim.stdout is not None
            victim.stdout.close()
        with client.queue(prefix + "queue").claim(timeout=20) as claim:
            assert claim.text == "job"
        client.barrier(prefix + "barrier").wait(timeout=20)
        wait_until(lambda: party.members() == ())
        wait_until(lambda: registry.discover("web") == registry.discover("asked") == ())
        wait_until(lambda: sorted(working) == ["a", "b"])
        mine.stop()
        beside.result()
        assert client.count(prefix) == 0
