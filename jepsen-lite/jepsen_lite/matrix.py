"""`matrix`: all 4,096 damages of four entries on three members, on the real log (`damages`).

Three real members take four puts, each its own disk batch everywhere and acknowledged, and are
killed with SIGKILL. The entries then lie in the raw write-ahead files of their logs and in no
checkpoint of a state. Two variants: with the mark up to date (a second after the last write), and
lagging behind all four. For each member and each of the 16 patterns a bit in the value of each
damaged entry is flipped in a copy of the files, and the copy is opened: 48 openings. So every
combination belongs to one of a few classes, and each class is tried with real processes.
"""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from random import Random
from typing import Any, Final

from jepsen_lite import damages
from jepsen_lite.damages import ENTRIES, MEMBERS, PATTERNS, REFUSED, SHORT
from jepsen_lite.session import Session
from jepsen_lite.target.base import TargetError
from jepsen_lite.target.process import environment
from jepsen_lite.target.restoring import Restorable
from raftkv.client.errors import ClientError
from raftkv.pb import rpc_pb2

HASH_KV: Final = "/etcdserverpb.Maintenance/HashKV"
STATUS: Final = "/etcdserverpb.Maintenance/Status"
PREFIX: Final = "matrix/"
ATTEMPTS: Final = 8  # to catch all marks where they should be
MARK_SECONDS: Final = 2.5  # the mark of an idle member follows within one
SERVE_SECONDS: Final = 60.0
SILENT_SECONDS: Final = 4.0  # of calls that must not be answered
POLL_SECONDS: Final = 0.02
AHEAD_BYTES: Final = 128 * 1024


class MatrixError(TargetError):
    """A promise was broken, or a cluster could not be brought where it should be."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Where all begins: the images of the members' directories. values: of the four entries."""

    lagging: bool
    target: Restorable
    images: list[Path]
    values: list[str]

    @property
    def name(self) -> str:
        """Of the variant."""
        return "lagging mark" if self.lagging else "mark up to date"


@dataclass(frozen=True, slots=True)
class Trial:
    """What one class did with real processes. combination: the damage that stood for it."""

    labels: damages.Labels
    combination: damages.Combination
    verdict: str
    seen: str
    seconds: float


# --- the beginning ------------------------------------------------------------------


async def prepare(directory: Path, lagging: bool, random: Random) -> Scene:
    """Starts three members and leaves them killed, with images. Errors: MatrixError."""
    target = Restorable(MEMBERS, directory / "cluster")
    try:
        await target.start()
        for attempt in range(ATTEMPTS):
            values = [f"entry-{entry}-{random.randbytes(24).hex()}" for entry in range(ENTRIES)]
            await _write(target, values)
            if not lagging:
                await asyncio.sleep(MARK_SECONDS)
            await asyncio.gather(*(target.kill(member) for member in range(MEMBERS)))
            images = [directory / f"image-{attempt}-{member}" for member in range(MEMBERS)]
            for member, image in enumerate(images):
                copy_tree(target.data_dir(member), image)
            found = look([copied(image, directory / "look") for image in images], values)
            if all(_as_wanted(one, lagging) for one in found):
                return Scene(lagging, target, images, values)
            await target.recover()
        raise MatrixError(f"the marks were not where they should be: {found}")
    except BaseException:
        await target.stop()
        raise


def _as_wanted(found: Mapping[str, Any], lagging: bool) -> bool:
    """Each entry is in a batch of its own of the raw files, none in the state; the mark fits."""
    first, last = found["last_index"] - ENTRIES + 1, found["last_index"]
    marked = found["marked_index"] < first if lagging else found["marked_index"] == last
    batches = found["batches"]
    return bool(
        not found["refusal"]
        and all(found["kept"])
        and 0 not in batches
        and len(set(batches)) == ENTRIES
        and found["applied_index"] < first
        and marked
    )


