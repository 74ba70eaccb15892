"""How long after the last slice the report is in the PACS, stage by stage, at full speed and at a scanner's pace.

    TMPDIR=/a/local/disk .venv/bin/python benchmarks/latency.py [--quick] [--series 10] [--scanners 3]

`dicom-node serve` runs as it is installed, with the shipped checkpoint; a stand-in PACS takes what it sends and notes
when. Series of 40 slices (512 x 512 x 16 bit) of one phantom are sent over one association each: one after the other as
fast as they are taken; one after the other at 2 slices a second; and at that pace from several scanners at once while
old images of another sender are always waiting to be worked off. Stages, in seconds: from the answer to the last
C-STORE to the decision that the series is complete (settle_s and a tick), to a worker's taking the job, to the report
in the outbox, to the report in the PACS; then all of it, and the picture, which follows.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY)]

import numpy as np  # noqa: E402

from dicom_node import scanner, uids  # noqa: E402
from dicom_node.config import Peer  # noqa: E402
from dicom_node.network import scu  # noqa: E402
from dicom_node.network.stand_in import StandInPacs, free_port  # noqa: E402
from dicom_node.store.database import Database  # noqa: E402
from dicom_node.store.tables import jobs, objects, series  # noqa: E402
from dtvit import phantom  # noqa: E402
from train.options import positive  # noqa: E402

NODE, PACS, OLD = "NODE", "PACS", "MIGRATION"
SETTLE_S = 2.0
SLICES = 40
PACE_S = 0.5  # between slices: what a scanner's reconstruction gives
PATIENCE_S = 300.0
WAITING = 3  # old series that wait at any time
STAGES = ("complete", "taken", "reported", "in the PACS", "all", "picture")


@dataclass
class Running:
    port: int
    pacs: StandInPacs
    database: Database
    made: phantom.Phantom
    folder: Path

    def send(self, calling: str, pace_s: float, when: datetime | None = None) -> tuple[str, float]:
        """One series; its UID, and when the last slice was answered."""
        with tempfile.TemporaryDirectory(dir=self.folder) as temporary:
            patient = scanner.SyntheticPatient("SYNTHETIC^LATENCY", f"SYN-{uids.fresh()[-12:]}")
            sets = scanner.series(self.made, patient, when=when or datetime.now(UTC).astimezone())
            items = [scu.outgoing(path) for path in scanner.write(sets, Path(temporary))]
            node = Peer(name="node", host="127.0.0.1", port=self.port, ae_title=NODE)
            begun = time.monotonic()
            for number, answer in enumerate(scu.send(node, calling, items), 1):
                if answer.error is not None:
                    raise answer.error
                answered = time.time()
                if number < len(items):
                    time.sleep(max(0.0, begun + number * pace_s - time.monotonic()))
        return str(sets[0].SeriesInstanceUID), answered

    def stages(self, series_uid: str, sent_at: float) -> list[float]:
        """Waits for report and picture; seconds in the order of STAGES."""
        job = sa.select(jobs, series.c.id.label("number")).join(series).where(series.c.series_uid == series_uid)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with self.database.read() as connection:
                row = connection.execute(job).first()
                made = row and connection.execute(objects.select().where(objects.c.job_id == row.id)).all()
            there = {one.sop_instance_uid: one.at for one in list(self.pacs.stored)}
            at = {one.kind: there[one.sop_instance_uid] for one in made or [] if one.sop_instance_uid in there}
            if row and {"report", "picture"} <= set(at):
                times = [sent_at, row.created_at, row.started_at, row.finished_at, at["report"]]
                each = [later - earlier for earlier, later in itertools.pairwise(times)]
                return [*each, at["report"] - sent_at, at["picture"] - sent_at]
            time.sleep(0.2)
        raise SystemExit(f"no report in {PATIENCE_S:.0f} s:\n{(self.folder / 'node.log').read_text()[-3000:]}")

    def unfinished(self) -> int:
        """Old series that have no report yet."""
        done = sa.select(jobs.c.id).where(jobs.c.series_id == series.c.id, jobs.c.finished_at.is_not(None))
        query = sa.select(sa.func.count()).select_from(series).where(series.c.calling_aet == OLD, ~sa.exists(done))
        with self.database.read() as connection:
            return int(connection.scalar(query) or 0)


@contextmanager
def running(folder: Path) -> Iterator[Running]:
    pacs, port = StandInPacs(folder / "pacs", ae_title=PACS), free_port()
    pacs.start()
    (folder / "config.toml").write_text(
        f'[node]\nae_title = "{NODE}"\nbind = "127.0.0.1"\nport = {port}\nallowed_senders = ["*"]\nmin_free_mib = 0\n'
        f'[[peers]]\nname = "PACS1"\nhost = "127.0.0.1"\nport = {pacs.port}\nae_title = "{PACS}"\n'
        f'[completion]\nsettle_s = {SETTLE_S}\n[backlog]\nsenders = ["{OLD}"]\n'
    )
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(folder / "config.toml")]
    log = folder / "node.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, cwd=REPOSITORY)
    try:
        while "worker_ready" not in log.read_text():
            if process.poll() is not None:
                raise SystemExit(f"the node ended:\n{log.read_text()}")
            time.sleep(0.2)
        spec = phantom.draw(5, "deep", matrix=512, thickness_mm=5.0, spacing_mm=5.0, below_mm=85.0, above_mm=12.0)
        database = Database(f"sqlite:///{folder / 'data' / 'node.sqlite'}")
        yield Running(port, pacs, database, cut(phantom.render(spec)), folder)
        database.close()
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        pacs.stop()


def cut(made: phantom.Phantom) -> phantom.Phantom:
    """The uppermost SLICES slices, so that the series ends in air above and below the brain."""
    if len(made.positions_mm) < SLICES:
        raise SystemExit(f"the phantom has {len(made.positions_mm)} slices, {SLICES} are wanted")
    return replace(made, hu=made.hu[-SLICES:], positions_mm=made.positions_mm[-SLICES:])


def alone(node: Running, count: int, pace_s: float) -> list[list[float]]:
    return [node.stages(*node.send("CT1", pace_s)) for _ in range(count)]


def together(node: Running, count: int, scanners: int) -> list[list[float]]:
    """Several scanners at once, `count` series in all, while old images wait."""
    stop, fed = threading.Event(), threading.Event()

    def feed() -> None:
        while not stop.is_set():
            if node.unfinished() >= WAITING:
                fed.set()
                stop.wait(0.2)
            else:
                node.send(OLD, 0.0, datetime(2020, 3, 1, 8, 30, tzinfo=UTC))

    def scan(number: int) -> list[list[float]]:
        stop.wait(number * SLICES * PACE_S / scanners)  # they do not all end in the same moment
        return [node.stages(*node.send(f"CT{number}", PACE_S)) for _ in range(-(-count // scanners))]

    feeder = threading.Thread(target=feed)
    feeder.start()
    fed.wait(PATIENCE_S)
    try:
        with ThreadPoolExecutor(scanners) as pool:
            return [one for found in pool.map(scan, range(1, scanners + 1)) for one in found]
    finally:
        stop.set()
        feeder.join()


def row(name: str, found: Sequence[Sequence[float]]) -> str:
    cells = []
    for stage in range(len(STAGES)):
        p50, p95 = np.percentile([one[stage] for one in found], (50, 95))
        cells.append(f"{p50:.2f} / {p95:.2f}")
    return f"| {name}, {len(found)} series | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two series each way")
    parser.add_argument("--series", type=positive, default=10, help="each way")
    parser.add_argument("--scanners", type=positive, default=3)
    given = parser.parse_args()
    count = 2 if given.quick else given.series
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="latency-") as temporary, running(Path(temporary)) as node:
        print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), load {load:.1f} before;")
        print(f"seconds, p50 / p95, settle_s = {SETTLE_S:g}\n\n| | {' | '.join(STAGES)} |\n|{' --- |' * 7}", flush=True)
        alone(node, 1, 0.0)  # the first report imports what makes reports
        print(row("full speed", alone(node, count, 0.0)), flush=True)
        paced = alone(node, count, PACE_S)
        print(row("2 slices/s", paced), flush=True)
        busy = together(node, count, given.scanners)
        print(row(f"2 slices/s, {given.scanners} scanners, backlog", busy))
    ratio = np.percentile([one[4] for one in busy], 95) / np.percentile([one[4] for one in paced], 95)
    over = statistics.median(one[4] for one in paced) - SETTLE_S
    print(f"\nat a scanner's pace {over:.2f} s more than settle_s; with others and backlog p95 is {ratio:.2f} of alone")


if __name__ == "__main__":
    main()
