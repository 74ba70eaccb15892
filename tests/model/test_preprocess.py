"""The picture the model sees."""

import numpy as np
import pytest
from PIL import Image

from dtvit.ct import CTSlice
from dtvit.preprocess import (
    BOX_MARGIN,
    GEOMETRIES,
    HEAD_BOX,
    PAPER_GEOMETRY,
    geometry_of,
    model_input,
    offered,
    picture,
    prepare,
    preprocessing,
    shown,
    view_of,
)
from dtvit.turning import upright

HEAD_FIRST_SUPINE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def test_the_window_has_a_fixed_scale() -> None:
    hu = np.array([[-1024.0, 0.0, 40.0, 80.0, 3000.0, 40.0]], np.float32)
    mask = np.array([[True, True, True, True, True, False]])
    assert picture(hu, mask).tolist() == [[0, 0, 128, 255, 255, 0]]


def test_the_model_sees_224_of_256_whatever_the_matrix() -> None:
    for shape in ((512, 512), (256, 256), (1024, 1024), (512, 700), (300, 256)):
        assert model_input(np.zeros(shape, np.uint8)).shape == (224, 224)


def test_the_model_input_is_the_centre_of_a_bilinear_antialiased_256() -> None:
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (512, 512), dtype=np.uint8)
    small = np.asarray(Image.fromarray(image).resize((256, 256), Image.Resampling.BILINEAR))
    assert (model_input(image) == small[16:240, 16:240]).all()


def test_a_prone_patient_is_turned() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert (upright(image, HEAD_FIRST_SUPINE) == image).all()
    assert (upright(image, None) == image).all()
    assert (upright(image, (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0)) == image[::-1, ::-1]).all()


def test_a_slice_is_prepared_with_its_content() -> None:
    y, x = np.mgrid[:512, :512].astype(np.float32) - 256.0
    distance = np.hypot(x / 150.0, y / 180.0)
    hu = np.where(distance < 1.0, np.where(distance < 0.93, 35.0, 900.0), -1000.0).astype(np.float32)
    ct_slice = CTSlice("1", "2", 1, None, hu, (0.5, 0.5), 5.0, 0.0, HEAD_FIRST_SUPINE, 0.0)
    prepared = prepare(ct_slice, "paper")
    assert prepared.input.shape == (224, 224)
    assert prepared.input.dtype == np.uint8
    assert prepared.input[112, 112] == 112  # 35 HU of 80
    assert prepared.input[0, 0] == 0
    assert prepared.content.surely_brain
    assert prepared.flags == ()


def test_the_version_names_the_mode() -> None:
    assert "robust" in preprocessing()


def test_the_rows_and_columns_shown_are_those_that_reach_the_input() -> None:
    for size in ((512, 512), (400, 700)):
        rows, columns = shown(size)
        beyond = np.full(size, 255, np.uint8)
        beyond[rows, columns] = 0
        assert model_input(beyond)[4:-4, 4:-4].max() == 0
        seen = 255 - beyond
        assert model_input(seen).min() > 0


def ellipse(shape: tuple[int, int], centre: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """A bright head on black; (row, column)."""
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    return np.where(np.hypot((rows - centre[0]) / half[0], (columns - centre[1]) / half[1]) < 1, 200, 0).astype(
        np.uint8
    )


def test_the_box_of_the_head_looks_the_same_wherever_and_however_large_the_head_is() -> None:
    reference = model_input(ellipse((512, 512), (256, 256), (180, 150)), HEAD_BOX).astype(int)
    for picture_of_it in (
        ellipse((512, 512), (200, 330), (180, 150)),
        ellipse((512, 512), (300, 160), (90, 75)),
        ellipse((300, 400), (160, 250), (120, 100)),
        ellipse((1024, 768), (500, 300), (300, 250)),
    ):
        found = model_input(picture_of_it, HEAD_BOX).astype(int)
        assert np.mean(np.abs(found - reference) > 40) < 0.02
    assert reference[:, 112].nonzero()[0].size == pytest.approx(224 / BOX_MARGIN, abs=2)


def test_the_box_of_the_head_cuts_nothing_that_touches_the_edge() -> None:
    beyond = ellipse((512, 512), (40, 256), (180, 150))  # the field of view cuts it, the box does not
    view = view_of(beyond, HEAD_BOX)
    assert view.top <= 0
    assert view.left <= 106
    assert model_input(beyond, HEAD_BOX).shape == (224, 224)
    assert shown((512, 512), HEAD_BOX) == (slice(None), slice(None))


def test_an_empty_picture_has_a_box_too() -> None:
    assert model_input(np.zeros((512, 400), np.uint8), HEAD_BOX).max() == 0


def test_a_checkpoint_names_one_geometry() -> None:
    for geometry in GEOMETRIES:
        assert geometry_of([preprocessing("paper", geometry), preprocessing("robust", geometry)]) == geometry
    assert [geometry_of([version]) for version in offered("robust")] == [PAPER_GEOMETRY, HEAD_BOX]
    for versions in ((), ("something-1",), tuple(offered("robust"))):
        with pytest.raises(ValueError, match="one geometry"):
            geometry_of(versions)


def test_a_slice_is_prepared_in_the_geometry_that_is_asked_for() -> None:
    hu = np.where(ellipse((512, 512), (180, 330), (120, 100)) > 0, 35.0, -1000.0).astype(np.float32)
    hu[ellipse((512, 512), (180, 330), (110, 90)) == 0] += 900.0 * (
        hu[ellipse((512, 512), (180, 330), (110, 90)) == 0] > 0
    )
    prepared = prepare(CTSlice("1", "2", 1, None, hu, (0.5, 0.5), 5.0, 0.0, HEAD_FIRST_SUPINE, 0.0), geometry=HEAD_BOX)
    rows = prepared.input.any(1).nonzero()[0]
    assert rows[0] == pytest.approx(223 - rows[-1], abs=2)
    assert len(rows) == pytest.approx(224 / BOX_MARGIN, abs=4)
    assert prepared.content.unseen_cm2 == 0
