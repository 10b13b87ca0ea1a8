"""The report of a run as one file: HTML without scripts, links or anything from elsewhere.

The page's own policy forbids the browser to load anything, so a report can be opened, kept and
sent around safely, whatever the keys and values of the run contain. Its size does not grow with
the number of operations (`series`), so a run of a million fits a mail.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from jepsen_lite.checker.base import Anomaly, Verdict, Window
from jepsen_lite.history import History
from jepsen_lite.report.markup import element, shown
from jepsen_lite.report.palette import BANDS, sheet
from jepsen_lite.report.plots import TimePlots, kinds_of
from jepsen_lite.report.scales import amount, seconds
from jepsen_lite.report.series import OUTCOMES, Series, gathered
from jepsen_lite.report.witness import Finder, picture

SHOWN_ANOMALIES: Final = 12  # of one checker
LONGEST_TEXT: Final = 2000  # of an anomaly, in characters
POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True, slots=True)
class About:
    """What a report says of the run as a whole.

    title: in the headline. started: when, as people write it. options, versions: name -> value.
    command: that repeats the run, word by word. seconds: how long it took; 0 = until the last
    operation. interrupted: it was ended before its time. notes: sentences for the reader.
    """

    title: str
    started: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] = ()
    seconds: float = 0.0
    interrupted: bool = False
    notes: Sequence[str] = ()


def write_report(
    path: Path,
    about: About,
    history: History,
    verdicts: Mapping[str, Verdict],
    windows: Sequence[Window] = (),
) -> None:
    """Writes the report. verdicts: by checker. Errors: OSError."""
    text = rendered(about, history, verdicts, windows)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def rendered(
    about: About,
    history: History,
    verdicts: Mapping[str, Verdict],
    windows: Sequence[Window] = (),
) -> str:
    """The report's text. verdicts: by checker."""
    last = history[-1].time_ns / 1e9 if len(history) else 0.0
    series = gathered(history.calls(), max(about.seconds, last))
    body = [
        _headline(about, verdicts, series, windows),
        _verdicts(verdicts),
        _anomalies(Finder(history, str(about.options.get("prefix", ""))), verdicts),
        _plots(series, windows),
        _operations(series),
        _settings(about),
    ]
    title = element("title", shown(f"jepsen-lite: {about.title}", 120))
    head = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
    )
    page = element("head", head, title, element("style", sheet()))
    content = element("body", element("main", *body))
    return f"<!doctype html>\n{element('html', page, content, lang='en')}\n"


# --- the parts ----------------------------------------------------------------------------
def state(verdict: Verdict) -> tuple[str, str]:
    """(class, word) of a verdict."""
    if verdict.undecided:
        return "warn", "undecided"
    return ("good", "valid") if verdict.valid else ("bad", "not valid")


def _headline(
    about: About, verdicts: Mapping[str, Verdict], series: Series, windows: Sequence[Window]
) -> str:
    wrong = [name for name, one in verdicts.items() if not one.valid and not one.undecided]
    undecided = [name for name, one in verdicts.items() if one.undecided]
    if wrong:
        class_, word = "bad", "NOT VALID"
        text = f"Found wrong by: {', '.join(wrong)}."
    elif undecided:
        class_, word = "warn", "UNDECIDED"
        text = f"Not decided, which counts as a failure: {', '.join(undecided)}."
    elif not verdicts:
        class_, word, text = "warn", "NOT CHECKED", "No checker has looked at this run."
    else:
        class_, word = "good", "VALID"
        text = f"All {len(verdicts)} checkers found nothing wrong."
    if about.interrupted:
        text += " The run was interrupted: what is below covers only the time until then."
    total = series.total()
    ended = ", ".join(f"{amount(total[one])} {one}" for one in OUTCOMES if total[one])
    struck = len(windows)
    facts = f"{amount(series.calls)} operations in {seconds(series.seconds)}"
    facts += f" ({ended})" if ended else ""
    if struck:
        facts += f", {amount(struck)} faults of {len(kinds_of(windows))} kinds"
    parts = [
        element("h1", shown(about.title, 160)),
        element("p", element("span", word, class_=f"verdict {class_}"), " ", shown(text, 600)),
        element("p", shown(facts)),
    ]
    if about.started:
        parts.append(element("p", shown(about.started, 200), class_="soft"))
    parts += [element("p", shown(note, 1000)) for note in about.notes]
    return element("header", *parts)


