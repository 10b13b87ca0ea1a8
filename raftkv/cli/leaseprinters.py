"""raftctl's output about leases, in each format; etcdctl 3.5's to the byte.

Its oddities are kept: in JSON the fields of the header stand beside the answer's own, in protobuf
the header is all there is, and a revoke has no protobuf form at all. There are no tables.
"""

import base64
from typing import TYPE_CHECKING, Any, Final

from raftkv.cli import gotext
from raftkv.cli.exits import BAD_FEATURE, CtlError
from raftkv.cli.printers import FieldsPrinter, Printer, ProtobufPrinter, emit

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from raftkv.pb import rpc_pb2


class LeasePrinter:
    """The formats that have nothing about leases; the others add what they have.

    printer: of the same format, for everything else.
    """

    def __init__(self, printer: Printer) -> None:
        self.printer = printer

    def _other(self, reply: "Message") -> None:
        Printer.message(self.printer, reply)  # refuses

    def grant(self, reply: "rpc_pb2.LeaseGrantResponse") -> None:
        """Answer of `lease grant`."""
        self._other(reply)

    def revoke(self, lease: int, reply: "rpc_pb2.LeaseRevokeResponse") -> None:
        """Answer of `lease revoke`."""
        self._other(reply)

    def keep_alive(self, reply: "rpc_pb2.LeaseKeepAliveResponse") -> None:
        """One answer of `lease keep-alive`."""
        self._other(reply)

    def over(self, lease: int) -> None:
        """The end of `lease keep-alive`; only people are told."""

    def time_to_live(self, reply: "rpc_pb2.LeaseTimeToLiveResponse", keys: bool) -> None:
        """Answer of `lease timetolive`. keys: they were asked for."""
        self._other(reply)

    def leases(self, reply: "rpc_pb2.LeaseLeasesResponse") -> None:
        """Answer of `lease list`."""
        self._other(reply)


class SimpleLeases(LeasePrinter):
    """Lines for people and pipes."""

    def grant(self, reply: "rpc_pb2.LeaseGrantResponse") -> None:
        """One sentence."""
        emit(f"lease {reply.ID:016x} granted with TTL({reply.TTL}s)")

    def revoke(self, lease: int, reply: "rpc_pb2.LeaseRevokeResponse") -> None:
        """One sentence."""
        emit(f"lease {lease:016x} revoked")

    def keep_alive(self, reply: "rpc_pb2.LeaseKeepAliveResponse") -> None:
        """One sentence."""
        emit(f"lease {reply.ID:016x} keepalived with TTL({reply.TTL})")

    def over(self, lease: int) -> None:
        """One sentence."""
        emit(f"lease {lease:016x} expired or revoked.")

    def time_to_live(self, reply: "rpc_pb2.LeaseTimeToLiveResponse", keys: bool) -> None:
        """One sentence, with the keys as they are."""
        if reply.TTL == -1 and not reply.grantedTTL:
            emit(f"lease {reply.ID:016x} already expired")
            return
        text = (
            f"lease {reply.ID:016x} granted with TTL({reply.grantedTTL}s), remaining({reply.TTL}s)"
        ).encode()
        if keys:
            text += b", attached keys([" + b" ".join(reply.keys) + b"])"
        emit(text)

    def leases(self, reply: "rpc_pb2.LeaseLeasesResponse") -> None:
        """How many, then one per line."""
        emit(f"found {len(reply.leases)} leases", *(f"{one.ID:016x}" for one in reply.leases))


class JsonLeases(LeasePrinter):
    """Go's encoding/json of what etcd's client library returns."""

    def _tree(self, reply: Any, **fields: object) -> None:
        emit(gotext.json_text(gotext.message_tree(reply.header) | fields))

    def grant(self, reply: "rpc_pb2.LeaseGrantResponse") -> None:
        """One line."""
        self._tree(reply, ID=reply.ID, TTL=reply.TTL, Error=reply.error)

    def revoke(self, lease: int, reply: "rpc_pb2.LeaseRevokeResponse") -> None:
        """One line, of the answer itself."""
        self.printer.message(reply)

    def keep_alive(self, reply: "rpc_pb2.LeaseKeepAliveResponse") -> None:
        """One line."""
        self._tree(reply, ID=reply.ID, TTL=reply.TTL)

    def time_to_live(self, reply: "rpc_pb2.LeaseTimeToLiveResponse", keys: bool) -> None:
        """One line; no keys are null."""
        found = [base64.b64encode(key).decode() for key in reply.keys] or None
        fields = {"id": reply.ID, "ttl": reply.TTL, "granted-ttl": reply.grantedTTL, "keys": found}
        self._tree(reply, **fields)

    def leases(self, reply: "rpc_pb2.LeaseLeasesResponse") -> None:
        """One line."""
        self._tree(reply, leases=[{"id": one.ID} for one in reply.leases])


class FieldsLeases(LeasePrinter):
    """One `"Name" : value` per line."""

    def _fields(self, reply: Any, *fields: tuple[str, object]) -> None:
        assert isinstance(self.printer, FieldsPrinter)
        self.printer.header(reply.header)
        emit(*(f'"{name}" : {value}' for name, value in fields))

    def grant(self, reply: "rpc_pb2.LeaseGrantResponse") -> None:
        """Header, ID and TTL."""
        self._fields(reply, ("ID", reply.ID), ("TTL", reply.TTL))

    def revoke(self, lease: int, reply: "rpc_pb2.LeaseRevokeResponse") -> None:
        """The header."""
        self._fields(reply)

    def keep_alive(self, reply: "rpc_pb2.LeaseKeepAliveResponse") -> None:
        """Header, ID and TTL."""
        self._fields(reply, ("ID", reply.ID), ("TTL", reply.TTL))

    def time_to_live(self, reply: "rpc_pb2.LeaseTimeToLiveResponse", keys: bool) -> None:
        """Header, numbers, and a line per key."""
        self._fields(
            reply,
            ("ID", reply.ID),
            ("TTL", reply.TTL),
            ("GrantedTTL", reply.grantedTTL),
            *(("Key", gotext.quote(key)) for key in reply.keys),
        )

    def leases(self, reply: "rpc_pb2.LeaseLeasesResponse") -> None:
        """Header, and a line per lease."""
        self._fields(reply, *(("ID", one.ID) for one in reply.leases))


class ProtobufLeases(LeasePrinter):
    """The header's bytes."""

    def _other(self, reply: Any) -> None:
        self.printer.message(reply.header)

    def revoke(self, lease: int, reply: "rpc_pb2.LeaseRevokeResponse") -> None:
        """Errors: CtlError, always, in the words of Go's %v."""
        header = gotext.message_tree(reply.header)
        shown = "".join(f"{name}:{value} " for name, value in header.items())
        text = f"marshal unsupported for type clientv3.LeaseRevokeResponse ({{{shown} {{}} [] 0}})"
        raise CtlError(text, BAD_FEATURE)


_KINDS: Final[dict[str, type[LeasePrinter]]] = {
    "simple": SimpleLeases,
    "json": JsonLeases,
    "fields": FieldsLeases,
    ProtobufPrinter.name: ProtobufLeases,
}


def lease_printer(printer: Printer) -> LeasePrinter:
    """What prints about leases in the format of `printer`."""
    return _KINDS.get(printer.name, LeasePrinter)(printer)
