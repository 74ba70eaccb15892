"""Brace removal: the fast path against the reference, and what each mode leaves."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from dtvit import brace
from dtvit.ct import UnreadableSlice, read

PIXEL_MM = (0.5, 0.5)


def head(size: int = 512, holder: bool = True) -> npt.NDArray[np.float32]:
    """An oval head, skull round brain, above a separate curved holder."""
    y, x = np.mgrid[:size, :size].astype(np.float32) * (512.0 / size) - 256.0
    distance = np.hypot(x / 150.0, y / 180.0)
    hu = np.full((size, size), -1000.0, np.float32)
    hu[distance < 1.0] = 900.0
    hu[distance < 0.93] = 35.0
    if holder:
        hu[(np.abs(np.hypot(x, y + 20) - 240.0) < 4.0) & (y > 60)] = 300.0
    return hu


def series(shared_data: Path, folder: str) -> list[npt.NDArray[np.float32]]:
    """All readable slices of a folder of real CT."""
    slices = []
    for path in sorted((shared_data / "head-ct" / folder).glob("*.dcm")):
        try:
            slices += [s.hu for s in read(path)]
        except UnreadableSlice as exc:  # a fixture that cannot be read would make the test empty
            pytest.fail(f"{path.name}: {exc}")
    return slices


def test_paper_keeps_the_head_and_drops_a_separate_holder() -> None:
    kept = brace.find_head(head(), PIXEL_MM, "paper").mask
    assert (kept == brace.find_head(head(holder=False), PIXEL_MM, "paper").mask).all()
    assert kept[256, 256]
    assert not kept[head() == 300.0].any()


def test_the_fast_path_is_the_reference_on_noise_and_odd_sizes() -> None:
    random = np.random.default_rng(3)
    for rows, columns in ((64, 97), (256, 256), (31, 200)):
        hu = random.normal(-20, 60, (rows, columns)).astype(np.float32)
        hu[rows // 4 : rows // 2, columns // 4 :] += 80
        assert (brace.paper(hu) == brace.paper_reference(hu)).all()


@pytest.mark.parametrize(("hu", "is_head"), [(1.2, False), (1.3, True)])  # 3.8 and 4.1 of 255
def test_the_papers_take_for_head_what_is_above_3_of_255(hu: float, is_head: bool) -> None:
    slice_hu = np.full((128, 128), -1000.0, np.float32)
    slice_hu[32:96, 32:96] = hu
    slice_hu[60:68, 32:96] = 900.0
    for mask in (brace.paper(slice_hu), brace.paper_reference(slice_hu)):
        assert mask[40, 64] == is_head


@pytest.mark.parametrize(
    "folder", ["ge_hispeed_human_28", "philips_phantom_5mm_28", "philips_phantom_tilt-18.5_9", "odd_single"]
)
def test_the_fast_path_is_the_reference_on_real_slices(shared_data: Path, folder: str) -> None:
    slices = series(shared_data, folder)
    assert slices
    for hu in slices:
        assert (brace.paper(hu) == brace.paper_reference(hu)).all()


def test_an_empty_slice_is_flagged_and_not_divided_by_zero() -> None:
    for mode in brace.MODES:
        found = brace.find_head(np.full((128, 128), -1024.0, np.float32), PIXEL_MM, mode)
        assert not found.mask.any()
        assert found.flags


def test_an_unknown_mode_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="paper, robust"):
        brace.find_head(head(), PIXEL_MM, "other")


def test_the_page_is_the_text_that_it_is_made_from_around_its_tables() -> None:
    """`benchmarks.brace_table` writes the page anew: what was changed there by hand alone would be lost."""
    repository = Path(__file__).resolve().parents[2]
    template = (repository / "benchmarks" / "brace_table.md").read_text(encoding="utf-8")
    page = (repository / "docs" / "brace-removal.md").read_text(encoding="utf-8")
    assert re.fullmatch("(?s:.+)".join(map(re.escape, re.split(r"\{\w+\}", template))), page)
