"""The learner that a recipe asks for, and how a device computes it: precision and memory format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from dtvit.checkpoint import load
from dtvit.inference import choose_precision
from train.learning import pretrained, state
from train.learning.learner import Learner
from train.learning.pretrained import Start
from train.learning.start import start_well
from train.learning.state import STATE
from train.recipe import Recipe, UnusableRecipe

Built = tuple[Learner, Start]


def built(recipe: Recipe, output: Path) -> Built:
    """`learner`, for the run in this folder. Raises as `learner`, and UnusableRun."""
    start = (state.begun(output / STATE) or {}).get("start")
    return learner(recipe, None if start is None else Start(**start))


def learner(recipe: Recipe, begun: Start | None = None) -> Built:
    """The learner, on the CPU, and what its weights are; random weights follow from the recipe's seed.

    `begun`: what a run that continues began with. Its state replaces all weights, so none are fetched or read.
    Raises UnusableRecipe, UnusableCheckpoint, UnavailableWeights, UnknownEncoder.
    """
    torch.manual_seed(recipe.seed)
    model, start = pretrained.model(recipe if begun is None else dataclasses.replace(recipe, pretrained="none"))
    if begun is not None:
        start = begun
    elif recipe.start_from:
        known, checkpoint = load(Path(recipe.start_from))
        told = checkpoint.metadata
        try:
            model.load_state_dict(known.state_dict())
        except RuntimeError as exc:
            raise UnusableRecipe(
                f"start_from: {checkpoint.path.name} is {told.encoder}, {told.head} heads, "
                f"{len(told.location_classes)} location outputs; set encoder, head and location_outputs to the same"
            ) from exc
        from_where = f"started from {told.name} ({checkpoint.digest[:12]})"
        earlier = told.training.get("before", {})
        start = Start(
            from_where,
            f"it {from_where}, whose licence is: {told.licence}",
            before=f"{told.training_data} {earlier.get('training_data', '')}".strip(),
            patients_seen=told.patients_seen,
            split=told.training.get("split", {}).get("digest") or earlier.get("split", ""),
        )
    elif recipe.from_scratch:
        start_well(model.encoder)
    if recipe.checkpointing:
        if not hasattr(model.encoder, "set_grad_checkpointing"):
            raise UnusableRecipe(f"{recipe.encoder} does not support checkpointing; set it to false")
        model.encoder.set_grad_checkpointing(True)  # type: ignore[operator]
    return Learner(model, blood_head=recipe.blood_loss > 0, mean_std=recipe.mean_std), start


def precision(wanted: str, device: torch.device) -> str:
    """fp32, bf16 or fp16; `auto` is bf16 only where the device is fast at it, since torch runs it anywhere."""
    return choose_precision("auto", device) if wanted == "auto" else wanted


def autocast(chosen: str, device: torch.device) -> torch.autocast:
    """For the forward pass."""
    kind = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=chosen != "fp32")


def memory_format(recipe: Recipe, learner: Learner) -> torch.memory_format:
    convolutional = recipe.memory_format == "auto" and not learner.patchwise
    return torch.channels_last if convolutional or recipe.memory_format == "channels_last" else torch.preserve_format


def can_be_graphed(recipe: Recipe, learner: Learner, device: torch.device, ranks: int) -> bool:
    """Whether `graphed` may launch it: not if it recomputes activations, compiles, or sums over parts, nor with batch
    normalisation, whose statistics the capture would move."""
    plain = not (recipe.compile or recipe.checkpointing) and recipe.accumulation == ranks == 1
    return recipe.graphs and plain and device.type == "cuda" and learner.patchwise
