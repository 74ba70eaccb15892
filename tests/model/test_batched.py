"""The batched path by torch gives the masks of `brace.paper`, slice for slice."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from skimage.measure import label

from dtvit import batched, brace, ct
from dtvit.phantom import draw, render_slice


def agree(slices: list[npt.NDArray[np.float32]]) -> None:
    found = batched.paper(torch.from_numpy(np.stack(slices))).numpy()
    for hu, mask in zip(slices, found, strict=True):
        assert (mask == brace.paper(hu)).all()


def test_noise_and_odd_sizes() -> None:
    random = np.random.default_rng(3)
    for rows, columns in ((64, 97), (31, 120), (7, 5), (1, 1)):
        slices = list(random.normal(-20, 60, (6, rows, columns)).astype(np.float32))
        slices[0][rows // 4 : rows // 2, columns // 4 :] += 80
        agree(slices)


def test_phantoms_and_empty_slices_in_one_batch() -> None:
    spec = draw(5, "lobar", matrix=256, shape="U")
    positions = spec.positions_mm[:: max(1, len(spec.positions_mm) // 6)]
    slices = [render_slice(spec, position).hu for position in positions]
    agree([*slices, np.full((256, 256), -1024.0, np.float32), np.full((256, 256), 500.0, np.float32)])


@pytest.mark.parametrize("folder", ["ge_hispeed_human_28", "philips_phantom_5mm_28"])
def test_real_slices(shared_data: Path, folder: str) -> None:
    files = sorted((shared_data / "head-ct" / folder).glob("*.dcm"))[::7]
    agree([s.hu for file in files for s in ct.read(file)])


@pytest.mark.parametrize("diagonal", [False, True])
def test_regions_are_those_of_the_reference(diagonal: bool) -> None:
    random = np.random.default_rng(4)
    masks = random.random((5, 40, 53)) < np.array([0.3, 0.5, 0.6, 0.9, 1.1])[:, None, None]
    masks[0, :, ::2] = True
    masks[0, :, 1::2] = False
    masks[0, 0, 1::4] = masks[0, -1, 3::4] = True  # one line, to and fro: the longest way round
    sheet = batched.Sheet(*masks.shape)
    flat = sheet.laid_out(torch.from_numpy(masks))
    runs = batched.Runs.of(flat, sheet, diagonal=diagonal)
    assert (sheet.taken_up(runs.drawn(runs.starts >= 0, flat)).numpy() == masks).all()
    regions = torch.full_like(flat, -1, dtype=torch.int64)
    for start, end, region in zip(runs.starts, runs.ends, runs.region, strict=True):
        regions[start:end] = region
    found = sheet.taken_up(regions).numpy()
    assert not set(np.unique(found[0])) & set(np.unique(found[1])) - {-1}
    for mask, labels in zip(masks, found, strict=True):
        wanted = label(mask, connectivity=2 if diagonal else 1)
        assert len({*zip(labels[mask], wanted[mask], strict=True)}) == wanted.max() == len(np.unique(labels[mask]))
