"""raftctl's output formats: simple, json, fields, table and protobuf.

Each format is a class with one method per kind of answer; a kind that a format
does not have ends the command with exit code 4, after the request was carried
out, as in etcdctl. Keys and values go out as the bytes they are. What is
printed is etcdctl 3.5's output to the byte, its oddities included (`--hex` has
an effect only on simple output and on `member list` in JSON, for instance).
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from raftkv.cli import gotext
from raftkv.cli.exits import BAD_FEATURE, CtlError

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from raftkv.pb import kv_pb2, rpc_pb2, v1_pb2


def emit(*parts: str | bytes) -> None:
    """Write parts to standard output, each followed by a line end."""
    out = b"".join(
        (part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part) + b"\n"
        for part in parts
    )
    sys.stdout.flush()
    sys.stdout.buffer.write(out)
    sys.stdout.buffer.flush()


@dataclass(frozen=True, slots=True)
class EndpointStatus:
    """One endpoint's answer to Maintenance.Status."""

    endpoint: str
    reply: "rpc_pb2.StatusResponse"


@dataclass(frozen=True, slots=True)
class EndpointHash:
    """One endpoint's answer to Maintenance.HashKV."""

    endpoint: str
    reply: "rpc_pb2.HashKVResponse"


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """Whether an endpoint carries out a linearizable read. `error` is empty if it does."""

    endpoint: str
    healthy: bool
    took_nanoseconds: int
    error: str


class Printer:
    """A format that has nothing; the others add what they have."""

    name = ""

    def __init__(self, hex_output: bool = False) -> None:
        self.hex_output = hex_output
        self.value_only = False

    def _refuse(self) -> None:
        raise CtlError(f"{self.name} not supported as output format", BAD_FEATURE)

    def message(self, reply: "Message") -> None:
        """Any answer, for the formats that print all of them alike."""
        self._refuse()

    def put(self, reply: "rpc_pb2.PutResponse") -> None:
        """Answer of `put`."""
        self.message(reply)

    def put_with_ttl(self, reply: "v1_pb2.PutWithTTLResponse") -> None:
        """Answer of `put --ttl`."""
        self.message(reply)

    def get(self, reply: "rpc_pb2.RangeResponse") -> None:
        """Answer of `get`."""
        self.message(reply)

    def delete(self, reply: "rpc_pb2.DeleteRangeResponse") -> None:
        """Answer of `del`."""
        self.message(reply)

    def txn(self, reply: "rpc_pb2.TxnResponse") -> None:
        """Answer of `txn`."""
        self.message(reply)

    def member_add(self, reply: "rpc_pb2.MemberAddResponse") -> None:
        """Answer of `member add`."""
        self.message(reply)

    def member_change(self, verb: str, member: int, reply: "Message") -> None:
        """Answer of `member remove`, `update` or `promote`; `verb` in the past tense."""
        self.message(reply)

    def member_list(self, reply: "rpc_pb2.MemberListResponse") -> None:
        """Answer of `member list`."""
        self.message(reply)

    def move_leader(self, old: int, new: int, reply: "rpc_pb2.MoveLeaderResponse") -> None:
        """Answer of `move-leader`."""
        self.message(reply)

    def endpoint_status(self, found: Sequence[EndpointStatus]) -> None:
        """Answers of `endpoint status`."""
        self._refuse()

    def endpoint_hashes(self, found: Sequence[EndpointHash]) -> None:
        """Answers of `endpoint hashkv`."""
        self._refuse()

    def endpoint_health(self, found: Sequence[EndpointHealth]) -> None:
        """Findings of `endpoint health`."""
        self._refuse()


# --- rows that simple and table share -----------------------------------------


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _status_row(one: EndpointStatus) -> list[str]:
    reply = one.reply
    return [
        one.endpoint,
        f"{reply.header.member_id:x}",
        reply.version,
        gotext.byte_size(reply.dbSize),
        _bool(reply.leader == reply.header.member_id),
        _bool(reply.isLearner),
        str(reply.raftTerm),
        str(reply.raftIndex),
        str(reply.raftAppliedIndex),
        ", ".join(reply.errors),
    ]


