"""What a step learns from: which slices, how often, changed how."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn import drawn_head
from learning import drawn, recipe
from torchvision.transforms.functional import adjust_sharpness, rotate

from train.dataset.pictures import CROP, ORIGINS, join, stack
from train.learning.batches import Batches, location_labels
from train.learning.ranks import Ranks
from train.learning.sampling import order
from train.making import augment_paper
from train.making.warping import warped
from train.recipe import read

CPU = torch.device("cpu")


def test_an_epoch_shows_each_slice_as_often_as_the_papers_replicated_it():
    data = drawn(12)
    made = order(read("v1").changed({"batch": "16"}), data)

    seen = np.concatenate([made.at(step) for step in range(made.steps_an_epoch)])[: len(made.rows)]

    times = np.bincount(seen, minlength=len(data))
    for number, wanted in enumerate((1, 3, 12)):
        assert set(times[(data.presence == 1) & (data.location == number)]) == {wanted}
    assert set(times[data.presence == 0]) == {3}
    again = np.concatenate([made.at(step) for step in range(made.steps_an_epoch)])[: len(made.rows)]
    assert (again == seen).all()
    next_epoch = np.concatenate([made.at(made.steps_an_epoch + step) for step in range(made.steps_an_epoch)])
    assert not (next_epoch[: len(seen)] == seen).all()


def test_a_split_that_replicated_is_not_replicated_again():
    assert len(order(read("v1"), drawn(6), replicated=True).rows) == 36


def test_without_augmentation_an_epoch_shows_every_slice_once():
    made = order(read("v1").without_augmentation(), drawn(6))
    seen = np.concatenate([made.at(step) for step in range(made.steps_an_epoch)])
    assert set(seen.tolist()) == set(range(36))


def test_shares_are_kept_whatever_there_is_of_each():
    data = drawn(30)
    few = data.take(np.flatnonzero((data.presence == 0) | (data.location != 2) | (np.arange(len(data)) < 18)))
    made = order(recipe(batch=4000), few)

    rows = made.at(5)

    assert (few.presence[rows] == 1).mean() == pytest.approx(0.5, abs=0.03)
    for place in range(3):
        assert (few.location[rows] == place).mean() == pytest.approx(1 / 6, abs=0.03)


def test_a_missing_kind_leaves_its_share_to_the_others():
    shares = {"phantom_healthy": 0.1, "phantom_bleeding": 0.1, "patient_healthy": 0.8}
    made = order(recipe(shares=shares, batch=1000), drawn(12))
    data = drawn(12)
    assert (data.presence[made.at(0)] == 1).mean() == pytest.approx(0.5, abs=0.06)


def test_a_slice_that_nobody_judged_is_shown_as_unclear_and_not_as_healthy():
    data = drawn(12)
    presence = data.presence.copy()
    presence[np.flatnonzero(presence == 0)[::2]] = -1
    data = replace(data, presence=presence)
    for shares, expected in (
        ({"phantom_healthy": 0.5, "phantom_bleeding": 0.5}, 0.0),
        ({"phantom_healthy": 0.5, "phantom_unclear": 0.5}, 0.5),
    ):
        rows = order(recipe(shares=shares, batch=1000), data).at(1)
        assert (presence[rows] == -1).mean() == pytest.approx(expected, abs=0.06)
        assert (presence[rows] == 0).mean() == pytest.approx(0.5, abs=0.06)


def test_origins_have_their_shares():
    patients = drawn(12)
    patients = join([drawn(12), patients.take(np.arange(len(patients)))])
    half = len(patients) // 2
    patients.origin[half:] = ORIGINS.index("patient")
    one = recipe(shares={"phantom_healthy": 0.25, "patient_bleeding": 0.75}, batch=2000)

    rows = order(one, patients).at(0)

    assert (patients.origin[rows] == 1).mean() == pytest.approx(0.75, abs=0.04)
    assert (patients.presence[rows][patients.origin[rows] == 1] == 1).all()


def test_ranks_and_parts_share_the_batch_out_without_rest_or_overlap():
    data = drawn(12)
    one = recipe(augmentation="none", batch=16, accumulation=2)
    alone = list(Batches(one, data, order(one, data), CPU, Ranks()).at(3))
    shared = [
        list(Batches(one, data, order(one, data), CPU, Ranks(number, 2)).at(3)) for number in range(2)
    ]  # fmt: skip

    def pictures(batches):
        return torch.cat([batch.pictures for batch in batches])

    assert [len(batch.pictures) for batch in alone] == [8, 8]
    assert [len(batch.pictures) for rank in shared for batch in rank] == [4, 4, 4, 4]
    assert torch.equal(pictures(alone), pictures([batch for rank in shared for batch in rank]))
    assert len({batch.totals for rank in [alone, *shared] for batch in rank}) == 1
    assert alone[0].totals.presence == 16


def test_four_outputs_have_a_class_for_normals_and_three_have_none():
    data = drawn_head(1)
    assert location_labels(data, 4).tolist() == [1, 1, 1, 3, 3, 3]
    assert location_labels(data, 3).tolist() == [1, 1, 1, -1, -1, -1]


@pytest.mark.parametrize("augmentation", ["none", "paper", "scanner"])
@pytest.mark.parametrize("side", [224, 256, 261])
def test_pictures_of_any_size_are_shown_in_their_middle_with_the_blood_where_it_is(augmentation, side):
    small = drawn(6)
    frame = np.zeros((1, side, side), np.uint8)
    framed = stack([small, small.take(np.arange(0))]) if side == CROP else _framed(small, frame)
    one = recipe(augmentation=augmentation, batch=36, sampling="plain")
    torch.manual_seed(3)

    (batch,) = Batches(one, framed, order(one, framed), CPU, Ranks()).at(0)

    assert batch.pictures.shape == (36, 1, 224, 224)
    assert batch.blood.shape == (36, 1, 56, 56)
    seen = torch.nn.functional.avg_pool2d(batch.pictures, 4)
    inside = batch.blood > 0.9
    beside = (torch.nn.functional.max_pool2d(batch.blood, 7, 1, 3) == 0) & (seen > 0.2)
    for i in torch.nonzero(batch.presence == 1).flatten():
        assert seen[i][inside[i]].mean() > seen[i][beside[i]].mean() + 0.2


def _framed(small, frame):
    """The same pictures in the middle of larger ones."""
    big = np.repeat(frame, len(small), 0)
    start = (big.shape[1] - CROP) // 2
    big[:, start : start + CROP, start : start + CROP] = small.pictures
    return type(small)(**{**vars(small), "pictures": big})


def test_the_papers_turn_is_torchvisions():
    torch.manual_seed(0)
    pictures = torch.rand(3, 1, 64, 64)
    angle = torch.tensor([-15.0, 4.0, 12.0])

    mine = warped(pictures, augment_paper.turn(torch.deg2rad(angle)), mode="nearest")

    for i in range(3):
        its = rotate(pictures[i], float(angle[i]))
        assert (mine[i] == its).float().mean() > 0.99  # a few pixels lie half-way between two


def test_the_papers_sharpness_is_torchvisions():
    torch.manual_seed(0)
    pictures = torch.rand(2, 1, 32, 32)
    assert torch.allclose(augment_paper.sharpened(pictures), adjust_sharpness(pictures, 2.0), atol=1e-6)


def test_the_papers_augmentation_turns_all_and_sharpens_half():
    torch.manual_seed(1)
    pictures = torch.rand(400, 1, 32, 32)
    changed, _ = augment_paper.augment(pictures, torch.zeros(400, 1, 8, 8))
    spread = changed[:, :, 8:24, 8:24].std((1, 2, 3))
    assert 0.4 < (spread > 0.33).float().mean() < 0.6  # of even noise: 0.29 before, more where it was sharpened
    torch.manual_seed(1)
    torch.rand(400, 1, 32, 32)
    again, _ = augment_paper.augment(pictures, torch.zeros(400, 1, 8, 8))
    assert torch.equal(changed, again)
