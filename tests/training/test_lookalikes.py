"""What is bright and no blood, painted into slices; and heads with nothing inside. The truth of the rows stays true."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from drawn import labelled

from train.dataset.pictures import BLOOD_CELLS, ORIGINS, UNCLEAR, Pictures
from train.making import bleeds, lookalikes

BLEED = (140, 110)


def head(rng: np.random.Generator, *, bleeding: bool) -> np.ndarray:
    """A skull about brain with noise, midline at column 112; perhaps with a bleed of 65 HU on one side."""
    picture = np.zeros((224, 224), np.uint8)
    cv2.ellipse(picture, (112, 112), (80, 100), 0, 0, 360, 255, -1)
    cv2.ellipse(picture, (112, 112), (70, 90), 0, 0, 360, 105, -1)
    if bleeding:
        cv2.circle(picture, BLEED, 14, 207, -1)
    noise = rng.normal(0, 8, picture.shape) * ((picture > 0) & (picture < 255))
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def traced() -> Pictures:
    """24 slices that bleed and 24 that do not, of 12 patients."""
    rng = np.random.default_rng(1)
    count = 48
    presence = np.repeat([1, 0], count // 2).astype(np.int8)
    blood = np.zeros((count, BLOOD_CELLS, BLOOD_CELLS), np.uint8)
    blood[presence == 1, 24:31, 32:39] = 255
    return labelled(
        presence,
        pictures=[head(rng, bleeding=bool(each)) for each in presence],
        blood=blood,
        traced=[True] * count,
        location=np.where(presence == 1, 1, UNCLEAR),
        patient=np.arange(count) // 4,
        series=np.arange(count) // 4,
    )


@pytest.fixture(scope="module")
def made(traced: Pictures) -> Pictures:
    return lookalikes.lookalikes(traced, 7).made


def of(made: Pictures, origin: str) -> Pictures:
    return made.take(made.origin == ORIGINS.index(origin))


def test_both_groups_are_blanked_alike_and_nothing_of_the_blood_is_left(made: Pictures, traced: Pictures) -> None:
    found = of(made, "blanked")
    bled = np.isin(found.patient, traced.patient[traced.presence == 1])
    assert bled.sum() == (~bled).sum() > 0
    assert (found.presence == 0).all()
    assert (found.location == UNCLEAR).all()
    assert not found.blood.any()
    for picture in found.pictures:
        rows, columns = np.ogrid[:224, :224]
        there = (rows - BLEED[1]) ** 2 + (columns - BLEED[0]) ** 2 < 14**2
        mirrored = there[:, ::-1]
        assert abs(float(picture[there].mean()) - float(picture[mirrored].mean())) < 25  # a bleed: 100


def test_a_decoy_is_bright_and_counts_as_no_blood(made: Pictures, traced: Pictures) -> None:
    found = of(made, "decoy")
    assert len(found) > 5
    for row in range(len(found)):
        before = traced.pictures[traced.patient == found.patient[row]].astype(int)
        change = found.pictures[row].astype(int) - before
        same = int(np.abs(change).sum((1, 2)).argmin())
        assert change[same].max() > 40
        assert change[same].min() >= 0
        away = cv2.dilate((found.blood[row] > 0).astype(np.uint8).repeat(4, 0).repeat(4, 1), bleeds.disk(3)) > 0
        assert not change[same][away].any()  # blood that was there is not touched
    healthy = found.take(found.presence == 0)
    assert len(healthy)
    assert not healthy.blood.any()
    bleeding = found.take(found.presence == 1)
    assert len(bleeding)
    assert bleeding.blood.any((1, 2)).all()
    assert (bleeding.location == 1).all()


def test_the_same_seed_makes_the_same_and_another_does_not(made: Pictures, traced: Pictures) -> None:
    assert (lookalikes.lookalikes(traced, 7, processes=2).made.pictures == made.pictures).all()
    other = lookalikes.lookalikes(traced, 8).made
    assert other.pictures.shape != made.pictures.shape or (other.pictures != made.pictures).any()


def test_each_slice_that_was_made_is_a_series_of_its_own_and_stays_its_patients(
    made: Pictures, traced: Pictures
) -> None:
    assert len(set(made.series)) == len(made)
    assert not set(made.series) & set(traced.series)
    assert (made.patient == traced.patient[lookalikes.lookalikes(traced, 7).heads]).all()


def test_slices_without_brain_are_left_as_they_are(traced: Pictures) -> None:
    bone = Pictures(**{**vars(traced), "pictures": np.full_like(traced.pictures, 255)})
    assert len(lookalikes.lookalikes(bone, 7).made) == 0
    assert len(lookalikes.lookalikes(traced.take(np.zeros(0, np.int64)), 7).made) == 0


def test_spurs_of_bone_begin_near_the_skull_and_are_as_bright_as_bone():
    rng = np.random.default_rng(3)
    inside = bleeds.brain(head(rng, bleeding=False))
    to_skull = cv2.distanceTransform(inside.astype(np.uint8), cv2.DIST_L2, 5)
    for _ in range(20):
        for shape, hu in lookalikes._spurs(inside, rng):
            seen = (shape > 0.5) & inside
            assert hu >= 90
            assert not seen.any() or to_skull[seen].min() <= 16
            assert seen.sum() < 0.05 * inside.sum()
