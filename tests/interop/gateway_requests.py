"""Some hundred requests for the JSON gateway, valid and not, that leave any two servers alike."""

import base64
import json
from collections.abc import Iterator
from typing import Any

from raftkv.pb import rpc_pb2
from tests.server.http.asking import request

A = "YQ=="


def b64(text: str) -> str:
    """Text as the gateway wants bytes."""
    return base64.b64encode(text.encode()).decode()


# Every kind of value, for every field.
VALUES = (
    *('"x"', "5", "-1", "1.5", "1e2", "true", "[]", "[1]", "[null]", "{}", '"5"', '""', "null"),
    *(
        "99999999999999999999",
        '"$$"',
        '"YWI="',
        '"1.0"',
        '" 7"',
        '"true"',
        '["x"]',
        "-0",
        "4294967296",
    ),
)
# For enums besides.
NAMES = ('"ASCEND"', '"ascend"', '"NOPUT"', '"GREATER"', '"VALUE"', '"<&>"')

# Path, message, a valid body to put the field into.
FIELDS: tuple[tuple[str, Any, dict[str, Any]], ...] = (
    ("kv/range", rpc_pb2.RangeRequest, {"key": A}),
    ("kv/put", rpc_pb2.PutRequest, {"key": A, "value": A}),
    ("kv/deleterange", rpc_pb2.DeleteRangeRequest, {"key": b64("none")}),
    ("kv/txn", rpc_pb2.TxnRequest, {}),
    ("kv/compaction", rpc_pb2.CompactionRequest, {"revision": 0}),
    ("lease/revoke", rpc_pb2.LeaseRevokeRequest, {"ID": 99}),
    ("lease/timetolive", rpc_pb2.LeaseTimeToLiveRequest, {"ID": 99}),
    ("cluster/member/add", rpc_pb2.MemberAddRequest, {"peerURLs": ["bad url"]}),
    ("cluster/member/remove", rpc_pb2.MemberRemoveRequest, {"ID": 1}),
    ("cluster/member/promote", rpc_pb2.MemberPromoteRequest, {"ID": 1}),
)


def harmful(field: Any) -> tuple[str, ...]:
    """Left out: mostly what etcd 3.5.1 panics over (nothing in a list, unknown enum numbers)."""
    if field.message_type is not None:
        return ("[null]",)
    if field.type == field.TYPE_UINT64:
        return ("-0",)  # which raftkv takes for 0
    return ("5", "-1") if field.enum_type is not None else ()


def fields() -> Iterator[tuple[str, str]]:
    """Path and body: each field of some messages with each kind of value."""
    for path, message, valid in FIELDS:
        for field in message.DESCRIPTOR.fields:
            values = VALUES + (NAMES if field.enum_type is not None else ())
            for value in values:
                if value in harmful(field):
                    continue
                rest = {name: one for name, one in valid.items() if name != field.name}
                body = json.dumps(rest)[:-1] + (", " if rest else "")
                yield path, f'{body}"{field.name}":{value}}}'


def compares() -> Iterator[tuple[str, str]]:
    """Path and body: each field of a comparison with each kind of value."""
    for field in rpc_pb2.Compare.DESCRIPTOR.fields:
        for value in (*VALUES, *NAMES):
            if value in harmful(field):
                continue
            yield "kv/txn", f'{{"compare":[{{"key":"{A}","{field.name}":{value}}}]}}'


def puts() -> Iterator[tuple[str, str]]:
    """Keys to find."""
    for name in ("a", "b", "c", "d/1", "d/2", "<&>"):
        for value in ("first", "second"):
            yield "kv/put", json.dumps({"key": b64(name), "value": b64(value)})


def ranges() -> Iterator[tuple[str, str]]:
    """Reads in every way."""
    everything = {"key": "AA==", "range_end": "AA=="}
    extras: tuple[dict[str, Any], ...] = (
        *({"limit": 2}, {"limit": "2"}, {"limit": 100}, {"count_only": True}, {"keysOnly": True}),
        *(
            {"sort_order": "DESCEND"},
            {"sortOrder": 2, "sortTarget": "MOD"},
            {"sort_target": "VALUE"},
        ),
        *({"revision": 5}, {"revision": "9999"}, {"revision": -1}, {"serializable": True}),
        *({"min_mod_revision": 4, "max_mod_revision": "8"}, {"minCreateRevision": 6}),
        *({"max_create_revision": 3}, {"rangeEnd": b64("c")}, {"range_end": ""}, {"unknown": [{}]}),
    )
    for extra in extras:
        yield "kv/range", json.dumps(everything | extra)


