"""The sampler writes where CPU time went, and the program it runs does not notice."""

import subprocess
import sys
from pathlib import Path

from bench.profiling import weigh

# Samples itself while it works, as a parent's two signals would make it do.
PROGRAM = """
import os, signal, sys, time

def work():
    stop = time.process_time() + 0.3
    while time.process_time() < stop:
        sum(range(1000))

os.kill(os.getpid(), signal.SIGUSR1)
work()
os.kill(os.getpid(), signal.SIGUSR1)
work()
print(*sys.argv[1:])
"""


def test_only_what_runs_between_the_signals_is_counted(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    output = tmp_path / "stacks"
    done = subprocess.run(
        [sys.executable, "-m", "bench.sampler", str(output), "program", "one", "two"],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parents[2]}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "one two\n"
    own, below, total = weigh(output.read_text().splitlines())
    assert total > 0
    assert own.most_common(1)[0][0].startswith("work (")
    # 0.3 s of CPU at one sample per 2 ms at most; the second call of work is not in it.
    assert total <= 200
    assert max(below.values()) == total
