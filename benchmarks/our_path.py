"""The node's own way from files to rows, on a store of its own: what several benchmarks measure."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the service sets it for its worker; read when torch is loaded

import gc
import sys
import time
from collections.abc import Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

from made import received  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402

from dicom_node import scanner  # noqa: E402
from dicom_node.config import Backlog, Config, Model, NodeSection  # noqa: E402
from dicom_node.receiving.accepting import Acceptor  # noqa: E402
from dicom_node.receiving.arrivals import Arrivals  # noqa: E402
from dicom_node.store.opening import open_store  # noqa: E402
from dicom_node.store.tables import instances, slice_results  # noqa: E402
from dicom_node.working.process import load_classifier, reading_processes  # noqa: E402
from dicom_node.working.worker import Node, Worker  # noqa: E402
from dtvit import phantom, preprocess  # noqa: E402

SYNTAXES = (
    uid.ExplicitVRLittleEndian,
    uid.RLELossless,
    uid.JPEGLSLossless,
    uid.JPEG2000Lossless,
)
PREPROCESSING = tuple(preprocess.preprocessing(mode, preprocess.HEAD_BOX) for mode in ("robust", "paper"))


def slices() -> list[Dataset]:
    """A head from neck to vertex, 5 mm a slice."""
    made = phantom.render(phantom.draw(5, "deep", matrix=512, thickness_mm=5.0, spacing_mm=5.0))
    patient = scanner.SyntheticPatient("SYNTHETIC^INFERENCE", "SYN-1")
    return scanner.series(made, patient, when=datetime.now(UTC))


class OurPath:
    """The node's way from files to rows, over and over."""

    def __init__(
        self,
        folder: Path,
        datasets: Sequence[Dataset],
        count: int,
        model: Model,
        syntax: uid.UID = SYNTAXES[0],
        series: int = 0,
    ) -> None:
        """`count` slices in series of as many as there are datasets, or in so many `series`."""
        self.ahead_s = 0.0
        config = Config(node=NodeSection(data_folder=folder, min_free_mib=0), model=model)
        self.database, self.spool = open_store(config)
        self.classifier = load_classifier(config)
        self.worker = Worker(
            *(self.database, self.spool, self.classifier, config),
            node=Node(self.database.device_uid(), "BENCHMARK"),
            owner="benchmark",
            readers=reading_processes(config),
            clock=self.clock,
        )
        self.files = self._fill(config, datasets, count, syntax, series)
        gc.freeze()  # as in the worker

    def clock(self) -> float:
        return time.time() + self.ahead_s

    def _fill(self, config: Config, datasets: Sequence[Dataset], count: int, syntax: uid.UID, series: int) -> list[str]:
        each = -(-count // series) if series else len(datasets)
        acceptor = Acceptor(
            *(self.database, self.spool),
            rules=config.eligibility,
            backlog=Backlog(older_than_h=1e9),
            reopen_wait_s=config.completion.reopen_wait_s,
            clock=self.clock,
        )
        self.arrivals = Arrivals(
            *(self.database, self.spool),
            waits=config.completion,
            rules=config.eligibility,
            version=self.worker.version,
            clock=self.clock,
            association_open=lambda _: False,
        )
        shown = deepcopy(datasets)
        if syntax.is_compressed:
            for ds in shown:
                ds.compress(syntax, generate_instance_uid=False)
        for number in range(count):
            ds = shown[number % len(shown)]
            ds.SeriesInstanceUID = f"2.25.{number // each + 1}"
            ds.SOPInstanceUID, ds.InstanceNumber = f"{ds.SeriesInstanceUID}.{number}", number % each + 1
            if acceptor.accept(received(ds, syntax=syntax)) != 0:
                raise SystemExit(f"an image in {syntax.name} was not accepted")
        with self.database.read() as connection:
            return [str(row.file) for row in connection.execute(instances.select())]

    def __call__(self) -> int:
        """One block; how many slices it had."""
        while self.worker.step():
            pass
        with self.database.read() as connection:
            rows = connection.execute(slice_results.select()).all()
        if len(rows) != len(self.files) or any(row.presence is None for row in rows):
            raise SystemExit(f"{len(rows)} of {len(self.files)} slices have a result, or one was left out")
        return len(rows)

    def forget(self) -> None:
        with self.database.write() as connection:
            connection.execute(slice_results.delete())
            connection.execute(instances.update().values(tries=0))

    def close(self) -> None:
        self.worker.close()
        self.database.close()
