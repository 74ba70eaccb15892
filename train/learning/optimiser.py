"""What moves the weights: optimiser, groups, schedule, and the running mean of the weights that is kept in the end."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from fnmatch import fnmatch
from typing import Any

import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from dtvit.model import DTViT
from train.learning.learner import Learner
from train.recipe import Recipe, UnusableRecipe

EMBEDDINGS = ("pos_embed", "cls_token")  # of custom encoders, which may have no `no_weight_decay`
FUSED = ("cpu", "cuda")  # where AdamW makes one pass over memory instead of ten
LEAST = 0.01  # of the learning rate, at the first step of a warm-up


def optimiser(learner: Learner, recipe: Recipe) -> torch.optim.Optimizer:
    """Over all parameters, each group with its `lr_scale`. Raises UnusableRecipe for layer decay without layers."""
    groups = _by_layer(learner, recipe) if recipe.layer_decay < 1 else _by_decay(learner, recipe)
    if recipe.optimiser == "sgd":
        # Not fused: torch 2.15's fused SGD begins with a momentum of uninitialised memory when the GradScaler skips
        # the first step, which in fp16 it often does.
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum)
    fused = next(learner.parameters()).device.type in FUSED
    betas = (recipe.momentum, recipe.second_momentum)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=betas, fused=fused)


def set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, done: float) -> None:
    """Set the learning rate for when the share `done` of the run is over."""
    rate = recipe.learning_rate * factor(recipe, done)
    for group in optimiser.param_groups:
        group["lr"] = rate * group["lr_scale"]


def factor(recipe: Recipe, done: float) -> float:
    """Linear warm-up, then constant or half a cosine."""
    if done < recipe.warm_up:
        return max(done / recipe.warm_up, LEAST)
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (done - recipe.warm_up) / (1 - recipe.warm_up)))


def _by_decay(learner: Learner, recipe: Recipe) -> list[dict[str, Any]]:
    moved = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    if recipe.decay_everything:
        return [{"params": moved, "weight_decay": recipe.weight_decay, "lr_scale": 1.0}]
    embedded = set(map(id, _embeddings(learner.model.encoder).values()))
    plain = {id(p) for p in moved if p.ndim < 2} | embedded
    return [
        {"params": [p for p in moved if id(p) not in plain], "weight_decay": recipe.weight_decay, "lr_scale": 1.0},
        {"params": [p for p in moved if id(p) in plain], "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def _embeddings(encoder: nn.Module) -> dict[str, nn.Parameter]:
    """What has no weight decay though it is not a vector: positions, class and register tokens, and whatever else a
    timm encoder lists (`no_weight_decay`, names or patterns)."""
    listed: Collection[str] = getattr(encoder, "no_weight_decay", tuple)()
    return {
        name: parameter
        for name, parameter in encoder.named_parameters()
        if name.endswith(EMBEDDINGS) or any(fnmatch(name, pattern) for pattern in listed)
    }


def _by_layer(learner: Learner, recipe: Recipe) -> list[dict[str, Any]]:
    encoder = learner.model.encoder
    if not hasattr(encoder, "group_matcher"):
        raise UnusableRecipe(f"layer_decay needs a timm encoder, which {recipe.encoder} is not; set it to 1")
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        encoder,
        recipe.weight_decay,
        () if recipe.decay_everything else tuple(_embeddings(encoder)),
        weight_decay_exclude_1d=not recipe.decay_everything,
        layer_decay=recipe.layer_decay,
    )
    inside = {id(p) for p in encoder.parameters()}
    heads = [p for p in learner.parameters() if id(p) not in inside]
    on_vectors = recipe.weight_decay if recipe.decay_everything else 0.0
    return [
        *groups,
        {"params": [p for p in heads if p.ndim > 1], "weight_decay": recipe.weight_decay, "lr_scale": 1.0},
        {"params": [p for p in heads if p.ndim < 2], "weight_decay": on_vectors, "lr_scale": 1.0},
    ]


class Average:
    """A running mean of a model's weights (EMA); with decay 0 the model itself."""

    def __init__(self, model: DTViT, decay: float) -> None:
        self.decay, self._of = decay, model
        self.model = model if not decay else copy.deepcopy(model).requires_grad_(False)
        # Listed once: asking two models for all of their tensors takes longer than the mean itself.
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._moving = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    def start(self) -> None:
        """Begin the mean here, forgetting what came before."""
        if self.decay:
            self.model.load_state_dict(self._of.state_dict())

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Update after optimiser step `step`, counted from 0; early on the mean is over fewer steps."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        kept, newest = map(list, zip(*self._moving, strict=True))
        get_ema_multi_avg_fn(decay)(kept, newest, None)  # type: ignore[no-untyped-call]
        for mine, its in self._counts:
            mine.copy_(its)  # such as the number of batches that a batch norm has seen


def _tensors(model: nn.Module) -> list[torch.Tensor]:
    """The weights themselves, not copies; for a model that stays on its device."""
    return list(model.state_dict().values())
