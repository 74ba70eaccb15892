"""The synthetic scanner: objects that a validator accepts and that carry the phantom's geometry and HU."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import dciodvfy
import numpy as np
import pydicom
import pytest

from dicom_node.scanner import Encoding, SyntheticPatient, series, write
from dtvit.phantom import Phantom, draw, render

PATIENT = SyntheticPatient("SYNTHETIC^DEEP", "SYN-0001")
WHEN = datetime(2026, 3, 1, 8, 30)  # noqa: DTZ001 - DICOM dates and times carry no zone here


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return render(draw(3, "deep", matrix=256, fov_mm=250.0, thickness_mm=5.0, spacing_mm=30.0, tilt_deg=18.5))


@pytest.mark.parametrize("encoding", ["signed", "padded", "unsigned"])
def test_a_validator_finds_no_error(phantom: Phantom, encoding: Encoding, tmp_path: Path) -> None:
    paths = write(series(phantom, PATIENT, when=WHEN, encoding=encoding), tmp_path)
    assert len(paths) == len(phantom.positions_mm)
    assert dciodvfy.errors(paths[0], "CTImage") == []


@pytest.mark.parametrize("encoding", ["signed", "padded", "unsigned"])
def test_stored_values_give_the_hu_back(phantom: Phantom, encoding: Encoding, tmp_path: Path) -> None:
    path = write(series(phantom, PATIENT, when=WHEN, encoding=encoding)[2:3], tmp_path)[0]
    ds = pydicom.dcmread(path)
    stored = ds.pixel_array.astype(np.float64)
    inside = stored != ds.get("PixelPaddingValue", 1 << 20)
    hu = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    assert inside.mean() > 0.7
    assert np.abs(hu - phantom.hu[2])[inside].max() <= 0.5
    assert (encoding == "padded") == (not inside.all())


def test_position_and_tilt_follow_from_the_geometry_elements(phantom: Phantom) -> None:
    for ds, position in zip(series(phantom, PATIENT, when=WHEN), phantom.positions_mm, strict=True):
        row, column = np.array(ds.ImageOrientationPatient[:3]), np.array(ds.ImageOrientationPatient[3:])
        normal = np.cross(row, column)
        assert normal @ np.array(ds.ImagePositionPatient) == pytest.approx(position, abs=1e-4)
        assert np.degrees(np.arcsin(-column[2])) == pytest.approx(float(ds.GantryDetectorTilt), abs=1e-4)


def test_numbers_run_either_way_and_repeats_are_the_same_objects(phantom: Phantom) -> None:
    up = series(phantom, PATIENT, when=WHEN, study_uid="1.2.3", series_uid="1.2.3.4")
    down = series(phantom, PATIENT, when=WHEN, study_uid="1.2.3", series_uid="1.2.3.4", head_first=True)
    again = series(phantom, PATIENT, when=WHEN, study_uid="1.2.3", series_uid="1.2.3.4")
    assert [ds.InstanceNumber for ds in up] == [ds.InstanceNumber for ds in down][::-1]
    assert up == again
    assert len({ds.SOPInstanceUID for ds in up}) == len(up)
