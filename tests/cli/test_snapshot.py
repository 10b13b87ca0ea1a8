"""raftctl snapshot and defrag beside etcdctl, damaged files, and a drill with three members."""

import itertools
import json
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random

import grpc
import pytest

from raftkv.kv.restoring import REVISION_BUMP
from raftkv.pb import rpc_pb2
from tests.cli.running import Outcome, etcdctl, raftctl
from tests.processes import RAFTKV, Cluster, Server, etcd, free_ports, raftkv

KEYS = 40


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One raftkv member with some keys."""
    with raftkv(tmp_path_factory.mktemp("raftkv")) as cluster:
        for one in range(KEYS):
            assert raftctl(["--endpoints", cluster.endpoints, "put", f"k{one}", "v"]).exit_code == 0
        yield cluster


@pytest.fixture(scope="module")
def saved(ours: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot of it."""
    path = tmp_path_factory.mktemp("saved") / "s.db"
    done = raftctl(["--endpoints", ours.endpoints, "snapshot", "save", str(path)])
    assert (done.exit_code, done.out) == (0, f"Snapshot saved at {path}\n".encode())
    assert path.stat().st_mode & 0o777 == 0o600  # everything is in it
    return path


def restore(path: Path, directory: Path, *flags: str) -> Outcome:
    return raftctl(["snapshot", "restore", str(path), "--data-dir", str(directory), *flags])


def files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


# --- save -------------------------------------------------------------------------


