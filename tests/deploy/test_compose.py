"""deploy/Dockerfile, deploy/compose.yaml and what drives them.

What can be known without Docker is tested everywhere; the cluster itself where an engine answers.
"""

import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from raftkv.cli.sources import load
from raftkv.config import ServerConfig
from raftkv.server.node import DRAIN_SECONDS

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
SCRIPT: Final = ROOT / "scripts" / "compose-test.sh"
HEALTHCHECK: Final = DEPLOY / "docker" / "healthcheck.py"
NODES: Final = ("node1", "node2", "node3")
TOOLS: Final = (
    *("bash", "cat", "cut", "dirname", "id", "mktemp"),
    *("rm", "seq", "sleep", "tail", "timeout"),
)


def _compose() -> Any:
    """The file as compose reads it, with the defaults of its variables."""
    text = (DEPLOY / "compose.yaml").read_text()
    return yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text))


def _dockerfile() -> list[tuple[str, str]]:
    """(instruction, words) of the Dockerfile, continuation lines joined."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    joined = text.replace("\\\n", " ").splitlines()
    split = [line.split(None, 1) for line in joined if line.strip()]
    return [(words[0], words[1]) for words in split]


def _image_environment() -> dict[str, str]:
    (words,) = [words for name, words in _dockerfile() if name == "ENV"]
    return dict(word.split("=", 1) for word in words.split())


def _loaded(environ: dict[str, str]) -> ServerConfig:
    """What a member makes of its variables; it warns of nothing but its open peer port."""
    config, notes = load({}, environ)
    assert [note for note in notes if "can act as a peer" not in note] == []
    return config


def _config(node: str) -> ServerConfig:
    given = _compose()["services"][node]["environment"]
    return _loaded(_image_environment() | given)


# --- the image ----------------------------------------------------------------


def test_the_images_own_settings_make_a_cluster_of_one() -> None:
    config = _loaded(_image_environment())
    assert [str(url) for url in config.listen_client_urls] == ["http://0.0.0.0:2379"]
    (volume,) = [words for name, words in _dockerfile() if name == "VOLUME"]
    assert config.data_dir.parent == Path(volume), "a mount point cannot be renamed"


def test_the_image_is_nobodys_root_and_takes_its_base_as_an_argument() -> None:
    instructions = _dockerfile()
    assert instructions[0] == ("ARG", "BASE=python:3.11-slim-bookworm")
    assert [words for name, words in instructions if name == "FROM"] == [
        "${BASE} AS build",
        "${BASE}",
    ]
    user = [words for name, words in instructions if name == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "orchestrators check the number"
    assert "HEALTHCHECK" in [name for name, _ in instructions]


def test_every_command_of_the_package_is_on_the_images_path() -> None:
    """And the build has run each of them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    commands = set(project["scripts"])
    assert {"raftkv", "raftctl", "check_raftkv"} <= commands
    runs = [words for name, words in _dockerfile() if name == "RUN"]
    linked = [
        {Path(path).name for path in re.findall(r"/opt/raftkv/bin/\w+", link)}
        for link in re.findall(r"ln -s ((?:/opt/raftkv/bin/\w+ )+)/usr/local/bin/", "\n".join(runs))
    ]
    assert [names & commands for names in linked] == [commands] * 2, "one per stage"
    for command in commands:
        assert re.search(rf"; +{command} (version|--version)", runs[0]), command


def test_the_image_can_be_built_without_buildkit() -> None:
    for name, words in _dockerfile():
        assert "<<" not in words, f"{name}: here-documents need BuildKit"
        assert not re.search(r"--(mount|chmod|link|network)\b", words), f"{name} {words}"


# --- the cluster's file ---------------------------------------------------------


def test_the_three_members_are_one_cluster() -> None:
    configs = [_config(node) for node in NODES]
    assert [config.name for config in configs] == list(NODES)
    assert configs[0].initial_cluster == configs[1].initial_cluster == configs[2].initial_cluster
    for config in configs:
        (advertised,) = config.initial_advertise_peer_urls
        assert config.initial_cluster[config.name] == (str(advertised),)
    assert sorted(configs[0].initial_cluster) == list(NODES)


@pytest.mark.parametrize("node", NODES)
def test_a_members_peer_name_is_known_on_the_peers_network_alone(node: str) -> None:
    compose = _compose()
    networks = compose["services"][node]["networks"]
    (peer,) = _config(node).initial_advertise_peer_urls
    assert networks["peers"]["aliases"] == [peer.host]
    assert networks["clients"] == {}
    assert compose["networks"]["peers"] == {"internal": True}


