"""`dicom-node demo`: four synthetic patients, a real node, a stand-in PACS, real associations; minutes on two cores.

Nothing is staged: the node is `dicom-node serve` in its own process, and the table is read from the reports that
arrived, not from what was sent.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from dicom_node import scanner, uids
from dicom_node.administering import present
from dicom_node.config import Peer
from dicom_node.errors import NodeError, PeerError
from dicom_node.network import scu
from dicom_node.network.stand_in import StandInPacs, Stored, free_port
from dicom_node.report import readback, text

SCANNER_AET = "DEMO_CT"
NODE_AET = "DEMO_NODE"
START_S = 90.0  # for the node to listen, on a cold disk
REPORT_S = 180.0  # from the last slice sent to the last report
TRUTHS: tuple[str | None, ...] = (None, "deep", "lobar", "subtentorial")
SITE_ML = {"deep": 18.0, "lobar": 30.0, "subtentorial": 12.0}  # sizes usual at admission for these places
CONFIG = """\
[node]
ae_title = "{node_aet}"
bind = "127.0.0.1"
port = {node_port}
allowed_senders = ["{scanner_aet}"]
data_folder = "data"
min_free_mib = 50
[[peers]]
name = "STAND-IN-PACS"
host = "127.0.0.1"
port = {pacs_port}
ae_title = "{pacs_aet}"
[completion]
settle_s = 2
silence_s = 20
[model]
device = "auto"
"""


@dataclass(frozen=True)
class Patient:
    """One synthetic patient on the way through the node."""

    name: str
    truth: str | None
    study_uid: str
    datasets: list[Dataset]


def run(output: Path, seed: int, checkpoint: Path | None = None) -> int:
    """Returns the exit status: 0 only if every report arrived and could be parsed."""
    console = Console()
    _make_room(output)
    with tempfile.TemporaryDirectory(prefix="dicom-node-demo-") as temporary:
        pacs = StandInPacs(Path(temporary) / "pacs", ae_title="DEMO_PACS")
        pacs.start()
        node_port = free_port()
        try:
            node = _node(Path(temporary), node_port, pacs, output / "node.log", checkpoint)
            with node, _progress(console) as progress:
                patients, sent_at = _scan_and_send(node_port, seed, progress)
                arrived = _wait_for_results(pacs, len(patients), progress)
        except NodeError as exc:
            console.print(f"[bold red]the demo could not run:[/] {exc}")
            return 1
        finally:
            pacs.stop()
        return _tell(console, output, patients, sent_at, arrived)


def _make_room(output: Path) -> None:
    """Create the output folder; only what an earlier demo left there is removed."""
    for old in (*output.glob("[1-4]-*"), output / "node.log"):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    output.mkdir(parents=True, exist_ok=True)


@contextmanager
def _node(folder: Path, port: int, pacs: StandInPacs, log: Path, checkpoint: Path | None) -> Iterator[None]:
    """`dicom-node serve` in its own process, listening; stopped cleanly afterwards."""
    config = folder / "config.toml"
    content = CONFIG.format(
        node_aet=NODE_AET, node_port=port, scanner_aet=SCANNER_AET, pacs_port=pacs.port, pacs_aet=pacs.ae_title
    )
    if checkpoint is not None:
        content += f"checkpoint = {json.dumps(str(checkpoint.resolve()))}\n"
    config.write_text(content, encoding="utf-8")
    command = [sys.executable, "-m", "dicom_node", "serve", "--config", str(config)]
    with log.open("w") as log_file:
        process = subprocess.Popen(command, stderr=log_file, stdout=log_file)
        try:
            _wait_until_listening(process, port, log)
            yield
        finally:
            process.terminate()
            try:
                process.wait(60.0)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            scu.echo(_node_peer(port), SCANNER_AET)
        except PeerError:
            time.sleep(0.2)
        else:
            return
    raise NodeError(f"the node did not start; the end of its log {log}: {log.read_text()[-600:]}")


def _scan_and_send(node_port: int, seed: int, progress: Progress) -> tuple[list[Patient], dict[str, float]]:
    """Make the patients in two processes, and send each as soon as it is made."""
    making = progress.add_task("making synthetic patients", total=len(TRUTHS))
    sending = progress.add_task("sending slices", total=None)
    patients: list[Patient] = []
    sent_at: dict[str, float] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        for patient in pool.map(_make, TRUTHS, range(1, len(TRUTHS) + 1), [seed] * len(TRUTHS)):
            progress.advance(making)
            patients.append(patient)
            progress.update(sending, total=sum(len(p.datasets) for p in patients))
            _send(patient, node_port, lambda: progress.advance(sending))
            sent_at[patient.study_uid] = time.time()
    return patients, sent_at


def _make(truth: str | None, number: int, seed: int) -> Patient:
    from dtvit import phantom

    spec = phantom.draw(np.random.default_rng([seed, number]), truth, **_usual(truth))
    made = phantom.render(spec)
    name = (truth or "no hemorrhage").upper().replace(" ", "-")
    study_uid = uids.fresh()
    datasets = scanner.series(
        made,
        scanner.SyntheticPatient(f"SYNTHETIC^{name}", f"SYNTHETIC-{number}"),
        when=datetime.now(UTC).astimezone(),
        study_uid=study_uid,
        accession_number=f"DEMO{number}",
    )
    return Patient(name.replace("-", " ").lower(), truth, study_uid, datasets)


def _usual(truth: str | None) -> dict[str, object]:
    """What makes an instructive case: adult heads, ordinary slices, a bleed of usual size."""
    usual: dict[str, object] = {"matrix": 512, "thickness_mm": 5.0, "spacing_mm": 5.0}
    if truth is not None:
        usual |= {"volume_ml": SITE_ML[truth]}
    return usual


def _send(patient: Patient, node_port: int, advance: Callable[[], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="dicom-node-scanner-") as folder:
        items = [scu.outgoing(path) for path in scanner.write(patient.datasets, Path(folder))]
        for answer in scu.send(_node_peer(node_port), SCANNER_AET, items):
            if answer.error is not None:
                raise answer.error
            advance()


def _node_peer(port: int) -> Peer:
    return Peer(name="node", host="127.0.0.1", port=port, ae_title=NODE_AET)


def _wait_for_results(pacs: StandInPacs, count: int, progress: Progress) -> list[Stored]:
    """Reports and pictures, `count` of each."""
    waiting = progress.add_task("waiting for reports and pictures", total=2 * count)
    deadline = time.monotonic() + REPORT_S
    arrived: list[Stored] = []
    while len(arrived) < 2 * count and time.monotonic() < deadline:
        arrived = pacs.wait_for(len(arrived) + 1, min(1.0, deadline - time.monotonic()))
        progress.update(waiting, completed=len(arrived))
    return arrived


def _tell(
    console: Console, output: Path, patients: list[Patient], sent_at: dict[str, float], arrived: list[Stored]
) -> int:
    """Print what came back, as the reports themselves say it, and leave the files; returns the exit status."""
    reports: dict[str, tuple[readback.ParsedReport, Stored]] = {}
    pictures: dict[str, Stored] = {}
    for stored in arrived:
        if stored.sop_class_uid == SecondaryCaptureImageStorage:
            pictures[str(pydicom.dcmread(stored.path, stop_before_pixels=True).StudyInstanceUID)] = stored
            continue
        try:
            parsed = readback.parse(stored.path)
        except readback.NotAReport as exc:
            console.print(f"[bold red]an object that arrived cannot be read as a report:[/] {exc}")
        else:
            reports[parsed.study_instance_uid] = parsed, stored
    table = Table("patient", "truth", "hemorrhage", "location", "output", "seconds", title="What came back")
    for number, patient in enumerate(patients, 1):
        if patient.study_uid not in reports:
            table.add_row(str(number), patient.name, "[bold red]no report[/]", "", "", "")
            continue
        parsed, stored = reports[patient.study_uid]
        _leave(output / f"{number}-{patient.name.replace(' ', '-')}", stored, pictures.get(patient.study_uid))
        table.add_row(
            str(number),
            patient.name,
            f"[{present.OUTCOME_STYLE[parsed.outcome]}]{parsed.outcome}[/]",
            parsed.location or "",
            "" if parsed.output is None else f"{parsed.output:.1%}",
            f"{stored.at - sent_at[patient.study_uid]:.1f}",
        )
    console.print(table)
    console.print("seconds: from sending the last slice to the report stored in the stand-in PACS, settling included")
    console.print(f"{output}/1-no-hemorrhage .. 4-subtentorial: report.dcm, report.txt and montage.png of each patient")
    console.print(f"{output}/node.log: the node's log")
    console.print(
        "[yellow]NOT FOR CLINICAL USE: synthetic patients show that the node works, not that the model does[/]"
    )
    return 0 if len(reports) == len(patients) else 1


def _leave(folder: Path, report: Stored, picture: Stored | None) -> None:
    folder.mkdir(parents=True)
    shutil.copy(report.path, folder / "report.dcm")
    (folder / "report.txt").write_text(text.render(pydicom.dcmread(report.path)), encoding="utf-8")
    if picture is not None:
        ds = pydicom.dcmread(picture.path)
        Image.frombytes("RGB", (ds.Columns, ds.Rows), ds.PixelData).save(folder / "montage.png")


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    return Progress(*columns, TimeElapsedColumn(), console=console)
