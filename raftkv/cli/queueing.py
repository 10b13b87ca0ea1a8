"""raftctl's place in a queue of keys: a lock's or an election's.

The keys are those of etcd's client library and of the servers' own Lock and Election services, so
all of them stand in one queue: <name>/<lease in hex>, in the order of their create revisions. The
place is kept by the lease, whichever server is asked, and lost only with it.
"""

from dataclasses import dataclass

from raftkv.cli.commands.kv import prefix_end
from raftkv.cli.connection import Connection
from raftkv.cli.exits import CtlError
from raftkv.cli.keeping import KeptLease
from raftkv.cli.watching import Watch, wait_for_deletion
from raftkv.pb import rpc_pb2

Range = rpc_pb2.RangeRequest


@dataclass(frozen=True, slots=True)
class Place:
    """A key that is the first of its queue.

    create_revision: of the key: the fencing token. revision: of the answer that showed it.
    """

    key: bytes
    create_revision: int
    revision: int


def become_first(
    connection: Connection, lease: KeptLease, name: bytes, value: bytes, lost_text: str
) -> Place:
    """Puts a key and waits until no older one is left.

    lost_text: of the error if the lease ends meanwhile. Errors: CtlError.
    """
    prefix = name + b"/"
    key = prefix + b"%x" % lease.id
    put = rpc_pb2.PutRequest(key=key, value=value, lease=lease.id)
    absent = rpc_pb2.Compare(
        key=key,
        target=rpc_pb2.Compare.CREATE,
        result=rpc_pb2.Compare.EQUAL,
        create_revision=0,
    )
    request = rpc_pb2.TxnRequest(compare=[absent], success=[rpc_pb2.RequestOp(request_put=put)])
    entered = connection.write("KV/Txn", request, rpc_pb2.TxnResponse)
    if not entered.succeeded:
        raise CtlError(f"somebody else uses the lease {lease.id:x}")
    created = entered.header.revision
    before = Range(
        key=prefix,
        range_end=prefix_end(prefix),
        limit=1,
        sort_target=Range.CREATE,
        sort_order=Range.DESCEND,
        max_create_revision=created - 1,
        keys_only=True,
    )
    waited = False
    while True:
        found = connection.read("KV/Range", before, rpc_pb2.RangeResponse)
        if not found.kvs:
            break
        waited = True
        _wait_for_absence(connection, lease, found)
        if lease.lost.is_set():
            raise CtlError(lost_text)
    # Also without waiting: the lease may have ended, and the holder left, since the key was put.
    own = connection.read("KV/Range", Range(key=key), rpc_pb2.RangeResponse)
    if not own.kvs or own.kvs[0].create_revision != created:
        raise CtlError(lost_text)
    return Place(key, created, own.header.revision if waited else created)


def _wait_for_absence(
    connection: Connection, lease: KeptLease, found: rpc_pb2.RangeResponse
) -> None:
    """Returns when the key that was found is deleted, or the own lease is lost."""
    watch = Watch(
        connection,
        rpc_pb2.WatchCreateRequest(key=found.kvs[0].key, start_revision=found.header.revision + 1),
    )
    lease.when_lost(watch.close)
    try:
        wait_for_deletion(watch)
    finally:
        watch.close()
