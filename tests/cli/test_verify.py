"""What `raftctl verify` hands on to the process that it starts."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from click.testing import CliRunner

from jepsen_lite.cli import main
from raftkv.cli.exits import INTERRUPTED
from tests.cli.running import raftctl
from tests.levels import levels_kept


class Started:
    """Remembers what was to be run instead of running it; also the signals that it was sent.

    ends: what waiting for it comes to, again and again: an exit code, or an error that is raised.
    """

    def __init__(self) -> None:
        self.words: list[list[str]] = []
        self.environments: list[Mapping[str, str]] = []
        self.signals: list[int] = []
        self.ends: list[int | type[BaseException]] = [1, 0]

    def start(self, words: list[str], *, env: Mapping[str, str], process_group: int) -> "Started":
        """As subprocess.Popen."""
        assert process_group == 0
        self.words.append(words)
        self.environments.append(env)
        return self

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *_: object) -> None:
        """Has nothing to close."""

    def wait(self) -> int:
        """As subprocess.Popen.wait."""
        end = self.ends.pop(0)
        if isinstance(end, int):
            return end
        raise end

    def send_signal(self, number: int) -> None:
        """As subprocess.Popen.send_signal."""
        self.signals.append(number)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    found = Started()

    monkeypatch.setattr(subprocess, "Popen", found.start)
    for name in [one for one in os.environ if one.startswith(("RAFTCTL_", "ETCDCTL_"))]:
        monkeypatch.delenv(name)
    return found


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    with levels_kept():
        yield


def _flags(words: list[str]) -> dict[str, str]:
    pairs = [word.partition("=") for word in words if word.startswith("--") and "=" in word]
    return {name: text for name, _, text in pairs}


def test_endpoints_tls_and_the_user_are_handed_on_and_the_password_in_the_environment(
    started: Started,
) -> None:
    secure = ("--cacert=ca.pem", "--cert=me.pem", "--key=me.key", "--user=u:secret")
    ended = raftctl(
        ["verify", "--endpoints=a:1,https://b:2", *secure, "--command-timeout=7s", "--workload=set"]
    )
    assert ended.exit_code == 1
    (words,), (environment,) = started.words, started.environments
    flags = _flags(words)
    assert flags["--endpoints"] == "https://a:1,https://b:2"
    assert (flags["--cacert"], flags["--cert"], flags["--key"]) == ("ca.pem", "me.pem", "me.key")
    assert (flags["--user"], flags["--timeout"]) == ("u", "7")
    assert environment["RAFTCTL_PASSWORD"] == "secret"
    assert not any("secret" in word for word in words)


def test_without_tls_nothing_is_added_and_each_workload_has_keys_of_its_own(
    started: Started,
) -> None:
    ended = raftctl(["verify", "--endpoints=a:1", "--workload=set,append"])
    assert ended.exit_code == 1
    assert [_flags(words)["--endpoints"] for words in started.words] == ["a:1", "a:1"]
    prefixes = {words[words.index("--prefix") + 1] for words in started.words}
    assert len(prefixes) == 2
    assert all("--clean-up" in words for words in started.words)


def test_the_system_s_authorities_are_asked_for_by_the_scheme(started: Started) -> None:
    raftctl(["verify", "--endpoints=a:1", "--insecure-transport=false", "--workload=set"])
    assert _flags(started.words[0])["--endpoints"] == "https://a:1"


def test_ctrl_c_is_handed_on_and_waited_for_and_nothing_else_is_begun(started: Started) -> None:
    started.ends = [KeyboardInterrupt, KeyboardInterrupt, 130]
    ended = raftctl(["verify", "--endpoints=a:1", "--workload=set,append"])
    assert ended.exit_code == INTERRUPTED
    assert started.signals == [signal.SIGINT, signal.SIGINT]
    assert len(started.words) == 1


def test_certificates_are_not_left_unchecked(started: Started) -> None:
    ended = raftctl(["verify", "--endpoints=https://a:1", "--insecure-skip-tls-verify"])
    assert ended.exit_code != 0
    assert "--cacert" in ended.err
    assert not started.words


def test_what_is_started_knows_all_these_words(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two command lines must not drift apart."""
    raftctl(["verify", "--endpoints=127.0.0.1:9", "--user=u:p", "--workload=set", "--store=/no"])
    words = started.words[0]
    given: dict[str, Any] = {}
    run = main.commands["run"]
    monkeypatch.setattr(run, "callback", lambda **params: given.update(params))
    ended = CliRunner().invoke(main, words[words.index("run") :])
    assert ended.exit_code == 0, ended.output
    assert given["endpoints"] == ("127.0.0.1:9",)
    assert (given["user"], given["clean_up"], given["workload"]) == ("u", True, "set")