def txns() -> Iterator[tuple[str, str]]:
    """Transactions, also nested ones and ones that are refused."""
    get = {"request_range": {"key": A}}
    put = {"requestPut": {"key": A, "value": b64("txn"), "prev_kv": True}}
    delete = {"request_delete_range": {"key": b64("c"), "prevKv": True}}
    nested = {"request_txn": {"compare": [], "success": [get, put], "failure": [delete]}}
    for compare in (
        {"target": "VALUE", "key": A, "value": b64("second")},
        {"target": "VERSION", "key": A, "version": "0"},
        {"target": "CREATE", "result": "LESS", "key": A, "create_revision": 100},
        {"target": "MOD", "result": 3, "key": A, "modRevision": "1"},
        {"target": "LEASE", "key": A, "lease": 0, "range_end": b64("z")},
    ):
        yield "kv/txn", json.dumps({"compare": [compare], "success": [get], "failure": [delete]})
    operations: list[Any]
    for operations in (
        [get, put, get],
        [nested],
        [put, put],
        [delete, get],
        [{}],
        [nested, nested],
    ):
        yield "kv/txn", json.dumps({"success": operations})
    yield "kv/txn", json.dumps({"success": [get] * 200})


def leases() -> Iterator[tuple[str, str]]:
    """Leases and keys on them."""
    yield "lease/grant", '{"ID":77,"TTL":"100"}'
    yield "lease/grant", '{"ID":77,"TTL":100}'
    yield "lease/grant", '{"TTL":99999999999}'
    yield "kv/put", json.dumps({"key": b64("leased"), "value": A, "lease": "77"})
    yield "kv/put", json.dumps({"key": b64("leased"), "value": A, "lease": "78"})
    yield "kv/put", json.dumps({"key": b64("leased"), "ignore_value": True, "ignoreLease": True})
    for path in ("lease/leases", "kv/lease/leases"):
        yield path, ""
    yield "kv/lease/timetolive", '{"ID":"78"}'
    for body in (
        '{"ID":78}',
        '{"ID":78}{"ID":79}',
        "",
        "{}",
        '{"ID":78}x',
        "x",
        '{"ID":"x"}',
        "[]",
    ):
        yield "lease/keepalive", body
    yield "kv/lease/revoke", '{"ID":77}'
    yield "lease/revoke", '{"ID":77}'


def others() -> Iterator[tuple[str, str]]:
    """The other services, as far as their answers are the same on any two servers."""
    for body in ("", "{}", '{"action":"GET"}', '{"action":0}', '{"action":"x"}', '{"alarm":1.5}'):
        yield "maintenance/alarm", body
    yield "maintenance/transfer-leadership", '{"targetID":1}'
    for method in ("lock/unlock", "election/leader", "election/resign", "election/proclaim"):
        yield method, ""
        yield method, '{"name":"YQ=="}'
        yield method, '{"name":"Y"}'
        yield method, '{"leader":{"name":"YQ==","key":"YQ=="}}'
    yield "lock/lock", '{"name":"YQ==","lease":12}'
    yield "election/campaign", '{"name":"YQ==","lease":12}'
    yield "election/observe", '{"name":"Y"}'
    yield "maintenance/snapshot", "x"
    yield "kv/compaction", '{"revision":3}'
    yield "kv/compaction", '{"revision":3,"physical":true}'
    yield "kv/compaction", '{"revision":99999}'
    yield "kv/range", json.dumps({"key": A, "revision": 2})


MALFORMED = (
    *("", " ", "{}", "[]", '"a"', "5", "-", "01", "null", "nul", "nulx", "true", "x", "'", "é"),
    *("\x01", "{", "{a", '{"a', '{"a"', '{"a" 1', '{"a":', '{"a":}', '{"a":1', '{"a":1,'),
    *('{"a":1,}', '{"a":1 "', "[1 2]", "[1,]", '{"key":"\\x"}', '{"key":"\\u12g4"}', '{"key":1.}'),
    *('{"key":"\n"}', '{"key":1e}', '{"key":-x}', '{"key":00}', '{"key":NaN}', '{"key":tru}'),
    *('{"key":Infinity}', "{}{}", "{} x", '{"key":"YQ=="} x', '{"key":"YQ","key":"YQ=="}'),
    *('{"KEY":"YQ=="}', '{"Key":"YQ=="}', "\ufeff{}"),
    *('{"key":"YQ"}', '{"key":"Y==="}', '{"key":"="}', '{"key":"YW-_"}', '{"key":"YQ\\n=="}'),
    *('{"key":"YWJj="}', '{"key":"YQ==YQ=="}', '{"key":"YQ=\\u003d"}', '{"key":"\\ud800"}'),
    *('{"key":[1,2]}', '{"key":[256]}', '{"key":["a"]}', '{"key":[1.5]}', '{"limit":"\\"5\\""}'),
)  # fmt: skip


