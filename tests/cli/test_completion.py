"""Tab completes every command and its flags, in each shell that raftctl has a script for."""

import click
import pytest

from raftkv.cli import ctl

SHELLS = ("bash", "zsh", "fish")


def completed(
    shell: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> list[str]:
    """What the shell would offer for the last word."""
    monkeypatch.setenv("_RAFTCTL_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    last = words.split()[-1]
    monkeypatch.setenv("COMP_CWORD", last if shell == "fish" else str(len(words.split()) - 1))
    with pytest.raises(SystemExit):
        ctl.run([])
    out = capsys.readouterr().out
    if shell == "zsh":  # kind, word, help: a line each
        return out.splitlines()[1::3]
    return [line.partition(",")[2].partition("\t")[0] for line in out.splitlines()]


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("raftctl to", ["top"]),
        ("raftctl doc", ["doctor"]),
        ("raftctl hi", ["history"]),
        ("raftctl di", ["diff"]),
        ("raftctl exp", ["export"]),
        ("raftctl imp", ["import"]),
        ("raftctl check p", ["perf"]),
        ("raftctl alarm l", ["list"]),
        ("raftctl top --on", ["--once"]),
        ("raftctl diff --keys", ["--keys-only"]),
        ("raftctl get --at", ["--at-rev"]),
        ("raftctl import --on", ["--on-conflict"]),
        ("raftctl import --on-conflict k", ["keep"]),
        ("raftctl check perf --dur", ["--duration"]),
    ],
)
def test_commands_flags_and_choices_are_completed(
    shell: str,
    words: str,
    offered: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert completed(shell, words, monkeypatch, capsys) == offered


def test_every_command_exists_and_says_what_it_is_for() -> None:
    ctx = click.Context(ctl.cli)
    for name in ctl.COMMANDS:
        command = ctl.cli.get_command(ctx, name)
        assert command is not None, name
        assert command.get_short_help_str(), name
