"""What `make compose-test` does with the cluster of deploy/compose.yaml, and what must come of it.

    python -m tests.deploy.compose_scenario --file deploy/compose.yaml --project NAME

Writers put one new key after the other from outside, and note what was acknowledged, while the
leader is cut off its peers, a container is killed, a member crashes and one loses its volume.
Watches from outside and from inside see it all. In the end every acknowledged key must be there on
every member, also after `down` and `up`, and both watches must have had each once, in order.

It starts the cluster, prints each step, leaves the cluster running, and exits with 0 or 1.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import click

from jepsen_lite.target.project import Project
from raftkv.client import Client, WatchBatch
from raftkv.client.errors import ClientError
from raftkv.errors import Outcome, RaftkvError

WATCHED: Final = "watched/"
PREFIX: Final = WATCHED + "writes/"
WRITERS: Final = 4
READY_SECONDS: Final = 120.0  # everything serves, on a slow machine
PROGRESS: Final = 100  # acknowledged writes that show that the others go on
CUT_SECONDS: Final = 5.0
REFUSED_SECONDS: Final = 3.0
UID: Final = "10001"
COMPILERS: Final = ("cc", "gcc", "g++", "c++", "clang", "make", "as", "ld")
_began: Final = time.monotonic()


class ScenarioFailed(Exception):
    """The cluster did not do what it promises; the text says what."""


def say(text: str) -> None:
    """One step, with the seconds since the beginning."""
    print(f"[{time.monotonic() - _began:6.1f} s] {text}", flush=True)


def check(holds: bool, what: str) -> None:
    """Errors: ScenarioFailed, unless `holds`."""
    if not holds:
        raise ScenarioFailed(what)


def until(holds: Callable[[], bool], what: str, seconds: float = READY_SECONDS) -> float:
    """Waits until something holds; returns the seconds that took. Errors: ScenarioFailed."""
    begin = time.monotonic()
    while not holds():
        check(time.monotonic() - begin < seconds, f"after {seconds:g} s still not: {what}")
        time.sleep(0.1)
    return time.monotonic() - begin


class Writers:
    """Put new keys through all endpoints; `acknowledged` has what was answered, by key."""

    def __init__(self, endpoints: list[str]) -> None:
        self.acknowledged: dict[str, str] = {}
        self.unanswered = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(endpoints, number), daemon=True)
            for number in range(WRITERS)
        ]
        for thread in self._threads:
            thread.start()

    def _write(self, endpoints: list[str], number: int) -> None:
        turned = endpoints[number % len(endpoints) :] + endpoints[: number % len(endpoints)]
        with Client(turned, timeout=5.0) as client:
            count = 0
            while not self._ended.is_set():
                key, value = f"{PREFIX}{number}/{count:06}", f"{number}-{count}"
                count += 1
                try:
                    client.put(key, value)
                except ClientError:
                    with self._lock:
                        self.unanswered += 1
                else:
                    with self._lock:
                        self.acknowledged[key] = value

    @property
    def count(self) -> int:
        """Of acknowledged writes by now."""
        return len(self.acknowledged)

    def go_on(self, what: str) -> None:
        """Waits until so many more are acknowledged. Errors: ScenarioFailed."""
        wanted = self.count + PROGRESS
        until(lambda: self.count >= wanted, f"{PROGRESS} more writes are acknowledged {what}")

    def end(self) -> None:
        """No more writes."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60.0)
            check(not thread.is_alive(), "a writer hangs")


class OutsideWatch:
    """The client library's watch through the published ports."""

    def __init__(self, endpoints: list[str]) -> None:
        self.keys: list[str] = []
        self.revisions: list[int] = []
        self._client = Client(endpoints)
        self._watching = self._client.add_watch_callback(
            WATCHED, self._note, prefix=True, on_error=self._failed
        )
        self.error: Exception | None = None

    def _note(self, batch: WatchBatch) -> None:
        for event in batch:
            self.keys.append(event.key.decode())
            self.revisions.append(event.kv.mod_revision)

    def _failed(self, error: Exception) -> None:
        self.error = error

    def close(self) -> None:
        """Ends it."""
        self._watching.close()
        self._client.close()


