"""DTViT: one encoder shared by two heads, hemorrhage present or not, and where (Fan et al. 2024, section 2.3).

The papers' encoder is ViT-L/16 (`vit_large_patch16_224`); any timm encoder that takes 224 x 224 pixels will do. Their
heads are one linear layer each, with a variant of two layers; the released code gives the location head a fourth
output, "none", for slices without hemorrhage.
"""

from __future__ import annotations

import difflib
from typing import Literal

import timm
import torch
from torch import nn

INPUT_PIXELS = 224
PAPER_ENCODER = "vit_large_patch16_224"
MLP_DROPOUT = 0.1  # Fan et al. 2024, the two-layer variant of the heads

Head = Literal["linear", "mlp"]


class UnknownEncoder(ValueError):
    """timm knows no encoder of this name, or it cannot take 224 x 224 pixels."""


class DTViT(nn.Module):
    def __init__(
        self,
        encoder: str = PAPER_ENCODER,
        location_classes: int = 3,
        head: Head = "linear",
        *,
        pretrained: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        """`pretrained` fetches ImageNet weights through timm; `drop_path` is stochastic depth, for training alone."""
        super().__init__()
        self.encoder = _encoder(encoder, pretrained=pretrained, drop_path=drop_path)
        # VGG ends in two hidden layers, so what its heads see is wider than what its convolutions give.
        width: int = getattr(self.encoder, "head_hidden_size", None) or self.encoder.num_features  # type: ignore[assignment]
        self.presence = _head(width, 2, head)
        self.location = _head(width, location_classes, head)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`images`: (B, 3, 224, 224), normalised. Logits of presence (B, 2: absent, present) and location (B, C)."""
        features = self.encoder(images)  # (B, D)
        return self.presence(features), self.location(features)


def _encoder(name: str, *, pretrained: bool, drop_path: float) -> nn.Module:
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UnknownEncoder(f"timm {timm.__version__} knows no encoder {name!r}{hint}")
    config = timm.get_pretrained_cfg(name)
    options: dict[str, object] = {}
    if config is not None and config.fixed_input_size:
        options["img_size"] = INPUT_PIXELS  # a ViT made for other sizes gets position embeddings for ours
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        encoder: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except (TypeError, AssertionError, ValueError) as exc:
        raise UnknownEncoder(
            f"encoder {name!r} cannot be made for {INPUT_PIXELS} x {INPUT_PIXELS} pixels: {exc}"
        ) from exc
    return encoder


def _head(width: int, classes: int, kind: Head) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, classes)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(width, width // 2), nn.ReLU(), nn.Dropout(MLP_DROPOUT), nn.Linear(width // 2, classes)
        )
    raise ValueError(f"a head is 'linear' or 'mlp', not {kind!r}")
