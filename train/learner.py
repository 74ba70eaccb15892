"""DTViT while it learns: a third head that says for each patch whether it shows blood, and fewer patches to look at.

A ViT that starts from random weights learns slowly from two labels per picture. Where the blood is, is known for a
phantom; asked for at every patch, it teaches 196 times per picture, and the location head and the presence head find
the patches that matter. The third head is thrown away afterwards. Patches of plain background are mostly left out,
which halves the work; towards the end all are shown, as in use.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from timm.models import VisionTransformer
from torch import nn

from dtvit.model import DTViT

FULL_AT = 0.25  # a patch shows blood in full when a quarter of it does
BLOOD_WEIGHT = 4.0  # few patches show blood: about one in thirty


class Learner(nn.Module):
    def __init__(self, model: DTViT) -> None:
        super().__init__()
        self.model = model
        self.patchwise = isinstance(model.encoder, VisionTransformer)
        self.blood = nn.Linear(model.encoder.num_features, 1) if self.patchwise else None  # type: ignore[arg-type]

    def forward(
        self, images: torch.Tensor, kept: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """`images`: (B, 3, 224, 224); `kept`: (B, K) patch numbers, None for all. Logits of presence (B, 2), location
        (B, C) and blood per patch (B, K), None where the encoder has no patches.
        """
        if self.blood is None:
            return (*self.model(images), None)
        encoder = self.model.encoder
        assert isinstance(encoder, VisionTransformer)
        tokens = encoder._pos_embed(encoder.patch_embed(images))  # (B, P + N, D), P class tokens first
        if kept is not None:
            first = encoder.num_prefix_tokens
            index = (kept + first)[..., None].expand(-1, -1, tokens.shape[-1])
            tokens = torch.cat((tokens[:, :first], tokens.gather(1, index)), 1)  # (B, P + K, D)
        tokens = encoder.norm(encoder.blocks(encoder.norm_pre(tokens)))
        features = encoder.forward_head(tokens)  # (B, D)
        patches = self.blood(tokens[:, encoder.num_prefix_tokens :])[..., 0]  # (B, K)
        return self.model.presence(features), self.model.location(features), patches

    def grid(self) -> tuple[int, int]:
        size: tuple[int, int] = self.model.encoder.patch_embed.grid_size  # type: ignore[union-attr, assignment]
        return size


def choose_patches(pictures: torch.Tensor, blood: torch.Tensor, count: int) -> torch.Tensor:
    """`pictures` and `blood` as means per patch, (B, N). The numbers of `count` patches each, (B, count): those with
    blood first, then those of the head in random order, then background.
    """
    wanted = (blood > 0) * 2.0 + (pictures > 0.02) * 1.0 + torch.rand_like(pictures) * 0.9
    return wanted.topk(count, 1).indices


def loss(
    outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None],
    presence: torch.Tensor,
    location: torch.Tensor,
    blood: torch.Tensor | None,
    smoothing: float,
) -> torch.Tensor:
    """Mean cross entropy of both heads, each over the slices that have its label (the others are -1), and of the
    patches; `blood`: (B, K), share of each patch that shows blood.
    """
    total = _masked(outputs[0], presence, smoothing) + _masked(outputs[1], location, smoothing)
    if outputs[2] is not None and blood is not None:
        target = (blood / FULL_AT).clamp(max=1)
        weight = torch.tensor(BLOOD_WEIGHT, device=target.device)
        total = total + F.binary_cross_entropy_with_logits(outputs[2].float(), target, pos_weight=weight)
    return total


def _masked(logits: torch.Tensor, labels: torch.Tensor, smoothing: float) -> torch.Tensor:
    summed = F.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum", label_smoothing=smoothing)
    return summed / (labels >= 0).sum().clamp(min=1)
