"""What the node's tests build with: small objects as a scanner sends them, a head that has brain in it, a node's store.

Content is drawn by the phantom once a test run; where only headers count, the pixels are 16 x 16 and grey.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import encode_file_meta
from untrained import metadata

from dicom_node import digests
from dicom_node.config import Config, Eligibility, NodeSection, Peer
from dicom_node.received import Received
from dicom_node.receiving.accepting import Acceptor
from dicom_node.receiving.arrivals import Arrivals
from dicom_node.status import StoreStatus
from dicom_node.store import schema, tables
from dicom_node.store.database import Connection, Database
from dicom_node.store.results import Version
from dicom_node.store.spool import Spool
from dicom_node.working.worker import Node, Worker
from dtvit import preprocess
from dtvit.checkpoint import Checkpoint

CT = str(uid.CTImageStorage)
STUDY, SERIES = "1.2.826.0.1.3680043.10.99.7", "1.2.826.0.1.3680043.10.99.7.1"
NOW = 1_900_000_000.0


class Clock:
    """Stands still until it is moved."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def ct(number: int = 1, *, series: str = SERIES, study: str = STUDY, **values: Any) -> Dataset:
    """One axial CT image, 5 mm above the one before; `values` are set or, with None, removed."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = CT, f"{series}.{number}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Doe^Jane", "P-1", "19500101", "F"
    ds.StudyDate, ds.StudyTime, ds.StudyID, ds.AccessionNumber = "20260301", "083000", "77", "ACC-1"
    ds.Modality, ds.ImageType, ds.BodyPartExamined = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"], "HEAD"
    ds.ConvolutionKernel, ds.SliceThickness = "H30s", "5"
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-40, -40, 5 * number], [1, 0, 0, 0, 1, 0]
    ds.InstanceNumber, ds.SeriesNumber = number, 2
    ds.Rows = ds.Columns = 16
    ds.PixelSpacing, ds.SamplesPerPixel, ds.PhotometricInterpretation = [5, 5], 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
    ds.add_new("PixelData", "OW", np.full((16, 16), number, "<i2").tobytes())
    return changed(ds, **values)


def grey_series(count: int = 10, **values: Any) -> list[Dataset]:
    return [ct(number, **values) for number in range(1, count + 1)]


@cache
def _phantom() -> Any:
    from dtvit.phantom import draw, render

    return render(draw(3, "deep", matrix=128, fov_mm=250.0, thickness_mm=9.0, spacing_mm=9.0, tilt_deg=0.0))


def head_series(*, study: str = STUDY, series: str = SERIES, **values: Any) -> list[Dataset]:
    """A whole head in slices of 9 mm, with brain from end to end; `values` as for `ct`."""
    from dicom_node import scanner

    patient = scanner.SyntheticPatient("SYNTHETIC^DEEP", "SYN-0001")
    when = datetime(2026, 3, 1, 8, 30)  # noqa: DTZ001 - DICOM dates and times carry no zone here
    made = scanner.series(_phantom(), patient, when=when, study_uid=study, series_uid=series)
    return [changed(ds, ConvolutionKernel="SOFT", **values) for ds in made]


def changed(ds: Dataset, **values: Any) -> Dataset:
    """A copy with other values; None removes an attribute."""
    other = deepcopy(ds)
    for keyword, value in values.items():
        if value is None:
            delattr(other, keyword)
        else:
            setattr(other, keyword, value)
    return other


def undeclared(**texts: str) -> dict[str, Any]:
    """Values for `ct` in UTF-8 that does not say so."""
    return {"SpecificCharacterSet": None, **{keyword: _as_latin(text) for keyword, text in texts.items()}}


def _as_latin(text: str) -> str:
    return text.encode().decode("latin-1")


def encoded(ds: Dataset, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """The data set as it travels over an association."""
    buffer = DicomBytesIO()
    known = uid.UID(syntax)
    buffer.is_implicit_VR, buffer.is_little_endian = known.is_implicit_VR, known.is_little_endian
    bare = Dataset()
    bare.update(ds)
    write_dataset(buffer, bare)
    return bytes(buffer.getvalue())


def received(
    ds: Dataset, *, syntax: str = uid.ExplicitVRLittleEndian, calling: str = "CT1", **changed: Any
) -> Received:
    """The object as the receiver hands it to `accept`; `changed` replaces fields of `Received`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    meta.TransferSyntaxUID, meta.ImplementationClassUID = uid.UID(syntax), "1.2.3.4"
    given: dict[str, Any] = {
        "sop_class_uid": str(ds.SOPClassUID),
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "transfer_syntax_uid": str(syntax),
        "meta": b"\0" * 128 + b"DICM" + encode_file_meta(meta),
        "data_set": encoded(ds, syntax),
        "calling_aet": calling,
        "association": 1,
    }
    given |= changed
    return Received(**{"digest": digests.of(given["data_set"])} | given)


def part10(ds: Dataset, **given: Any) -> bytes:
    """The object as a file (PS3.10); `given` as for `received`."""
    got = received(ds, **given)
    return got.meta + got.data_set


@dataclass
class Predictions:
    presence: npt.NDArray[np.float64]
    location: npt.NDArray[np.float64]