def _member_row(member: "rpc_pb2.Member") -> list[str]:
    return [
        f"{member.ID:x}",
        "started" if member.name else "unstarted",
        member.name,
        ",".join(member.peerURLs),
        ",".join(member.clientURLs),
        _bool(member.isLearner),
    ]


class SimplePrinter(Printer):
    """Lines for people and pipes."""

    name = "simple"

    def pair(self, pair: "kv_pb2.KeyValue") -> None:
        """Key and value on a line each."""
        shown = [pair.value] if self.value_only else [pair.key, pair.value]
        emit(*(gotext.hex_escaped(raw) if self.hex_output else raw for raw in shown))

    def put(self, reply: "rpc_pb2.PutResponse") -> None:
        """OK, then the previous pair if asked for."""
        emit("OK")
        if reply.HasField("prev_kv"):
            self.pair(reply.prev_kv)

    def put_with_ttl(self, reply: "v1_pb2.PutWithTTLResponse") -> None:
        """OK and the lease, then the previous pair if asked for."""
        emit("OK", f"lease {reply.lease:016x}")
        if reply.HasField("prev_kv"):
            self.pair(reply.prev_kv)

    def get(self, reply: "rpc_pb2.RangeResponse") -> None:
        """Key and value on a line each."""
        for pair in reply.kvs:
            self.pair(pair)

    def delete(self, reply: "rpc_pb2.DeleteRangeResponse") -> None:
        """How many were deleted, then the previous pairs if asked for."""
        emit(str(reply.deleted))
        for pair in reply.prev_kvs:
            self.pair(pair)

    def txn(self, reply: "rpc_pb2.TxnResponse") -> None:
        """SUCCESS or FAILURE, then each operation's answer behind an empty line."""
        emit("SUCCESS" if reply.succeeded else "FAILURE")
        for operation in reply.responses:
            emit("")
            _print_operation(self, operation)

    def member_add(self, reply: "rpc_pb2.MemberAddResponse") -> None:
        """One sentence."""
        emit(f"Member {reply.member.ID:16x} added to cluster {reply.header.cluster_id:16x}")

    def member_change(self, verb: str, member: int, reply: Any) -> None:
        """One sentence."""
        place = "from" if verb == "removed" else "in"
        emit(f"Member {member:16x} {verb} {place} cluster {reply.header.cluster_id:16x}")

    def member_list(self, reply: "rpc_pb2.MemberListResponse") -> None:
        """One line per member."""
        for member in reply.members:
            emit(", ".join(_member_row(member)))

    def move_leader(self, old: int, new: int, reply: "rpc_pb2.MoveLeaderResponse") -> None:
        """One sentence."""
        emit(f"Leadership transferred from {old:x} to {new:x}")

    def endpoint_status(self, found: Sequence[EndpointStatus]) -> None:
        """One line per endpoint."""
        for one in found:
            emit(", ".join(_status_row(one)))

    def endpoint_hashes(self, found: Sequence[EndpointHash]) -> None:
        """One line per endpoint."""
        for one in found:
            emit(f"{one.endpoint}, {one.reply.hash}")

    def endpoint_health(self, found: Sequence[EndpointHealth]) -> None:
        """One line per endpoint; the unhealthy ones on standard error."""
        for one in found:
            if one.error:
                print(
                    f"{one.endpoint} is unhealthy: failed to commit proposal: {one.error}",
                    file=sys.stderr,
                )
            else:
                took = gotext.duration(one.took_nanoseconds)
                emit(f"{one.endpoint} is healthy: successfully committed proposal: took = {took}")


def _print_operation(printer: Printer, operation: "rpc_pb2.ResponseOp") -> None:
    kind = operation.WhichOneof("response")
    if kind == "response_put":
        printer.put(operation.response_put)
    elif kind == "response_range":
        printer.get(operation.response_range)
    elif kind == "response_delete_range":
        printer.delete(operation.response_delete_range)
    elif kind == "response_txn":
        printer.txn(operation.response_txn)


def _endpoint_trees(
    key: str, found: Iterable[EndpointStatus | EndpointHash]
) -> list[dict[str, object]]:
    return [{"Endpoint": one.endpoint, key: gotext.message_tree(one.reply)} for one in found]


