"""Means over the cells of a coarser grid, beside OpenCV's."""

import cv2
import numpy as np
import pytest

from dtvit.brain.cells import means


@pytest.mark.parametrize(("shape", "cells"), [((512, 512), (126, 126)), ((64, 96), (17, 8)), ((33, 40), (33, 40))])
def test_they_are_those_of_opencv(shape, cells):
    pictures = np.random.default_rng(1).uniform(-1000, 3000, (3, *shape)).astype(np.float32)
    found = means(np.concatenate(list(pictures), axis=1), 3, cells)
    assert found.shape == (3, *cells)
    for picture, mean in zip(pictures, found, strict=True):
        expected = cv2.resize(picture, cells[::-1], interpolation=cv2.INTER_AREA)
        assert np.allclose(mean, expected, atol=1e-2)
        assert mean.flags.c_contiguous


def test_a_pixel_that_a_border_cuts_counts_by_its_share():
    line = np.array([[0.0, 3.0, 6.0]] * 2, np.float32)
    assert np.allclose(means(line, 1, (1, 2)), [[[1.0, 5.0]]])  # (0 + 3 / 2) / 1.5 and (3 / 2 + 6) / 1.5
