"""`raftctl doctor`: what is wrong with the cluster, and what to do about it.

Exit code: 0 if there is nothing but notes, 1 with a warning, 2 with something critical (also if
no member can be reached).
"""

import shutil
import sys
import textwrap
from typing import Final

import click

from raftkv.cli import gotext
from raftkv.cli.ctl import CtlCommand, Session
from raftkv.cli.diagnosis import Diagnosis, diagnose
from raftkv.cli.exits import BAD_ARGUMENTS, BAD_FEATURE, CtlError
from raftkv.cli.findings import CRITICAL, NOTE, WARNING
from raftkv.cli.printers import emit
from raftkv.cli.surveying import Surveyor
from raftkv.cli.terminal import has_colours

EXIT_CODES: Final = {"": 0, NOTE: 0, WARNING: 1, CRITICAL: 2}
LONGEST_WAIT_SECONDS: Final = 3.0
_COLOURS: Final = {NOTE: "cyan", WARNING: "yellow", CRITICAL: "red"}


@click.command("doctor", cls=CtlCommand)
@click.argument("args", nargs=-1, metavar="")
@click.pass_obj
def doctor(session: Session, /, args: tuple[str, ...]) -> int:
    """Look for what is wrong with the cluster; say what to do."""
    if args:
        raise CtlError("doctor takes no arguments", BAD_ARGUMENTS)
    if session.printer.name not in ("simple", "json"):
        raise CtlError("doctor prints simple or json", BAD_FEATURE)
    wait = min(LONGEST_WAIT_SECONDS, session.target.command_timeout_seconds)
    found = diagnose(session.call(lambda to: Surveyor(to, wait).take()))
    if session.printer.name == "json":
        _print_json(found)
    else:
        _print_text(found)
    return EXIT_CODES[found.worst]


def _print_json(found: Diagnosis) -> None:
    findings = [
        {"severity": one.severity, "check": one.check, "text": one.text, "advice": one.advice}
        for one in found.findings
    ]
    tree = {
        "members": found.members,
        "answered": found.answered,
        "worst": found.worst,
        "findings": findings,
    }
    emit(gotext.json_text(tree))


def _print_text(found: Diagnosis) -> None:
    coloured = has_colours(sys.stdout)
    for one in found.findings:
        label = f"{one.severity.upper()} [{one.check}]"
        text = _wrapped(f"{label} {one.text}", "  ")
        if coloured:
            text = click.style(label, fg=_COLOURS[one.severity], bold=True) + text[len(label) :]
        emit(text, _wrapped(f"    {one.advice}", "    "))
    said = f"{found.answered} of {found.members} members answered"
    levels = [one.severity for one in found.findings]
    counts = [
        f"{levels.count(level)} {name}{'' if levels.count(level) == 1 else plural}"
        for level, name, plural in (
            (CRITICAL, "critical", ""),
            (WARNING, "warning", "s"),
            (NOTE, "note", "s"),
        )
        if level in levels
    ]
    emit(f"{said}; {', '.join(counts) or 'nothing found'}")


def _wrapped(text: str, indent: str) -> str:
    """Broken into lines for a terminal; left whole for everything that reads lines."""
    if not sys.stdout.isatty():
        return text
    columns = shutil.get_terminal_size().columns
    return textwrap.fill(text, max(columns, 40), subsequent_indent=indent, break_on_hyphens=False)
