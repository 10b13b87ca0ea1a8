"""The header of an answer, whose bytes are partly remembered from answer to answer."""

import random
from types import SimpleNamespace
from typing import Any

from raftkv.errors import CORRUPT
from raftkv.kv import encoding
from raftkv.raft.types import Configuration
from raftkv.server.services.context import Context

CLUSTER = 7
MEMBER = 2**63 + 5
TERMS = (0, 1, 24, 127, 128, 2**20, 2**40)
REVISIONS = (0, 1, 24, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**56, 2**62, 2**63 - 1)


def context() -> tuple[Context, Any]:
    """A context whose replica has nothing but a core, and is well."""
    core = SimpleNamespace(term=0, configuration=Configuration())
    replica = SimpleNamespace(core=core, propose=None, read=None, leader=1, is_learner=False)
    replica.caretaker = SimpleNamespace(condemned=False)
    replica.member, replica.machine = MEMBER, SimpleNamespace(removed={})
    driver: Any = SimpleNamespace(replica=replica)
    return Context(driver, CLUSTER, MEMBER, 1, 1, 1), replica


def test_a_header_depends_on_revision_and_term_alone() -> None:
    one, replica = context()
    source = random.Random(5)
    for _ in range(5_000):
        if source.random() < 0.05:
            replica.core.term = source.choice(TERMS)
        revision = source.choice([*REVISIONS, source.randrange(2 ** source.randrange(1, 63))])
        expected = encoding.header(CLUSTER, MEMBER, revision, replica.core.term)
        assert one.header(revision) == expected


def test_a_learner_is_judged_by_the_configuration_in_force() -> None:
    one, replica = context()
    head: Any = SimpleNamespace(metadata={})
    assert one.refusal(head) is None
    replica.is_learner = True
    replica.core.configuration = Configuration(voters=(1,))
    refusal = one.refusal(head)
    assert refusal is not None
    assert "learner" in refusal.text
    replica.caretaker.condemned = True
    assert one.refusal(head) is CORRUPT
