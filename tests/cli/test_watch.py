"""raftctl watch says what etcdctl's says: both run side by side on one etcd."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count

import pytest

from raftkv.cli.exits import INTERRUPTED, INVALID_INPUT
from tests.cli.running import etcdctl
from tests.cli.talking import TOOLS, Running, Said, both
from tests.processes import etcd

pytestmark = pytest.mark.xdist_group("etcdctl-streams")
_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with etcd(tmp_path_factory.mktemp("etcd"), "--unsafe-no-fsync") as cluster:
        yield cluster.endpoints


class Ctl:
    """One etcd, keys of this test's own, and changes made by etcdctl."""

    def __init__(self, server: str) -> None:
        self.base = ["--endpoints", server]
        self.key = f"w{next(_numbers):03d}"

    def run(self, *argv: str, stdin: bytes = b"") -> None:
        assert etcdctl([*self.base, *argv], stdin).exit_code == 0

    def next_revision(self) -> int:
        out = etcdctl([*self.base, "get", "x", "-w", "fields"]).out
        return int(out.partition(b'"Revision" : ')[2].split()[0]) + 1

    def argv(self, *argv: str) -> list[str]:
        return [*self.base, *argv]

    def change(self) -> None:
        """One of each: a put, another one, a deletion, a transaction."""
        key = self.key
        self.run("put", key, "v1")
        self.run("put", key, "v\n2")
        self.run("del", key)
        self.run("txn", stdin=f"\nput {key}a x\nput {key}b y\n\n\n".encode())


@pytest.fixture
def ctl(server: str) -> Ctl:
    return Ctl(server)


def side_by_side(ctl: Ctl, argv: Sequence[str], marker: bytes, times: int = 1) -> Said:
    """What both print about changes up to the marker."""
    said = []
    for tool in TOOLS:
        with Running(tool, ctl.argv(*argv)) as running:
            running.wait_for(marker, times=times)
            said.append(running.end(signal.SIGINT))
    assert said[0] == said[1]
    assert said[0].code == -signal.SIGINT
    return said[0]


@pytest.mark.parametrize("flags", [(), ("--prev-kv",), ("--hex", "--prev-kv")])
def test_a_watch_prints_events_as_lines(ctl: Ctl, flags: tuple[str, ...]) -> None:
    revision = ctl.next_revision()
    ctl.change()
    ctl.run("put", ctl.key + "z", "END")
    marker = rb"\x45\x4e\x44" if "--hex" in flags else b"END\n"
    argv = ["watch", ctl.key, "--prefix", f"--rev={revision}", *flags]
    said = side_by_side(ctl, argv, marker)
    assert said.out.count(b"PUT\n") == 5


@pytest.mark.parametrize("name", ["json", "fields", "protobuf"])
def test_a_watch_prints_a_response_in_other_formats(ctl: Ctl, name: str) -> None:
    ctl.run("put", ctl.key, "old")
    revision = ctl.next_revision()
    ctl.run("txn", stdin=f"\nput {ctl.key} END\nput {ctl.key}b y\n\n\n".encode())
    argv = ["-w", name, "watch", ctl.key, "--prefix", f"--rev={revision}", "--prev-kv"]
    # "fields" comes in many writes: wait for the last line of the second event.
    marker, times = {"json": (b"RU5E", 1), "fields": (b'"Lease" : 0\n', 2)}.get(name, (b"END", 1))
    said = side_by_side(ctl, argv, marker, times)
    assert len(said.out) > 80


def test_a_watch_follows_changes_as_they_happen(ctl: Ctl) -> None:
    """Both at once: headers and borders of responses are the same then."""
    revision = ctl.next_revision()
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                Running(tool, ctl.argv("-w", "json", "watch", ctl.key, f"--rev={revision}"))
            )
            for tool in TOOLS
        ]
        for number in range(1, 4):
            ctl.run("put", ctl.key, "v")
            for one in running:
                one.wait_for(b"\n", times=number)
        said = [one.end(signal.SIGINT) for one in running]
    assert said[0] == said[1]


def test_a_watch_of_a_range_and_of_everything_from_a_key(ctl: Ctl) -> None:
    revision = ctl.next_revision()
    ctl.run("put", ctl.key + "c", "outside")
    ctl.run("put", ctl.key + "b", "END")
    ctl.run("put", ctl.key, "outside")
    said = side_by_side(ctl, ["watch", ctl.key + "a", ctl.key + "c", f"--rev={revision}"], b"END\n")
    assert b"outside" not in said.out
    side_by_side(ctl, ["watch", "", "--prefix", f"--rev={revision}"], b"outside\n", times=2)


def test_a_command_is_run_for_each_event(ctl: Ctl) -> None:
    revision = ctl.next_revision()
    ctl.run("put", ctl.key, 'v "q" \n \x01')
    ctl.run("del", ctl.key)
    ctl.run("put", ctl.key, "END")
    script = 'env | grep ^ETCD_WATCH | sort; echo "$0 $1"; cat'
    argv = ["watch", ctl.key, f"--rev={revision}", "--", "sh", "-c", script, "a", "b c"]
    said = side_by_side(ctl, argv, b"a b c", times=3)
    assert said.out.count(b"ETCD_WATCH_EVENT_TYPE=") == 3


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "exit 3"),
        ("nosuchcommand",),
        ("/no/such",),
        ("/tmp",),
        ("sh", "-c", "kill -9 $$"),
        ("sh", "-c", "kill -TERM $$"),
    ],
)
def test_a_command_that_fails_ends_the_watch(ctl: Ctl, command: tuple[str, ...]) -> None:
    revision = ctl.next_revision()
    ctl.run("put", ctl.key, "v")

    def act(tool: str) -> Said:
        argv = ctl.argv("watch", ctl.key, f"--rev={revision}", "--", *command)
        with Running(tool, argv) as running:
            return running.end()

    assert both(act).code == 1


