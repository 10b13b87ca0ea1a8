"""What raftctl may conclude and whom it trusts: outcomes, endpoints, passwords."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from raftkv.cli import server
from raftkv.cli.sources import load
from raftkv.errors import ConfigError
from tests.cli.running import raftctl
from tests.processes import free_ports
from tests.server.certificates import Authority

UNKNOWN_OUTCOME = "it may or may not have been carried out"
SECRET = "s3cret-word"


class AnyServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """Hears every unary call. holds: it keeps the calls and never answers them."""

    def __init__(
        self,
        *,
        holds: bool = False,
        status: tuple[grpc.StatusCode, str] | None = None,
        credentials: grpc.ServerCredentials | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.requests: list[bytes] = []
        self.metadata: list[dict[str, str]] = []
        self._released = threading.Event()
        self._holds = holds
        self.status = status
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool, options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self,))
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.endpoint = f"127.0.0.1:{port}"
        self._server.start()

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.removeprefix("/etcdserverpb.")

        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if method == "Cluster/MemberList":
                return b""  # `member add` reads the names that are taken, then writes
            self.calls.append(method)
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            if self._holds:
                self._released.wait(60)
            if self.status is not None:
                context.abort(*self.status)
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)

    def close(self) -> None:
        self._released.set()
        self._server.stop(None).wait()
        self._pool.shutdown()


@contextmanager
def serving(*servers: AnyServer) -> Iterator[str]:
    """The servers' endpoints as a flag's value; closes them."""
    try:
        yield ",".join(one.endpoint for one in servers)
    finally:
        for one in servers:
            one.close()


# --- outcomes -----------------------------------------------------------------------------

TXN = b'mod("k") = "0"\n\nput k v\n\n\n'
WRITES = [
    (["put", "k", "v"], "KV/Put"),
    (["del", "k"], "KV/DeleteRange"),
    (["txn"], "KV/Txn"),
    (["compaction", "5"], "KV/Compact"),
    (["member", "remove", "abc"], "Cluster/MemberRemove"),
    (["member", "promote", "abc"], "Cluster/MemberPromote"),
    (["member", "add", "n", "--peer-urls=http://127.0.0.1:1"], "Cluster/MemberAdd"),
]


@pytest.mark.parametrize(("argv", "method"), WRITES, ids=str)
def test_a_write_without_an_answer_in_time_is_not_repeated_and_called_unknown(
    argv: list[str], method: str
) -> None:
    """C01, C02: a transaction least of all, whose guard may have become false by itself."""
    slow, idle = AnyServer(holds=True), AnyServer()
    with serving(slow, idle) as endpoints:
        done = raftctl(["--endpoints", endpoints, "--command-timeout=2s", *argv], TXN)
    assert slow.calls == [method]
    assert idle.calls == []
    assert done.exit_code == 1
    assert done.out == b""
    assert UNKNOWN_OUTCOME in done.error_line


@pytest.mark.parametrize(("argv", "method"), WRITES, ids=str)
def test_a_write_that_timed_out_in_the_server_is_not_repeated(argv: list[str], method: str) -> None:
    """C01: it may still be carried out by the next leader."""
    status = (grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out")
    first, second = AnyServer(status=status), AnyServer()
    with serving(first, second) as endpoints:
        done = raftctl(["--endpoints", endpoints, *argv], TXN)
    assert first.calls == [method]
    assert second.calls == []
    assert done.exit_code == 1


def test_a_write_goes_past_an_endpoint_whose_name_has_no_address() -> None:
    """It was never sent; grpcio words that differently from release to release."""
    nowhere = "a" * 64  # too long for a label, so that no name server needs to be asked
    with serving(good := AnyServer()) as endpoint:
        done = raftctl(["--endpoints", f"{nowhere}:1,{endpoint}", "put", "k", "v"])
    assert done.exit_code == 0, done.err
    assert good.calls == ["KV/Put"]


NO_LEADER = (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")


def test_a_linearizable_read_leaves_an_endpoint_that_does_not_answer() -> None:
    """C11: a member in a minority says nothing for longer than a command may last; its own time
    limit is 5 s and two election timeouts, raftctl's is 5 s.
    """
    silent, good = AnyServer(holds=True), AnyServer()
    with serving(silent, good) as endpoints:
        done = raftctl(["--endpoints", endpoints, "--command-timeout=8s", "get", "k"])
    assert silent.calls == good.calls == ["KV/Range"]
    assert done.exit_code == 0, done.err


@pytest.mark.parametrize(("argv", "method"), WRITES, ids=str)
def test_a_write_asks_a_member_without_a_leader_to_say_so_and_goes_on(
    argv: list[str], method: str
) -> None:
    """C11: said at once it is definite, so the write may be sent to the next member."""
    minority, good = AnyServer(status=NO_LEADER), AnyServer()
    with serving(minority, good) as endpoints:
        raftctl(["--endpoints", endpoints, *argv], TXN)
    assert minority.calls == good.calls == [method]
    assert minority.metadata[0]["hasleader"] == "true"


def test_a_single_endpoint_and_a_serializable_read_need_no_leader() -> None:
    one, two = AnyServer(), AnyServer()
    with serving(one, two) as endpoints:
        assert raftctl(["--endpoints", one.endpoint, "put", "k", "v"]).exit_code == 0
        assert raftctl(["--endpoints", endpoints, "get", "k", "--consistency=s"]).exit_code == 0
    assert not any("hasleader" in one for one in one.metadata)


def test_an_election_under_way_is_waited_for() -> None:
    """C11: all members say that they know no leader; then there is one."""
    one, two = AnyServer(status=NO_LEADER), AnyServer(status=NO_LEADER)

    def elected() -> None:
        while len(two.calls) < 3:
            threading.Event().wait(0.01)
        two.status = None

    with serving(one, two) as endpoints:
        election = threading.Thread(target=elected)
        election.start()
        done = raftctl(["--endpoints", endpoints, "put", "k", "v"])
        election.join()
        two.status = NO_LEADER
        never = raftctl(["--endpoints", endpoints, "--command-timeout=3s", "put", "k", "v"])
    assert done.exit_code == 0, done.err
    assert never.exit_code == 1
    assert "etcdserver: no leader" in never.err


# --- whom it trusts -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Ours, and one that nobody was told to trust."""
    directory = tmp_path_factory.mktemp("authorities")
    return Authority(directory / "ours"), Authority(directory / "theirs")


