"""A docker-compose project, by the command lines of Docker: what a person would type.

Containers are found by the labels that both generations of compose give them. What is asked of the
engine goes through `docker`, so DOCKER_HOST and contexts count; only `up` and `down` need compose.

Members are the services that publish the client port. A member is cut off by taking its container
off the network `peers`, or off its only one, where its clients lose it as well. What hangs on a
network (aliases, fixed addresses) is noted before, and given back when it joins again.

All of it blocks; errors are TargetError.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from jepsen_lite.target.base import TargetError

CLIENT_PORT: Final = 2379
PEERS: Final = "peers"
COMMAND_SECONDS: Final = 60.0
UP_SECONDS: Final = 180.0
_LABEL: Final = "com.docker.compose"
_SHORT_ID: Final = 12


def compose_command() -> list[str]:
    """The words of compose on this machine. Errors: TargetError, if there is none."""
    if shutil.which("docker") is not None:
        asked = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
        if asked.returncode == 0:
            return ["docker", "compose"]
    if shutil.which("docker-compose") is not None:
        return ["docker-compose"]
    raise TargetError("there is neither `docker compose` nor `docker-compose` here")


class Project:
    """file: the compose file. name: of the project. variables: for the file, besides this
    process's own. client_port: that members serve on inside of their containers.
    """

    def __init__(
        self,
        file: Path,
        name: str,
        *,
        variables: Mapping[str, str] | None = None,
        client_port: int = CLIENT_PORT,
    ) -> None:
        self.file = file
        self.name = name
        self._environment = {**os.environ, **(variables or {})}
        self._client_port = client_port
        self._links: dict[str, tuple[str, list[str]]] = {}  # of those cut off: how to join again

    # --- as a whole -----------------------------------------------------------------

    def up(self, *services: str, **variables: str) -> None:
        """Starts it, or only these services; an image that is missing is built.

        variables: for the file, this time.
        """
        alone = ["--no-deps", *services] if services else []
        words = [*compose_command(), *self._words, "up", "--detach", *alone]
        self._run(*words, seconds=UP_SECONDS, variables=variables)
        self._forget()

    def remove(self, service: str, volume: str) -> None:
        """Its container goes, and what it kept in a volume of the file with this name."""
        self._compose("rm", "--stop", "--force", service)
        self.docker("volume", "rm", f"{self.name}_{volume}")
        self._forget()

    def down(self, volumes: bool) -> None:
        """Ends it. volumes: with its data."""
        self._compose("down", "--timeout", "10", *(["--volumes"] if volumes else []))
        self._forget()
        self._links.clear()

    @property
    def _words(self) -> list[str]:
        return ["-f", str(self.file), "-p", self.name]

    def _compose(self, *words: str) -> str:
        return self._run(*compose_command(), *self._words, *words, seconds=COMMAND_SECONDS)

    def _forget(self) -> None:
        """Containers may be other ones from now on."""
        self.__dict__.pop("containers", None)

    def docker(self, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """What `docker` with these words prints."""
        return self._run("docker", *words, seconds=seconds)

    def _run(self, *words: str, seconds: float, variables: Mapping[str, str] | None = None) -> str:
        try:
            done = subprocess.run(
                words,
                env=self._environment | dict(variables or {}),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
                start_new_session=True,  # Ctrl-C is for the run, which heals behind it
            )
        except FileNotFoundError:
            raise TargetError(f"{words[0]} is not installed") from None
        except subprocess.TimeoutExpired:
            raise TargetError(f"`{' '.join(words)}` took more than {seconds:g} s") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip()
            raise TargetError(f"`{' '.join(words)}` failed: {said[-2000:]}")
        return done.stdout

    # --- members ----------------------------------------------------------------------

    @cached_property
    def containers(self) -> dict[str, str]:
        """Container ids of the members by service, in order of their names."""
        listed = self.docker(
            "ps",
            "--all",
            "--no-trunc",
            "--filter",
            f"label={_LABEL}.project={self.name}",
            "--format",
            f'{{{{.Label "{_LABEL}.service"}}}} {{{{.ID}}}}',
        )
        found = dict(sorted(line.split() for line in listed.splitlines()))
        return {service: one for service, one in found.items() if self._publishes(one)}

    def _publishes(self, container: str) -> bool:
        bound = self._inspect(container)["HostConfig"]["PortBindings"] or {}
        return f"{self._client_port}/tcp" in bound

    def _inspect(self, container: str) -> Any:
        return json.loads(self.docker("inspect", container))[0]

    def state(self, service: str) -> Mapping[str, Any]:
        """Of its container: Running, Paused, Pid, Health, ..."""
        state: Mapping[str, Any] = self._inspect(self.containers[service])["State"]
        return state

    def restarts(self, service: str) -> int:
        """How often the engine started it anew by itself."""
        return int(self._inspect(self.containers[service])["RestartCount"])

    def endpoint(self, service: str) -> str:
        """Where the machine of the engine publishes its client port, as host:port."""
        bound = self._inspect(self.containers[service])["HostConfig"]["PortBindings"]
        (first, *_) = bound[f"{self._client_port}/tcp"]
        host = first["HostIp"]
        return f"{'127.0.0.1' if host in ('', '0.0.0.0') else host}:{first['HostPort']}"

    def execute(self, service: str, *words: str, seconds: float = COMMAND_SECONDS) -> str:
        """What a command inside its container prints."""
        return self.docker("exec", self.containers[service], *words, seconds=seconds)

    def log(self, service: str) -> str:
        """What it wrote to its standard error."""
        done = subprocess.run(
            ["docker", "logs", self.containers[service]],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
        return done.stdout

    # --- faults -----------------------------------------------------------------------

    def kill(self, service: str) -> None:
        """SIGKILL. Nobody starts it again: for the engine that is a stop by hand."""
        if self.state(service)["Running"]:
            self.docker("kill", self.containers[service])

    def start(self, service: str) -> None:
        """Harmless if it runs."""
        self.docker("start", self.containers[service])

    def pause(self, service: str) -> None:
        """All its processes stand still."""
        state = self.state(service)
        if state["Running"] and not state["Paused"]:
            self.docker("pause", self.containers[service])

    def resume(self, service: str) -> None:
        """Harmless if it is not paused."""
        if self.state(service)["Paused"]:
            self.docker("unpause", self.containers[service])

    def isolate(self, service: str) -> None:
        """Cuts it off all other members. Harmless if it is."""
        if service in self._links:
            return
        container = self.containers[service]
        networks = self._inspect(container)["NetworkSettings"]["Networks"]
        network = self._peers(networks)
        self._links[service] = network, _connecting(networks[network], container)
        self.docker("network", "disconnect", network, container)

    def join(self, service: str) -> None:
        """Undoes `isolate`. Harmless if it is not cut off."""
        if service in self._links:
            network, words = self._links[service]
            self.docker("network", "connect", *words, network, self.containers[service])
            del self._links[service]

    @property
    def isolated(self) -> list[str]:
        """Who is cut off now."""
        return sorted(self._links)

    def _peers(self, networks: Mapping[str, Any]) -> str:
        named = [name for name in networks if name == f"{self.name}_{PEERS}"]
        if named or len(networks) == 1:
            return (named or list(networks))[0]
        raise TargetError(
            f"the members have the networks {', '.join(sorted(networks))}; which one is theirs? "
            f"It should be called {PEERS!r}"
        )


def _connecting(network: Mapping[str, Any], container: str) -> list[str]:
    """The flags that connect a container to a network as it was."""
    words: list[str] = []
    for alias in network["Aliases"] or []:
        if alias != container[:_SHORT_ID]:
            words += ["--alias", alias]
    address = (network["IPAMConfig"] or {}).get("IPv4Address")
    return [*words, "--ip", address] if address else words
