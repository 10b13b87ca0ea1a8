"""raftkv: a clustering and coordination service that speaks etcd's v3 API."""

from typing import Final

__version__: Final = "0.1.0"

# What Status.version and /version report. Clients (the Kubernetes API server
# among them) parse it as a semantic version and switch features by it, so it
# names the etcd release whose behaviour is offered, not raftkv's own version.
ETCD_VERSION: Final = "3.6.0"
