"""Clusters that somebody else runs, behind TLS and behind a login."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from jepsen_lite.cli import main
from jepsen_lite.target.access import Access, without_password
from jepsen_lite.target.base import TargetError
from raftkv.client import TLS, Client
from tests import processes
from tests.levels import levels_kept
from tests.server.certificates import Authority

HERE = Path(__file__).resolve().parent.parent
PASSWORD: Final = "a-secret-of-nobody"
SHORT: Final = ("-w", "set", "--time", "1", "--concurrency", "2", "--clean-up")
VERIFY: Final = "from raftkv.cli.ctl import main; main()"


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    with levels_kept():
        yield


def ended(
    *words: str, password: str = "", timeout: float = 110.0
) -> subprocess.CompletedProcess[str]:
    environment = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("RAFTCTL_", "ETCDCTL_"))
    }
    environment["PYTHONPATH"] = f"{HERE.parent}{os.pathsep}{HERE}"
    if password:
        environment["RAFTCTL_PASSWORD"] = password
    return subprocess.run(
        [sys.executable, *words],
        cwd=HERE.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def jepsen(*words: str, password: str = "") -> subprocess.CompletedProcess[str]:
    return ended(HERE.name, "run", *words, password=password)


def refused(*words: str, password: str = "") -> str:
    """What a run says that cannot begin, in this process."""
    ours = [name for name in os.environ if name.startswith(("RAFTCTL_", "ETCDCTL_"))]
    variables = {**dict.fromkeys(ours), "RAFTCTL_PASSWORD": password or None}
    result = CliRunner().invoke(main, ["run", *words], env=variables)
    assert result.exit_code in (1, 2), result.output
    assert isinstance(result.exception, SystemExit), result.exception
    return result.output


def stored(root: Path) -> dict[str, Any]:
    """The run, of which no file may have the password."""
    (path,) = root.iterdir()
    for file in path.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes(), file
    run: dict[str, Any] = json.loads((path / "run.json").read_text())
    return run


# --- without servers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("run --user root:pw --time 3", "run --user root --time 3"),
        ("run --user=root:pw", "run --user root"),
        ("run --user root --password pw --sim", "run --user root --sim"),
        ("run --password=pw", "run"),
        ("run --time 3 --user", "run --time 3 --user "),
    ],
)
def test_a_command_is_kept_without_its_password(given: str, kept: str) -> None:
    assert " ".join(without_password(given.split())) == kept


def test_a_password_is_not_shown_with_the_other_settings() -> None:
    assert PASSWORD not in repr(Access(user="root", password=PASSWORD))


def test_settings_that_do_not_go_together_are_one_clear_sentence() -> None:
    with pytest.raises(TargetError, match="both cert and key"):
        Access(cert="me.pem").session(["a:1"], 1.0)
    with pytest.raises(TargetError, match="goes without"):
        Access(ca=__file__).session(["http://a:1"], 1.0)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--cacert", "x"), "--cacert is for --endpoints"),
        (("--sim", "--user", "x:y"), "--user is for --endpoints"),
        (("--endpoints", "a:1", "--network", "namespaces"), "--network is for members that"),
        (("--endpoints", "a:1", "--cacert", "/no/such"), "cannot read /no/such"),
    ],
)
def test_words_that_mean_nothing_here_are_refused(
    words: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    assert text in refused(*words, "--store", str(tmp_path))


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A raftkv that demands certificates of its clients."""
    directory = tmp_path_factory.mktemp("secured")
    port, peer = processes.free_ports(2)
    cert, key = authority.certificate("server")
    client_url, peer_url = f"https://127.0.0.1:{port}", f"http://127.0.0.1:{peer}"
    flags = {
        "name": "m",
        "data-dir": directory / "data",
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": f"m={peer_url}",
        "cert-file": cert,
        "key-file": key,
        "trusted-ca-file": authority.ca,
        "client-cert-auth": "true",
    }
    command = [*processes.RAFTKV, *(f"--{name}={value}" for name, value in flags.items())]
    server = processes.Server("m", command, directory, port, peer)
    server.start()
    try:
        tls = TLS(authority.ca, *authority.certificate("me"))
        with Client(server.endpoint, tls=tls, timeout=60, dial_timeout=60) as client:
            client.put("ready", "yes")
        yield server.endpoint
    finally:
        server.kill()


def _way_in(authority: Authority) -> tuple[str, ...]:
    cert, key = authority.certificate("me")
    return ("--cacert", str(authority.ca), "--cert", str(cert), "--key", str(key))


def test_a_cluster_behind_tls_is_checked_with_a_certificate_only(
    secured: str, authority: Authority, tmp_path: Path
) -> None:
    words = ("--endpoints", secured, *SHORT, "--store", str(tmp_path))
    found = jepsen(*words, *_way_in(authority))
    assert found.returncode == 0, found.stdout + found.stderr
    assert stored(tmp_path)["valid"]
    assert f"no cluster answers at {secured}" in refused(*words, "--cacert", str(authority.ca))


@pytest.mark.slow
def test_raftctl_verify_goes_through_tls(
    secured: str, authority: Authority, tmp_path: Path
) -> None:
    """What it hands on else is in the tests of `raftctl verify`."""
    words = ("--workload", "set", "--time", "1", "--store", str(tmp_path))
    found = ended("-c", VERIFY, "--endpoints", secured, *_way_in(authority), "verify", *words)
    assert found.returncode == 0, found.stdout + found.stderr
    assert stored(tmp_path)["valid"]


# --- logins ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An etcd with users: root, and `checker` who may do as it likes under jepsen/."""
    directory = tmp_path_factory.mktemp("guarded")
    with processes.etcd(directory, "--unsafe-no-fsync", "--bcrypt-cost", "4") as cluster:
        for words in (
            ("user", "add", f"root:{PASSWORD}"),
            ("user", "grant-role", "root", "root"),
            ("role", "add", "some"),
            ("role", "grant-permission", "some", "--prefix=true", "readwrite", "jepsen/"),
            ("user", "add", f"checker:{PASSWORD}"),
            ("user", "grant-role", "checker", "some"),
            ("auth", "enable"),
        ):
            command = [str(processes.ETCDCTL), f"--endpoints={cluster.endpoints}", *words]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        yield cluster.endpoints


def test_a_user_of_few_rights_checks_a_cluster_that_wants_logins(
    guarded: str, tmp_path: Path
) -> None:
    """Twice the same endpoint: two members that do not let this user ask for hashes."""
    user = f"checker:{PASSWORD}"
    endpoints = f"{guarded},http://{guarded}"
    words = ("--endpoints", endpoints, "--user", user, *SHORT, "--store", str(tmp_path))
    found = jepsen(*words)
    assert found.returncode == 0, found.stdout + found.stderr
    run = stored(tmp_path)
    assert run["verdicts"]["hashes"]["facts"] == {"members": 2, "not permitted to compare": 2}
    at = run["command"].index("--user")
    assert run["command"][at + 1] == "checker"


def test_who_does_not_log_in_or_wrongly_is_told_so(guarded: str, tmp_path: Path) -> None:
    words = ("--endpoints", guarded, *SHORT, "--store", str(tmp_path))
    assert "user name is empty" in refused(*words)
    wrong = refused(*words, "--user", "checker", password="wrong")
    assert "authentication failed" in wrong
    unasked = refused(*words, "--user", "checker")  # nobody is there to be asked
    assert "Password" in unasked
