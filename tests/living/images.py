"""Images as senders have them, and stand-ins for decoding and for the model, so that a slice costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
from made import FakeClassifier, ct, received

from dicom_node.received import Received
from dicom_node.store.spool import Spool
from dicom_node.working import reading
from dicom_node.working.reading import LeftOut, Ready
from dtvit.brain.selection import LOWER_CM2, SliceContent

SLICES, STEP_MM = 7, 20
PATIENTS, STUDIES = ("P1", "P2"), ("1.2.1", "1.2.2")
HOME = {"1.2.1.1": ("1.2.1", "P1"), "1.2.1.2": ("1.2.1", "P1"), "1.2.2.1": ("1.2.2", "P2")}
"""Series UID -> study and patient under which a scanner sends it: two reconstructions of one scan, and another scan."""
BLEEDING = {"1.2.1.1"}
BRAIN_CM2 = (0.0, 3.0, 40.0, 90.0, 85.0, 40.0, 0.0)
HEAD_CM2 = (110.0, 120.0, 140.0, 160.0, 150.0, 110.0, 40.0)


@dataclass(frozen=True)
class Image:
    """One image as some sender has it; two with the same UID are versions of one another."""

    uid: str
    number: int
    series: str
    study: str
    patient: str
    pixels: int = 0
    contrast: bool = False
    later: bool = False
    """Acquired two hours later: another scan of the study."""


def first(series_uid: str, number: int) -> Image:
    study, patient = HOME[series_uid]
    return Image(f"{series_uid}.{number}", number, series_uid, study, patient, pixels=int(series_uid in BLEEDING))


@lru_cache(maxsize=4096)
def sent(image: Image) -> Received:
    ds = ct(image.number, series=image.series, study=image.study)
    ds.SOPInstanceUID, ds.PatientID, ds.PatientName = image.uid, image.patient, f"SYNTHETIC^{image.patient}"
    ds.SliceThickness, ds.ImagePositionPatient = str(STEP_MM), [-40, -40, STEP_MM * image.number]
    ds.AcquisitionDate, ds.AcquisitionTime = "20300317", "190000" if image.later else "170000"
    ds.SeriesNumber = list(HOME).index(image.uid.rpartition(".")[0]) + 1
    if image.contrast:
        ds.ContrastBolusAgent = "IOMERON"
    ds.Rows = ds.Columns = 2
    ds["PixelData"].value = np.array([image.number, image.pixels, 0, 0], "<i2").tobytes()
    return received(ds)


def presence_of(number: int, pixels: int, model: str) -> float:
    """What this model says about a slice; most slices are clean, other pixels bleed."""
    return 0.02 + 0.9 * (pixels == 1 and number == 4) + 0.01 * number + 0.001 * (int(model[0], 16) % 8)


class StandIn(FakeClassifier):
    """A model that reads number and pixels of the slice and nothing else; its inputs are those two figures."""

    def __init__(self, digest: str) -> None:
        super().__init__()
        self.checkpoint = replace(self.checkpoint, digest=digest)

    def predict(self, inputs: Any) -> Any:
        presence = [presence_of(int(number), int(pixels), self.checkpoint.digest) for number, pixels in inputs]
        return SimpleNamespace(presence=np.array(presence), location=np.tile([0.7, 0.2, 0.1], (len(inputs), 1)))


def look_at(spool: Spool, file: str, *_: Any) -> Iterator[Ready | LeftOut]:
    """In place of decoding and preparing: the two figures that `sent` wrote, and a head in seven slices."""
    try:
        ds = pydicom.dcmread(BytesIO(spool.read(file)))
    except FileNotFoundError:
        yield LeftOut(0, reading.MISSING)
        return
    number, pixels = np.frombuffer(ds.PixelData, "<i2")[:2].tolist()
    brain = BRAIN_CM2[number - 1]
    shown = {"closed": float(brain > LOWER_CM2), "brain_hu": 30.0, "soft_cm2": 30.0, "noise_hu": 2.0 + number}
    content = SliceContent(HEAD_CM2[number - 1], brain, **shown)
    at = float(ds.ImagePositionPatient[2])
    head: Any = SimpleNamespace(flags=())
    yield Ready(
        0, int(ds.InstanceNumber), at, float(STEP_MM), (0.0, 0.0, 1.0), np.array([number, pixels]), content, head
    )


def is_eligible(images: set[Image]) -> bool:
    """By headers and content: at least three slices without contrast, three of them (or all) through brain."""
    usable = [one for one in images if not one.contrast]
    brain = [one for one in usable if BRAIN_CM2[one.number - 1] > LOWER_CM2]
    return len(usable) >= 3 and len(brain) >= 3


def is_another_scan(images: set[Image], others: set[Image]) -> bool:
    """Of two series of one study: by when the first image of each was acquired."""
    return bool(images and others) and min(i.later for i in images) != min(i.later for i in others)
