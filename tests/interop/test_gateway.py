"""The JSON gateway beside etcd's: the same bytes to both, the answers compared byte for byte."""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import processes
from tests.interop import gateway_requests as requests
from tests.server.http.asking import Answer, Wire, get, request

pytestmark = pytest.mark.slow

_IDENTITY = re.compile(rb'"(cluster_id|member_id)":"\d+"')
_DRAWN = re.compile(rb'"lease":"\d{10,}"')  # an id that a server drew
_TERM = re.compile(rb'"raft_term":"\d+"')
# What may differ without harm: the time, and a length that depends on the ids.
_OWN = ("date", "content-length")


class Pair(NamedTuple):
    """Client ports of two servers that have been told the same from their beginnings."""

    etcd: int
    raftkv: int


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """New ones for each test: what one leaves behind, such as leases of drawn ids, would differ."""
    with (
        processes.etcd(tmp_path / "etcd", "--unsafe-no-fsync") as etcd,
        processes.raftkv(tmp_path / "raftkv", 1, "--cors=*") as raftkv,
    ):
        yield Pair(etcd.servers[0].client_port, raftkv.servers[0].client_port)


def same(body: bytes) -> bytes:
    """A body without what tells two clusters apart."""
    return _DRAWN.sub(b"LEASE", _TERM.sub(b"TERM", _IDENTITY.sub(rb'"\1":"N"', body)))


def compared(answer: Answer) -> tuple[str, dict[str, str], bytes]:
    headers = {name: value for name, value in answer.headers.items() if name not in _OWN}
    return answer.status, headers, same(answer.body)


class Asker:
    """Sends requests over one connection as long as it lives, else over a new one."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._wire: Wire | None = None

    def ask(self, data: bytes) -> Answer:
        """The answer to one request."""
        wire = self._wire or Wire(self._port)
        wire.send(data)
        answer = wire.answer(data.split(b" ", 1)[0].decode("latin-1"))
        closes = answer.headers.get("connection") == "close"
        kept = not closes and b"HTTP/1.0" not in data and answer.code < 500
        if not kept:
            wire.close()
        self._wire = wire if kept else None
        return answer

    def close(self) -> None:
        """Closes the connection."""
        if self._wire is not None:
            self._wire.close()


def differences(pair: Pair, asked: Iterable[bytes]) -> list[str]:
    """One text for each request that the two answer differently. There are some, at least."""
    found, count = [], 0
    askers = Asker(pair.etcd), Asker(pair.raftkv)
    for data in asked:
        theirs, ours = (compared(asker.ask(data)) for asker in askers)
        count += 1
        if theirs != ours:
            found.append(f"{data[:300]!r}\n  etcd   {theirs!r:.600}\n  raftkv {ours!r:.600}")
    for asker in askers:
        asker.close()
    assert count
    return found


def calls(paths: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    for path, body in paths:
        yield request(f"/v3/{path}", body)


@pytest.mark.parametrize(
    "group",
    [
        requests.puts,
        requests.ranges,
        requests.txns,
        requests.leases,
        requests.malformed,
        requests.fields,
        requests.compares,
        requests.others,
    ],
    ids=lambda group: str(group.__name__),
)
def test_every_call_is_answered_as_by_etcd(pair: Pair, group: object) -> None:
    assert callable(group)
    assert not differences(pair, calls(group()))


def test_every_page_is_answered_as_by_etcd(pair: Pair) -> None:
    assert not differences(pair, requests.pages())


def test_variables_have_etcds_names_and_the_raft_status_its_form(pair: Pair) -> None:
    answers = [get(port, "/debug/vars") for port in pair]
    assert len({(one.status, one.headers["content-type"]) for one in answers}) == 1
    theirs, ours = (json.loads(one.body) for one in answers)
    assert list(ours) == list(theirs)
    assert ours["file_descriptor_limit"] == theirs["file_descriptor_limit"]
    assert _form(ours["raft.status"]) == _form(theirs["raft.status"])


def _form(status: dict[str, Any]) -> list[object]:
    """Of a member that is alone: names, words and what is which member; no numbers."""
    own = status["id"]
    assert re.fullmatch("[0-9a-f]{9,16}", own)
    assert list(status["progress"]) == [own]
    form: list[object] = []
    for name, value in [*status.items(), *status["progress"][own].items()]:
        shown = "own" if value == own else value
        form += [name, shown if isinstance(shown, str) else type(shown)]
    return form


def test_there_are_some_hundred_requests() -> None:
    groups = (requests.fields, requests.compares, requests.malformed, requests.ranges)
    assert sum(1 for group in groups for _ in group()) > 500


# --- streams ----------------------------------------------------------------------


def stream(port: int, data: bytes, messages: int) -> tuple[str, dict[str, str], list[bytes]]:
    """The head of a stream's answer and its first chunks."""
    with Wire(port) as wire:
        wire.send(data)
        status, headers = wire.head()
        headers.pop("date")
        return status, headers, [same(wire.chunk()) for _ in range(messages)]


WATCH = '{"create_request":{"key":"d2F0Y2g=","range_end":"d2F0Y2g5","start_revision":1%s}}'


@pytest.mark.parametrize(
    ("path", "body", "messages"),
    [
        ("watch", WATCH % "", 2),
        ("watch", WATCH % ',"prev_kv":true,"filters":["NODELETE"]', 2),
        ("watch", WATCH % ',"watch_id":"7"' + WATCH % ',"watch_id":7', 2),
        ("watch", '{"create_request":{"key":"eA=="}}{"progress_request":{}}', 2),
        ("watch", '{"create_request":{"key":"eA=="}}{"cancel_request":{"watch_id":0}}', 2),
        ("watch", '{"create_request":{"key":"eA=="}}nonsense', 1),
        ("watch", '{"create_request":{"key":"Yg==","range_end":"YQ=="}}', 1),
        ("lease/keepalive", '{"ID":5}\n{"ID":"6"} {}', 4),
        ("lease/keepalive", "", 1),
    ],
)
def test_streams_are_answered_as_by_etcd(pair: Pair, path: str, body: str, messages: int) -> None:
    put = request("/v3/kv/put", '{"key":"d2F0Y2gx","value":"dg=="}')
    delete = request("/v3/kv/deleterange", '{"key":"d2F0Y2gx"}')
    assert not differences(pair, [put, put, delete])
    data = request(f"/v3/{path}", body)
    theirs = stream(pair.etcd, data, messages)
    for _ in range(5):  # what has just happened may be told in two messages
        if (ours := stream(pair.raftkv, data, messages)) == theirs:
            break
    assert theirs == ours


def test_a_watch_tells_events_when_they_happen_and_ends_at_its_deadline(pair: Pair) -> None:
    seen = []
    for port in pair:
        body = '{"create_request":{"key":"bmV3"}}'
        with Wire(port) as wire:
            wire.send(request("/v3/watch", body, headers="Grpc-Timeout: 2S\r\n"))
            status, _ = wire.head()
            chunks = [wire.chunk()]
            with Wire(port) as writer:
                writer.send(request("/v3/kv/put", '{"key":"bmV3","value":"dg=="}'))
                assert writer.answer().code == 200
            chunks += list(iter(wire.chunk, b""))
            seen.append((status, [same(chunk) for chunk in chunks]))
    (status, theirs), (our_status, ours) = seen
    assert (status, theirs[:-1]) == (our_status, ours[:-1])
    assert b"context deadline exceeded" in theirs[-1]  # its code is 4 mostly, sometimes 2
    assert ours[-1].startswith(b'{"error":{"grpc_code":4,"http_code":504,')
