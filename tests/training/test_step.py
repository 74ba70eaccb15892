"""A step asks a GPU nothing, so that nobody waits for it: shown on torch's meta device, which has no answers."""

import sys

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from learning import SOURCE, drawn, quiet, recipe, settings
from torch.utils._python_dispatch import TorchDispatchMode

from train import sending
from train.learning.batches import Batches
from train.learning.learner import patch_means
from train.learning.loop import Run
from train.learning.optimiser import Average, optimiser
from train.learning.ranks import Ranks
from train.making.warping import warped

CPU, META = torch.device("cpu"), torch.device("meta")


class Copies(TorchDispatchMode):
    """Functions that copied something from the host to the device."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, operation, _types, arguments=(), named=None):
        made = operation(*arguments, **(named or {}))
        given = [each for each in arguments if isinstance(each, torch.Tensor)]
        if isinstance(made, torch.Tensor) and made.device == META and any(each.device == CPU for each in given):
            self.seen.add(self._caller())
        return made

    @staticmethod
    def _caller() -> str:
        frame = sys._getframe()
        while frame and not frame.f_globals["__name__"].startswith("train."):
            frame = frame.f_back
        return frame.f_globals["__name__"] if frame else "?"


@pytest.mark.parametrize("augmentation", ["none", "paper", "scanner"])
@pytest.mark.parametrize("done", [0.3, 0.95])
def test_a_step_never_waits_for_the_device_and_sends_to_it_in_one_way(tmp_path, augmentation, done):
    one = recipe(augmentation=augmentation, precision="fp32", ema=0.9, clip=1.0, drop_path=0.1, batch=32)
    data = drawn(12)
    run = Run(one, settings(tmp_path), data, SOURCE, quiet, Ranks())
    run.device = META
    run.learner.to(META)
    run.average, run.optimiser = Average(run.learner.model, one.ema), optimiser(run.learner, one)
    run.batches = Batches(one, data.of_part("train"), run.order, META, Ranks())
    run.take_step(done)  # which makes the constants of the device

    with Copies() as copies:
        loss = run.take_step(done)

    assert loss.device == META
    assert copies.seen == {"train.sending"}


def test_what_was_packed_comes_out_as_it_was():
    torch.manual_seed(0)
    given = [
        torch.arange(5),
        torch.rand(3, 1, 2),
        torch.empty(0, 7),
        torch.tensor([True, False, True]),
        torch.rand(4, 6).T,
        torch.tensor(2.5),
        torch.randint(255, (3, 5), dtype=torch.uint8),
    ]

    box = sending.packed(given)

    assert box.dtype == torch.uint8
    for mine, its in zip(sending.unpacked(box, given), given, strict=True):
        assert mine.dtype == its.dtype
        assert torch.equal(mine, its)
        assert mine.data_ptr() % sending.ALIGNED == box.data_ptr() % sending.ALIGNED


def test_on_the_host_what_is_sent_stays_where_it_is():
    given = [torch.rand(3), torch.arange(2)]
    assert all(mine is its for mine, its in zip(sending.sent(given, CPU), given, strict=True))


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_pictures_are_warped_as_torch_does_it(mode):
    torch.manual_seed(0)
    pictures = torch.rand(3, 1, 20, 28)
    theta = torch.eye(2, 3) + 0.3 * torch.randn(3, 2, 3)
    grid = F.affine_grid(theta, [3, 1, 20, 28], align_corners=False)
    its = F.grid_sample(pictures, grid, mode=mode, align_corners=False)
    assert torch.allclose(warped(pictures, theta, mode), its, atol=1e-5)


@pytest.mark.parametrize(("side", "grid"), [(224, (14, 14)), (56, (14, 14)), (56, (16, 16)), (224, (7, 7))])
def test_means_of_patches_are_those_of_adaptive_pooling(side, grid):
    torch.manual_seed(0)
    pictures = torch.rand(2, 1, side + 8, side)[:, :, 4:-4]
    its = F.adaptive_avg_pool2d(pictures, grid).flatten(1)
    assert torch.allclose(patch_means(pictures, grid), its, atol=1e-6)
