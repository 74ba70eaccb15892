"""A plain ViT's class token, without what its last block computes for the patches, which is never read.

Of the patches only keys and values count there. Their attention, projection and hidden layer are three quarters of the
block, some 6 % of twelve blocks. The result is that of the encoder, rounding aside.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn
from torch.nn import functional


def is_all_that_is_read(encoder: nn.Module) -> TypeGuard[VisionTransformer]:
    """Whether `class_token` can stand in for `encoder`: an unmodified timm ViT whose heads read that token alone."""
    if type(encoder) is not VisionTransformer or encoder.global_pool != "token":
        return False
    *others, last = _blocks(encoder)
    if not others or type(last) is not Block or type(last.attn) is not Attention:
        return False
    extras = [getattr(last.attn, name, None) for name in ("gate", "norm")]  # some encoders', in newer releases of timm
    return all(extra is None or isinstance(extra, nn.Identity) for extra in extras)


def _blocks(encoder: VisionTransformer) -> list[nn.Module]:
    return list(encoder.get_submodule("blocks").children())


def class_token(encoder: VisionTransformer, images: torch.Tensor) -> torch.Tensor:
    """(B, D), as `encoder(images)` gives it in evaluation; `images` (B, 3, 224, 224)."""
    *others, last = _blocks(encoder)
    before = encoder.forward_intermediates(
        images,
        indices=[len(others) - 1],
        return_prefix_tokens=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    ((patches, prefix),) = before
    assert isinstance(last, Block)
    read = _last(last, torch.cat([prefix, patches], 1))  # (B, 1, D)
    features: torch.Tensor = encoder.forward_head(encoder.norm(read))
    return features


def _last(block: Block, tokens: torch.Tensor) -> torch.Tensor:
    """(B, 1, D): `block(tokens)[:, :1]` of tokens (B, N, D)."""
    attention, read = block.attn, tokens[:, :1]
    batch, count, _ = tokens.shape
    of_all = attention.qkv(block.norm1(tokens)).reshape(batch, count, 3, attention.num_heads, -1)
    query, key, value = of_all.permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, D / heads)
    query, key = attention.q_norm(query[:, :, :1]), attention.k_norm(key)
    seen = functional.scaled_dot_product_attention(query, key, value)  # (B, heads, 1, D / heads)
    read = read + block.ls1(attention.proj(seen.transpose(1, 2).flatten(2)))
    token: torch.Tensor = read + block.ls2(block.mlp(block.norm2(read)))
    return token
