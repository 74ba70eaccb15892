"""What receiving, completing, claiming, delivering and `status` take with a million images in the database.

    python benchmarks/scale.py --instances 1000000

Fills one database as years of work would, leaves another empty, and takes turns with both, so that whatever else the
machine does falls on both. Prints medians and the ratio of processor time, which a busy machine changes little; before
that, what a tick takes while a long series is waited for (`--waiting`: this alone). docs/performance.md, section
Growth, tells the last figures.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import sqlalchemy as sa  # noqa: E402
from made import NOW, Made, ct, made_node, received  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from dicom_node.headers import header  # noqa: E402
from dicom_node.store import heartbeats, jobs, outbox, overview, results  # noqa: E402
from dicom_node.store.results import SliceResult, Version  # noqa: E402
from dicom_node.store.tables import deliveries, events, instances, objects, series, slice_results  # noqa: E402
from dicom_node.store.tables import jobs as jobs_table  # noqa: E402
from train.options import positive  # noqa: E402

IMAGES = 100  # a series
VERSION = Version("f" * 64, "window-0-80/robust-1/resize-256-crop-224/1")
CONTENT = {"air": 0.4, "bone": 0.1, "brain": 0.3, "box": [10, 20, 200, 220], "closed": True, "parts": [1, 2, 3]}


def fill(node: Made, images: int) -> None:
    """Series of `IMAGES`, reported and delivered to two destinations, the last of them a month ago and more."""
    at = NOW - 40 * 86400.0
    facts = header.read(
        received(ct(1)).data_set,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        sop_class_uid=str(ct(1).SOPClassUID),
        sop_instance_uid=str(ct(1).SOPInstanceUID),
    ).facts.to_json()
    findings = {"slices": [CONTENT] * 30}
    result = results._row(SliceResult(0, 0, 1, 5.0, 5.0, CONTENT, presence=0.1, location=(0.7, 0.2, 0.1)), VERSION, at)
    count = images // IMAGES
    _multiply(
        *(node, series, count),
        {
            "calling_aet": "CT1",
            "state": "complete",
            "run": 1,
            "rule": "covered",
            "whole": 1,
            "forced": 0,
            "priority": 0,
        },
        {"series_uid": "'2.25.' || k", "study_uid": "'2.25.9' || k", "first_at": f"{at} + k", "last_at": f"{at} + k"},
    )
    _multiply(
        *(node, instances, count * IMAGES),
        {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.2", "transfer_syntax_uid": "1.2.840.10008.1.2.1", "size": 525_000}
        | {"facts": json.dumps(facts), "calling_aet": "CT1", "received_at": at, "current": 1, "tries": 0},
        {"series_id": f"(k - 1) / {IMAGES} + 1", "sop_instance_uid": "'2.25.' || k || '.1'", "file": _hex("aa/", 32)}
        | {"digest": _hex("blake3-", 44)}
        | {name: _hex("", 64) for name in ("pixel_sha256", "identity", "patient")},
    )
    plain = {k: json.dumps(v) if isinstance(v, dict) else v for k, v in result.items() if k != "instance_id"}
    _multiply(node, slice_results, count * IMAGES, plain, {"instance_id": "k"})
    _multiply(
        *(node, jobs_table, count),
        {
            "run": 1,
            "state": "delivered",
            "priority": 0,
            "tries": 1,
            "outcome": "absent",
            "extras_due": 0,
            "extras_tries": 0,
        }
        | {"findings": json.dumps(findings)},
        {"series_id": "k"} | dict.fromkeys(("not_before", "created_at", "started_at", "finished_at"), f"{at} + k"),
    )
    _multiply(
        *(node, objects, count),
        {"kind": "report", "sop_class_uid": "1.2.3", "size": 9000},
        {"job_id": "k", "sop_instance_uid": "'2.25.7' || k", "series_uid": "'2.25.8' || k", "file": _hex("bb/", 32)}
        | {"sha256": _hex("", 64), "created_at": f"{at} + k"},
    )
    _multiply(
        *(node, deliveries, count * 2),
        {"state": "delivered", "tries": 1, "last_status": 0, "commitment_tries": 0},
        {"object_id": "(k + 1) / 2", "destination": "'PACS' || (k % 2 + 1)"}
        | dict.fromkeys(("next_at", "delivered_at"), f"{at} + k"),
    )
    _multiply(
        node, events, count * 4, {"at": at, "kind": "stored"}, {"series_id": "(k + 3) / 4", "job_id": "(k + 3) / 4"}
    )


def _multiply(node: Made, table: Any, count: int, same: dict[str, Any], each: dict[str, str]) -> None:
    """Rows 1..count; `each`: SQL for what differs, of the row's number k."""
    columns = {"id": "k"} | {name: f":{name}" for name in same} | each
    rows = f"WITH RECURSIVE n(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM n WHERE k < {count})"
    statement = f"INSERT INTO {table.name} ({', '.join(columns)}) {rows} SELECT {', '.join(columns.values())} FROM n"
    with node.database.write() as connection:
        connection.execute(sa.text(statement), same)


