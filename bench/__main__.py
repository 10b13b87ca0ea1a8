"""`python -m bench`: measure, print, save."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench import profiling, report
from bench.clusters import SYSTEMS, ClusterFailed, environment
from bench.generator import LoadFailed
from bench.rows import LOAD_ROWS, Samples, Settings, say, select
from bench.table import ROWS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures raftkv and etcd side by side on this machine, three nodes each.",
        epilog="rows: " + ", ".join(row.name for row in ROWS),
    )
    parser.add_argument("--rows", default="", help="names, or starts of names: put,get,failover")
    parser.add_argument("--rounds", type=int, help="rounds per row (3)")
    parser.add_argument("--seconds", type=float, help="measured seconds per round (3)")
    parser.add_argument("--warmup", type=float, help="seconds of load before each (1)")
    parser.add_argument("--quick", action="store_true", help="short rounds and small special rows")
    parser.add_argument("--systems", default="etcd,raftkv", help="the base first (etcd,raftkv)")
    parser.add_argument(
        "--entry",
        default="spread",
        choices=("spread", "leader", "followers"),
        help="which nodes the connections go to (spread: all)",
    )
    parser.add_argument(
        "--rate", type=float, default=0.0, help="open loop: operations/s, answered or not"
    )
    parser.add_argument("--keys", type=int, default=10_000, help="keys of the closed-loop rows")
    parser.add_argument("--long-seconds", type=float, help="length of long-put (60)")
    parser.add_argument("--bulk-keys", type=int, help="keys of the row million (1000000)")
    parser.add_argument("--trials", type=int, help="leaders lost per system (3)")
    parser.add_argument(
        "--data", type=Path, help="where the clusters' data goes (a temp directory)"
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    parser.add_argument("--profile", metavar="ROW", help="profile raftkv under a row instead")
    parser.add_argument(
        "--sampler", default="cpu", choices=profiling.SAMPLERS, help="with --profile (cpu)"
    )
    return parser


def _labels(systems: str) -> dict[str, str]:
    """Label -> system; a system that is named twice gets a numbered label."""
    labels: dict[str, str] = {}
    for system in systems.split(","):
        if system not in SYSTEMS:
            raise ValueError(f"no system {system!r}; there are {', '.join(SYSTEMS)}")
        label = system
        while label in labels:
            label = f"{system}-{len(labels) + 1}"
        labels[label] = system
    return labels


def _settings(given: argparse.Namespace) -> Settings:
    quick = bool(given.quick)

    def choose(value: float | None, usual: float, short: float) -> float:
        return value if value is not None else short if quick else usual

    return Settings(
        systems=_labels(given.systems),
        rounds=int(choose(given.rounds, 3, 2)),
        seconds=choose(given.seconds, 3.0, 2.0),
        warmup_seconds=choose(given.warmup, 1.0, 0.5),
        entry=given.entry,
        rate_per_second=given.rate,
        keys=given.keys,
        long_seconds=choose(given.long_seconds, 60.0, 10.0),
        bulk_keys=int(choose(given.bulk_keys, 1_000_000, 50_000)),
        trials=int(choose(given.trials, 3, 1)),
        watched_keys=int(choose(None, 10_000, 2_000)),
        live_leases=int(choose(None, 100_000, 10_000)),
        directory=given.data,
    )


def _measure(rows: str, settings: Settings, output: Path) -> int:
    """Measures the rows; one that fails is reported and the others go on."""
    results: dict[str, Samples] = {}
    failures = []
    base, label = next(iter(settings.systems)), list(settings.systems)[-1]
    start = time.monotonic()
    for row in select(ROWS, rows):
        try:
            results[row.name] = row.procedure(row, settings)
        except (ClusterFailed, LoadFailed) as error:
            failures.append(f"{row.name} FAILED: {error}")
            say(failures[-1])
    around = environment()
    print(report.text(results, label, base, around))
    for failure in failures:
        print(failure)
    output.mkdir(parents=True, exist_ok=True)
    report.save(output / "results.json", results, label, base, around)
    try:
        from bench import plots

        pictures = plots.draw(results, label, base, output)
    except ImportError as error:
        say(f"no pictures: {error}")
        pictures = []
    saved = ", ".join(str(path) for path in [output / "results.json", *pictures])
    say(f"{time.monotonic() - start:.0f} s; saved {saved}")
    return 1 if failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 if a row could not be measured."""
    parser = _parser()
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        settings = _settings(given)
        if given.profile:
            for row in select(LOAD_ROWS, given.profile):
                print(profiling.profile(row, settings, given.output, given.sampler))
            return 0
        select(ROWS, given.rows)
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    return _measure(given.rows, settings, given.output)


if __name__ == "__main__":
    sys.exit(main())
