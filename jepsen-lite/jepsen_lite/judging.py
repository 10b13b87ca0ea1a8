"""Verdicts about a run that lies in its store; so a stored run can be judged again."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jepsen_lite.checker.base import Checker, Evidence, Verdict
from jepsen_lite.checker.compose import check_all
from jepsen_lite.checker.floors import Floors, unseen
from jepsen_lite.checker.hashes import Hashes
from jepsen_lite.checker.logs import Logs
from jepsen_lite.checker.membership import Membership
from jepsen_lite.checker.stats import Stats
from jepsen_lite.history import History, HistoryError
from jepsen_lite.report import About, write_report
from jepsen_lite.store import Store, verdict_json
from jepsen_lite.storelog import read_store_log
from jepsen_lite.windows import windows_of
from jepsen_lite.workload import workload_class
from jepsen_lite.workload.base import Workload
from jepsen_lite.workload.options import Options

log = logging.getLogger("jepsen_lite")


def judge(store: Store, *, partial: bool = False) -> dict[str, Verdict]:
    """Checks a stored run and writes its verdicts and its report.

    partial: a history that was cut short is checked as far as it goes.
    Errors: HistoryError, UnknownName, OSError.
    """
    run = store.read_run()
    try:
        options = Options.from_json(run["options"])
    except TypeError as error:
        raise HistoryError(f"{store.path}: run.json has other options: {error}") from None
    log.info("checking")
    history = History.read(store.history, partial=partial)
    evidence = Evidence(
        history=history,
        log=read_store_log(store.log),
        options=options,
        final=run.get("final", {}),
        member_logs={name: Path(path) for name, path in run.get("member_logs", {}).items()},
        windows=windows_of(history, run.get("kinds", {})),
    )
    workload = workload_class(options.workload)(options)
    verdicts = check_all(checkers_of(workload), evidence)
    _see_that_there_was_something(verdicts, workload)
    run["valid"] = all(verdict.passed for verdict in verdicts.values())
    run["verdicts"] = {name: verdict_json(verdict) for name, verdict in verdicts.items()}
    store.write_run(run)
    write_report(store.report, _about(run, options), history, verdicts, evidence.windows)
    return verdicts


def checkers_of(workload: Workload) -> dict[str, Checker]:
    """The workload's own, and those of every run."""
    found = workload.checkers()
    found["hashes"] = Hashes()
    found["logs"] = Logs()
    if "member" in workload.options.nemeses and workload.options.world != "sim":
        found["membership"] = Membership()
    found["floors"] = Floors(workload.least_success)
    found["stats"] = Stats()
    return found


def _see_that_there_was_something(verdicts: Mapping[str, Verdict], workload: Workload) -> None:
    """Adds to the floors what only the other verdicts tell; an interrupted run had no time."""
    floors = verdicts["floors"]
    missing = [] if floors.undecided else unseen(verdicts, workload.to_be_seen())
    floors.anomalies += missing
    floors.valid = floors.valid and not missing


def _about(run: dict[str, Any], options: Options) -> About:
    notes: list[str] = []
    final = run.get("final", {})
    if "unrecovered" in final:
        notes.append(f"The cluster did not recover after the faults: {final['unrecovered']}")
    if "unread" in final:
        notes.append(f"The store's log could not be read: {final['unread']}")
    faults = ", ".join(options.nemeses) or "no faults"
    return About(
        title=f"{options.workload} on {options.system}, {faults}",
        started=run.get("started", ""),
        options={name: value for name, value in options.to_json().items() if value not in ("", {})},
        versions=run.get("versions", {}),
        command=run.get("command", ()),
        interrupted=bool(final.get("interrupted")),
        notes=notes,
    )
