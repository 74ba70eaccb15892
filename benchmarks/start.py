"""How long `dicom-node serve` takes from its start to the first association it accepts.

    .venv/bin/python benchmarks/start.py [--starts 15]

The first start makes the database and is told apart; those after it find one, as after a restart of the machine or of
the service. An association is asked for again and again, a few milliseconds apart, until one is accepted. The model is
loaded by another process, which is ended with the node each time. CPU seconds are those of the receiving process up to
that moment: a busy machine changes them little. docs/performance.md, section Start, tells the last figures.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY)]

from benchmarks.receive import accepted  # noqa: E402
from benchmarks.receivers import TITLE, free_port, node, stop  # noqa: E402
from train.options import positive  # noqa: E402

PAUSE_S = 0.005
PATIENCE_S = 120.0
GOAL_S = 1.5


def start(folder: Path) -> tuple[float, float]:
    """Seconds, and CPU seconds, until an association is accepted."""
    port = free_port()
    command = node("own")(folder, port)
    with (folder / "log").open("wb") as log:
        begun = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=REPOSITORY)
        try:
            while not accepted(port):
                if process.poll() is not None or time.monotonic() > begun + PATIENCE_S:
                    raise SystemExit(f"{TITLE} does not accept:\n{(folder / 'log').read_text()[-2000:]}")
                time.sleep(PAUSE_S)
            took_s = time.monotonic() - begun
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            return took_s, sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
        finally:
            stop(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=positive, default=15)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        first_s, first_cpu_s = start(Path(temporary))
        later = [start(Path(temporary)) for _ in range(given.starts)]
    seconds = sorted(took for took, _ in later)
    median, cpu = statistics.median(seconds), statistics.median(cpu for _, cpu in later)
    machine = f"{os.cpu_count()} cores ({platform.machine()}), load {os.getloadavg()[0]:.1f}"
    print(f"{datetime.now(UTC):%Y-%m-%d}, {machine}, {given.starts} starts")
    print(f"first start, with a new database: {first_s:.2f} s, of them {first_cpu_s:.2f} s of CPU time")
    print(f"later starts: median {median:.2f} s, of them {cpu:.2f} s of CPU time; longest {seconds[-1]:.2f} s")
    print(f"goal: {GOAL_S} s at the median, {'met' if median <= GOAL_S else 'missed'}")


if __name__ == "__main__":
    main()
