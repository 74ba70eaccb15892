"""Before and after, as files."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dicom_node import scanner
from dicom_node.brace_pictures import write
from dtvit import ct
from dtvit.phantom import Phantom, draw, render

PATIENT = scanner.SyntheticPatient("SYNTHETIC^BRACE", "SYN-0002")
WHEN = datetime(2026, 3, 1, 8, 30)  # noqa: DTZ001 - DICOM dates and times carry no zone here


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    return render(draw(5, "deep", shape="thick cup", matrix=256, thickness_mm=8.0, spacing_mm=8.0, tilt_deg=15.0))


@pytest.mark.parametrize("encoding", ["signed", "padded", "unsigned"])
def test_a_phantom_read_back_is_the_phantom(phantom: Phantom, encoding: scanner.Encoding, tmp_path: Path) -> None:
    made = scanner.series(phantom, PATIENT, when=WHEN, encoding=encoding)
    slices = ct.order([s for path in scanner.write(made, tmp_path) for s in ct.read(path)])
    assert np.allclose([s.position_mm for s in slices], phantom.positions_mm, atol=0.01)
    y, x = np.mgrid[:256, :256] - 127.5
    seen = np.hypot(x, y) < 120
    for s, hu in zip(slices, phantom.hu, strict=True):
        assert np.abs(s.hu - np.clip(hu, -1024, 3071))[seen].max() <= 0.51


def test_every_slice_gets_a_picture_and_what_cannot_be_read_is_named(phantom: Phantom, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    scanner.write(scanner.series(phantom, PATIENT, when=WHEN), folder)
    (folder / "notes.txt").write_text("no CT")
    told: list[str] = []
    done = write(folder, out, tell=told.append)
    names = sorted(path.name for path in (out / "series-1").iterdir())
    assert names == [f"{i:03}.png" for i in range(1, len(phantom.hu) + 1)]
    assert (done.series, done.pictures) == (1, len(names))
    assert list(done.unreadable) == ["notes.txt"]
    assert len(told) == 1
    both = np.asarray(Image.open(out / "series-1" / names[len(names) // 2]))
    assert both.shape == (256, 512)
    holder = phantom.holder[len(names) // 2] & (phantom.hu[len(names) // 2] > 20)
    assert holder.any()
    assert both[:, :256][holder].any()
    assert not both[:, 256:][holder].any()


def test_a_folder_that_is_none_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="not a folder"):
        write(tmp_path / "nowhere", tmp_path / "out")
