"""deploy/systemd: the unit is valid and closed, and its settings are ones that the server takes."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from raftkv import errors
from raftkv.cli.server import EXIT_BAD_ARGUMENTS
from raftkv.cli.sources import load
from raftkv.config import ServerConfig, check_bootstrap
from tests.architecture import ROOT

SYSTEMD: Final = ROOT / "deploy" / "systemd"
UNIT: Final = SYSTEMD / "raftkv.service"
MOST_EXPOSED: Final = 20  # tenths, of systemd's own scale of 0 (closed) to 10


def unit() -> configparser.RawConfigParser:
    """The unit's sections; of settings that may stand twice the last one."""
    parsed = configparser.RawConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]  # names have capitals
    parsed.read_string(UNIT.read_text())
    return parsed


def analyzed(tmp_path: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """systemd-analyze on the unit, whose program is one that this machine has."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text()
    assert "ExecStart=/opt/raftkv/bin/raftkv serve" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace("/opt/raftkv/bin/raftkv", shutil.which("true") or "/bin/true"))
    return subprocess.run(
        ["systemd-analyze", *words, copy], capture_output=True, text=True, timeout=60, check=False
    )


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    done = analyzed(tmp_path, "verify")
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_calls_the_unit_closed(tmp_path: Path) -> None:
    done = analyzed(tmp_path, "security", "--offline=true", f"--threshold={MOST_EXPOSED}")
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_what_a_restart_cannot_mend_is_not_restarted() -> None:
    prevented = unit()["Service"]["RestartPreventExitStatus"].split()
    assert {int(code) for code in prevented} == {
        EXIT_BAD_ARGUMENTS,
        errors.CorruptionError.exit_code,
        errors.DiskFailure.exit_code,
        errors.WrongDirectory.exit_code,
        errors.MemberRemoved.exit_code,
    }


def test_the_data_lie_in_the_directory_that_systemd_makes() -> None:
    service = unit()["Service"]
    assert service["ProtectSystem"] == "strict", "nothing else may be written to"
    assert service["Environment"] == f"RAFTKV_DATA_DIR=/var/lib/{service['StateDirectory']}/data"
    user = (SYSTEMD / "raftkv.sysusers").read_text().splitlines()[-1].split()
    assert user[:2] == ["u", service["User"]]
    assert user[-1] == f"/var/lib/{service['StateDirectory']}"


def settings(commented: bool, files: Path | None = None) -> dict[str, str]:
    """Of the environment file. commented: also those behind a #; `files` then take /etc's place."""
    pattern = r"^#?(RAFTKV_\w+)=(.*)$" if commented else r"^(RAFTKV_\w+)=(.*)$"
    found = re.findall(pattern, (SYSTEMD / "raftkv.env").read_text(), re.MULTILINE)
    given = dict(found)
    assert len(given) == len(found), "a setting stands twice"
    return {key: text.replace("/etc/raftkv", str(files)) for key, text in given.items()}


def configured(given: dict[str, str]) -> ServerConfig:
    config, notes = load({}, given)
    assert not [note for note in notes if "unrecognized" in note]
    return config


def test_the_shipped_settings_make_the_first_member_of_a_cluster_of_three() -> None:
    given = settings(commented=False)
    assert "EnvironmentFile=-/etc/raftkv/raftkv.env" in UNIT.read_text()
    config = configured(given)
    check_bootstrap(config)
    assert len(config.initial_cluster) == 3
    assert config.listen_metrics_urls


def test_the_settings_that_are_commented_out_exist_too(tmp_path: Path) -> None:
    given = settings(commented=True, files=tmp_path)
    for name, path in given.items():
        if name.endswith("_FILE"):
            Path(path).write_text("")
    config = configured(given)
    assert config.rejoin
    assert config.client_tls is not None
    assert config.client_tls.require_client_cert
    assert config.peer_tls is not None
    assert config.peer_tls.require_client_cert
