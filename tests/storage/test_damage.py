"""A killed member's files, damaged in every way, on the real LevelDB.

Each test takes the files of a process that was killed with SIGKILL, or an image taken while a
batch was being written, damages a copy and opens it. Allowed: everything acknowledged is there
and everything served is right, or a refusal that says why. Nothing else.

With the mark up to date (at the latest a second after the last write) there is no exception.
With a lagging mark the stated limit applies: the last acknowledged batch may be taken for one that
was never finished if the damage leaves zeros where a torn write does (`test_torn_tail`).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from raftkv.errors import CorruptionError
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import (
    CLUSTER,
    MEMBER,
    Place,
    batch,
    entries,
    files_below,
    flip,
    last_wal,
    overwrite,
    real_place,
    wal_size,
)
from tests.storage.workload import APPLIED, applied_of, rows_for, state_at

PAGE = 4096
LARGEST_BATCH = 5
BATCH_BYTES = LARGEST_BATCH * 300


class Victim:
    """The files of a killed process. acked: newest index that it acknowledged."""

    def __init__(self, path: Path, mode: str, batches: int) -> None:
        self.path = str(path / "victim")
        self.spare = path / "copies"
        self.spare.mkdir()
        self.mode = mode
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.storage.member_process", self.path, mode],
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout is not None
            for _ in range(batches):
                self.acked = int(child.stdout.readline())
        finally:
            child.kill()
            rest, _ = child.communicate()
        lines = rest.decode().rpartition("\n")[0].split()
        if lines:
            self.acked = int(lines[-1])
        last_wal(self.path)  # without the zeros, or copies would take long
        self.files = [name for name in files_below(self.path) if os.path.getsize(name)]

    def copy(self) -> str:
        """A fresh copy of the files; the one before is removed."""
        shutil.rmtree(self.spare)
        self.spare.mkdir()
        target = str(self.spare / "member")
        shutil.copytree(self.path, target)
        return target

    def opened(self, path: str, lost: int = LARGEST_BATCH) -> str:
        """Opens a damaged copy: "whole" or the text of a refusal. AssertionError if neither.

        lost: entries that may be missing at the end while the mark lags behind.
        """
        allowed_loss = 0 if self.mode == "marked" else lost
        return opened(path, self.acked - allowed_loss)


def run(program: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a process of its own, for limits that only a process can have."""
    return subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )


def opened(path: str, acked: int) -> str:
    try:
        directory = DataDirectory.open(path, CLUSTER, MEMBER, state_buffer_bytes=1 << 16)
    except CorruptionError as error:
        text = str(error)
        if "raftctl member remove a1" not in text:
            raise AssertionError(f"a refusal that does not say how to rejoin: {text}") from error
        return text
    try:
        log = directory.log
        assert directory.recovered.hard_state == (1, 1)
        assert log.last_index >= acked, f"{acked} was acknowledged, {log.last_index} is left"
        served = log.entries(log.first_index, log.last_index, 1 << 40)
        assert served == entries(log.first_index, log.last_index, 1, 150)
        try:
            applied = applied_of(directory.state)
            directory.check_applied(applied)
            assert dict(directory.state.scan(b"", b"\xff")) == state_at(applied)
        except CorruptionError as error:
            return str(error)
        return "whole"
    finally:
        directory.close(checkpoint=False)


@pytest.fixture(scope="module", params=["marked", "lagging"])
def victim(request: pytest.FixtureRequest, scratch: Path) -> Victim:
    place = scratch / request.param
    place.mkdir()
    return Victim(place, request.param, 150)


def test_the_victim_has_a_write_ahead_log_tables_and_a_truncated_front(victim: Victim) -> None:
    kinds = {name.rpartition("/")[2].partition("-")[0].split(".")[-1] for name in victim.files}
    assert {"log", "MANIFEST", "CURRENT", "a", "b", "identity"} <= kinds
    assert any("/state-1/" in name and name.endswith(".ldb") for name in victim.files)
    path = victim.copy()
    assert victim.opened(path) == "whole"
    directory = DataDirectory.open(path, CLUSTER, MEMBER)
    assert directory.recovered.anchor_index > 100
    assert directory.log.last_index >= victim.acked
    directory.close()


