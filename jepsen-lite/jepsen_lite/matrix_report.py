"""The command `matrix` and the page that it writes (MATRIX.md)."""

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

import click

from jepsen_lite import damages, matrix
from jepsen_lite.damages import REFUSED, SHORT, VERDICTS, WHOLE
from raftkv.errors import RaftkvError

COMMAND: Final = "python jepsen-lite matrix --report jepsen-lite/MATRIX.md"
VARIANTS: Final = {"marked": False, "lagging": True}
_SIGNS: Final = {WHOLE: "whole", SHORT: "short", REFUSED: "refused"}


@dataclass(slots=True)
class Variant:
    """What one variant came to. opened: for each member, the label of each pattern."""

    name: str
    opened: list[dict[int, str]]
    trials: list[matrix.Trial] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """Combinations of the classes in which an acknowledged entry was seen to be lost."""
        lost = {one.labels for one in self.trials if "LOST" in one.seen}
        found = damages.classes(self.opened)
        return sum(len(found[labels]) for labels in lost)


@click.command("matrix")
@click.option("--report", type=Path, help="Write the page here.")
@click.option("--seed", default=1, show_default=True, help="Of values, flipped bits and choices.")
@click.option("--classes", default=-1, help="Only so many classes with processes. Default: all.")
@click.option("--variant", type=click.Choice(sorted(VARIANTS)), help="Default: both.")
def matrix_command(report: Path | None, seed: int, classes: int, variant: str | None) -> None:
    """Damage four entries on three members in all 4,096 ways, on the real log."""
    chosen = [lagging for name, lagging in VARIANTS.items() if variant in (None, name)]
    try:
        variants = [asyncio.run(run_variant(lagging, seed, classes)) for lagging in chosen]
    except RaftkvError as error:
        raise click.ClickException(str(error)) from error
    text = page(variants)
    click.echo(text)
    if report is not None:
        report.write_text(text)
    if any(one.wrong or damages.short(one.opened) for one in variants):
        raise click.exceptions.Exit(1)


async def run_variant(lagging: bool, seed: int, classes: int) -> Variant:
    """Prepares, opens all 48, tries the classes. Errors: TargetError."""
    random = Random(f"{seed}/{lagging}")
    with tempfile.TemporaryDirectory(prefix="jepsen-matrix-") as name:
        scene = await matrix.prepare(Path(name), lagging, random)
        try:
            variant = Variant(scene.name, matrix.open_all(scene, Path(name), random))
            chosen = matrix.representatives(variant.opened, random)
            for labels, combination in chosen if classes < 0 else chosen[:classes]:
                trial = await matrix.attempt(scene, labels, combination, random)
                click.echo(f"{scene.name}: {_words(labels)}: {trial.seen}", err=True)
                variant.trials.append(trial)
        finally:
            await scene.target.stop()
    return variant


def page(variants: Sequence[Variant]) -> str:
    """The page in Markdown."""
    lines = [
        "# Corruption matrix",
        "",
        "Four acknowledged entries on three members, every combination of damaged copies:",
        "16 patterns for each member, 4,096 in all. A bit is flipped in the real file of a real",
        "log; each of the 48 damaged directories is opened, and each class of what three members",
        "then do is tried with real processes. Written by",
        "",
        f"    {COMMAND}",
        "",
        f"Each entry has a good copy somewhere in {damages.with_good_copies():,} combinations",
        "of 4,096. CTRL (Protocol-Aware Recovery for Consensus-Based Storage, FAST 2018) can serve",
        "all of these, for it mends single entries from other members. A member of raftkv does not",
        "mend: it refuses a directory with a damaged durable part, and comes back as a new member",
        "by the help of a majority. So two damaged members of three stop the cluster, safely.",
        "The row *although each entry has a good copy* is that gap.",
        "",
        "An entry that was seen to be lost counts as a wrong answer; so does an opening without an",
        "entry, even if the others still have it. There must be none of either, whether the mark",
        "is up to date or lags behind all four entries (at most a second after the last write).",
        "With a lagging mark nothing but the raw log tells that the newest batch was all there and",
        "rotted, and was not cut short when the power went (`raftkv/storage/torntail.py`).",
    ]
    for variant in variants:
        lines += ["", f"## {variant.name[0].upper()}{variant.name[1:]}", "", *_counts(variant)]
        lines += ["", "48 openings:", "", *_openings(variant.opened)]
        lines += ["", "Classes tried with real processes:", "", *_trials(variant)]
    return "\n".join(lines) + "\n"


def _counts(variant: Variant) -> list[str]:
    found = damages.count(variant.opened)
    lines = ["| what becomes of the cluster | combinations |", "|---|---:|"]
    lines += [f"| {verdict} | {found[verdict]:,} |" for verdict in VERDICTS if found[verdict]]
    tried = {trial.labels for trial in variant.trials}
    every = damages.classes(variant.opened)
    lines.append(f"| wrong answers, seen in classes of | {variant.wrong:,} |")
    lines.append(f"| *openings without the last entry, of 48* | {damages.short(variant.opened)} |")
    lines.append(f"| *classes, of them tried* | {len(every)}, {len(tried)} |")
    return lines


def _openings(opened: Sequence[Mapping[int, str]]) -> list[str]:
    lines = ["| damaged entries | member 1 | member 2 | member 3 |", "|---|---|---|---|"]
    for pattern in range(damages.PATTERNS):
        names = ", ".join(str(entry + 1) for entry in damages.damaged(pattern)) or "none"
        lines.append(f"| {names} | {' | '.join(one[pattern] for one in opened)} |")
    return lines


def _trials(variant: Variant) -> list[str]:
    every = damages.classes(variant.opened)
    lines = [
        "| members 1, 2, 3 | combinations | tried with damage of | seen |",
        "|---|---:|---|---|",
    ]
    for trial in variant.trials:
        damage = " / ".join(
            ",".join(str(entry + 1) for entry in damages.damaged(one)) or "none"
            for one in trial.combination
        )
        lines.append(
            f"| {_words(trial.labels)} | {len(every[trial.labels])} | {damage} | {trial.seen} |"
        )
    return lines


def _words(labels: damages.Labels) -> str:
    return ", ".join(_SIGNS[one] for one in labels)
