"""deploy/kubernetes is valid, agrees with itself and the server, and its pods make a cluster."""

import copy
import http.client
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from raftkv import __version__, errors
from raftkv.cli import nagios
from raftkv.cli.sources import load
from raftkv.client import Client
from raftkv.config import ServerConfig, check_bootstrap
from tests.architecture import ROOT
from tests.deploy.pods import (
    MANIFESTS,
    PATIENCE_SECONDS,
    Member,
    Pods,
    container,
    documents,
    pod,
    ports,
    stateful_set,
    wait_until,
)

VERSIONS: Final = ("1.27", "1.31", "1.34")  # the oldest has all fields that are used


def configured(ordinal: int) -> tuple[ServerConfig, list[str]]:
    """What the server makes of a pod's command line and variables, and its warnings."""
    program, command, *words = pod(ordinal).command
    assert (program, command) == ("raftkv", "serve")
    typed = dict(word.removeprefix("--").split("=", 1) for word in words)
    return load(typed, pod(ordinal).environ)


def validated(document: dict[str, Any], version: str) -> None:
    """Raises if the document is not what the API server of this version takes."""
    validator = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    validator.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", sorted(documents()))
def test_every_object_is_of_its_schema(name: str, version: str) -> None:
    validated(documents()[name], version)


def test_the_schema_would_notice_a_field_that_does_not_exist() -> None:
    wrong = copy.deepcopy(stateful_set())
    wrong["spec"]["replica"] = wrong["spec"].pop("replicas")
    with pytest.raises(Exception, match="replica"):
        validated(wrong, VERSIONS[0])


def test_kustomize_takes_the_directory() -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        ["kubectl", "kustomize", MANIFESTS], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    made = [one for one in yaml.safe_load_all(done.stdout) if one is not None]
    assert len(made) == len(documents())