def test_etcdctl_saves_a_snapshot_of_raftkv_that_raftctl_reads(
    ours: Cluster, saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "e.db"
    done = etcdctl(["--endpoints", ours.endpoints, "snapshot", "save", str(path)])
    assert (done.exit_code, done.out) == (0, f"Snapshot saved at {path}\n".encode())
    assert path.stat().st_size % 512 == 32
    theirs = json.loads(raftctl(["snapshot", "status", str(path), "-w", "json"]).out)
    mine = json.loads(raftctl(["snapshot", "status", str(saved), "-w", "json"]).out)
    assert theirs["revision"] == mine["revision"] == KEYS + 1
    assert theirs["totalKey"] == KEYS
    assert etcdctl(["snapshot", "status", str(path)]).exit_code != 0  # it is no bbolt file


def test_raftctl_saves_a_snapshot_of_etcd_that_etcdctl_reads_and_raftctl_names(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.db"
    with etcd(tmp_path / "etcd", "--unsafe-no-fsync") as cluster:
        assert raftctl(["--endpoints", cluster.endpoints, "put", "k", "v"]).exit_code == 0
        done = raftctl(["--endpoints", cluster.endpoints, "snapshot", "save", str(path)])
        assert done.exit_code == 0, done.err
        defragmented = [
            run(["--endpoints", cluster.endpoints, "defrag", *flags])
            for run in (etcdctl, raftctl)
            for flags in ([], ["--cluster"])
        ]
    assert json.loads(etcdctl(["snapshot", "status", str(path), "-w", "json"]).out)["revision"] == 2
    for arguments in (["status", str(path)], ["restore", str(path), "--data-dir", "x"]):
        done = raftctl(["snapshot", *arguments])
        assert done.exit_code == 1
        assert "is a snapshot of etcd (a bbolt file)" in done.err
    assert not os.path.exists("x")
    assert [one.exit_code for one in defragmented] == [0] * 4
    assert [one.out for one in defragmented[:2]] == [one.out for one in defragmented[2:]]


@pytest.mark.parametrize(
    "arguments",
    [
        ["snapshot", "save"],
        ["snapshot", "save", "a", "b"],
        ["--endpoints", "127.0.0.1:1,127.0.0.1:2", "snapshot", "save", "x"],
        ["snapshot", "status", "/none"],
    ],
)
def test_mistakes_end_as_with_etcdctl(arguments: list[str]) -> None:
    theirs, mine = etcdctl(arguments), raftctl(arguments)
    assert mine.exit_code == theirs.exit_code
    assert mine.err.splitlines()[0] in theirs.err


def test_a_save_that_fails_leaves_the_file_of_before_and_nothing_else(
    ours: Cluster, tmp_path: Path
) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"the last good one")
    (port,) = free_ports(1)
    done = raftctl(
        ["--endpoints", f"127.0.0.1:{port}", "--dial-timeout=200ms", "snapshot", "save", str(path)]
    )
    assert done.exit_code == 5
    assert path.read_bytes() == b"the last good one"
    nowhere = str(tmp_path / "none" / "s.db")
    done = raftctl(["--endpoints", ours.endpoints, "snapshot", "save", nowhere])
    assert (done.exit_code, "no such file or directory" in done.err) == (5, True)
    assert os.listdir(tmp_path) == ["s.db"]
    assert raftctl(["--endpoints", ours.endpoints, "snapshot", "save", str(path)]).exit_code == 0
    assert raftctl(["snapshot", "status", str(path)]).exit_code == 0
    assert os.listdir(tmp_path) == ["s.db"]


# --- status -----------------------------------------------------------------------


def test_status_is_printed_in_etcdctls_formats(saved: Path) -> None:
    """The shapes are those of etcdctl 3.5.1; json and fields say more at their ends."""

    def shown(form: str) -> str:
        done = raftctl(["snapshot", "status", str(saved), "-w", form])
        assert done.exit_code == 0, done.err
        return done.out.decode()

    found = re.fullmatch(
        rf"([0-9a-f]{{1,8}}), {KEYS + 1}, {KEYS}, (\d+(\.\d)? kB)\n", shown("simple")
    )
    assert found is not None
    tree = json.loads(shown("json"))
    assert list(tree)[:4] == ["hash", "revision", "totalKey", "totalSize"]
    assert f"{tree['hash']:x}" == found[1]
    assert tree["totalSize"] == saved.stat().st_size - 32
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", tree["created"])
    table = shown("table").splitlines()
    assert table[1].split() == ["|", "HASH", "|", "REVISION", "|", "TOTAL", "KEYS",
                                "|", "TOTAL", "SIZE", "|"]  # fmt: skip
    assert table[3].split() == ["|", found[1], "|", f"{KEYS + 1}", "|", f"{KEYS}", "|",
                                *found[2].split(), "|"]  # fmt: skip
    fields = shown("fields").splitlines()
    assert fields[:4] == [
        f'"Hash" : {tree["hash"]}',
        f'"Revision" : {KEYS + 1}',
        f'"Keys" : {KEYS}',
        f'"Size" : {tree["totalSize"]}',
    ]
    done = raftctl(["snapshot", "status", str(saved), "-w", "protobuf"])
    assert (done.exit_code, done.err) == (4, "Error: protobuf not supported as output format\n")


# --- restore ------------------------------------------------------------------------


def test_a_damaged_or_truncated_snapshot_is_refused_before_anything_is_written(
    saved: Path, tmp_path: Path
) -> None:
    """D09: at random places."""
    content = saved.read_bytes()
    random = Random(4)
    bad = tmp_path / "bad.db"
    for number in range(40):
        place = random.randrange(len(content))
        if number % 2:
            bad.write_bytes(content[:place])
        else:
            flipped = bytes((content[place] ^ 1 << random.randrange(8),))
            bad.write_bytes(content[:place] + flipped + content[place + 1 :])
        done = restore(bad, tmp_path / "data")
        assert done.exit_code == 1
        assert done.err.startswith("Error: ")
        assert len(done.err.splitlines()) == 1
        assert os.listdir(tmp_path) == ["bad.db"]


def test_a_directory_that_is_not_empty_and_wrong_flags_are_refused_untouched(
    saved: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    for flags, reason in (
        (["--name", "b"], "--initial-cluster: has no 'b'"),
        (["--initial-advertise-peer-urls", "http://a:2"], "http://a:2 is missing there"),
        (["--bump-revision", "-1"], "must not be negative"),
        (["--bump-revision", str(2**63 - 1)], "out of range"),
        (["--wal-dir", "x"], "--wal-dir is not supported"),
    ):
        done = restore(
            saved, data, "--name", "a", "--initial-cluster", "a=http://a:1",
            "--initial-advertise-peer-urls", "http://a:1", *flags,
        )  # fmt: skip
        assert done.exit_code == 1
        assert reason in done.err
        assert not data.exists()
    data.mkdir()
    (data / "mine").write_text("x")
    done = restore(saved, data)
    assert "is not empty: it holds mine" in done.err
    assert files_below(data) == ["mine"]
    (data / "mine").unlink()
    assert restore(saved, data).exit_code == 0
    before = files_below(data)
    assert "is not empty" in restore(saved, data).err
    assert files_below(data) == before


def test_clusters_of_other_snapshots_and_other_flags_have_other_ids(
    saved: Path, tmp_path: Path
) -> None:
    """M18: also with the URLs and the token of the old cluster."""
    numbers = itertools.count()

    def cluster(*flags: str) -> tuple[int, int]:
        done = restore(saved, tmp_path / f"d{next(numbers)}", "-w", "json", *flags)
        tree = json.loads(done.out)
        return tree["clusterID"], tree["memberID"]

    plain = cluster()
    assert cluster() == plain
    others = [
        cluster("--bump-revision=0"),
        cluster("--mark-compacted=false"),
        cluster("--initial-cluster-token=other"),
    ]
    assert len({plain[0], *(one for one, _ in others)}) == 4
    old = json.loads(raftctl(["snapshot", "status", str(saved), "-w", "json"]).out)["cluster"]
    assert int(old, 16) not in {plain[0], *(one for one, _ in others)}


# --- the drill ------------------------------------------------------------------------


class Load:
    """Puts from a thread, each answered before the next. written: revision -> (key, value)."""

    def __init__(self, endpoint: str) -> None:
        self.written: dict[int, tuple[bytes, bytes]] = {}
        self._stop = threading.Event()
        self._endpoint = endpoint
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with grpc.insecure_channel(self._endpoint) as channel:
            put = channel.unary_unary(
                "/etcdserverpb.KV/Put",
                request_serializer=rpc_pb2.PutRequest.SerializeToString,
                response_deserializer=rpc_pb2.PutResponse.FromString,
            )
            number = 0
            while not self._stop.is_set():
                number += 1
                key, value = b"k%03d" % (number % 200), b"v%d" % number
                reply = put(rpc_pb2.PutRequest(key=key, value=value), timeout=60)
                self.written[reply.header.revision] = (key, value)

    def wait(self, count: int) -> None:
        """Until so many puts were answered."""
        deadline = time.monotonic() + 120
        while len(self.written) < count:
            assert self._thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()

    def at(self, revision: int) -> dict[bytes, bytes]:
        """What the store held at a revision."""
        return dict(self.written[one] for one in sorted(self.written) if one <= revision)


def restored_cluster(saved: Path, directory: Path) -> Cluster:
    """Three restored members, not started."""
    ports = free_ports(6)
    peers = {f"n{one}": f"http://127.0.0.1:{ports[2 * one + 1]}" for one in range(3)}
    initial = ",".join(f"{name}={url}" for name, url in peers.items())
    servers = []
    for one, (name, url) in enumerate(peers.items()):
        shared = ["--name", name, "--initial-cluster", initial]
        shared += ["--initial-advertise-peer-urls", url]
        done = restore(saved, directory / name, *shared)
        assert done.exit_code == 0, done.err
        client = f"http://127.0.0.1:{ports[2 * one]}"
        flags = [*shared, "--data-dir", str(directory / name), "--listen-peer-urls", url]
        flags += ["--listen-client-urls", client, "--advertise-client-urls", client]
        servers.append(
            Server(name, [*RAFTKV, *flags], directory, ports[2 * one], ports[2 * one + 1])
        )
    return Cluster(servers)


def everything(endpoint: str) -> tuple[dict[bytes, bytes], Mapping[bytes, int], int]:
    """(values, mod revisions, revision) as one member has them."""
    with grpc.insecure_channel(endpoint) as channel:
        call = channel.unary_unary(
            "/etcdserverpb.KV/Range",
            request_serializer=rpc_pb2.RangeRequest.SerializeToString,
            response_deserializer=rpc_pb2.RangeResponse.FromString,
        )
        reply = call(rpc_pb2.RangeRequest(key=b"\0", range_end=b"\0"), timeout=60)
    values = {kv.key: kv.value for kv in reply.kvs}
    return values, {kv.key: kv.mod_revision for kv in reply.kvs}, reply.header.revision


def watched_from(endpoint: str, revision: int) -> rpc_pb2.WatchResponse:
    """The last answer to a watch that goes on at an old revision."""
    with grpc.insecure_channel(endpoint) as channel:
        call = channel.stream_stream(
            "/etcdserverpb.Watch/Watch",
            request_serializer=rpc_pb2.WatchRequest.SerializeToString,
            response_deserializer=rpc_pb2.WatchResponse.FromString,
        )
        create = rpc_pb2.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=revision)
        answers = call(iter([rpc_pb2.WatchRequest(create_request=create)]), timeout=60)
        for answer in answers:
            if not answer.created or answer.canceled:
                return rpc_pb2.WatchResponse.FromString(answer.SerializeToString())
    raise AssertionError("the watch ended without a word")


@pytest.mark.slow
def test_three_members_begin_again_with_a_snapshot_that_was_saved_under_load(
    tmp_path: Path,
) -> None:
    """M17, M18: every key as of the snapshot's revision, on every member; a watch that goes on
    where it was in the old cluster is told that its past is gone; no old member is known.
    """
    path = tmp_path / "s.db"
    with raftkv(tmp_path / "old", 3) as old:
        load = Load(old.servers[0].endpoint)
        try:
            load.wait(300)
            done = raftctl(["--endpoints", old.servers[1].endpoint, "snapshot", "save", str(path)])
            assert done.exit_code == 0, done.err
            load.wait(len(load.written) + 30)
        finally:
            load.end()
    revision = json.loads(raftctl(["snapshot", "status", str(path), "-w", "json"]).out)["revision"]
    assert 300 <= revision < max(load.written)
    with restored_cluster(path, tmp_path) as new:
        found = [everything(server.endpoint) for server in new.servers]
        values, revisions, now = found[0]
        assert values == load.at(revision)
        assert max(revisions.values()) <= revision
        assert all(one[:2] == found[0][:2] for one in found)
        assert now == revision + REVISION_BUMP
        gone = watched_from(new.servers[2].endpoint, revision + 1)
        assert gone.canceled
        assert gone.compact_revision == now
        done = raftctl(["--endpoints", new.endpoints, "member", "list", "-w", "json"])
        members = json.loads(done.out)["members"]
        assert sorted(url for one in members for url in one["peerURLs"]) == sorted(
            f"http://127.0.0.1:{server.peer_port}" for server in new.servers
        )
        hashes = raftctl(["--endpoints", new.endpoints, "endpoint", "hashkv", "-w", "json"])
        assert len({one["HashKV"]["hash"] for one in json.loads(hashes.out)}) == 1
        assert raftctl(["--endpoints", new.endpoints, "put", "after", "x"]).exit_code == 0
