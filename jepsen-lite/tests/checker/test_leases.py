"""How long leases live (catalogue 3.6): never shorter than promised, not much longer."""

import pytest

from checker.histories import Script, names, only
from jepsen_lite.checker.base import Evidence, Window
from jepsen_lite.checker.leases import Lease
from jepsen_lite.history import History
from jepsen_lite.workload.options import Options

TTL = 2
LEASE = 77


def granted(script: Script, at_s: float = 1.0) -> None:
    """A lease granted and a key hung on it within 0.2 s."""
    script.invoke(0, "grant", {"lease": LEASE, "ttl": TTL}, at_s=at_s)
    script.ok(0, at_s=at_s + 0.1, ttl=TTL)
    script.invoke(0, "put", {"key": "k", "value": "v", "lease": LEASE}, at_s=at_s + 0.1)
    revision = script.store.put("k", "v", LEASE)
    script.ok(0, at_s=at_s + 0.2, revision=revision)


def looked(script: Script, at_s: float) -> int:
    script.invoke(1, "get", {"key": "k"}, at_s=at_s)
    return script.ok(1, at_s=at_s + 0.1, **script.store.item("k"))


def renewed(script: Script, at_s: float) -> int:
    script.invoke(0, "keepalive", {"lease": LEASE}, at_s=at_s)
    return script.ok(0, at_s=at_s + 0.1, ttl=TTL)


def test_a_lease_that_lives_as_promised_is_right() -> None:
    script = Script()
    granted(script)
    renewed(script, 2.5)
    looked(script, 4.4)
    script.store.delete("k")
    looked(script, 4.6)
    verdict = Lease().check(script.evidence())
    assert verdict.passed, verdict
    assert verdict.facts["lower bounds checked"] == 1
    assert verdict.facts["upper bounds checked"] == 1


def test_a_key_that_goes_before_its_lease_is_over_is_found() -> None:
    """M07, M10."""
    script = Script()
    granted(script, 1.0)
    script.store.delete("k")
    seen = looked(script, 2.5)
    assert only(Lease().check(script.evidence()), "ended-too-early") == (0, 1, seen)


def test_a_renewal_moves_the_promise() -> None:
    script = Script()
    granted(script, 1.0)
    last = renewed(script, 2.5)
    script.store.delete("k")
    seen = looked(script, 4.0)
    assert only(Lease().check(script.evidence()), "ended-too-early") == (last - 1, last, seen)


def test_a_renewal_without_an_answer_promises_nothing() -> None:
    script = Script()
    granted(script, 1.0)
    script.invoke(0, "keepalive", {"lease": LEASE}, at_s=2.5)
    script.info(0)
    script.store.delete("k")
    looked(script, 4.0)
    assert Lease().check(script.evidence()).passed


def test_a_revoked_lease_may_end_at_once_and_must() -> None:
    script = Script()
    granted(script, 1.0)
    script.invoke(0, "revoke", {"lease": LEASE}, at_s=1.5)
    script.store.delete("k")
    script.ok(0, at_s=1.6, revision=script.store.revision)
    looked(script, 1.7)
    verdict = Lease().check(script.evidence())
    assert verdict.passed, verdict
    assert verdict.facts["revocations checked"] == 1


def test_a_key_that_outlives_the_revocation_of_its_lease_is_found() -> None:
    """M11: an orphan key."""
    script = Script()
    granted(script, 1.0)
    script.invoke(0, "revoke", {"lease": LEASE}, at_s=1.5)
    script.store.put("other", "")
    end = script.ok(0, at_s=1.6, revision=script.store.revision)
    assert only(Lease().check(script.evidence()), "outlived-revocation") == (end - 1, end)


def test_a_key_that_is_there_long_after_its_lease_was_over_is_found() -> None:
    """M06, M07: 1.5 TTLs and 5 s after the last try: 1.2 + 3 + 5."""
    script = Script()
    granted(script, 1.0)
    looked(script, 9.0)
    assert Lease().check(script.evidence()).passed
    end = looked(script, 9.3)
    witness = only(Lease().check(script.evidence()), "lived-too-long")
    assert witness == (1, end - 1, end)


def test_time_with_a_fault_does_not_count() -> None:
    script = Script()
    granted(script, 1.0)
    looked(script, 9.3)
    script.windows.append(Window("partition", int(2e9), int(4e9)))
    assert Lease().check(script.evidence()).passed
    looked(script, 12.1)
    assert names(Lease().check(script.evidence())) == {"lived-too-long"}


def test_nothing_is_said_while_a_clock_is_wrong() -> None:
    """R20: a clock that runs too fast ends leases early, and that is known."""
    script = Script()
    granted(script, 1.0)
    script.store.delete("k")
    looked(script, 2.5)
    script.windows.append(Window("clock-skew", int(1.5e9), int(4e9)))
    assert Lease().check(script.evidence()).passed


def test_a_renewal_of_a_lease_that_is_over_cannot_succeed() -> None:
    """M08."""
    script = Script()
    granted(script, 1.0)
    script.store.delete("k")
    gone = looked(script, 3.5)
    late = renewed(script, 4.0)
    witness = only(Lease().check(script.evidence()), "renewed-after-its-end")
    assert witness == (gone, late - 1, late)


def test_a_key_that_moved_to_another_lease_says_nothing_of_the_first_one() -> None:
    """M12."""
    script = Script()
    granted(script, 1.0)
    script.call(1, "put", {"key": "k", "value": "w"}, revision=script.store.put("k", "w"))
    looked(script, 20.0)
    assert Lease().check(script.evidence()).passed


@pytest.mark.parametrize("f", ["delete"])
def test_a_key_that_a_client_deleted_says_nothing_of_its_lease(f: str) -> None:
    script = Script()
    granted(script, 1.0)
    script.call(1, f, {"key": "k"}, revision=script.store.delete("k"))
    looked(script, 1.5)
    assert Lease().check(script.evidence()).passed


def test_without_a_log_nothing_is_called_right() -> None:
    assert not Lease().check(Evidence(History([]), None, Options())).passed
