"""The Kubernetes manifests as data, and their pods as processes of this machine.

What a kubelet does with a pod's template is done here as far as it matters to a member: variables
from the pod's own fields and from the ConfigMap, `$(NAME)` in arguments, names of pods as the
headless service gives them. On one loopback every pod gets ports of its own in place of the
numbers that all pods share.
"""

import functools
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.architecture import ROOT
from tests.processes import Cluster, Server, free_ports

MANIFESTS: Final = ROOT / "deploy" / "kubernetes"
NAMESPACE: Final = "here"
PATIENCE_SECONDS: Final = 90.0
POLL_SECONDS: Final = 0.1


@functools.cache
def documents() -> dict[str, dict[str, Any]]:
    """Every object that the kustomization names, by "Kind/name"; not to be changed."""
    listed = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())["resources"]
    found: dict[str, dict[str, Any]] = {}
    for name in listed:
        for one in yaml.safe_load_all((MANIFESTS / name).read_text()):
            if one is not None:  # the comment above the first line of dashes
                found[f"{one['kind']}/{one['metadata']['name']}"] = one
    return found


def stateful_set() -> dict[str, Any]:
    """The members."""
    return documents()["StatefulSet/raftkv"]


def container() -> dict[str, Any]:
    """The template's only container."""
    [only] = stateful_set()["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


@dataclass(frozen=True, slots=True)
class Pod:
    """command: with its arguments. environ: its variables."""

    name: str
    command: tuple[str, ...]
    environ: Mapping[str, str]


def pod(ordinal: int) -> Pod:
    """A pod as its container is started. Errors: KeyError for a variable that nobody gives."""
    one, objects = container(), documents()
    name = f"{stateful_set()['metadata']['name']}-{ordinal}"
    fields = {"metadata.name": name, "metadata.namespace": NAMESPACE}
    environ: dict[str, str] = {}
    for source in one["envFrom"]:
        environ |= objects[f"ConfigMap/{source['configMapRef']['name']}"]["data"]
    for variable in one["env"]:
        path = variable["valueFrom"]["fieldRef"]["fieldPath"]
        environ[variable["name"]] = fields[path]
    words = [*one["command"], *one["args"]]
    command = tuple(re.sub(r"\$\((\w+)\)", lambda m: environ[m[1]], word) for word in words)
    return Pod(name, command, environ)


def ports() -> dict[str, int]:
    """The container's ports by name."""
    return {one["name"]: one["containerPort"] for one in container()["ports"]}


@dataclass(frozen=True, slots=True)
class Member:
    """A pod's process, and where it serves metrics and health."""

    server: Server
    metrics_port: int


class Pods(Cluster):
    """All pods of the set as processes; a context manager as any Cluster.

    It has ports for one pod more than the set, and gives the settings of `changes` to whoever is
    made by `member`, as an edited ConfigMap would.
    """

    def __init__(self, directory: Path, *flags: str) -> None:
        count = stateful_set()["spec"]["replicas"]
        numbers = iter(free_ports(len(ports()) * (count + 1)))
        self._maps = [{port: next(numbers) for port in ports().values()} for _ in range(count + 1)]
        self._directory = directory
        self._flags = flags
        self.changes: dict[str, str] = {}
        self.members = [self.member(each) for each in range(count)]
        super().__init__([one.server for one in self.members])

    def member(self, ordinal: int) -> Member:
        """A pod's process, not started yet; an earlier one of this ordinal must have ended."""
        one, own = pod(ordinal), self._maps[ordinal]
        program, *words = (self._local(word, one.name) for word in one.command)
        assert program == "raftkv", "the image's command"
        environ = {**one.environ, **self.changes}
        variables = [f"{key}={self._local(text, one.name)}" for key, text in environ.items()]
        command = ["env", *variables, sys.executable, "-m", "raftkv", *words, *self._flags]
        named = ports()
        client, peer = own[named["client"]], own[named["peer"]]
        server = Server(one.name, command, self._directory, client, peer)
        (self._directory / one.name).mkdir(parents=True, exist_ok=True)
        return Member(server, own[named["metrics"]])

    def _local(self, text: str, name: str) -> str:
        """The text with this machine's addresses and directories."""
        text = text.replace("0.0.0.0", name).replace(f".{NAMESPACE}.svc", "")
        for number, mapped in enumerate(self._maps):
            for port, to in mapped.items():
                address = rf"\b{re.escape(pod(number).name)}(\.raftkv-peers)?:{port}\b"
                text = re.sub(address, f"127.0.0.1:{to}", text)
        mount = container()["volumeMounts"][0]["mountPath"]
        return text.replace(mount, str(self._directory / name))


def wait_until(true: Callable[[], bool]) -> None:
    """Asks until it is so. Errors: AssertionError when the patience is over."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline, true
        time.sleep(POLL_SECONDS)
