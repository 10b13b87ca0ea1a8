"""A docker-compose cluster as a target, on an engine that is a few dictionaries.

A real engine takes part in `make compose-test`.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from click.testing import CliRunner

from jepsen_lite.cli import main
from jepsen_lite.history import NEMESIS, Op
from jepsen_lite.nemesis.partition import Partition
from jepsen_lite.planning import BadPlan, nemeses_for
from jepsen_lite.target import compose, project
from jepsen_lite.target.base import TargetError
from jepsen_lite.target.compose import Compose
from jepsen_lite.target.project import Project
from raftkv.testing.ports import HOST

FILE: Final = Path("compose.yaml")
ID: Final = "{:0>64}"


def _container(service: str, networks: Sequence[str], port: int | None) -> dict[str, Any]:
    number = ID.format(service)
    bound = {"2379/tcp": [{"HostIp": HOST, "HostPort": str(port)}]} if port else None
    return {
        "State": {"Running": True, "Paused": False, "Pid": 7},
        "RestartCount": 0,
        "HostConfig": {"PortBindings": bound},
        "NetworkSettings": {
            "Networks": {
                name: {"Aliases": [f"{service}.{name}", number[:12]], "IPAMConfig": None}
                for name in networks
            }
        },
    }


class Engine(Project):
    """Answers what Docker would; `done` has what changed something."""

    def __init__(self, networks: Sequence[str] = ("p_clients", "p_peers"), name: str = "p") -> None:
        super().__init__(FILE, name)
        self.made = {
            service: _container(service, networks, port)
            for service, port in (("n3", 3), ("prometheus", None), ("n1", 1), ("n2", 2))
        }
        self.done: list[str] = []

    def _run(self, *words: str, seconds: float, variables: Mapping[str, str] | None = None) -> str:
        if "-p" in words:
            self.done.append(" ".join(words[words.index("-p") + 2 :]))
            return ""
        line = " ".join(words).removeprefix("docker ")
        if words[1] == "ps":
            return "".join(f"{name} {ID.format(name)}\n" for name in self.made)
        service = words[-1].lstrip("0")
        if words[1] == "inspect":
            return json.dumps([self.made[service]])
        if words[1] == "logs":
            return f"{service} has spoken\n"
        self.done.append(line.replace(ID.format(service), service))
        state = self.made.get(service, {}).get("State", {})
        if words[1] in ("kill", "start"):
            state["Running"] = words[1] == "start"
        if words[1] in ("pause", "unpause"):
            state["Paused"] = words[1] == "pause"
        return ""


class Cluster(Compose):
    """On an engine of the above, and every member answers."""

    def __init__(self, tmp_path: Path, name: str = "") -> None:
        super().__init__(FILE, tmp_path, name)
        self.engine = Engine()
        self._project = self.engine

    async def _await_all(self) -> None:
        """They all serve."""

    async def leader(self) -> int | None:
        """The last one."""
        return 2


async def _started(tmp_path: Path, name: str = "") -> Cluster:
    cluster = Cluster(tmp_path, name)
    await cluster.start()
    return cluster


@pytest.fixture(autouse=True)
def _compose_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project, "compose_command", lambda: ["docker-compose"])


# --- the project ----------------------------------------------------------------


def test_members_are_the_services_that_publish_the_client_port() -> None:
    engine = Engine()
    assert list(engine.containers) == ["n1", "n2", "n3"]
    assert [engine.endpoint(one) for one in engine.containers] == [
        f"{HOST}:1",
        f"{HOST}:2",
        f"{HOST}:3",
    ]


def test_who_joins_again_gets_its_names_and_its_address_back() -> None:
    engine = Engine()
    there = engine.made["n2"]["NetworkSettings"]["Networks"]["p_peers"]
    there["IPAMConfig"] = {"IPv4Address": "10.9.8.7"}
    for _ in range(2):
        engine.isolate("n2")
    assert engine.isolated == ["n2"]
    for _ in range(2):
        engine.join("n2")
    assert engine.done == [
        "network disconnect p_peers n2",
        "network connect --alias n2.p_peers --ip 10.9.8.7 p_peers n2",
    ]


def test_an_only_network_is_the_peers_and_of_two_without_a_name_none_is() -> None:
    lone = Engine(networks=("p_default",))
    lone.isolate("n1")
    assert lone.done == ["network disconnect p_default n1"]
    with pytest.raises(TargetError, match="a, b; which one is theirs"):
        Engine(networks=("b", "a")).isolate("n1")


def test_faults_that_are_there_already_are_not_made_again() -> None:
    engine = Engine()
    for _ in range(2):
        engine.kill("n1")
        engine.pause("n2")
    for _ in range(2):
        engine.resume("n2")
    assert engine.done == ["kill n1", "pause n2", "unpause n2"]


def test_what_docker_says_is_in_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "docker"
    fake.write_text("#!/bin/sh\necho no such container >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(TargetError, match="docker kill x` failed: no such container"):
        Project(FILE, "p").docker("kill", "x")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TargetError, match="docker is not installed"):
        Project(FILE, "p").docker("kill", "x")


# --- the target -----------------------------------------------------------------


def test_a_member_is_cut_off_when_it_has_lost_its_last_link(tmp_path: Path) -> None:
    async def scene() -> None:
        cluster = await _started(tmp_path)
        engine = cluster.engine
        engine.done.clear()
        cluster.network.cut([0], [1, 2])
        cluster.network.cut([1], [0])
        assert engine.done == [], "a link is left"
        cluster.network.cut([2], [0])
        assert engine.isolated == ["n1"]
        cluster.network.heal()
        assert engine.isolated == []
        cluster.network.partition([2], [0, 1])
        assert engine.isolated == ["n3"]
        with pytest.raises(TargetError, match="latency"):
            cluster.network.delay([0], [1], 0.1)
        await cluster.recover()
        assert engine.isolated == []

    asyncio.run(scene())


@pytest.mark.parametrize("shape", ["ring", "one-way", "halves", "leader"])
def test_a_partition_of_any_shape_cuts_whole_members_off(tmp_path: Path, shape: str) -> None:
    async def scene() -> None:
        cluster = await _started(tmp_path)
        nemesis = Partition()
        await nemesis.setup(cluster)
        value = {"what": shape, "seed": 1}
        told = await nemesis.invoke(Op(NEMESIS, "invoke", "start-partition", value, 0))
        assert told.value["what"] in ("leader", "one")
        assert len(cluster.engine.isolated) == 1
        await nemesis.heal()
        assert cluster.engine.isolated == []

    asyncio.run(scene())


def test_who_was_killed_is_down_until_it_is_started(tmp_path: Path) -> None:
    async def scene() -> None:
        cluster = await _started(tmp_path)
        await cluster.kill(1)
        await cluster.pause(0)
        assert [cluster.running(one) for one in range(3)] == [True, False, True]
        await cluster.recover()
        assert all(cluster.running(one) for one in range(3))
        assert not cluster.engine.state("n1")["Paused"]
        assert cluster.engine.state("n2")["Running"]

    asyncio.run(scene())


def test_a_project_of_the_runs_own_goes_with_its_data_and_another_stays(tmp_path: Path) -> None:
    async def scene(name: str) -> list[str]:
        cluster = await _started(tmp_path, name)
        assert cluster.shared == bool(name)
        await cluster.stop()
        await cluster.stop()
        assert (tmp_path / "n1.log").exists()
        return cluster.engine.done

    assert asyncio.run(scene("")) == ["up --detach", "down --timeout 10 --volumes"]
    assert asyncio.run(scene("p")) == []


def test_links_and_insides_of_members_cannot_be_broken_from_here(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    nemeses_for(["kill", "pause", "partition", "transfer"], cluster, Random(1))
    for name in ("flap", "slow", "disk", "clock"):
        with pytest.raises(BadPlan, match="compose"):
            nemeses_for([name], cluster, Random(1))


def test_a_project_without_members_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.engine.made = {"web": _container("web", ["p_default"], None)}
    with pytest.raises(TargetError, match="no container that publishes a client port"):
        asyncio.run(cluster.start())


def test_ports_of_a_project_of_the_runs_own_are_free_ones() -> None:
    ports = compose._free_ports()
    assert ports.keys() >= {"NODE1_PORT", "NODE2_PORT", "NODE3_PORT"}
    assert len(set(ports.values())) == len(ports)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--compose", __file__, "--sim"], "exclude each other"),
        (["--compose", __file__, "--nodes", "5"], "--nodes is for other worlds"),
        (["--compose", __file__, "--network", "proxies"], "--network is for members that"),
        (["--project", "p"], "--project is for --compose"),
    ],
)
def test_words_that_mean_nothing_in_this_world_are_refused(words: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["run", *words])
    assert done.exit_code == 2
    assert said in done.output