class InsideWatch:
    """`raftctl watch` in a container, at the members' names."""

    def __init__(self, project: Project, service: str) -> None:
        endpoints = ",".join(f"{one}:2379" for one in project.containers)
        self._process = subprocess.Popen(
            [
                *("docker", "exec", project.containers[service]),
                *("raftctl", "--endpoints", endpoints, "watch", "--prefix", WATCHED),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.keys: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(WATCHED):
                self.keys.append(line.strip())

    @property
    def runs(self) -> bool:
        """Whether the command still watches."""
        return self._process.poll() is None

    def close(self) -> None:
        """Ends the command; what it has in the container ends with its output."""
        self._process.kill()
        self._process.wait()
        self._reader.join(10.0)


# --- the steps ----------------------------------------------------------------------


def _healthy(project: Project) -> bool:
    return all(
        project.state(one).get("Health", {}).get("Status") == "healthy"
        for one in project.containers
    )


def _well(project: Project, service: str) -> bool:
    """What the image's own health check says at this moment."""
    with contextlib.suppress(RaftkvError):
        project.execute(service, "raftkv-healthcheck")
        return True
    return False


def _leader(project: Project, but: str = "") -> str:
    """Errors: ClientError, if no other member than `but` leads."""
    for service in project.containers:
        if service != but:
            with (
                contextlib.suppress(ClientError),
                Client(project.endpoint(service), timeout=2.0) as client,
            ):
                if client.status().is_leader:
                    return service
    return ""


def image_is_hardened(project: Project) -> None:
    """Non-root, without capabilities, a root file system for reading, and no compiler."""
    service = next(iter(project.containers))
    say("image: not root, no privileges, nothing to write to, no compiler")
    check(project.execute(service, "id", "-u").strip() == UID, "the member runs as another user")
    status = project.execute(service, "cat", "/proc/1/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    check(int(fields["CapBnd"], 16) == 0, f"it could have capabilities: {fields['CapBnd']}")
    check(fields["NoNewPrivs"].strip() == "1", "it may gain privileges")
    writable = project.execute(
        service, "sh", "-c", "for d in / /usr /opt/raftkv /etc; do test -w $d && echo $d; done; :"
    )
    check(writable == "", f"it may write to {writable.split()}")
    found = project.execute(service, "sh", "-c", f"command -v {' '.join(COMPILERS)}; :")
    check(found == "", f"there is a compiler: {found.split()}")


def both_sides_meet(project: Project) -> None:
    """What is put outside is read inside, and the other way round."""
    services = list(project.containers)
    say("put outside, get inside at each member; put inside, get outside")
    with Client([project.endpoint(one) for one in services]) as client:
        client.put("outside", "hello")
        for service in services:
            got = project.execute(service, "raftctl", "get", "outside", "--print-value-only")
            check(got.strip() == "hello", f"{service} answered {got!r}")
        project.execute(services[0], "raftctl", "put", "inside", "world")
        check(client.get("inside").text == "world", "what was put inside is not there outside")


def leader_is_cut_off(project: Project, writers: Writers) -> None:
    """The others go on without it, it refuses, and it catches up."""
    leader = _leader(project)
    check(leader != "", "nobody leads")
    say(f"partition: {leader}, the leader, leaves the peers' network")
    project.isolate(leader)
    try:
        took = until(lambda: bool(_leader(project, but=leader)), "the others have a leader")
        say(f"  {_leader(project, but=leader)} leads after {took:.1f} s")
        writers.go_on("by the majority")
        with Client(project.endpoint(leader), timeout=REFUSED_SECONDS) as client:
            refusal = _refusal(client)
            say(f"  {leader} takes no write: {refusal.text}")
            check(client.get("outside", serializable=True).text == "hello", "it lost its state")
        check(not _well(project, leader), f"{leader} calls itself ready")
        time.sleep(CUT_SECONDS)
    finally:
        project.join(leader)
    took = until(lambda: _well(project, leader), f"{leader} is ready again")
    say(f"  healed; {leader} is ready after {took:.1f} s")
    with Client(project.endpoint(leader), timeout=10.0) as client:
        kept = client.get("minority").exists
    check(not (kept and refusal.outcome is Outcome.DEFINITE), "what was refused was carried out")
    writers.go_on("after the partition")


def _refusal(client: Client) -> ClientError:
    """Of a write at a member without a majority. Errors: ScenarioFailed, if it is taken."""
    try:
        client.put("minority", "must not be")
    except ClientError as error:
        return error
    raise ScenarioFailed("a member without a majority took a write")


def container_is_killed(project: Project, service: str, writers: Writers) -> None:
    """docker kill, and later docker start."""
    say(f"kill: {service}")
    project.kill(service)
    check(not project.state(service)["Running"], f"{service} still runs")
    writers.go_on("without it")
    project.start(service)
    took = until(lambda: _well(project, service), f"{service} is ready again")
    say(f"  started; ready after {took:.1f} s")
    writers.go_on("with it")


def member_crashes(project: Project, service: str, writers: Writers) -> None:
    """Its process dies by itself, as far as the engine knows: the restart policy must act."""
    pid, before = int(project.state(service)["Pid"]), project.restarts(service)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        check(b"raftkv" in command, "this machine's process with that id is another one")
        os.kill(pid, signal.SIGKILL)
    except (OSError, ScenarioFailed) as error:
        say(f"crash: left out, the member's process cannot be reached from here ({error})")
        return
    say(f"crash: {service}'s process is killed from outside of Docker")
    until(lambda: project.restarts(service) > before, f"the engine restarts {service}")
    took = until(lambda: _well(project, service), f"{service} is ready again")
    say(f"  restarted by its policy; ready after {took:.1f} s")
    writers.go_on("after the crash")


def volume_is_lost(project: Project, service: str, writers: Writers) -> None:
    """The member comes back as a new one in the old one's place, and gets everything."""
    say(f"lost volume: {service} is removed with its data and started with --rejoin")
    project.remove(service, volume=service)
    writers.go_on("without its data")
    project.up(service, REJOIN="true")
    took = until(lambda: _well(project, service), f"{service} is a voter again")
    say(f"  a voter again after {took:.1f} s")
    writers.go_on("with the new member")


def nothing_is_lost(project: Project, writers: Writers, when: str) -> None:
    """Every acknowledged key is at every member, and all members have the same."""
    states: list[dict[str, tuple[str, int]]] = []
    for service in project.containers:
        with Client(project.endpoint(service), timeout=20.0) as client:
            pairs = client.iterate(PREFIX)
            states.append({one.key.decode(): (one.text, one.mod_revision) for one in pairs})
    for service, state in zip(project.containers, states, strict=True):
        lost = [
            key
            for key, value in writers.acknowledged.items()
            if state.get(key, ("", 0))[0] != value
        ]
        check(not lost, f"{service} lost {len(lost)} acknowledged writes {when}: {lost[:5]}")
    check(all(state == states[0] for state in states), f"the members differ {when}")
    say(
        f"nothing lost {when}: {writers.count} acknowledged writes at all {len(states)} members, "
        f"{len(states[0])} keys, {writers.unanswered} attempts without an answer"
    )


def watches_saw_all(outside: OutsideWatch, inside: InsideWatch, writers: Writers) -> None:
    """Each acknowledged key once, and both in the same order, that of revisions."""
    seen: list[list[str]] = []
    for name, watch in (("outside", outside), ("inside", inside)):
        has_all = partial(_has_all, watch, set(writers.acknowledged))
        until(has_all, f"the watch from {name} has every acknowledged write", 60.0)
        keys = [key for key in watch.keys if key.startswith(PREFIX)]
        check(len(keys) == len(set(keys)), f"the watch from {name} had an event twice")
        seen.append(keys)
    check(outside.error is None, f"the watch from outside failed: {outside.error}")
    check(inside.runs, "the watch from inside has ended")
    check(outside.revisions == sorted(set(outside.revisions)), "revisions out of order")
    common = min(len(keys) for keys in seen)
    check(seen[0][:common] == seen[1][:common], "the watches differ")
    say(f"watches: {len(seen[0])} writes seen outside and {len(seen[1])} inside, each once")


def _has_all(watch: OutsideWatch | InsideWatch, keys: set[str]) -> bool:
    return keys <= set(watch.keys)


# --- the whole ------------------------------------------------------------------------


@contextlib.contextmanager
def _watching(
    project: Project, endpoints: list[str], inside: str
) -> Iterator[tuple[OutsideWatch, InsideWatch]]:
    outside_watch, inside_watch = OutsideWatch(endpoints), InsideWatch(project, inside)
    try:
        yield outside_watch, inside_watch
    finally:
        inside_watch.close()
        outside_watch.close()


def run(project: Project) -> None:
    """All steps. Errors: ScenarioFailed, RaftkvError."""
    say("start: three members, each in a container with a volume")
    project.up()
    services = list(project.containers)
    check(len(services) == 3, f"there are {len(services)} members")
    took = until(lambda: _healthy(project), "all containers are healthy")
    say(f"  all healthy after {took:.1f} s")
    image_is_hardened(project)
    both_sides_meet(project)
    endpoints = [project.endpoint(one) for one in services]
    watcher, victim, crashing = services[0], services[1], services[2]
    with _watching(project, endpoints, watcher) as (outside, inside):
        say(f"watch from outside and in {watcher}; {WRITERS} writers from outside")
        _watches_begin(endpoints, outside, inside)
        writers = Writers(endpoints)
        try:
            writers.go_on("at the beginning")
            leader_is_cut_off(project, writers)
            container_is_killed(project, victim, writers)
            member_crashes(project, crashing, writers)
            volume_is_lost(project, victim, writers)
        finally:
            writers.end()
        watches_saw_all(outside, inside, writers)
    nothing_is_lost(project, writers, "behind the faults")
    say("down, and up again with the same volumes")
    project.down(volumes=False)
    project.up()
    until(lambda: _healthy(project), "all containers are healthy")
    nothing_is_lost(project, writers, "by `down` and `up`")


def _watches_begin(endpoints: list[str], outside: OutsideWatch, inside: InsideWatch) -> None:
    """Returns when both see what is put."""
    with Client(endpoints) as client:

        def seen() -> bool:
            client.put(f"{WATCHED}begin", str(time.monotonic()))
            return bool(outside.keys) and bool(inside.keys)

        until(seen, "both watches see a key", 30.0)


@click.command()
@click.option("--file", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--project", "name", required=True, help="Of compose; it must not run yet.")
def main(file: Path, name: str) -> None:
    """Drives the cluster of a compose file through faults, and checks what it promised."""
    project = Project(file, name)
    try:
        run(project)
    except (ScenarioFailed, RaftkvError) as error:
        say(f"FAILED: {error}")
        for service in project.containers:
            print(f"--- {service}\n{project.log(service)[-3000:]}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