@pytest.mark.parametrize(
    "argv",
    [
        (),
        ("a", "b", "--prefix"),
        ("--prefix", "--", "echo"),
        ("--", "echo"),
        ("a", "--"),
        ("b", "a"),
        ("a", "a"),
        ("a", "--rev", "-5"),
    ],
)
def test_what_cannot_be_watched(ctl: Ctl, argv: tuple[str, ...]) -> None:
    ctl.run("put", "x", "1")
    ctl.run("compaction", str(ctl.next_revision() - 1))

    def act(tool: str) -> Said:
        with Running(tool, ctl.argv("watch", *argv)) as running:
            return running.end()

    assert both(act).code in (128, INTERRUPTED)


@pytest.mark.parametrize("name", ["simple", "json", "fields"])
def test_a_compacted_revision_is_said(ctl: Ctl, name: str) -> None:
    for _ in range(4):
        ctl.run("put", ctl.key, "v")
    ctl.run("compaction", str(ctl.next_revision() - 1))

    def act(tool: str) -> Said:
        with Running(tool, ctl.argv("-w", name, "watch", ctl.key, "--rev=2")) as running:
            return running.end()

    said = both(act)
    assert said.code == INTERRUPTED
    assert "required revision has been compacted" in said.err


def test_a_table_is_no_format_of_a_watch(ctl: Ctl) -> None:
    revision = ctl.next_revision()
    ctl.run("put", ctl.key, "v")

    def act(tool: str) -> Said:
        argv = ctl.argv("-w", "table", "watch", ctl.key, f"--rev={revision}")
        with Running(tool, argv) as running:
            return running.end()

    assert both(act).code == 4


@pytest.mark.parametrize(
    ("env", "argv", "code"),
    [
        ({"ETCDCTL_WATCH_KEY": "KEY"}, (), -2),
        ({"ETCDCTL_WATCH_KEY": "KEY", "ETCDCTL_WATCH_RANGE_END": "z"}, ("--", "echo", "!"), -2),
        ({"ETCDCTL_WATCH_KEY": "KEY"}, ("other",), 128),
        ({"ETCDCTL_WATCH_RANGE_END": "z"}, (), 128),
        ({"ETCDCTL_WATCH_KEY": "KEY", "ETCDCTL_WATCH_RANGE_END": "z"}, ("--prefix",), 128),
    ],
)
def test_the_key_may_come_from_the_environment(
    ctl: Ctl, env: dict[str, str], argv: tuple[str, ...], code: int
) -> None:
    revision = ctl.next_revision()
    ctl.run("put", ctl.key, "END")
    env = {name: value.replace("KEY", ctl.key) for name, value in env.items()}
    last = b"!\n" if "!" in argv else b"END\n"

    def act(tool: str) -> Said:
        line = ctl.argv("watch", f"--rev={revision}", *argv)
        with Running(tool, line, env) as running:
            if code > 0:
                return running.end()
            running.wait_for(last)
            return running.end(signal.SIGINT)

    assert both(act).code == code


# --- -i -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "bogus",
        "",
        "watch",
        "help",
        "get foo",
        "watch foo --bogus",
        "watch -w=json bar",
        "watch a b --prefix",
        "watch a --",
        "watch --prefix -- echo",
        "progress",
    ],
)
def test_an_interactive_line_that_asks_for_nothing(ctl: Ctl, line: str) -> None:
    def act(tool: str) -> Said:
        with Running(tool, ctl.argv("watch", "-i")) as running:
            running.say(line)
            running.close_input()
            return running.end()

    assert both(act).code in (INVALID_INPUT, 128)


def test_interactive_watches_print_what_comes(ctl: Ctl) -> None:
    revision = ctl.next_revision()
    key = ctl.key
    ctl.run("put", f"{key}a", "1")
    ctl.run("put", f"{key} b", "2")
    ctl.run("put", f"{key}px", "3")
    ctl.run("put", f"{key}px", "4")
    lines = [
        (f"watch {key}a --rev={revision}", b"1\n", 1),
        (f"watch '{key} b' \"{key} c\" --rev={revision}", b"2\n", 1),
        (f"watch {key}p --prefix --prev-kv --rev {revision}", b"4\n", 1),
        (f"watch {key}a --rev={revision} -- echo hi", b"hi\n", 1),
    ]

    def act(tool: str) -> Said:
        with Running(tool, ctl.argv("watch", "-i")) as running:
            for line, marker, times in lines:
                running.say(line)
                running.wait_for(marker, times=times)
            running.close_input()
            return running.end()

    assert both(act).code == INVALID_INPUT


def test_progress_is_printed_for_every_watch(ctl: Ctl) -> None:
    def act(tool: str) -> Said:
        with Running(tool, ctl.argv("watch", "-i")) as running:
            revision = ctl.next_revision() - 1
            ctl.run("put", ctl.key, "v")
            for count in (1, 2):  # one by one: etcdctl's watches would mix their lines
                running.say(f"watch {ctl.key} --rev={revision + 1}")
                running.wait_for(b"\nv\n", times=count)
            running.say("progress")
            running.wait_for(b"progress notify: %d\n" % (revision + 1), times=2)
            running.close_input()
            said = running.end()
            return Said(said.code, said.out.replace(b"%d" % (revision + 1), b"N"), said.err)

    assert both(act).code == INVALID_INPUT
