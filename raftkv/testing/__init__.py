"""Real clusters for tests, in one line.

    from raftkv.testing import Cluster

    with Cluster(3) as cluster:
        client = connect(cluster.endpoint)  # any etcd client
        cluster.kill_leader()

`cluster.Cluster` says what can be done to one. `plugin` has the pytest fixtures. Importing this
package is cheap: the server is loaded when a name below is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raftkv.testing.cluster import Cluster as Cluster
    from raftkv.testing.errors import MemberDied as MemberDied
    from raftkv.testing.errors import NoLeader as NoLeader
    from raftkv.testing.errors import StartFailed as StartFailed
    from raftkv.testing.proxy import Network as Network

_HOMES = {
    "Cluster": "cluster",
    "MemberDied": "errors",
    "Network": "proxy",
    "NoLeader": "errors",
    "StartFailed": "errors",
}

__all__ = ["Cluster", "MemberDied", "Network", "NoLeader", "StartFailed"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