def pages(victim: Victim) -> Iterator[tuple[str, int]]:
    for name in victim.files:
        for at in range(0, os.path.getsize(name), PAGE):
            yield os.path.relpath(name, victim.path), at


def zero_pages(victim: Victim, places: list[tuple[str, int]]) -> dict[str, int]:
    outcomes: dict[str, int] = {"whole": 0, "refused": 0}
    for name, at in places:
        path = victim.copy()
        target = f"{path}/{name}"
        size = os.path.getsize(target)
        # A zeroed end of the file looks like one large unfinished batch, also if the last bytes of
        # that batch are left: the stated limit.
        ending = target == last_wal(path) and at + PAGE + BATCH_BYTES >= size
        overwrite(target, at, bytes(min(PAGE, size - at)))
        try:
            outcome = victim.opened(path, (PAGE + BATCH_BYTES) // 150 if ending else LARGEST_BATCH)
        except AssertionError as error:
            raise AssertionError(f"zeroed {name} at {at}: {error}") from error
        outcomes["whole" if outcome == "whole" else "refused"] += 1
    return outcomes


def test_a_zeroed_page_is_refused_or_harmless(victim: Victim) -> None:
    """D02, D06, D08, D30: a sample of the pages of every file."""
    places = list(pages(victim))
    outcomes = zero_pages(victim, Random(11).sample(places, min(len(places), 25)))
    assert outcomes["refused"] > 3


@pytest.mark.slow
def test_every_single_zeroed_page_is_refused_or_harmless(victim: Victim) -> None:
    """D02, D06, D08, D30."""
    outcomes = zero_pages(victim, list(pages(victim)))
    assert outcomes["refused"] > 10
    assert outcomes["whole"] > 0


def flip_bits(victim: Victim, random: Random, count: int) -> dict[str, int]:
    outcomes: dict[str, int] = {"whole": 0, "refused": 0}
    for _ in range(count):
        path = victim.copy()
        name = os.path.relpath(random.choice(victim.files), victim.path)
        at, bit = flip(f"{path}/{name}", random)
        try:
            outcome = victim.opened(path, lost=0)  # whether the mark lags or not
        except AssertionError as error:
            raise AssertionError(f"flipped bit {bit} of byte {at} of {name}: {error}") from error
        outcomes["whole" if outcome == "whole" else "refused"] += 1
    return outcomes


def test_a_flipped_bit_is_refused_or_harmless(victim: Victim) -> None:
    """D05, D06, D07, D08."""
    assert flip_bits(victim, Random(5), 30)["refused"] > 2


@pytest.mark.slow
def test_hundreds_of_flipped_bits_are_refused_or_harmless(victim: Victim) -> None:
    """D05, D06, D07, D08."""
    assert flip_bits(victim, Random(6), 200)["refused"] > 10


def cut_tails(victim: Victim, lengths: list[int]) -> set[str]:
    seen = set()
    for length in lengths:
        path = victim.copy()
        wal = last_wal(path)
        os.truncate(wal, max(0, os.path.getsize(wal) - length))
        try:
            seen.add("whole" if victim.opened(path) == "whole" else "refused")
        except AssertionError as error:
            # Files that end early look like batches that were never written: with a lagging
            # mark nothing on this disk knows better, only the leader does (check_at_least).
            if victim.mode == "marked" or "was acknowledged" not in str(error):
                raise AssertionError(f"cut {length} bytes: {error}") from error
    return seen


def test_a_cut_tail_of_the_log_is_refused(victim: Victim) -> None:
    """D04, D30."""
    random = Random(9)
    seen = cut_tails(victim, [1, 2, 7, 8, *random.sample(range(9, 4097), 12)])
    if victim.mode == "marked":
        assert seen <= {"refused", "whole"}
        assert "refused" in seen


@pytest.mark.slow
def test_a_tail_cut_at_any_of_its_last_bytes_is_refused(victim: Victim) -> None:
    """D04."""
    cut_tails(victim, list(range(1, 4097, 29)))


# --- the torn last batch: an ordinary power cut ------------------------------------------------


class InFlight:
    """Images of a log before and after its last batch, which nobody acknowledged."""

    def __init__(self, tmp_path: Path, size: int) -> None:
        place = real_place(str(tmp_path / "member"))
        directory = place.open()
        log = directory.log
        log.write([batch(1, entries(1, 3, 1, 150), hard=(1, 1))])
        for number in range(2, 60):
            log.write([batch(number, entries(number * 2, number * 2 + 1, 1, 150))])
        self.acked = log.last_index
        log.write_mark_behind(force=True)
        self.before = self._wal_size(place)
        log.write([batch(60, entries(self.acked + 1, self.acked + 40, 1, size))])
        self.after = self._wal_size(place)
        self.image = str(tmp_path / "image")
        shutil.copytree(place.path, self.image)
        directory.close()
        self.copy_at = str(tmp_path / "copy")
        self.size = size

    def _wal_size(self, place: Place) -> int:
        return wal_size(place.path)

    def copy(self) -> str:
        shutil.rmtree(self.copy_at, ignore_errors=True)
        shutil.copytree(self.image, self.copy_at)
        return last_wal(self.copy_at)

    def check(self) -> int:
        """The last index after opening; everything acknowledged is there and it can go on."""
        directory = DataDirectory.open(self.copy_at, CLUSTER, MEMBER)
        last = directory.log.last_index
        assert last >= self.acked
        first = directory.log.entries(1, self.acked, 1 << 40)
        assert first == entries(1, self.acked, 1, 150)
        directory.log.write([batch(1, entries(last + 1, last + 2, 2, 10))])
        directory.close()
        again = DataDirectory.open(self.copy_at, CLUSTER, MEMBER)
        assert again.recovered.last_index == last + 2
        again.close()
        return last


@pytest.fixture(scope="module", params=[700, 4000], ids=["one block", "many blocks"])
def in_flight(request: pytest.FixtureRequest, scratch: Path) -> InFlight:
    place = scratch / f"flight-{request.param}"
    place.mkdir()
    return InFlight(place, request.param)


def test_a_torn_unacknowledged_batch_is_dropped_whole(in_flight: InFlight) -> None:
    """D04: cut anywhere within the last batch; all of it or none is there, nothing refused."""
    random = Random(2)
    lengths = random.sample(range(in_flight.before, in_flight.after), 6)
    for length in [in_flight.before, in_flight.after - 1, *lengths]:
        os.truncate(in_flight.copy(), length)
        assert in_flight.check() == in_flight.acked
        wal = in_flight.copy()  # the same in a file that was allocated ahead
        os.truncate(wal, length)
        os.truncate(wal, 1 << 21)
        assert in_flight.check() == in_flight.acked
        assert not os.path.exists(f"{in_flight.copy_at}/log.copy")


def test_unwritten_pages_of_the_last_batch_are_not_a_reason_to_refuse(
    in_flight: InFlight,
) -> None:
    """D02: any pages of the write that was under way may be missing, in any order."""
    random = Random(3)
    first = -(-in_flight.before // PAGE) * PAGE
    starts = list(range(first, in_flight.after, PAGE))
    assert len(starts) >= 6
    patterns = [[start] for start in random.sample(starts, 6)]
    patterns += [random.sample(starts, 3) for _ in range(4)]
    patterns += [[starts[0], starts[2]]]  # of three pages only the middle one came down
    rewritten = 0
    for pattern in patterns:
        wal = in_flight.copy()
        for at in pattern:
            overwrite(wal, at, bytes(min(PAGE, in_flight.after - at)))
        assert in_flight.check() == in_flight.acked
        rewritten += not os.path.exists(f"{in_flight.copy_at}/log.copy")
    assert rewritten == len(patterns)


def test_a_hole_with_a_later_batch_behind_it_is_refused(tmp_path: Path) -> None:
    """A batch that is followed by another one was durable: losing it is damage, also when
    LevelDB itself says nothing and the mark lags far behind."""
    place = real_place(str(tmp_path / "member"))
    directory = place.open()
    log = directory.log
    ends: list[int] = []
    for number in range(1, 40):
        log.write([batch(number, entries(number, number, 1, 3000), hard=(1, 1))])
        ends.append(wal_size(place.path))
    image = str(tmp_path / "image")
    shutil.copytree(place.path, image)
    directory.close()
    refused = 0
    for number in range(2, 38, 3):
        copy = str(tmp_path / "copy")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(image, copy)
        # Zero exactly one record: LevelDB takes a zeroed head for the end of a block.
        start, end = ends[number - 1], ends[number]
        overwrite(last_wal(copy), start, bytes(end - start))
        for _ in range(2):  # opening it must not destroy the evidence
            with pytest.raises(CorruptionError, match="a durable part of the log is damaged"):
                DataDirectory.open(copy, CLUSTER, MEMBER)
        refused += 1
    assert refused == 12


def test_a_hole_in_a_durable_batch_of_many_blocks_is_refused(tmp_path: Path) -> None:
    """D02, D30: the batch behind it proves that it was durable, however large both are."""
    place = real_place(str(tmp_path / "member"))
    directory = place.open()
    ends = [0]
    for number in range(1, 6):
        first = number * 20 - 19
        new = entries(first, first + 19, 1, 3500)
        directory.log.write([batch(number, new, hard=(1, 1))])
        ends.append(wal_size(place.path))
    image = str(tmp_path / "image")
    shutil.copytree(place.path, image)
    directory.close()
    random = Random(1)
    for durable in (True, False):
        low, high = (0, ends[4]) if durable else (ends[4], ends[5])
        for _ in range(8):
            copy = str(tmp_path / "copy")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(image, copy)
            at = random.randrange(low, high)
            overwrite(last_wal(copy), at, bytes(min(PAGE, high - at)))
            if durable:
                with pytest.raises(CorruptionError, match="a durable part of the log is damaged"):
                    DataDirectory.open(copy, CLUSTER, MEMBER)
            else:
                opened_copy = DataDirectory.open(copy, CLUSTER, MEMBER)
                assert opened_copy.recovered.last_index == 80
                opened_copy.close()


def test_a_damaged_length_in_the_last_block_is_not_taken_for_the_end(tmp_path: Path) -> None:
    """D06: LevelDB says nothing; the records behind it, found in its raw file, tell."""
    place = real_place(str(tmp_path / "member"))
    directory = place.open()
    ends = [0]
    for number in range(1, 12):
        directory.log.write([batch(number, entries(number, number, 1, 150), hard=(1, 1))])
        ends.append(wal_size(place.path))
    image = str(tmp_path / "image")
    shutil.copytree(place.path, image)
    directory.close()
    for number in (3, 6, 9):
        copy = str(tmp_path / f"copy{number}")
        shutil.copytree(image, copy)
        overwrite(last_wal(copy), ends[number] + 4, b"\xff\x7f")  # length 32767
        with pytest.raises(CorruptionError, match=f"batch {number}, but a record"):
            DataDirectory.open(copy, CLUSTER, MEMBER)


def test_a_client_cannot_make_a_member_refuse_by_writing_what_looks_like_a_record(
    tmp_path: Path,
) -> None:
    """X14: a payload that holds a whole record of another directory is only a payload."""
    other = real_place(str(tmp_path / "other")).open()
    for number in range(1, 9):
        other.log.write([batch(number, entries(number, number))])
    forged = Path(last_wal(other.path)).read_bytes()
    other.close()
    place = real_place(str(tmp_path / "member"))
    directory = place.open()
    entry = entries(1, 1)[0]
    entry.payload = forged
    directory.log.write([batch(1, [entry])])
    directory.close(checkpoint=False)
    again = place.open()
    assert again.log.entries(1, 1, 1 << 30) == [entry]
    again.close()


def test_a_missing_table_is_refused_with_its_reason(tmp_path: Path) -> None:
    """D11: not an endless crash loop without a text."""
    place = real_place(str(tmp_path / "member"))
    directory = place.open()
    directory.log.write([batch(1, entries(1, 9, 1, 150), hard=(1, 1))])
    directory.state.write(rows_for(1, 9))
    directory.close()
    place.open().close()
    for part in ("log", "state-1"):
        copy = str(tmp_path / part)
        shutil.copytree(place.path, copy)
        (table, *_) = [n for n in files_below(f"{copy}/{part}") if n.endswith(".ldb")]
        os.unlink(table)
        with pytest.raises(CorruptionError, match=r"missing files.*raftctl member remove"):
            DataDirectory.open(copy, CLUSTER, MEMBER)


# --- damage that a running member meets --------------------------------------------------------


def test_a_damaged_table_of_the_state_is_never_read_as_a_shorter_one(tmp_path: Path) -> None:
    """D08: also when the last block of a table is damaged, which plyvel's plain iterator takes
    for the end of the table."""
    place = real_place(str(tmp_path / "member"))
    directory = place.open()
    directory.state.write([(b"%06d" % i, os.urandom(100)) for i in range(3000)])
    directory.close()
    (table,) = [n for n in files_below(f"{place.path}/state-1") if n.endswith(".ldb")]
    good = Path(table).read_bytes()
    complaints = 0
    for at in range(0, len(good) - PAGE, PAGE * 8):
        for start in (at, len(good) - PAGE - 1500 - at // 40):
            Path(table).write_bytes(good)
            overwrite(table, start, bytes(PAGE))
            again = place.open()
            for reverse in (False, True):
                try:
                    rows = list(again.state.scan(b"", b"\xff", reverse=reverse))
                    assert len(rows) == 3000
                except CorruptionError:
                    complaints += 1
            again.close(checkpoint=False)
    assert complaints > 20


def test_a_background_error_of_leveldb_is_not_taken_for_a_checkpoint(tmp_path: Path) -> None:
    """D12, D28: a process whose files may not grow cannot claim that its state is durable."""
    program = f"""
import resource, signal, sys
from raftkv.errors import DiskFailure
from raftkv.storage.recovery import DataDirectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
d = DataDirectory.open({str(tmp_path / "member")!r}, {CLUSTER}, {MEMBER})
d.state.write([(b"%05d" % i, bytes(range(256)) * 4) for i in range(300)])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
try:
    d.state.sync()
except DiskFailure as error:
    print("refused", error.exit_code)
else:
    print("claimed")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert done.stdout == "refused 12\n", done.stderr


def test_a_real_write_error_stops_the_log_for_good_and_the_next_start_rewrites_it(
    tmp_path: Path,
) -> None:
    """D10, D12: EFBIG from the kernel in the middle of a batch; nothing acked after it."""
    path = str(tmp_path / "member")
    program = f"""
import resource, signal, sys
from raftkv.errors import DiskFailure
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import batch, entries
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
d = DataDirectory.open({path!r}, {CLUSTER}, {MEMBER})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
acked = 0
for number in range(1, 1000):
    try:
        d.log.write([batch(number, entries(acked + 1, acked + 7, 1, 150), hard=(1, 1))])
    except DiskFailure:
        break
    acked += 7
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
for number in range(1000, 1003):
    try:
        d.log.write([batch(number, entries(acked + 1, acked + 7, 1, 150))])
    except DiskFailure:
        print("still closed")
print(acked, flush=True)
import os; os._exit(12)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    *closed, acked = done.stdout.split("\n")[:-1]
    assert closed == ["still closed"] * 3, done.stderr
    assert int(acked) > 100
    assert os.path.exists(f"{path}/failed")
    before = os.stat(f"{path}/log").st_ino
    assert opened(path, int(acked)) == "whole"
    assert not os.path.exists(f"{path}/failed")
    assert os.stat(f"{path}/log").st_ino != before, "new files, not the old ones"
    directory = DataDirectory.open(path, CLUSTER, MEMBER)
    assert directory.recovered.last_index == int(acked), "nothing of the failed batch is kept"
    directory.close()


def test_without_file_descriptors_the_opening_stops_and_damages_nothing(tmp_path: Path) -> None:
    """D26."""
    path = str(tmp_path / "member")
    place = real_place(path)
    directory = place.open()
    directory.log.write([batch(1, entries(1, 30, 1, 150), hard=(1, 1))])
    directory.state.write([*rows_for(1, 30), (APPLIED, b"30")])
    directory.close()
    program = f"""
import resource
from raftkv.errors import StorageError
from raftkv.storage.recovery import DataDirectory
used = len(__import__("os").listdir("/proc/self/fd")) - 1
for extra in range(1, 12):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + extra, 4096))
    try:
        d = DataDirectory.open({path!r}, {CLUSTER}, {MEMBER})
    except StorageError as error:
        print(error.exit_code)
        continue
    d.close()
    break
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    codes = done.stdout.split()
    assert len(codes) > 3, done.stderr
    assert set(codes) <= {"10", "12"}, f"not corruption, not a crash: {done.stdout} {done.stderr}"
    assert opened(path, 30) == "whole"