def tls_server(authority: Authority, name: str) -> AnyServer:
    cert, key = authority.certificate(name)
    pair = (key.read_bytes(), cert.read_bytes())
    return AnyServer(credentials=grpc.ssl_server_credentials([pair]))


@pytest.mark.parametrize("argv", [["put", "k", SECRET], ["get", SECRET]])
def test_every_endpoint_must_prove_who_it_is(
    authorities: tuple[Authority, Authority], argv: list[str]
) -> None:
    """X11: the first of several is as untrusted as a single one, and hears nothing."""
    ours, theirs = authorities
    impostor, plain, real = tls_server(theirs, "node"), AnyServer(), tls_server(ours, "node")
    with serving(impostor, plain, real):
        listed = ",".join(f"https://{one.endpoint}" for one in (impostor, plain, real))
        flags = [f"--cacert={ours.ca}", "--dial-timeout=2s"]
        done = raftctl(["--endpoints", listed, *flags, *argv])
        alone = raftctl(
            [f"--endpoints=https://{impostor.endpoint}", flags[0], "--dial-timeout=300ms", *argv]
        )
    assert done.exit_code == 0, done.err
    assert len(real.calls) == 1
    assert impostor.calls == plain.calls == []
    assert alone.exit_code == 1
    assert "TLS handshake failed" in alone.err


@pytest.mark.parametrize(
    "status",
    [
        (grpc.StatusCode.UNIMPLEMENTED, "unknown service etcdserverpb.Auth"),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: authentication failed"),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader"),
        (grpc.StatusCode.INTERNAL, "boom"),
        None,
    ],
)
def test_a_password_goes_to_the_login_and_nowhere_else(
    status: tuple[grpc.StatusCode, str] | None,
) -> None:
    """X09: not to the outputs, whatever happens, nor to another call."""
    with serving(AnyServer(status=status)) as endpoint:
        done = raftctl(["--endpoints", endpoint, f"--user=root:{SECRET}", "put", "k", "v"])
    refused = raftctl(
        [
            f"--endpoints=127.0.0.1:{free_ports(1)[0]}",
            "--dial-timeout=200ms",
            *(f"--user=root:{SECRET}", "get", "k"),
        ]
    )
    assert refused.exit_code
    for outcome in (done, refused):
        assert SECRET not in outcome.err
        assert SECRET.encode() not in outcome.out


def test_a_password_is_sent_to_the_login_only() -> None:
    """X09."""
    with serving(listening := AnyServer()) as endpoint:
        raftctl(["--endpoints", endpoint, f"--user=root:{SECRET}", "put", "k", "v"])
    assert listening.calls[0] == "Auth/Authenticate"
    assert [SECRET.encode() in request for request in listening.requests] == [
        call == "Auth/Authenticate" for call in listening.calls
    ]


# --- a server that cannot check revocation says so ------------------------------------------


@pytest.mark.parametrize("flag", ["--client-crl-file", "--peer-crl-file"])
def test_a_revocation_list_as_a_flag_is_refused(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """X12: taken and ignored, it would let revoked certificates in."""
    assert server.run(["serve", f"{flag}=/some/list"]) == 2
    assert flag in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("client-transport-security", "client-crl-file"),
        ("peer-transport-security", "crl-file"),
        ("peer-transport-security", "client-crl-file"),
        ("client-transport-security", "allowed-cn"),
        ("peer-transport-security", "allowed-hostname"),
    ],
)
def test_a_check_of_certificates_that_is_not_offered_is_refused_in_a_file(
    tmp_path: Path, section: str, key: str
) -> None:
    """X12."""
    path = tmp_path / "raftkv.yaml"
    path.write_text(f"{section}:\n  {key}: /some/list\n")
    with pytest.raises(ConfigError, match=f"{key} is not offered"):
        load({"config-file": str(path)}, {})
