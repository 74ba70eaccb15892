"""A ViT's passes, launched at once on a GPU: the same losses as kernel by kernel, also when a run goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from learning import PLAIN, SOURCE, Stopped, drawn, losses, quiet, recipe, settings, stopping_at

from train.learning import computing, graphed
from train.learning.loop import fit
from train.recipe import Recipe

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
SOME_PATCHES = {
    **PLAIN,
    "batch": 8,
    "augmentation": "scanner",
    "tokens": 50,
    "drop_path": 0.2,
    "steps": 8,
    "evaluate_every": 4,
}


@pytest.fixture(scope="module")
def data():
    return drawn(40)


class Again:
    """Stands in for `Recorder` on a CPU: what is launched is done again, into the memory of the first time."""

    captures = 0

    def __init__(self, _device: torch.device) -> None:
        pass

    def tried(self, work):
        work()

    def captured(self, work):
        Again.captures += 1
        made = work()
        forward = made[0].grad_fn is not None

        def launch():
            for mine, its in zip(made, self._forward(work) if forward else self._backward(), strict=True):
                if mine is not None:
                    mine.data.copy_(its)

        return made, launch

    def _forward(self, work):
        self.latest = work.__self__, work()
        return self.latest[1]

    def _backward(self):
        """Of the latest forward pass: in a graph the memory that it left is what the way back goes by."""
        passes, outputs = self.latest
        return passes._backward(outputs, passes._wanted)


def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computing, "can_be_graphed", lambda *_: True)
    monkeypatch.setattr(graphed, "Recorder", Again)
    monkeypatch.setattr(Again, "captures", 0)


def test_it_is_captured_once_for_each_shape_and_learns_the_same(tmp_path, data, monkeypatch):
    fit(recipe(**SOME_PATCHES), settings(tmp_path / "plain"), data, SOURCE, quiet)
    on_the_cpu(monkeypatch)

    fit(recipe(**SOME_PATCHES), settings(tmp_path / "graphed"), data, SOURCE, quiet)

    assert Again.captures == 4  # forward and backward, of some patches and of all
    assert losses(tmp_path / "graphed") == losses(tmp_path / "plain")


def test_a_resumed_run_captures_again_and_ends_the_same(tmp_path, data, monkeypatch):
    on_the_cpu(monkeypatch)
    with pytest.raises(Stopped):
        fit(recipe(**SOME_PATCHES), settings(tmp_path / "stopped", save_every_s=0), data, SOURCE, stopping_at(4))
    fit(recipe(**SOME_PATCHES), settings(tmp_path / "stopped"), data, SOURCE, quiet)
    fit(recipe(**SOME_PATCHES), settings(tmp_path / "whole"), data, SOURCE, quiet)

    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_are_those_of_the_learner_and_lie_as_its_parameters_do(monkeypatch, precision):
    on_the_cpu(monkeypatch)
    learner, _ = computing.learner(Recipe(name="drawn", encoder="test_vit", steps=1, blood_loss=1.0))
    double = copy.deepcopy(learner)
    cast = computing.autocast(precision, torch.device("cpu"))
    launched = graphed.Graphed(double, cast)
    for some in (True, False, True, False):
        given = [torch.rand(2, 1, 224, 224)]
        if some:
            given.append(torch.rand(2, 196).topk(30, 1).indices)
        with cast:
            plain = learner(*given)
        for outputs in (plain, launched(*given)):
            sum(each.float().square().sum() for each in outputs).backward()
        for mine, its in zip(double.parameters(), learner.parameters(), strict=True):
            assert torch.allclose(mine.grad, its.grad, rtol=1e-4, atol=1e-5)
            assert mine.grad.stride() == mine.stride()
        with torch.no_grad():
            for parameter in [*double.parameters(), *learner.parameters()]:
                parameter.sub_(parameter.grad, alpha=1e-3)  # in its place, as an optimiser does
                parameter.grad = None


@pytest.mark.parametrize(
    ("changes", "ranks", "device", "can"),
    [
        ({}, 1, "cuda", True),
        ({}, 1, "cpu", False),
        ({}, 2, "cuda", False),
        ({"graphs": False}, 1, "cuda", False),
        ({"accumulation": 2}, 1, "cuda", False),
        ({"checkpointing": True}, 1, "cuda", False),
        ({"compile": True}, 1, "cuda", False),
        ({"encoder": "resnet18"}, 1, "cuda", False),
    ],
)
def test_which_models_can_be_launched_as_graphs(changes, ranks, device, can):
    given = Recipe(**{"name": "drawn", "encoder": "test_vit", "steps": 1, **changes})
    learner, _ = computing.learner(given)
    assert computing.can_be_graphed(given, learner, torch.device(device), ranks) is can


@on_gpu
def test_on_a_gpu_losses_are_those_of_kernel_by_kernel(tmp_path, data):
    """In fp32 and without dropped layers, of which a capture draws others."""
    same = {**SOME_PATCHES, "drop_path": 0.0, "precision": "fp32", "device": "cuda"}
    device = {"device": same.pop("device")}
    fit(recipe(**same, graphs=False), settings(tmp_path / "plain", **device), data, SOURCE, quiet)
    fit(recipe(**same), settings(tmp_path / "graphed", **device), data, SOURCE, quiet)

    assert losses(tmp_path / "graphed") == pytest.approx(losses(tmp_path / "plain"), rel=1e-3)


@on_gpu
def test_on_a_gpu_dropped_layers_differ_from_step_to_step(data):
    learner, _ = computing.learner(Recipe(name="drawn", encoder="test_vit", steps=1, drop_path=0.9))
    called = graphed.Graphed(learner.cuda(), computing.autocast("bf16", torch.device("cuda")))
    pictures = torch.rand(4, 1, 224, 224, device="cuda")
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(called(pictures)[0].clone())

    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