class JsonPrinter(Printer):
    """Go's encoding/json of the answer: int64 as numbers, bytes as base64."""

    name = "json"

    def message(self, reply: "Message") -> None:
        """One line."""
        emit(gotext.json_text(gotext.message_tree(reply)))

    def member_list(self, reply: "rpc_pb2.MemberListResponse") -> None:
        """With --hex: ids as hexadecimal text."""
        if not self.hex_output:
            self.message(reply)
            return
        header = gotext.message_tree(reply.header)
        for name in ("cluster_id", "member_id"):
            header[name] = f"{header.get(name, 0):x}"
        members = [
            {
                "ID": f"{member.ID:x}",
                "name": member.name,
                "peerURLs": list(member.peerURLs) or None,
                "clientURLS": list(member.clientURLs) or None,
            }
            for member in reply.members
        ]
        emit(gotext.json_text({"header": header, "members": members}))

    def endpoint_status(self, found: Sequence[EndpointStatus]) -> None:
        """One array."""
        emit(gotext.json_text(_endpoint_trees("Status", found) or None))

    def endpoint_hashes(self, found: Sequence[EndpointHash]) -> None:
        """One array."""
        emit(gotext.json_text(_endpoint_trees("HashKV", found)))

    def endpoint_health(self, found: Sequence[EndpointHealth]) -> None:
        """One array."""
        rows = []
        for one in found:
            row = {
                "endpoint": one.endpoint,
                "health": one.healthy,
                "took": gotext.duration(one.took_nanoseconds),
            }
            rows.append(row | {"error": one.error} if one.error else row)
        emit(gotext.json_text(rows))


class FieldsPrinter(Printer):
    """One `"Name" : value` per line."""

    name = "fields"

    def header(self, header: "rpc_pb2.ResponseHeader") -> None:
        """Four lines, before everything else."""
        emit(
            f'"ClusterID" : {header.cluster_id}',
            f'"MemberID" : {header.member_id}',
            f'"Revision" : {header.revision}',
            f'"RaftTerm" : {header.raft_term}',
        )

    def pair(self, prefix: str, pair: "kv_pb2.KeyValue") -> None:
        """All fields of a pair; `prefix` stands before their names."""
        emit(
            f'"{prefix}Key" : {gotext.quote(pair.key)}',
            f'"{prefix}CreateRevision" : {pair.create_revision}',
            f'"{prefix}ModRevision" : {pair.mod_revision}',
            f'"{prefix}Version" : {pair.version}',
            f'"{prefix}Value" : {gotext.quote(pair.value)}',
            f'"{prefix}Lease" : {pair.lease}',
        )

    def put(self, reply: "rpc_pb2.PutResponse") -> None:
        """Header and the previous pair if asked for."""
        self.header(reply.header)
        if reply.HasField("prev_kv"):
            self.pair("Prev", reply.prev_kv)

    def put_with_ttl(self, reply: "v1_pb2.PutWithTTLResponse") -> None:
        """Header, Lease and the previous pair if asked for."""
        self.header(reply.header)
        emit(f'"Lease" : {reply.lease}')
        if reply.HasField("prev_kv"):
            self.pair("Prev", reply.prev_kv)

    def get(self, reply: "rpc_pb2.RangeResponse") -> None:
        """Header, pairs, More and Count."""
        self.header(reply.header)
        for pair in reply.kvs:
            self.pair("", pair)
        emit(f'"More" : {_bool(reply.more)}', f'"Count" : {reply.count}')

    def delete(self, reply: "rpc_pb2.DeleteRangeResponse") -> None:
        """Header, Deleted and the previous pairs if asked for."""
        self.header(reply.header)
        emit(f'"Deleted" : {reply.deleted}')
        for pair in reply.prev_kvs:
            self.pair("Prev", pair)

    def txn(self, reply: "rpc_pb2.TxnResponse") -> None:
        """Header, Succeeded and each operation's answer."""
        self.header(reply.header)
        emit(f'"Succeeded" : {_bool(reply.succeeded)}')
        for operation in reply.responses:
            _print_operation(self, operation)

    def member_list(self, reply: "rpc_pb2.MemberListResponse") -> None:
        """Header, then each member in front of an empty line."""
        self.header(reply.header)
        for member in reply.members:
            emit(
                f'"ID" : {member.ID}',
                f'"Name" : {gotext.quote(member.name.encode())}',
                *(f'"PeerURL" : {gotext.quote(url.encode())}' for url in member.peerURLs),
                *(f'"ClientURL" : {gotext.quote(url.encode())}' for url in member.clientURLs),
                f'"IsLearner" : {_bool(member.isLearner)}',
                "",
            )

    def endpoint_status(self, found: Sequence[EndpointStatus]) -> None:
        """Each endpoint in front of an empty line."""
        for one in found:
            self.header(one.reply.header)
            emit(
                f'"Version" : {gotext.quote(one.reply.version.encode())}',
                f'"DBSize" : {one.reply.dbSize}',
                f'"Leader" : {one.reply.leader}',
                f'"IsLearner" : {_bool(one.reply.isLearner)}',
                f'"RaftIndex" : {one.reply.raftIndex}',
                f'"RaftTerm" : {one.reply.raftTerm}',
                f'"RaftAppliedIndex" : {one.reply.raftAppliedIndex}',
                f'"Errors" : [{" ".join(one.reply.errors)}]',
                f'"Endpoint" : {gotext.quote(one.endpoint.encode())}',
                "",
            )

    def endpoint_hashes(self, found: Sequence[EndpointHash]) -> None:
        """Each endpoint in front of an empty line."""
        for one in found:
            self.header(one.reply.header)
            emit(
                f'"Endpoint" : {gotext.quote(one.endpoint.encode())}',
                f'"Hash" : {one.reply.hash}',
                "",
            )

    def endpoint_health(self, found: Sequence[EndpointHealth]) -> None:
        """Each endpoint in front of an empty line."""
        for one in found:
            emit(
                f'"Endpoint" : {gotext.quote(one.endpoint.encode())}',
                f'"Health" : {_bool(one.healthy)}',
                f'"Took" : {gotext.duration(one.took_nanoseconds)}',
                f'"Error" : {one.error}',
                "",
            )