async def _write(target: Restorable, values: Sequence[str]) -> None:
    """One put after the other, each at all members before the next."""
    sessions = [_session(target, member, 10.0) for member in range(MEMBERS)]
    try:
        await sessions[0].put(f"{PREFIX}start", "brings the mark up to here")
        for entry, value in enumerate(values):
            revision = (await sessions[0].put(f"{PREFIX}{entry}", value)).revision
            for session in sessions:
                while (await session.get(PREFIX, serializable=True)).revision < revision:
                    await asyncio.sleep(0.001)
    finally:
        for session in sessions:
            await session.close()


def copied(image: Path, beside: Path) -> Path:
    """A copy of an image to open, named after it."""
    place = beside / image.name
    shutil.rmtree(place, ignore_errors=True)
    copy_tree(image, place)
    return place


# --- the openings -------------------------------------------------------------------


def damage(directory: Path, values: Sequence[str], pattern: int, random: Random) -> None:
    """Flips one bit in the value of each entry of the pattern, in the only file that has it."""
    for entry in damages.damaged(pattern):
        value = values[entry].encode()
        holders = [path for path in directory.rglob("*") if path.is_file()]
        found = [(path, start) for path in holders if (start := _find(path, value)) >= 0]
        if len(found) != 1 or found[0][0].suffix != ".log":
            raise MatrixError(f"{value!r} is not in one write-ahead file: {found}")
        path, start = found[0]
        at = start + random.randrange(len(value))
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes((byte ^ 1 << random.randrange(8),)))


