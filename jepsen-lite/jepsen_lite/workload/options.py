"""What a run was asked for, as far as workloads, nemeses and checkers need it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one run.

    workload, nemeses: names. seed: of every random choice. concurrency: processes at once.
    keys: how many keys are in use at a time. rate: operations per second over all processes;
    0 = as fast as they go. seconds: of the main phase. timeout_seconds: of one operation.
    prefix: all keys of the run begin so. world: "processes", "compose", "attach" or "sim".
    network: of members that are started, "proxies" or "namespaces". system: "raftkv" or "etcd".
    members: how many the cluster has. extra: of one workload only, from --set name=value.
    """

    workload: str = ""
    nemeses: tuple[str, ...] = ()
    seed: int = 0
    concurrency: int = 10
    keys: int = 5
    rate: float = 0.0
    seconds: float = 60.0
    timeout_seconds: float = 5.0
    prefix: str = "jepsen/"
    world: str = "processes"
    network: str = "proxies"
    system: str = "raftkv"
    members: int = 3
    extra: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As `run.json` keeps it."""
        return {**asdict(self), "nemeses": list(self.nemeses), "extra": dict(self.extra)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> "Options":
        """What `to_json` gave. Errors: TypeError, if a field is unknown."""
        return cls(**{**fields, "nemeses": tuple(fields.get("nemeses", ()))})
