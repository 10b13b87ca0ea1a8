"""raftctl over TLS and with a login, against a real etcd."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import Outcome, etcdctl, raftctl
from tests.processes import ETCD, etcd, free_ports

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="certificates are made with openssl"
)


def _openssl(directory: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=directory, check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA and, signed by it, one certificate for 127.0.0.1 that serves both sides."""
    directory = tmp_path_factory.mktemp("certificates")
    new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    _openssl(directory, *new, "-x509", "-subj=/CN=ca", "-keyout=ca.key", "-out=ca.pem")
    _openssl(directory, *new, "-subj=/CN=node", "-keyout=node.key", "-out=node.csr")
    (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:node.test\n")
    sign = ("x509", "-req", "-in=node.csr", "-CA=ca.pem", "-CAkey=ca.key", "-CAcreateserial")
    _openssl(directory, *sign, "-extfile=names", "-out=node.pem")
    return directory


@pytest.fixture(scope="module")
def tls_endpoint(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An etcd that demands client certificates."""
    client, peer = free_ports(2)
    process = subprocess.Popen(
        [
            *(str(ETCD), "--log-level=error"),
            f"--data-dir={tmp_path_factory.mktemp('tls') / 'data'}",
            f"--listen-client-urls=https://127.0.0.1:{client}",
            f"--advertise-client-urls=https://127.0.0.1:{client}",
            f"--listen-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
            f"--initial-cluster=default=http://127.0.0.1:{peer}",
            f"--cert-file={certificates / 'node.pem'}",
            f"--key-file={certificates / 'node.key'}",
            f"--trusted-ca-file={certificates / 'ca.pem'}",
            "--client-cert-auth",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{client}"
    finally:
        process.kill()
        process.wait()


def _flags(certificates: Path, *names: str) -> list[str]:
    files = {"cacert": "ca.pem", "cert": "node.pem", "key": "node.key"}
    return [f"--{name}={certificates / files[name]}" for name in names]


def test_certificates_open_a_tls_connection_with_or_without_scheme(
    tls_endpoint: str, certificates: Path
) -> None:
    flags = _flags(certificates, "cacert", "cert", "key")
    waiting = ["--dial-timeout=10s", "--command-timeout=15s"]  # the server may just be starting
    assert raftctl(["--endpoints", tls_endpoint, *flags, *waiting, "put", "t", "1"]).out == b"OK\n"
    https = ["--endpoints", f"https://{tls_endpoint}", *flags]
    assert raftctl([*https, "get", "t"]).out == b"t\n1\n"
    assert etcdctl([*https, "get", "t"]).out == b"t\n1\n"


def test_a_server_signed_by_an_unknown_ca_is_refused_unless_verification_is_off(
    tls_endpoint: str, certificates: Path
) -> None:
    pair = _flags(certificates, "cert", "key")
    base = ["--endpoints", f"https://{tls_endpoint}", *pair]
    refused = raftctl([*base, "--dial-timeout=2s", "get", "t"])
    assert refused.exit_code == 1
    assert len(refused.err.splitlines()) == 1
    assert "TLS handshake failed" in refused.err
    waiting = ["--dial-timeout=20s", "--command-timeout=20s"]
    assert raftctl([*base, *waiting, "--insecure-skip-tls-verify", "get", "t"]).exit_code == 0


def test_a_missing_certificate_file_is_refused_as_etcdctl_does(tls_endpoint: str) -> None:
    argv = ["--endpoints", f"https://{tls_endpoint}", "--cacert=/none", "get", "t"]
    ours, theirs = raftctl(argv), etcdctl(argv)
    assert ours.exit_code == theirs.exit_code == 128
    assert ours.error_line == theirs.error_line


@pytest.fixture(scope="module")
def guarded_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An etcd with authentication on; user root has the password secret."""
    with etcd(tmp_path_factory.mktemp("auth")) as cluster:
        base = ["--endpoints", cluster.endpoints]
        assert etcdctl([*base, "user", "add", "root:secret"]).exit_code == 0
        assert etcdctl([*base, "user", "grant-role", "root", "root"]).exit_code == 0
        assert etcdctl([*base, "auth", "enable"]).exit_code == 0
        yield cluster.endpoints


@pytest.mark.parametrize(
    "login",
    [["--user=root:secret"], ["--user=root", "--password=secret"], ["--user=root:wrong"], []],
)
def test_a_login_opens_and_closes_what_it_does_with_etcdctl(
    guarded_endpoint: str, login: list[str]
) -> None:
    argv = ["--endpoints", guarded_endpoint, *login]

    def both(*command: str) -> tuple[Outcome, Outcome]:
        return raftctl([*argv, *command]), etcdctl([*argv, *command])

    for command in (("put", "k", "v"), ("get", "k"), ("endpoint", "hashkv")):
        ours, theirs = both(*command)
        assert (ours.exit_code, ours.out) == (theirs.exit_code, theirs.out)
        assert ours.error_line == theirs.error_line


def test_a_closed_key_does_not_make_a_member_unhealthy(guarded_endpoint: str) -> None:
    argv = ["--endpoints", guarded_endpoint, "endpoint", "health"]
    assert raftctl(argv).exit_code == etcdctl(argv).exit_code