def _verdicts(verdicts: Mapping[str, Verdict]) -> str:
    if not verdicts:
        return ""
    rows = []
    for name, verdict in verdicts.items():
        class_, word = state(verdict)
        facts = [
            element("li", f"{shown(fact, 60)} ", element("b", _figure(value)))
            for fact, value in verdict.facts.items()
        ]
        if verdict.anomalies:
            found = amount(len(verdict.anomalies))
            facts.append(element("li", "anomalies ", element("b", found), class_="bad"))
        rows.append(
            element(
                "tr",
                element("td", shown(name, 60)),
                element("td", element("strong", word, class_=class_)),
                element("td", element("ul", *facts, class_="facts")),
            )
        )
    head = element("tr", *(element("th", one) for one in ("checker", "verdict", "what it saw")))
    table = element("table", element("thead", head), element("tbody", *rows), class_="stack")
    return element("section", element("h2", "Verdicts"), table)


def _figure(value: float | str) -> str:
    return shown(value, 200) if isinstance(value, str) else amount(value)


def _anomalies(finder: Finder, verdicts: Mapping[str, Verdict]) -> str:
    found = [(name, one) for name, one in verdicts.items() if one.anomalies]
    if not found:
        return ""
    parts = [element("h2", "What is wrong")]
    for name, verdict in found:
        parts.append(element("h3", shown(f"{name}: {len(verdict.anomalies):,} found", 120)))
        # The one with the fewest operations is the easiest to understand.
        ordered = sorted(verdict.anomalies, key=lambda one: (not one.ops, len(one.ops)))
        met: set[str] = set()
        folded: list[str] = []
        for one in ordered[:SHOWN_ANOMALIES]:
            (folded if one.name in met else parts).append(_anomaly(one, finder))
            met.add(one.name)
        if folded:
            summary = element("summary", f"{len(folded)} more like these")
            parts.append(element("details", summary, *folded))
        if len(ordered) > SHOWN_ANOMALIES:
            more = len(ordered) - SHOWN_ANOMALIES
            parts.append(element("p", f"and {more:,} more, in run.json", class_="soft"))
    return element("section", *parts)


def _anomaly(anomaly: Anomaly, finder: Finder) -> str:
    return element(
        "div",
        element("h3", shown(anomaly.name, 80)),
        element("p", shown(anomaly.text, LONGEST_TEXT)),
        picture(anomaly, finder),
        class_="anomaly",
    )


def _plots(series: Series, windows: Sequence[Window]) -> str:
    plots = TimePlots(series, windows)
    parts: list[str] = []
    faults = plots.faults()
    if faults:
        kinds = [(f"k{place % BANDS}", kind) for place, kind in enumerate(kinds_of(windows))]
        parts += [element("h2", "Faults"), faults, _legend(kinds)]
    latency = plots.latency()
    if latency:
        outcomes = (
            ("ok", "ok: carried out"),
            ("fail", "fail: surely not"),
            ("info hollow" if series.dots else "info", "info: nobody knows"),
        )
        parts += [element("h2", "Latency"), latency, _legend(outcomes)]
    rate, legend = plots.rate()
    if rate:
        parts += [element("h2", "Operations per second"), rate, _legend(legend)]
    return element("section", *parts)


def _legend(entries: Sequence[tuple[str, str]]) -> str:
    return element(
        "ul",
        *(element("li", element("i", class_=class_), shown(name, 60)) for class_, name in entries),
        class_="legend",
    )


def _operations(series: Series) -> str:
    if not series.kinds:
        return ""
    heads = ("operation", *OUTCOMES, "median", "95 %", "99 %", "longest")
    rows = []
    for name, kind in sorted(series.kinds.items()):
        cells = [element("td", shown(name, 60))]
        cells += [element("td", amount(kind.count[one]), class_="number") for one in OUTCOMES]
        for share in (0.5, 0.95, 0.99, 1.0):
            value = kind.quantile(share)
            text = "" if value is None else seconds(value)
            cells.append(element("td", text, class_="number"))
        rows.append(element("tr", *cells))
    head = element(
        "tr",
        *(
            element("th", one, class_="number" if place else None)
            for place, one in enumerate(heads)
        ),
    )
    table = element("table", element("thead", head), element("tbody", *rows))
    return element(
        "section",
        element("h2", "Operations"),
        element("div", table, class_="wide", tabindex="0"),
        element("p", "Latencies are of those that ended ok.", class_="soft"),
    )


def _settings(about: About) -> str:
    parts = [element("h2", "The run")]
    for name, table in (("Options", about.options), ("Versions", about.versions)):
        if table:
            entries = [
                element("dt", shown(key, 60)) + element("dd", element("code", shown(value, 600)))
                for key, value in table.items()
            ]
            parts += [element("h3", name), element("dl", *entries)]
    if about.command:
        command = " ".join(shlex.quote(word) for word in about.command)
        parts.append(element("h3", "To repeat it"))
        parts.append(element("pre", element("code", shown(command, LONGEST_TEXT)), tabindex="0"))
    return element("section", *parts)
