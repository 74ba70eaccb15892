"""A ViT's passes, launched at once on a GPU: the same losses as kernel by kernel, also when a run goes on."""

from __future__ import annotations

import pytest
import torch
from test_loop import PLAIN, SOURCE, Stopped, data, losses, quiet, recipe, settings, stopping_at

from train import computing
from train.graphed import Graphed
from train.loop import fit
from train.recipe import Recipe

__all__ = ["data"]  # a fixture

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


def graphed(monkeypatch: pytest.MonkeyPatch, captured: list[tuple[torch.Size, ...]]) -> None:
    """On the CPU: what would be captured runs as it is, thrice before, as a capture does."""

    def capture(passes, samples):
        captured.append(tuple(each.shape for each in samples))
        for _ in range(3):
            passes(*samples)
        return passes

    monkeypatch.setattr(computing, "can_be_graphed", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)


def test_it_is_captured_once_for_each_shape_and_learns_the_same(tmp_path, data, monkeypatch):
    fit(recipe(**SOME_PATCHES), settings(tmp_path / "plain"), data, SOURCE, quiet)
    captured: list[tuple[torch.Size, ...]] = []
    graphed(monkeypatch, captured)

    fit(recipe(**SOME_PATCHES), settings(tmp_path / "graphed"), data, SOURCE, quiet)

    batch = SOME_PATCHES["batch"]
    assert sorted(captured, key=len) == [((batch, 1, 224, 224),), ((batch, 1, 224, 224), (batch, 50))]
    assert losses(tmp_path / "graphed") == losses(tmp_path / "plain")


def test_a_run_that_goes_on_captures_anew_and_ends_the_same(tmp_path, data, monkeypatch):
    graphed(monkeypatch, [])
    with pytest.raises(Stopped):
        fit(recipe(**SOME_PATCHES), settings(tmp_path / "stopped", save_every_s=0), data, SOURCE, stopping_at(4))
    fit(recipe(**SOME_PATCHES), settings(tmp_path / "stopped"), data, SOURCE, quiet)
    fit(recipe(**SOME_PATCHES), settings(tmp_path / "whole"), data, SOURCE, quiet)

    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")


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
def test_what_can_be_launched_at_once(changes, ranks, device, can):
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
    called = Graphed(learner.cuda(), computing.autocast("bf16", torch.device("cuda")))
    pictures = torch.rand(4, 1, 224, 224, device="cuda")
    found = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        found.append(called(pictures)[0].clone())

    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
