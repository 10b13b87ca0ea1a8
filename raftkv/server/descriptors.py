"""How many files and sockets the process may have open, and how many clients that admits (O04).

A client costs one. What the member itself needs (tables of LevelDB, the log, connections to and
from the other members, a state that is being received) must not be taken by clients: a member
whose clients used up everything could not even write its log. So some are set aside, and new
clients are turned away when the rest is used up.
"""

import resource
from typing import Final

from raftkv import limits

MOST: Final = 2**20  # "unlimited" means this many


def raise_limit() -> None:
    """Raises the soft limit of open files to the hard one, as every Go program (etcd) does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def admitted_clients() -> int:
    """How many clients may be connected under the limit of open files as it is now."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return clients_under(MOST if soft == resource.RLIM_INFINITY else soft)


def clients_under(limit: int) -> int:
    """How many clients a process that may open `limit` files serves: half of a small limit, and
    all but `limits.RESERVED_FILES` of a large one.
    """
    return max(limit - limits.RESERVED_FILES, limit // 2)