def _find(path: Path, value: bytes) -> int:
    with path.open("rb") as file:
        if not path.stat().st_size:
            return -1
        with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
            return content.find(value)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory. Of the zeros allocated ahead in a file, `AHEAD_BYTES` are enough."""
    shutil.copytree(source, target, symlinks=True, copy_function=_copy_shorter)


def _copy_shorter(source: str, target: str) -> None:
    content = Path(source).read_bytes()
    Path(target).write_bytes(content[: len(content.rstrip(b"\0")) + AHEAD_BYTES])
    shutil.copymode(source, target)


def look(directories: Sequence[Path], values: Sequence[str]) -> list[dict[str, Any]]:
    """Opens directories in a process of its own: `jepsen_lite.member.opening.Opened` of each."""
    done = subprocess.run(
        [sys.executable, "-m", "jepsen_lite.member.opening", *values],
        input="".join(f"{one}\n" for one in directories),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env=environment(),
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode or len(found) != len(directories):
        raise MatrixError(f"opening ended with {done.returncode} after {len(found)} directories")
    return found


def open_all(scene: Scene, directory: Path, random: Random) -> list[dict[int, str]]:
    """The 48 openings: for each member the label of each pattern. Errors: MatrixError."""
    opened: list[dict[int, str]] = []
    for member, image in enumerate(scene.images):
        places = []
        for pattern in range(PATTERNS):
            places.append(directory / f"open-{member}-{pattern}")
            copy_tree(image, places[-1])
            damage(places[-1], scene.values, pattern, random)
        labels: dict[int, str] = {}
        for pattern, found in enumerate(look(places, scene.values)):
            try:
                labels[pattern] = damages.label(found["refusal"], found["kept"])
            except ValueError as error:
                raise MatrixError(f"member {member + 1}, pattern {pattern:04b}: {error}") from None
        opened.append(labels)
        for place in places:
            shutil.rmtree(place)
    return opened


# --- the classes, with real processes -----------------------------------------------


async def attempt(
    scene: Scene, labels: damages.Labels, combination: damages.Combination, random: Random
) -> Trial:
    """Starts the members upon this damage and checks what they do. Errors: MatrixError."""
    began = time.monotonic()
    target, verdict = scene.target, damages.verdict_of(combination, labels)
    await target.restore(scene.images)
    for member, pattern in enumerate(combination):
        damage(target.data_dir(member), scene.values, pattern, random)
    await target.begin()
    up = [member for member in range(MEMBERS) if labels[member] != REFUSED]
    down = [member for member in range(MEMBERS) if labels[member] == REFUSED]
    for member in down:
        code, words = await target.refusal(member)
        if code <= 0 or "raftctl member remove" not in words:
            raise MatrixError(f"member {member + 1} ended with {code} and said: {words}")
    if verdict in (damages.GAP, damages.GONE):
        seen = await _must_be_silent(target, up)
    else:
        seen = await _must_serve(scene, labels, up, down)
    for member in range(MEMBERS):
        await target.kill(member)
    return Trial(labels, combination, verdict, seen, time.monotonic() - began)


async def _must_serve(
    scene: Scene, labels: damages.Labels, up: Sequence[int], down: Sequence[int]
) -> str:
    target = scene.target
    lossy = 2 * labels.count(SHORT) > MEMBERS
    found = [await _values(target, member) for member in up]
    expected = list(scene.values)
    if lossy and found[0] == expected[:-1]:
        expected = expected[:-1]
    if any(one != expected for one in found):
        raise MatrixError(f"{labels}: read {found} instead of {scene.values}")
    for member in down:
        await target.replace(member)
    everybody = [await _values(target, member) for member in range(MEMBERS)]
    if any(one != expected for one in everybody):
        raise MatrixError(f"{labels}: read {everybody} after the repair")
    hashes = [await _hash(target, member) for member in range(MEMBERS)]
    if len(set(hashes)) != 1:
        raise MatrixError(f"{labels}: hashes differ: {hashes}")
    words = "all entries read" if len(expected) == ENTRIES else "THE LAST ENTRY WAS LOST"
    return f"{words}; " + (f"{len(down)} replaced; " if down else "") + "hashes equal"


async def _must_be_silent(target: Restorable, up: Sequence[int]) -> str:
    for member in up:
        await _until_it_says_something(target, member)
        session = _session(target, member, SILENT_SECONDS)
        try:
            answer = await session.get_prefix(PREFIX)
        except ClientError:
            pass
        else:
            raise MatrixError(f"member {member + 1} alone answered a read: {answer}")
        try:
            await session.put(f"{PREFIX}alone", "must not be acknowledged")
        except ClientError:
            pass
        else:
            raise MatrixError(f"member {member + 1} alone acknowledged a put")
        finally:
            await session.close()
    return f"no answer of {len(up)} running" if up else "nobody runs"


async def _values(target: Restorable, member: int) -> list[str]:
    """The four values as a linearizable read at this member finds them. Errors: MatrixError."""
    deadline = asyncio.get_running_loop().time() + SERVE_SECONDS
    while True:
        session = _session(target, member, 5.0)
        try:
            found = [await session.get(f"{PREFIX}{entry}") for entry in range(ENTRIES)]
            return [one.value.decode() for one in found if one.value is not None]
        except ClientError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise MatrixError(f"member {member + 1} does not serve: {error}") from None
            await asyncio.sleep(POLL_SECONDS)
        finally:
            await session.close()


async def _until_it_says_something(target: Restorable, member: int) -> None:
    deadline = asyncio.get_running_loop().time() + SERVE_SECONDS
    while True:
        session = _session(target, member, 2.0)
        try:
            await session.call(STATUS, rpc_pb2.StatusRequest(), rpc_pb2.StatusResponse, write=False)
            return
        except ClientError as error:
            if asyncio.get_running_loop().time() > deadline:
                raise MatrixError(f"member {member + 1} does not come up: {error}") from None
            await asyncio.sleep(POLL_SECONDS)
        finally:
            await session.close()


async def _hash(target: Restorable, member: int) -> tuple[int, int]:
    """(revision, HashKV)."""
    session = _session(target, member, 10.0)
    try:
        answer = await session.call(
            HASH_KV, rpc_pb2.HashKVRequest(), rpc_pb2.HashKVResponse, write=False
        )
        return answer.header.revision, answer.hash
    finally:
        await session.close()


def _session(target: Restorable, member: int, seconds: float) -> Session:
    return Session([target.endpoints[member]], timeout=seconds, dial_timeout=min(seconds, 2.0))


def representatives(
    opened: Sequence[Mapping[int, str]], random: Random
) -> list[tuple[damages.Labels, damages.Combination]]:
    """A combination for each class, drawn."""
    found = damages.classes(opened)
    return [(labels, random.choice(found[labels])) for labels in sorted(found, reverse=True)]
