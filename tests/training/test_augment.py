import cv2
import numpy as np
import pytest
import torch

from train.making.augment import CHANGES, augment, coarseness, quantised


@pytest.fixture
def heads():
    """Eight disks of 35 HU with a square of 70 HU in each, somewhere else each time; and the map of the squares."""
    rows, columns = np.mgrid[:224, :224]
    pictures = np.where(np.hypot(rows - 112, columns - 112) < 75, 35 / 80, 0)[None].repeat(8, 0).astype(np.float32)
    blood = np.zeros((8, 56, 56), np.float32)
    for i, (row, column) in enumerate(np.random.default_rng(0).integers(18, 34, (8, 2))):
        blood[i, row : row + 6, column : column + 6] = 1
        pictures[i, row * 4 : row * 4 + 24, column * 4 : column * 4 + 24] = 70 / 80
    return torch.from_numpy(pictures)[:, None], torch.from_numpy(blood)[:, None]


def test_blood_stays_where_its_label_is(heads):
    torch.manual_seed(1)
    for _ in range(5):
        pictures, blood = augment(*heads)
        seen = torch.nn.functional.avg_pool2d(pictures, 4)
        inside = (blood > 0.9) & (blood > 0)
        beside = (torch.nn.functional.max_pool2d(blood, 5, 1, 2) == 0) & (seen > 0.2)
        for i in range(len(pictures)):
            assert seen[i][inside[i]].mean() > seen[i][beside[i]].mean() + 20 / 80


def test_pictures_differ_from_one_another_and_from_before(heads):
    torch.manual_seed(2)
    same = heads[0][:1].repeat(8, 1, 1, 1), heads[1][:1].repeat(8, 1, 1, 1)

    pictures, _ = augment(*same)

    assert not any(torch.equal(pictures[i], pictures[j]) for i in range(8) for j in range(i))
    assert (pictures - same[0]).abs().mean() > 0.01


def test_a_seed_fixes_everything(heads):
    torch.manual_seed(3)
    first = augment(*heads)
    torch.manual_seed(3)
    second = augment(*heads)

    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_each_change_happens_to_its_share_of_the_pictures_and_to_each_by_another_amount():
    torch.manual_seed(6)
    for change in CHANGES:
        rows, amounts = change.drawn(4000)
        assert len(rows) / 4000 == pytest.approx(change.share, abs=0.04)
        assert rows.tolist() == sorted(set(rows.tolist()))
        assert amounts.shape[1:] == (len(rows), 1, 1, 1)
        for each in amounts[:, :, 0, 0, 0]:
            assert len(each.unique()) > 0.95 * len(each)


def test_noise_has_up_to_seven_hu_whatever_its_grain():
    torch.manual_seed(7)
    grain = CHANGES[0]
    flat = torch.full((2000, 1, 16, 16), 0.5)
    noise = grain.apply(flat, grain.amounts(2000)[:, :, None, None, None]) - 0.5
    assert noise.std((1, 2, 3)).max() < 1.5 * 7 / 80
    assert noise.std((1, 2, 3)).min() < 0.1 * 7 / 80
    assert abs(float(noise.mean())) < 0.002


def test_pictures_stay_in_range_and_black_outside_of_the_head(heads):
    torch.manual_seed(4)
    for _ in range(5):
        pictures, _ = augment(*heads)
        assert 0 <= pictures.min() <= pictures.max() <= 1
        assert (pictures[..., :4, :4] == 0).all()  # a corner that no geometry brings into the head


def test_the_given_pictures_are_left_as_they_were(heads):
    before = heads[0].clone()
    augment(*heads)
    assert torch.equal(heads[0], before)


@pytest.mark.parametrize("quality", [20, 40, 60])
def test_compression_is_that_of_jpeg(quality):
    noise = np.random.default_rng(5).normal(110, 25, (224, 224))
    picture = cv2.GaussianBlur(noise, (0, 0), 1.2).clip(0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    reference = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE).astype(float)

    coarse = coarseness(torch.tensor(float(quality))).view(1, 1, 1, 1)
    mine = quantised(torch.from_numpy(picture)[None, None] / 255, coarse)[0, 0].numpy() * 255

    lost, mine_lost = (reference - picture).ravel(), (mine.round() - picture).ravel()
    assert np.abs(lost).mean() > 0.5
    assert np.corrcoef(lost, mine_lost)[0, 1] > 0.85
