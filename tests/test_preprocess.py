"""The picture the model sees."""

import numpy as np
from PIL import Image

from dtvit.ct import CTSlice
from dtvit.preprocess import PREPROCESSING, model_input, picture, prepare, shown, upright

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
    assert "robust" in PREPROCESSING


def test_the_rows_and_columns_shown_are_those_that_reach_the_input() -> None:
    for size in ((512, 512), (400, 700)):
        rows, columns = shown(size)
        beyond = np.full(size, 255, np.uint8)
        beyond[rows, columns] = 0
        assert model_input(beyond)[4:-4, 4:-4].max() == 0
        seen = 255 - beyond
        assert model_input(seen).min() > 0
