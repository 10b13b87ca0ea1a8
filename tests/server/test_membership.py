"""What members remember of each other across restarts."""

from pathlib import Path

import pytest

from raftkv.errors import CorruptionError
from raftkv.server.membership import KnownMembers


def test_each_start_is_a_later_life(tmp_path: Path) -> None:
    lives = []
    for _ in range(3):
        known = KnownMembers(str(tmp_path / "peers"))
        known.begin_life(1, 7)
        lives.append(known.life)
    watcher = KnownMembers(str(tmp_path / "others"))
    for life in lives:
        assert not watcher.is_older_life(1, life)
        watcher.meet(1, 7, life)
        assert not watcher.is_older_life(1, life)
    assert all(watcher.is_older_life(1, life) for life in lives[:-1])


def test_a_restored_copy_is_an_older_life_even_when_it_counts_the_same(tmp_path: Path) -> None:
    """R34: copied before start n+1, restored after it: it starts as n+1 for a second time."""
    file, copy = tmp_path / "peers", tmp_path / "copy"
    KnownMembers(str(file)).begin_life(1, 7)
    copy.write_bytes(file.read_bytes())
    current = KnownMembers(str(file))
    current.begin_life(1, 7)
    watcher = KnownMembers(str(tmp_path / "others"))
    watcher.meet(1, 7, current.life)
    restored = KnownMembers(str(copy))
    restored.begin_life(1, 7)
    assert restored.life >> 32 == current.life >> 32
    assert watcher.is_older_life(1, restored.life)


def test_who_was_met_is_remembered_after_a_restart(tmp_path: Path) -> None:
    known = KnownMembers(str(tmp_path / "peers"))
    known.meet(1, 7, 5 << 32)
    again = KnownMembers(str(tmp_path / "peers"))
    assert again.incarnation(1) == 7
    assert again.incarnation(2) == 0
    assert again.is_older_life(1, 4 << 32)
    assert not again.is_older_life(1, 6 << 32)


def test_damage_in_the_file_of_who_was_met_is_not_read_as_nobody(tmp_path: Path) -> None:
    path = tmp_path / "peers"
    KnownMembers(str(path)).meet(1, 7, 5 << 32)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError):
        KnownMembers(str(path))
