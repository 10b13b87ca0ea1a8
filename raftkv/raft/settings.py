"""What a core is told once: who it is, its timeouts in ticks, its limits in bytes."""

from dataclasses import dataclass

from raftkv import limits
from raftkv.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CoreSettings:
    """Settings of one member's core.

    member: own member id, not 0.
    election_timeout_ticks: T. Followers campaign after a random silence in [T, 2T) ticks;
        a leader steps down when no quorum answered within T.
    heartbeat_ticks: ticks between two heartbeats, below T.
    max_append_bytes: payload bytes of one AppendEntries (a single entry may exceed it).
    max_inflight_bytes, max_inflight_messages: window of unacknowledged appends per follower.
    max_uncommitted_bytes: payload bytes that a leader appends beyond its commit index.
    max_log_cache_bytes: memory of entries kept behind the applied index.
    """

    member: int
    election_timeout_ticks: int = 10
    heartbeat_ticks: int = 1
    max_append_bytes: int = limits.MAX_APPEND_BYTES
    max_inflight_bytes: int = limits.MAX_INFLIGHT_BYTES
    max_inflight_messages: int = limits.MAX_INFLIGHT_MESSAGES
    max_uncommitted_bytes: int = limits.MAX_UNCOMMITTED_BYTES
    max_log_cache_bytes: int = limits.MAX_LOG_CACHE_BYTES

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises: ConfigError naming the setting.
        """
        if self.member <= 0:
            raise ConfigError(f"member must be a positive id, not {self.member}")
        if not 0 < self.heartbeat_ticks < self.election_timeout_ticks:
            raise ConfigError(
                f"heartbeat_ticks ({self.heartbeat_ticks}) must be positive and below "
                f"election_timeout_ticks ({self.election_timeout_ticks})"
            )
        for name in (
            "max_append_bytes",
            "max_inflight_bytes",
            "max_inflight_messages",
            "max_uncommitted_bytes",
            "max_log_cache_bytes",
        ):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
