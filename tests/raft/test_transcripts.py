"""Golden transcripts: whole exchanges, message by message.

`pytest tests/raft --rewrite` writes them anew; the difference is then for a human to judge.
"""

from pathlib import Path

import pytest

from tests.raft.transcript import Transcript

HERE = Path(__file__).parent / "transcripts"


@pytest.mark.parametrize("path", sorted(HERE.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path, rewrite: bool) -> None:
    text = path.read_text(encoding="utf-8")
    played = Transcript().play(text)
    if rewrite:
        path.write_text(played, encoding="utf-8")
    assert Transcript().play(played) == played
    assert played == text or rewrite


def test_there_are_transcripts_and_each_shows_results() -> None:
    paths = list(HERE.glob("*.txt"))
    assert len(paths) >= 8
    assert all("\n> " in path.read_text(encoding="utf-8") for path in paths)
