"""The trace of a bleed: on phantoms, whose blood is known, and on the papers' pictures where they are at hand."""

import csv

import numpy as np
import pytest
from PIL import Image

from dtvit import brace, phantom, preprocess
from train.making import bleeds


@pytest.fixture(scope="module")
def pairs():
    """(picture, blood, picture of the same slice without it) of heads with a deep bleed."""
    made = []
    for seed in range(7):
        spec = phantom.draw(np.random.default_rng(seed), "deep", thickness_mm=5.0, spacing_mm=5.0)
        middle = len(spec.positions_mm) // 2
        slices = [phantom.render_slice(spec, position) for position in spec.positions_mm[middle : middle + 4 : 3]]
        one = max(slices, key=lambda s: s.blood_mm3)
        if one.blood_mm3 < 5 * 150.0:  # less than about 14 mm across
            continue
        healthy = phantom.render_slice(phantom.without_bleed(spec), one.position_mm)
        pixel_mm = (spec.scan.pixel_mm, spec.scan.pixel_mm)
        pictures = [preprocess.picture(s.hu, brace.find_head(s.hu, pixel_mm, "robust").mask) for s in (one, healthy)]
        made.append((pictures[0], one.blood > 0.5, pictures[1]))
    return made


def dice(a, b):
    return 2 * (a & b).sum() / max(a.sum() + b.sum(), 1)


def test_the_trace_lies_on_the_blood(pairs):
    overlaps = [dice(bleeds.segment(picture), blood) for picture, blood, _ in pairs]
    assert len(overlaps) >= 3
    assert np.median(overlaps) > 0.6
    assert np.mean(np.array(overlaps) > 0.3) >= 0.75


def test_the_same_head_without_its_bleed_has_no_trace_there(pairs):
    for _, blood, healthy in pairs:
        assert not (bleeds.segment(healthy) & blood).any()


def test_blood_and_brain_lie_inside_the_skull_and_bone_does_not(pairs):
    for picture, blood, _ in pairs:
        inside = bleeds.inside_skull(picture)
        assert (inside & blood).sum() > 0.7 * blood.sum()
        assert inside[picture == 0].mean() < 0.1
        assert (picture[inside] == 255).mean() < 0.05


@pytest.mark.parametrize("picture", [np.zeros((256, 256), np.uint8), np.full((90, 200), 255, np.uint8)])
def test_a_picture_without_brain_has_neither(picture):
    assert not bleeds.segment(picture).any()
    assert not bleeds.inside_skull(picture).any()


def test_a_small_dense_spot_is_a_calcification(pairs):
    *_, healthy = pairs[0]
    rows, columns = np.nonzero(bleeds.inside_skull(healthy))
    middle = (int(rows.mean()), int(columns.mean()))
    spotted = healthy.copy()
    y, x = np.ogrid[: healthy.shape[0], : healthy.shape[1]]
    spotted[np.hypot(y - middle[0], x - middle[1]) < 8] = 255
    assert not bleeds.segment(spotted)[middle]


def test_most_slices_of_people_with_a_bleed_have_a_trace_and_few_of_the_others(shared_data):
    folder = shared_data / "ich-slices"
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    found: dict[str, list[bool]] = {"0": [], "1": []}
    for row in rows[::150]:
        picture = np.asarray(Image.open(folder / row["path"]).convert("L"))
        found[row["ich"]].append(bool(bleeds.segment(picture).any()))
    assert np.mean(found["1"]) > 0.8
    assert np.mean(found["0"]) < 0.2
