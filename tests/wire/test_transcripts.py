"""The bytes on the wire stay what the golden transcripts say; see tests.wire.transcripts."""

import pytest

from tests.wire.transcripts import DIRECTORY, SCENARIOS, play


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_server_says_what_the_transcript_says(name: str) -> None:
    assert play(name) == (DIRECTORY / f"{name}.txt").read_text()


def test_every_transcript_belongs_to_a_scenario() -> None:
    assert {path.stem for path in DIRECTORY.iterdir()} == set(SCENARIOS)