class FakeClassifier:
    """A model that says what it is told to say of every slice; counts what it is asked."""

    def __init__(self, presence: float = 0.95, *, fails: Callable[[int], None] = lambda _: None) -> None:
        """`fails` is called with the number of slices before each answer, and may raise."""
        self.presence = presence
        self.precision = "fp32"
        self.aside = False
        self.fails = fails
        self.asked: list[int] = []
        made = metadata(preprocessing=(preprocess.preprocessing("paper"), preprocess.preprocessing("robust")))
        self.checkpoint = Checkpoint(Path("fake.safetensors"), "f" * 64, made, {})

    def predict(self, inputs: npt.NDArray[np.uint8]) -> Predictions:
        self.asked.append(len(inputs))
        self.fails(len(inputs))
        return Predictions(np.full(len(inputs), self.presence), np.tile([0.7, 0.2, 0.1], (len(inputs), 1)))

    def relevance(self, inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return (inputs > 128).astype(np.float32)


@dataclass
class Made:
    """A node's store and flows without network and processes, on a clock that stands still."""

    config: Config
    database: Database
    spool: Spool
    clock: Clock
    acceptor: Acceptor
    arrivals: Arrivals
    associations_open: set[str] = field(default_factory=set)

    def accept(self, *datasets: Dataset, **changed: Any) -> list[StoreStatus]:
        return [self.acceptor.accept(received(ds, **changed)) for ds in datasets]

    def worker(self, classifier: Any = None, *, owner: str = "worker-1", **given: Any) -> Worker:
        return Worker(
            self.database,
            self.spool,
            classifier or FakeClassifier(),
            self.config,
            node=Node("2.25.100", "DICOM_NODE"),
            owner=owner,
            clock=self.clock,
            **given,
        )

    def tick_after(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.arrivals.tick()

    def work(self, worker: Worker | None = None) -> None:
        """Have a worker do all there is to do, a step each second."""
        worker = worker or self.worker()
        while worker.step():
            self.clock.advance(1.0)

    def makes_report(self, worker: Worker) -> None:
        """Have the first report made, and nothing beside it."""
        while not self.rows(tables.objects):
            assert worker.step()

    def rows(self, table: Any) -> list[Any]:
        """All rows of a table, by their key."""
        with self.database.read() as connection:
            return list(connection.execute(table.select().order_by(*table.primary_key.columns)))

    def files(self) -> set[str]:
        return set(self.spool.stored())


def made_node(
    folder: Path,
    *,
    database_url: str = "",
    peers: Sequence[Peer] = (),
    eligibility: Eligibility | None = None,
    **sections: Any,
) -> Made:
    """`sections`: other parts of the configuration."""
    config = Config(
        node=NodeSection(data_folder=folder / "data", database_url=database_url, min_free_mib=0),
        peers=tuple(peers),
        eligibility=eligibility or Eligibility(),
        **sections,
    )
    spool = Spool(config.node.data_folder / "spool")
    spool.prepare()
    if file := Database.missing_file(config.database_url):
        file.write_bytes(_empty_database())
    database = Database(config.database_url)
    schema.upgrade(database)
    clock = Clock()
    open_now: set[str] = set()
    version = Version(FakeClassifier().checkpoint.digest, preprocess.preprocessing(config.model.brace_removal))
    acceptor = Acceptor(
        database,
        spool,
        rules=config.eligibility,
        backlog=config.backlog,
        reopen_wait_s=config.completion.reopen_wait_s,
        clock=clock,
    )
    arrivals = Arrivals(
        database,
        spool,
        waits=config.completion,
        rules=config.eligibility,
        version=version,
        clock=clock,
        association_open=open_now.__contains__,
    )
    made = Made(config, database, spool, clock, acceptor, arrivals, open_now)
    _open.append(made)
    return made


@cache
def _empty_database() -> bytes:
    """With its tables: making them anew for each of a thousand nodes takes a minute."""
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite:///{folder}/node.sqlite")
        schema.upgrade(database)
        database.close()
        return Path(folder, "node.sqlite").read_bytes()


_open: list[Made] = []


def close_all() -> None:
    """Close the databases and spools of all nodes made since.

    Each holds files open until it is collected, and `select`, with which pynetdicom waits, knows none above the 1023rd.
    """
    while _open:
        one = _open.pop()
        one.database.close()
        one.spool.close()


def steps(node: Made, ask: Callable[[Connection], object]) -> int:
    """What it takes SQLite to answer, in hundreds of instructions of its virtual machine: whatever else is running."""
    taken: list[None] = []
    with node.database.read() as connection:
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: taken.append(None), 100)
        ask(connection)
        driver.set_progress_handler(None, 0)
    return len(taken)


def schema_differences(database: Database) -> list[Any]:
    """What alembic would have to change for the database to be what `tables` says."""
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, tables.metadata))


def peer(port: int, *, name: str = "PACS1", **changed: Any) -> Peer:
    """A destination that is owed reports alone, unless `changed` says otherwise."""
    given = {"name": name, "host": "127.0.0.1", "port": port, "ae_title": "PACS", "timeout_s": 5.0}
    given["objects"] = ("report",)
    return Peer(**given | changed)