class TablePrinter(Printer):
    """Tables, for what has rows."""

    name = "table"

    def _table(self, headings: str, rows: Sequence[Sequence[str]]) -> None:
        from raftkv.cli import table

        sys.stdout.write(table.render(headings.split("|"), rows))
        sys.stdout.flush()

    def member_list(self, reply: "rpc_pb2.MemberListResponse") -> None:
        """A row per member."""
        rows = [_member_row(member) for member in reply.members]
        self._table("ID|STATUS|NAME|PEER ADDRS|CLIENT ADDRS|IS LEARNER", rows)

    def endpoint_status(self, found: Sequence[EndpointStatus]) -> None:
        """A row per endpoint."""
        headings = (
            "ENDPOINT|ID|VERSION|DB SIZE|IS LEADER|IS LEARNER|"
            "RAFT TERM|RAFT INDEX|RAFT APPLIED INDEX|ERRORS"
        )
        self._table(headings, [_status_row(one) for one in found])

    def endpoint_hashes(self, found: Sequence[EndpointHash]) -> None:
        """A row per endpoint."""
        self._table("ENDPOINT|HASH", [(one.endpoint, str(one.reply.hash)) for one in found])

    def endpoint_health(self, found: Sequence[EndpointHealth]) -> None:
        """A row per endpoint."""
        rows = [
            (one.endpoint, _bool(one.healthy), gotext.duration(one.took_nanoseconds), one.error)
            for one in found
        ]
        self._table("ENDPOINT|HEALTH|TOOK|ERROR", rows)


class ProtobufPrinter(Printer):
    """The answer's bytes."""

    name = "protobuf"

    def message(self, reply: "Message") -> None:
        """Without a line end."""
        sys.stdout.flush()
        sys.stdout.buffer.write(reply.SerializeToString())
        sys.stdout.buffer.flush()


PRINTERS: Final = (SimplePrinter, JsonPrinter, FieldsPrinter, TablePrinter, ProtobufPrinter)


def printer_for(name: str, hex_output: bool) -> Printer:
    """The printer of a --write-out name. Errors: CtlError for an unknown one."""
    for kind in PRINTERS:
        if kind.name == name:
            return kind(hex_output)
    raise CtlError("unsupported output format", BAD_FEATURE)