@pytest.mark.parametrize("node", NODES)
def test_a_member_is_kept_alive_checked_and_confined(node: str) -> None:
    compose = _compose()
    service = compose["services"][node]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"] == ["CMD", "raftkv-healthcheck", "/readyz"]
    assert int(service["stop_grace_period"].rstrip("s")) > 2 * DRAIN_SECONDS
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    (volume,) = service["volumes"]
    name, _, place = volume.partition(":")
    assert name in compose["volumes"], "a named volume outlives `down`"
    assert Path(place) in _config(node).data_dir.parents
    (port,) = service["ports"]
    assert port.startswith("127.0.0.1:"), "there is no login, so nobody else is let in"


def test_images_are_named_without_a_registry_and_with_a_version() -> None:
    for name, service in _compose()["services"].items():
        image = service["image"]
        assert ":" in image, f"{name}: {image}"
        assert "." not in image.partition("/")[0].partition(":")[0], f"{name}: {image}"


def test_prometheus_and_grafana_find_what_is_mounted_for_them() -> None:
    compose = _compose()
    for name in ("prometheus", "grafana"):
        service = compose["services"][name]
        assert service["profiles"] == [name], "they are started on request only"
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), volume
    scraped = yaml.safe_load((DEPLOY / "docker" / "prometheus.yml").read_text())
    (job,) = scraped["scrape_configs"]
    for target, node in zip(job["static_configs"][0]["targets"], NODES, strict=True):
        ports = [url.port for url in _config(node).listen_metrics_urls]
        assert target == f"{node}:{ports[0]}"


# --- the health check -----------------------------------------------------------


class _Pages(http.server.BaseHTTPRequestHandler):
    """/readyz is well, everything else is not."""

    def do_GET(self) -> None:
        well = self.path == "/readyz"
        body = b"ok" if well else b"[-]linearizable_read failed"
        self.send_response(200 if well else 503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def pages() -> Iterator[int]:
    """The port of a server with a well page and ill ones."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def _checked(port: int, *words: str) -> tuple[int, str]:
    environment = {"RAFTKV_LISTEN_METRICS_URLS": f"http://0.0.0.0:{port},http://0.0.0.0:1"}
    done = subprocess.run(
        [sys.executable, "-I", str(HEALTHCHECK), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_the_health_check_tells_well_from_ill_and_from_gone(pages: int) -> None:
    assert _checked(pages) == (0, "ok\n")
    assert _checked(pages, "/livez") == (1, "[-]linearizable_read failed\n")
    code, said = _checked(1)
    assert code == 1
    assert said.startswith("/readyz at port 1: ")


# --- where there is no Docker ---------------------------------------------------


def _script(tmp_path: Path, **fakes: str) -> subprocess.CompletedProcess[str]:
    """compose-test.sh on a machine with the usual tools and these programs."""
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found is not None
        if tool not in fakes:
            (tmp_path / tool).symlink_to(found)
    for name, body in fakes.items():
        path = tmp_path / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
    return subprocess.run(
        [str(tmp_path / "bash"), str(SCRIPT)],
        env={"PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


NO_ENGINE: Final = '[ "$1" = compose ] && exit 0\nexit 1'
SKIPPED: Final = "SKIPPED: no Docker engine can run here: "


@pytest.mark.parametrize(
    ("fakes", "reason"),
    [
        ({}, "docker is not installed"),
        ({"docker": "exit 1"}, "neither docker compose nor docker-compose is installed"),
        ({"docker": NO_ENGINE, "id": "echo 1000"}, "none answers, and only root could start one"),
        ({"docker": NO_ENGINE, "id": "echo 0"}, "none answers, and dockerd is not installed"),
        (
            {"docker": NO_ENGINE, "id": "echo 0", "dockerd": "echo no cgroups >&2; exit 1"},
            "dockerd did not start: no cgroups",
        ),
    ],
)
def test_the_composed_test_says_why_it_is_skipped(
    tmp_path: Path, fakes: dict[str, str], reason: str
) -> None:
    done = _script(tmp_path, **fakes)
    assert done.returncode == 0, done.stderr
    assert "not found" not in done.stderr
    assert done.stdout.splitlines()[-1] == SKIPPED + reason


# --- where there is one ---------------------------------------------------------


def _engine_answers() -> bool:
    if shutil.which("docker") is None:
        return False
    try:
        asked = subprocess.run(["docker", "info"], capture_output=True, timeout=20, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_nothing_acknowledged_is_lost_in_containers() -> None:
    """make compose-test: a partition, a kill, a crash, `down` and `up`; then jepsen-lite."""
    if not _engine_answers():
        pytest.skip("no Docker engine answers here")
    done = subprocess.run(
        [str(SCRIPT)],
        env=os.environ | {"PYTHON": sys.executable},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=1400,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1].endswith("everything held"), done.stdout