def _hex(before: str, digits: int) -> str:
    return f"'{before}' || printf('%0{digits}x', k)"


class Trials:
    """What is timed, each on its own database; every call leaves things as they were, or adds one image."""

    def __init__(self, node: Made) -> None:
        self.node = node
        self._images = self._fresh()

    def _fresh(self) -> Iterator[Dataset]:
        for number in range(1, 1_000_000):
            yield ct(number, series="1.2.3.4", study="1.2.3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])

    def accept(self) -> None:
        assert self.node.accept(next(self._images)) == [0]

    def completion_tick(self) -> None:
        self.node.arrivals.tick()

    def look_for_work(self) -> None:
        """As an idle worker does, ten times a second."""
        with self.node.database.read() as connection:
            assert not jobs.is_due(connection, now=NOW, lease_s=60.0)
            assert jobs.next_with_extras(connection, now=NOW, lease_s=60.0) is None
            assert not results.unread(connection, VERSION, limit=16)

    def claim(self) -> None:
        with self.node.database.write() as connection:
            made = {"series_id": 1, "run": 2, "state": "ready", "priority": 0, "not_before": NOW, "tries": 0}
            job_id = connection.execute(
                jobs_table.insert().values(made | {"created_at": NOW}).returning(jobs_table.c.id)
            ).scalar_one()
            job = jobs.claim(connection, owner="w", now=NOW, lease_s=60.0)
            assert job is not None
            connection.execute(jobs_table.delete().where(jobs_table.c.id == job_id))

    def look_for_deliveries(self) -> None:
        """As each sender does, four times a second."""
        with self.node.database.read() as connection:
            assert outbox.due(connection, "PACS1", now=NOW, longest_wait_s=3600.0) == []

    def heartbeat(self) -> None:
        with self.node.database.write() as connection:
            heartbeats.beat(connection, "w", started_at=NOW, now=NOW)

    def status(self) -> None:
        with self.node.database.read() as connection:
            overview.overview(connection, now=NOW)


def waiting(folder: Path, length: int) -> str:
    """Processor time of the first tick and of further ones, of a series of which more may come, and nothing does."""
    node = made_node(folder)
    assert node.accept(ct(1)) == [0]
    copied = [column.name for column in instances.columns if column.name not in ("id", "sop_instance_uid")]
    with node.database.write() as connection:
        one = connection.execute(sa.select(*(instances.c[name] for name in copied))).one()._asdict()
        connection.execute(instances.insert(), [{**one, "sop_instance_uid": f"2.25.{k}"} for k in range(1, length)])
    used = []
    for _ in range(21):
        node.clock.advance(3.0 if not used else 0.25)
        at = time.process_time()
        node.arrivals.tick()
        used.append((time.process_time() - at) * 1000.0)
    node.database.close()
    return f"| {length} | {used[0]:.1f} | {statistics.median(used[1:]):.1f} |"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--waiting", action="store_true")
    arguments.add_argument("--instances", type=positive, default=1_000_000)
    arguments.add_argument("--rounds", type=positive, default=50)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        waiting(Path(folder) / "first", 2)  # statements are compiled once
        print("| slices of a series that waits | first tick (ms) | each further tick (ms) |\n" + "| --- " * 3 + "|")
        for length in (40, 400, 3000):
            print(waiting(Path(folder) / f"waiting-{length}", length), flush=True)
        if chosen.waiting:
            return
        begun = time.monotonic()
        nodes = {"empty": made_node(Path(folder) / "empty"), "full": made_node(Path(folder) / "full")}
        fill(nodes["empty"], IMAGES)  # one series, so that a job has something to belong to
        fill(nodes["full"], chosen.instances)
        size = (Path(folder) / "full" / "data" / "node.sqlite").stat().st_size / 2**20
        print(f"filled in {time.monotonic() - begun:.0f} s, {size:.0f} MiB")
        trials = {name: Trials(node) for name, node in nodes.items()}
        print(
            "| what | empty: CPU (ms) | full: CPU (ms) | ratio | empty: wall (ms) | full: wall (ms) |\n"
            + "| --- " * 6
            + "|"
        )
        for what in (
            "accept",
            "completion_tick",
            "look_for_work",
            "claim",
            "look_for_deliveries",
            "heartbeat",
            "status",
        ):
            cpu: dict[str, list[float]] = {"empty": [], "full": []}
            wall: dict[str, list[float]] = {"empty": [], "full": []}
            for _ in range(chosen.rounds):
                for name, trial in trials.items():
                    at, cpu_at = time.perf_counter(), time.process_time()
                    getattr(trial, what)()
                    cpu[name].append((time.process_time() - cpu_at) * 1000.0)
                    wall[name].append((time.perf_counter() - at) * 1000.0)
            used, took = ([statistics.median(of[name]) for name in ("empty", "full")] for of in (cpu, wall))
            figures = f"{used[0]:.2f} | {used[1]:.2f} | {used[1] / used[0]:.2f} | {took[0]:.2f} | {took[1]:.2f}"
            print(f"| {what.replace('_', ' ')} | {figures} |", flush=True)
        for node in nodes.values():
            node.database.close()


if __name__ == "__main__":
    main()