def malformed() -> Iterator[tuple[str, str]]:
    """Bodies that are no JSON, or not the right one."""
    for body in MALFORMED:
        yield "kv/range", body
        if is_refused(body):
            yield "watch", body
            yield "election/observe", body


def is_refused(body: str) -> bool:
    """Whether a body is no message whatever the method is; streams take all others."""
    try:
        value, _ = json.JSONDecoder().raw_decode(body.lstrip())
    except ValueError:
        return bool(body.strip())
    return not isinstance(value, dict | None)


def pages() -> Iterator[bytes]:
    """What is not the gateway, or not quite."""
    for method in ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
        for path in ("/health", "/v3/kv/range", "/v3/nope", "/nope", "/"):
            yield request(path, method=method)
    for path in (
        *(
            "/v3",
            "/v3/",
            "/v3/kv",
            "/v3alpha/kv/range",
            "/v3beta/kv/range",
            "/v3beta",
            "/v3/kv/range/",
        ),
        *(
            "//v3/kv/range",
            "/v3/kv/../kv/range",
            "/v3/./kv/range",
            "/v3/kv/range?key=YQ==",
            "/v3//kv",
        ),
        *("/v3/kv/rang%65", "/v3/kv/range:x", "/health/", "/v2/keys/", "/members", "/health?x=1"),
        *(
            "/health?serializable=true",
            "/health?exclude=NOSPACE&exclude=x",
            "/health#x",
            "/version/",
        ),
        *("/debug", "/debug/", "/debug/vars/", "/debug/vars/x", "/debug/requests"),
        *(
            "/debug/pprof",
            "/debug/pprof/",
            "/debug/pprof/cmdline",
            "/debug/pprof/profile?seconds=1",
        ),
        *(
            "/a/../health?x=y",
            "/v3/../health",
            "/etcdserverpb.KV/Range",
            "/..",
            "/v3/..",
            "/v3/kv/%2e",
        ),
    ):
        yield request(path, method="GET")
        yield request(path, '{"key":"YQ=="}')
    for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS"):
        yield request("/debug/vars", method=method)
    body = '{"key":"YQ=="}'
    for headers in (
        *(
            "Origin: http://other\r\n",
            "TE: trailers\r\n",
            "Accept-Encoding: gzip\r\n",
            "Accept: */*\r\n",
        ),
        *("Content-Type: text/xml\r\n", "Grpc-Timeout: 1n\r\n", "Grpc-Timeout: foo\r\n"),
        *("Grpc-Timeout: 10S\r\n", "Grpc-Metadata-Hasleader: true\r\n", "Connection: close\r\n"),
        *(
            "X-HTTP-Method-Override: GET\r\n",
            "Expect: 100-continue\r\n",
            "Connection: keep-alive\r\n",
        ),
    ):
        yield request("/v3/kv/range", body, headers=headers)
        yield request("/health", method="GET", headers=headers)
    yield request("/health", method="GET", headers="Expect: something\r\n")
    chunks = b"7\r\n" + body[:7].encode() + b"\r\n7;x=y\r\n" + body[7:].encode() + b"\r\n0\r\n"
    start = b"POST /v3/kv/range HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield start + chunks + b"\r\n"
    yield start + chunks + b"Trailer: x\r\n\r\n"
    yield start.replace(b"chunked", b"gzip") + chunks + b"\r\n"
    yield b"GET /health HTTP/1.0\r\n\r\n"
    yield b"GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    yield b"POST /v3/kv/range HTTP/1.0\r\nContent-Length: 14\r\n\r\n" + body.encode()
    yield b"GET http://other/health HTTP/1.1\r\nHost: x\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost x\r\n\r\n"
    yield b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"
    for length in (b"x", b"-1", b"14\r\nContent-Length: 15"):
        yield start.replace(b"Transfer-Encoding: chunked", b"Content-Length: " + length) + b"{}"
    yield request("/v3/kv/put", json.dumps({"key": A, "value": "YWJj" * 750_000}))
    yield request("/v3/kv/put", json.dumps({"key": A, "value": "YWJj" * 550_000}))
    yield request("/health", method="GET", headers="A: " + "a" * 40_000 + "\r\n")
