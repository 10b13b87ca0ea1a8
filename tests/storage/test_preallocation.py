"""Logs that are allocated ahead, and where they really end."""

import os
from pathlib import Path
from random import Random

from raftkv.storage.leveldb import LEVELDB
from raftkv.storage.preallocation import crc32c, trim, true_end
from raftkv.storage.recovery import DataDirectory
from tests.storage.rig import CLUSTER, MEMBER, Place, batch, entries, wal_size


def test_the_checksum_is_the_one_of_rfc_3720() -> None:
    """Appendix B.4 of the RFC gives these."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def written_log(path: Path, values: list[bytes]) -> tuple[bytes, int]:
    """(raw bytes without what is allocated ahead, allocated size) of a log with these rows."""
    path.mkdir()
    rows = LEVELDB.open_log(str(path))
    ends = rows.begin()
    ends.put(b"a", b"first")
    rows.commit(ends, 0, b"r")
    for number, value in enumerate(values):
        change = rows.batch()
        change.put(b"r%d" % number, value)
        rows.commit(change, 0, None)
    (name,) = path.glob("*/*.log")
    content = name.read_bytes()
    rows.close()
    return content[: true_end(content)], len(content)


def test_a_new_segment_has_its_size_before_anything_is_written(tmp_path: Path) -> None:
    raw, allocated = written_log(tmp_path / "log", [b"x"])
    assert len(raw) < 200
    assert allocated > 16_000_000


def test_the_end_is_found_whatever_the_last_write_ends_with(tmp_path: Path) -> None:
    """A value's own zeros at the very end are no allocated space."""
    random = Random(4)
    for case in range(40):
        values = [random.randbytes(random.choice((5, 300, 40_000))) for _ in range(3)]
        values.append(random.randbytes(10) + bytes(random.choice((0, 1, 7, 5000, 33_000, 70_000))))
        raw, _ = written_log(tmp_path / f"log{case}", values)
        assert raw.count(values[-1][:10]) == 1
        # A value of one fragment stands at the end of the file as it is.
        assert len(values[-1]) > 30_000 or raw.endswith(values[-1])
        for behind in (0, 1, 6, 7, 8, 4096, 100_000):
            assert true_end(raw + bytes(behind)) == len(raw)


def test_what_was_cut_short_ends_where_its_last_byte_is() -> None:
    random = Random(5)
    body = random.randbytes(200)
    whole = b"\1\2\3\4" + (200).to_bytes(2, "little") + b"\1" + body
    for length in range(1, len(whole)):
        part = whole[:length].rstrip(b"\0")
        assert true_end(part + bytes(1000)) == len(part)
    assert true_end(bytes(50_000)) == 0
    assert true_end(b"") == 0


def test_bytes_behind_a_hole_are_never_cut_off() -> None:
    raw = bytes(40_000) + b"evidence" + bytes(9000)
    assert true_end(raw) == 40_008


def test_trimming_keeps_the_content(tmp_path: Path) -> None:
    raw, _ = written_log(tmp_path / "log", [b"abc", b"d" * 50_000, b"\0" * 100])
    path = str(tmp_path / "file")
    Path(path).write_bytes(raw + bytes(30_000))
    trim(path)
    assert Path(path).read_bytes() == raw
    trim(path)
    assert os.path.getsize(path) == len(raw)


def test_what_is_acknowledged_is_there_after_any_number_of_restarts(real: Place) -> None:
    """Values that end with zeros are the last thing in the file when the process dies."""
    expected = []
    index = 0
    for run in range(6):
        directory = real.open() if run else DataDirectory.open(real.path, CLUSTER, MEMBER)
        for number in range(1, 4):
            new = entries(index + 1, index + 3)
            for entry in new:
                entry.payload += bytes((0, 3, 700, 40_000)[(number + run) % 4])
            directory.log.write([batch(number, new)])
            expected += new
            index += 3
        assert wal_size(real.path) > 0
        directory.close(checkpoint=False)
    again = real.open()
    assert again.log.entries(1, index, 1 << 40) == expected
    again.close()
