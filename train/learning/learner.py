"""DTViT while it learns: a third head that says for each patch whether it shows blood, and fewer patches to look at.

A ViT that starts from random weights learns slowly from two labels per picture. For a phantom it is known where the
blood is: asking at every patch teaches 196 times per picture, and the location head and the presence head find the
patches that matter. The third head is thrown away afterwards. Patches of plain background are mostly left out, which
halves the work; towards the end all are shown, as in use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from timm.models import VisionTransformer, checkpoint_seq
from torch import nn

from dtvit.model import DTViT
from train.learning.batches import Batch
from train.recipe import HALF, MeanStd, Recipe

FULL_AT = 0.25  # a patch shows blood in full when a quarter of it does
BLOOD_WEIGHT = 4.0  # few patches show blood: about one in thirty

Outputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


class Learner(nn.Module):
    def __init__(self, model: DTViT, *, blood_head: bool = True, mean_std: MeanStd = HALF) -> None:
        """`blood_head`: where the encoder has patches; `mean_std` of the pictures that the model is shown."""
        super().__init__()
        self.model = model
        self.patchwise = isinstance(model.encoder, VisionTransformer)
        width: int = model.encoder.num_features  # type: ignore[assignment]
        self.blood = nn.Linear(width, 1) if self.patchwise and blood_head else None
        self.mean: torch.Tensor
        self.std: torch.Tensor
        for name, values in zip(("mean", "std"), mean_std, strict=True):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: torch.Tensor, kept: torch.Tensor | None = None) -> Outputs:
        """`pictures`: (B, 1, 224, 224) in 0..1; `kept`: (B, K) patch numbers, None for all. Logits of presence (B, 2),
        location (B, C) and blood per patch (B, K), None without that head.
        """
        images = self.normalised(pictures)
        if self.blood is None and kept is None:
            return (*self.model(images), None)
        encoder = self.model.encoder
        assert isinstance(encoder, VisionTransformer)
        tokens = encoder._pos_embed(encoder.patch_embed(images))  # (B, P + N, D), P class tokens first
        if kept is not None:
            first = encoder.num_prefix_tokens
            index = (kept + first)[..., None].expand(-1, -1, tokens.shape[-1])
            tokens = torch.cat((tokens[:, :first], tokens.gather(1, index)), 1)  # (B, P + K, D)
        tokens = encoder.norm_pre(tokens)
        blocks = encoder.blocks
        tokens = checkpoint_seq(blocks, tokens) if encoder.grad_checkpointing else blocks(tokens)
        tokens = encoder.norm(tokens)
        features = encoder.forward_head(tokens)  # (B, D)
        patches = None if self.blood is None else self.blood(tokens[:, encoder.num_prefix_tokens :])[..., 0]  # (B, K)
        return self.model.presence(features), self.model.location(features), patches

    def normalised(self, pictures: torch.Tensor) -> torch.Tensor:
        """(B, 3, ...) of (B, 1, ...) in 0..1."""
        return (pictures - self.mean) / self.std

    def grid(self) -> tuple[int, int]:
        size: tuple[int, int] = self.model.encoder.patch_embed.grid_size  # type: ignore[union-attr, assignment]
        return size


def choose_patches(pictures: torch.Tensor, blood: torch.Tensor, count: int) -> torch.Tensor:
    """`pictures` and `blood` as means per patch, (B, N). The numbers of `count` patches each, (B, count): those with
    blood first, then those of the head in random order, then background.
    """
    wanted = (blood > 0) * 2.0 + (pictures > 0.02) * 1.0 + torch.rand_like(pictures) * 0.9
    return wanted.topk(count, 1, sorted=False).indices


def patch_means(pictures: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """(B, 1, H, W) as means per patch, (B, N); patches may cut through pixels, as in a map of blood."""
    height, width = (side // patches for side, patches in zip(pictures.shape[2:], grid, strict=True))
    if (height * grid[0], width * grid[1]) != tuple(pictures.shape[2:]):
        return F.adaptive_avg_pool2d(pictures, grid).flatten(1)
    # a plain sum, which a GPU spreads over all of its cores: adaptive pooling gives one thread to each patch
    return pictures.reshape(-1, grid[0], height, grid[1], width).mean((2, 4)).flatten(1)


def loss(outputs: Outputs, batch: Batch, patch_blood: torch.Tensor | None, recipe: Recipe) -> torch.Tensor:
    """This part's share of the mean losses of the whole batch: summed over all parts and ranks, it is those means.

    Each head's mean is over the slices that have its label (the others are -1), that of the patches over the slices
    whose blood is traced; `patch_blood`: (B, K), share of each patch that shows blood.
    """
    totals, smoothing = batch.totals, recipe.smoothing
    total = recipe.presence_loss * _masked(outputs[0], batch.presence, totals.presence, smoothing)
    total = total + recipe.location_loss * _masked(outputs[1], batch.location, totals.location, smoothing)
    if outputs[2] is not None and patch_blood is not None:
        target = (patch_blood / FULL_AT).clamp(max=1)
        weight = target.new_full((), BLOOD_WEIGHT)  # made on the device: the host would wait while sending it there
        each = F.binary_cross_entropy_with_logits(outputs[2].float(), target, pos_weight=weight, reduction="none")
        total = total + recipe.blood_loss * (each.mean(1) * batch.traced).sum() / max(totals.traced, 1)
    return total


def _masked(logits: torch.Tensor, labels: torch.Tensor, labelled: int, smoothing: float) -> torch.Tensor:
    summed = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return summed / max(labelled, 1)
