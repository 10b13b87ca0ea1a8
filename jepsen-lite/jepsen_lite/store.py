"""A run's directory, and what is in it.

history.jsonl     every operation (`history`)
log.jsonl         what the store did (`storelog`)
run.json          options, versions, what members said at the end, verdicts
report.html       for people
members/          logs of the members; their data too, if the run was not valid
"""

import json
import os
import platform
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Final

import raftkv
from jepsen_lite.checker.base import Verdict
from jepsen_lite.history import HistoryError
from jepsen_lite.workload.options import Options

DEFAULT_ROOT: Final = Path("jepsen-results")


class Store:
    """One run's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, root: Path, workload: str) -> "Store":
        """A new directory under `root`, named by the time and the workload. Errors: OSError."""
        root.mkdir(parents=True, exist_ok=True)
        stem = f"{time.strftime('%Y%m%d-%H%M%S')}-{workload}"
        for number in range(1, 1000):
            path = root / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir()
            except FileExistsError:
                continue
            return cls(path)
        raise OSError(f"there are a thousand runs named {stem} in {root}")

    @property
    def history(self) -> Path:
        """The operations."""
        return self.path / "history.jsonl"

    @property
    def log(self) -> Path:
        """What the store did."""
        return self.path / "log.jsonl"

    @property
    def report(self) -> Path:
        """For people."""
        return self.path / "report.html"

    @property
    def members(self) -> Path:
        """Logs and data of members."""
        return self.path / "members"

    def write_run(self, run: dict[str, Any]) -> None:
        """Writes run.json in one go."""
        fresh = self.path / "run.json.new"
        fresh.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(fresh, self.path / "run.json")

    def read_run(self) -> dict[str, Any]:
        """What `write_run` wrote. Errors: HistoryError, OSError."""
        path = self.path / "run.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise HistoryError(f"{self.path} has no run.json: it is no run's directory") from None
        except ValueError as error:
            raise HistoryError(f"{path} is damaged: {error}") from None
        if not isinstance(found, dict) or "options" not in found:
            raise HistoryError(f"{path} is damaged: it has no options")
        return found

    def drop_data(self) -> None:
        """Removes the members' data; their logs stay."""
        if self.members.is_dir():
            for path in self.members.iterdir():
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)


def versions(options: Options) -> dict[str, str]:
    """Of what took part."""
    return {
        "raftkv": raftkv.__version__,
        "system": options.system,
        "python": platform.python_version(),
        "platform": f"{sys.platform} {platform.machine()}, {os.cpu_count()} CPUs",
    }


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A verdict as run.json has it."""
    return {
        "valid": verdict.valid,
        "undecided": verdict.undecided,
        "facts": verdict.facts,
        "anomalies": [
            {"name": one.name, "text": one.text, "ops": list(one.ops)} for one in verdict.anomalies
        ],
    }
