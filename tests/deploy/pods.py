"""The Kubernetes manifests as data, and their pods as processes of this machine.

What a kubelet does with a pod's template is done here as far as it matters to a member: variables
from the pod's own fields and from the ConfigMap, `$(NAME)` in arguments, names of pods as the
headless service gives them. On one loopback every pod gets ports of its own in place of the
numbers that all pods share.
"""

import functools
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tests.architecture import ROOT
from tests.processes import Cluster, Server, free_ports

MANIFESTS: Final = ROOT / "deploy" / "kubernetes"
NAMESPACE: Final = "here"


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
    """All pods of the set as processes; a context manager as any Cluster."""

    def __init__(self, directory: Path, *flags: str) -> None:
        count = stateful_set()["spec"]["replicas"]
        numbers = iter(free_ports(len(ports()) * count))
        maps = [{port: next(numbers) for port in ports().values()} for _ in range(count)]
        self.members = [_member(each, maps, directory, flags) for each in range(count)]
        super().__init__([one.server for one in self.members])


def _member(
    ordinal: int, maps: list[dict[int, int]], directory: Path, flags: tuple[str, ...]
) -> Member:
    one, own = pod(ordinal), maps[ordinal]

    def local(text: str) -> str:
        text = text.replace("0.0.0.0", one.name).replace(f".{NAMESPACE}.svc", "")
        for number, mapped in enumerate(maps):
            for port, to in mapped.items():
                address = rf"\b{re.escape(pod(number).name)}(\.raftkv-peers)?:{port}\b"
                text = re.sub(address, f"127.0.0.1:{to}", text)
        return text.replace(container()["volumeMounts"][0]["mountPath"], str(directory / one.name))

    program, *words = map(local, one.command)
    assert program == "raftkv", "the image's command"
    variables = [f"{key}={local(value)}" for key, value in one.environ.items()]
    command = ["env", *variables, sys.executable, "-m", "raftkv", *words, *flags]
    named = ports()
    server = Server(one.name, command, directory, own[named["client"]], own[named["peer"]])
    (directory / one.name).mkdir(parents=True)
    return Member(server, own[named["metrics"]])
