"""Yardsticks: they see twins, outlines and noise, and nothing of a bleed."""

from collections.abc import Sequence

import numpy as np
import pytest
from drawn import labelled
from scipy import ndimage

from train.dataset.pictures import UNCLEAR, Pictures
from train.evaluation import Logits, auc
from train.reproduce import yardsticks

SIDE = 96


def head(seed: int, *, axes: tuple[float, float] = (40, 32), at: tuple[float, float] = (48, 48), grain: float = 6.0):
    """(96, 96): an ellipse of brain with a rim of bone."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    r = np.hypot((y - at[0]) / axes[0], (x - at[1]) / axes[1])
    brain = 100 + grain * ndimage.gaussian_filter(random.standard_normal((SIDE, SIDE)), 0.6) * 2
    return np.where(r > 1, 0, np.where(r > 0.9, 255, brain)).clip(0, 255).astype(np.uint8)


def bleeding(picture):
    """The same head with a bleed of 72 HU."""
    other = picture.copy()
    other[40:52, 50:60] = 230
    other[60:70, 40:56] = 0  # and less or more liquor beside it
    return other


def pictures(drawn, presence, location=None) -> Pictures:
    return labelled(presence, pictures=drawn, location=[UNCLEAR] * len(drawn) if location is None else location)


def nearest(known: Pictures, asked: Pictures) -> Logits:
    return yardsticks.nearest(yardsticks.thumbnails(known.pictures), known, yardsticks.thumbnails(asked.pictures))


def boosted(known: Pictures, asked: Pictures, groups: Sequence[str] = ()) -> Logits:
    there, here = (yardsticks.features(each.pictures)[:, yardsticks.columns(groups)] for each in (known, asked))
    return yardsticks.boosted(there, known, 0)(here)


def test_a_near_copy_gives_its_label_away():
    heads = [head(seed, axes=(36 + seed, 30)) for seed in range(8)]
    known = pictures(heads, [0, 1] * 4, [UNCLEAR, 0, UNCLEAR, 1, UNCLEAR, 2, UNCLEAR, 0])
    asked = pictures([np.roll(one, 1, 0) for one in heads], known.presence, known.location)
    found = nearest(known, asked)
    assert (found.presence.argmax(1) == known.presence).all()
    assert found.location.argmax(1)[1::2].tolist() == [0, 1, 2, 0]


def test_a_bleed_moves_no_feature_and_another_outline_or_grain_does():
    before, after = yardsticks.features(np.stack([head(1), bleeding(head(1))]))
    assert after[:25] == pytest.approx(before[:25])  # silhouette and shape
    assert after[25:] == pytest.approx(before[25:], rel=0.15)  # a little less tissue to see the noise in
    narrow, rough = yardsticks.features(np.stack([head(1, axes=(40, 24)), head(1, grain=12.0)]))
    assert not np.allclose(narrow[:11], before[:11], rtol=0.05)
    assert rough[25] > 1.5 * before[25]


def test_shape_is_free_of_place_and_size():
    here, there, smaller = (yardsticks.shape(one) for one in (head(1), head(1, at=(52, 42)), head(1, axes=(32, 25.6))))
    assert there == pytest.approx(here, abs=0.03)
    assert smaller == pytest.approx(here, abs=0.06)


def test_boosting_tells_heads_by_their_outline_without_any_blood():
    random = np.random.default_rng(0)

    def some(count: int) -> Pictures:
        presence = np.arange(count) % 2
        drawn = [head(int(random.integers(1 << 30)), axes=(40, 32 - 6 * p + random.normal())) for p in presence]
        return pictures(drawn, presence, np.where(presence == 1, np.arange(count) % 3, UNCLEAR))

    known, asked = some(120), some(40)
    found = boosted(known, asked, ["silhouette"])
    assert auc(found.presence[:, 1] - found.presence[:, 0], asked.presence == 1) > 0.95
    assert found.location.shape == (40, 3)


def test_a_class_nobody_has_seen_is_never_answered():
    known = pictures([head(seed) for seed in range(6)], [0, 1] * 3, [UNCLEAR, 1] * 3)
    for found in (nearest(known, known), boosted(known, known)):
        assert set(found.location.argmax(1)) == {1}


def test_an_empty_picture_costs_nothing_else():
    empty, filled = yardsticks.features(np.stack([np.zeros((SIDE, SIDE), np.uint8), head(1)]))
    assert np.isnan(empty[1:]).all()
    assert np.isfinite(filled).all()
