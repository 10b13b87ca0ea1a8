"""The flags about space and comparisons, as etcd reads them where it has them."""

import pytest

from raftkv.cli.flags import build
from raftkv.config import DEFAULT_QUOTA_BYTES
from raftkv.errors import ConfigError


@pytest.mark.parametrize(
    ("given", "quota_bytes"),
    [({}, DEFAULT_QUOTA_BYTES), ("0", DEFAULT_QUOTA_BYTES), ("-1", 0), ("5000000", 5_000_000)],
)
def test_a_quota_of_zero_is_the_default_and_a_negative_one_is_none(
    given: str | dict[str, str], quota_bytes: int
) -> None:
    flags = {"quota-backend-bytes": given} if isinstance(given, str) else given
    assert build(flags).quota_backend_bytes == quota_bytes


@pytest.mark.parametrize(
    ("mode", "retention", "seconds", "revisions"),
    [
        ("periodic", "0", 0.0, 0),
        ("periodic", "8", 8 * 3600.0, 0),
        ("periodic", "30m", 1800.0, 0),
        ("revision", "1000", 0.0, 1000),
        ("revision", "0", 0.0, 0),
    ],
)
def test_a_retention_is_hours_a_duration_or_revisions(
    mode: str, retention: str, seconds: float, revisions: int
) -> None:
    config = build({"auto-compaction-mode": mode, "auto-compaction-retention": retention})
    assert config.auto_compaction_retention_seconds == seconds
    assert config.auto_compaction_retention_revisions == revisions


def test_rolling_hashes_are_compared_unless_told_otherwise_and_rows_only_if_told() -> None:
    config = build({})
    assert config.state_check_seconds == 10.0
    assert config.corrupt_check_seconds == 0.0
    assert not config.initial_corrupt_check
    config = build(
        {
            "state-check-interval": "0s",
            "experimental-corrupt-check-time": "12h",
            "experimental-initial-corrupt-check": "true",
        }
    )
    assert config.state_check_seconds == 0.0
    assert config.corrupt_check_seconds == 12 * 3600.0
    assert config.initial_corrupt_check


@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("state-check-interval", "-1s"),
        ("experimental-corrupt-check-time", "often"),
        ("experimental-initial-corrupt-check", "maybe"),
        ("quota-backend-bytes", "2GiB"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(flag: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"--{flag}"):
        build({flag: text})
