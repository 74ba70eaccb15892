"""Where a ViT without pretrained weights should start, so that thousands of pictures suffice instead of millions.

Two facts are otherwise learned slowly. A patch keeps its brightness through layer normalisation only beside something
constant: at first the bias of the patch embedding is nearly nothing, so dense blood and bone look alike once they are
normalised. And a patch does not know where it is: position embeddings begin as noise, a tenth as strong as the picture.
"""

from __future__ import annotations

import math

import torch
from timm.models import VisionTransformer
from torch import nn

BIAS = 0.6  # as strong as an all-white patch is in torch's usual start of the patch embedding
POSITION = 0.3  # half of that, so that patches differ first by what they show


@torch.no_grad()
def start_well(encoder: nn.Module) -> None:
    """Set the bias of the patch embedding and the position embeddings of a ViT; leave other encoders alone."""
    if not isinstance(encoder, VisionTransformer):
        return
    bias = encoder.patch_embed.proj.bias
    if isinstance(bias, torch.Tensor):
        nn.init.normal_(bias, std=BIAS)
    if encoder.pos_embed is not None:
        rows, columns = encoder.patch_embed.grid_size
        patches = rows * columns
        encoder.pos_embed[0, -patches:] = POSITION * waves(rows, columns, encoder.pos_embed.shape[-1])


def waves(rows: int, columns: int, width: int) -> torch.Tensor:
    """(rows * columns, width): sine and cosine of row and column at rising frequencies (Vaswani et al. 2017), variance
    1; half of the width encodes the row, half the column. Channels are shuffled so that no attention head gets only
    one of them.
    """
    quarter = width // 4
    frequency = math.pi / max(rows, columns) * 2.0 ** torch.linspace(0, math.log2(max(rows, columns)), quarter)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([axis.flatten()[:, None] * frequency for axis in (row, column)], 1)  # (N, width / 2)
    made = torch.cat((angles.sin(), angles.cos()), 1) * math.sqrt(2)  # (N, 4 * quarter)
    padded = torch.zeros(rows * columns, width)
    padded[:, torch.randperm(width)[: 4 * quarter]] = made
    return padded