def test_every_file_is_listed_and_the_image_is_this_version() -> None:
    listing = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    files = {path.name for path in MANIFESTS.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(listing["resources"]) == files
    [image] = listing["images"]
    assert (image["name"], image["newTag"]) == (container()["image"], __version__)


def test_selectors_names_and_ports_meet() -> None:
    objects, members = documents(), stateful_set()
    labels = members["spec"]["template"]["metadata"]["labels"]
    assert members["spec"]["selector"]["matchLabels"] == labels
    headless = objects[f"Service/{members['spec']['serviceName']}"]["spec"]
    assert headless["clusterIP"] == "None"
    assert headless["publishNotReadyAddresses"] is True, "nobody is ready before all are found"
    for name in ("Service/raftkv-peers", "Service/raftkv"):
        spec = objects[name]["spec"]
        assert spec["selector"] == labels
        for one in spec["ports"]:
            assert one["port"] == ports()[one["targetPort"]]
    assert objects["PodDisruptionBudget/raftkv"]["spec"]["selector"]["matchLabels"] == labels
    assert objects["NetworkPolicy/raftkv"]["spec"]["podSelector"]["matchLabels"] == labels
    open_ports = {
        one["port"]
        for rule in objects["NetworkPolicy/raftkv"]["spec"]["ingress"]
        for one in rule["ports"]
    }
    assert open_ports == set(ports())


def test_a_drain_leaves_a_quorum() -> None:
    voters = stateful_set()["spec"]["replicas"]
    budget = documents()["PodDisruptionBudget/raftkv"]["spec"]
    assert voters % 2 == 1
    assert voters - budget["maxUnavailable"] >= voters // 2 + 1


def test_all_pods_start_at_once_and_keep_their_volumes() -> None:
    """One after the other, the first would wait for ever for a majority that is not made yet."""
    spec = stateful_set()["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["persistentVolumeClaimRetentionPolicy"] == {
        "whenDeleted": "Retain",
        "whenScaled": "Retain",
    }
    [claim] = spec["volumeClaimTemplates"]
    mounts = {one["name"]: one["mountPath"] for one in container()["volumeMounts"]}
    config, _ = configured(0)
    assert config.data_dir.parent == Path(mounts[claim["metadata"]["name"]])


def test_every_pod_is_configured_as_a_member_of_one_cluster() -> None:
    members = [configured(each) for each in range(stateful_set()["spec"]["replicas"])]
    for config, notes in members:
        check_bootstrap(config)
        assert not [note for note in notes if "unrecognized" in note]
        assert config.initial_cluster.keys() == {one.name for one, _ in members}
    assert len({config.cluster_id for config, _ in members}) == 1
    assert len({config.member_id for config, _ in members}) == len(members)
    listened = {"client": "listen_client_urls", "peer": "listen_peer_urls"}
    for name, field in {**listened, "metrics": "listen_metrics_urls"}.items():
        assert [url.port for url in getattr(members[0][0], field)] == [ports()[name]]


def test_pods_are_told_of_by_the_names_that_the_headless_service_gives() -> None:
    spec = stateful_set()["spec"]
    for each in range(spec["replicas"]):
        config, _ = configured(each)
        for url in (*config.advertise_client_urls, *config.initial_advertise_peer_urls):
            assert url.host.startswith(f"{pod(each).name}.{spec['serviceName']}")


def test_probes_ask_pages_of_the_metrics_port() -> None:
    one = container()
    paths = {
        name: one[name]["httpGet"]["path"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    # Liveness must not depend on others, or a partition would restart members.
    assert paths == {
        "startupProbe": "/livez",
        "livenessProbe": "/livez",
        "readinessProbe": "/readyz",
    }
    assert {one[name]["httpGet"]["port"] for name in paths} == {"metrics"}


def test_the_container_may_do_nothing_but_serve() -> None:
    spec = stateful_set()["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_user_is_that_of_the_image() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    user = re.search(r"^USER (\d+):(\d+)$", text, re.MULTILINE)
    assert user is not None
    context = stateful_set()["spec"]["template"]["spec"]["securityContext"]
    own = (context["runAsUser"], context["runAsGroup"], context["fsGroup"])
    assert own == (int(user[1]), int(user[2]), int(user[2]))


def page(port: int, path: str) -> int:
    """The status of a page of a member."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    with Pods(tmp_path_factory.mktemp("pods")) as pods:
        yield pods


def _ready(member: Member) -> None:
    """Waits until the readiness probe succeeds; an answer that is none takes seconds."""
    path = container()["readinessProbe"]["httpGet"]["path"]
    deadline = time.monotonic() + PATIENCE_SECONDS
    while page(member.metrics_port, path) != http.client.OK:
        assert time.monotonic() < deadline, member.server.log_end()


@pytest.mark.slow
def test_the_pods_make_a_cluster_and_answer_their_probes(pods: Pods) -> None:
    for member in pods.members:
        _ready(member)
        assert page(member.metrics_port, container()["livenessProbe"]["httpGet"]["path"]) == 200
        assert page(member.metrics_port, "/no-such-page") == http.client.NOT_FOUND


@pytest.mark.slow
def test_a_check_asks_all_members_or_locally_one(
    pods: Pods, capsys: pytest.CaptureFixture[str]
) -> None:
    """check_raftkv of a pod from outside: others may not be reachable from there."""
    where = ("--endpoints", pods.members[0].server.endpoint, "-t", "60")

    def told(*more: str) -> str:
        nagios.run([*where, *more])
        return capsys.readouterr().out

    # A member's own addresses are known a moment after it is ready.
    wait_until(lambda: " answered=3;;;0;3 " in told())
    assert " answered=1;;;0;1 " in told("--local")


def _voters(pods: Pods) -> set[str]:
    with Client(pods.endpoints, timeout=PATIENCE_SECONDS) as client:
        return {one.name for one in client.members() if not one.is_learner}


@pytest.mark.slow
def test_a_pod_that_has_lost_its_volume_comes_back_if_it_may(pods: Pods) -> None:
    """And without the setting it does not, whatever the list of first members says."""
    lost = pods.members[1]
    lost.server.kill()
    lost.server.remove_data()
    refused = pods.member(1).server
    refused.start()
    try:
        wait_until(lambda: not refused.running())
        assert refused.stop() == errors.CorruptionError.exit_code
    finally:
        refused.kill()
    refused.remove_data()

    pods.changes = {"RAFTKV_REJOIN": "true"}
    again = pods.members[1] = pods.member(1)
    pods.servers[1] = again.server
    again.server.start()
    again.server.wait_ready()
    wait_until(lambda: _voters(pods) == {pod(each).name for each in range(3)})


@pytest.mark.slow
def test_one_more_pod_joins_as_a_learner_that_was_added_for_it(pods: Pods) -> None:
    """As docs/deploy.md says: member add, the list in the ConfigMap, one more replica."""
    name, others = pod(3).name, pod(0).environ["RAFTKV_INITIAL_CLUSTER"]
    url = f"http://{name}.raftkv-peers:{ports()['peer']}"
    pods.changes = {
        "RAFTKV_REJOIN": "true",
        "RAFTKV_INITIAL_CLUSTER": f"{others},{name}={url}",
    }
    fourth = pods.member(3).server
    with Client(pods.endpoints, timeout=PATIENCE_SECONDS) as client:
        client.member_add([f"http://127.0.0.1:{fourth.peer_port}"], is_learner=True)
    pods.servers.append(fourth)  # ended with the others
    fourth.start()
    fourth.wait_ready()
    wait_until(lambda: _voters(pods) == {pod(each).name for each in range(4)})
