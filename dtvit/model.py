"""DTViT: one encoder shared by two heads, hemorrhage present or not, and where (Fan et al. 2024, section 2.3).

The papers' encoder is ViT-L/16 (`vit_large_patch16_224`); any timm encoder that takes 224 x 224 pixels will do, and
torchvision's AlexNet and SqueezeNet 1.0, which the papers compare with and timm lacks. Their heads are one linear layer
each, with a variant of two layers; the released code gives the location head a fourth output, "none", for slices
without hemorrhage.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Literal

import timm
import torch
from timm.models import load_state_dict
from torch import nn
from torchvision import models

INPUT_PIXELS = 224
FROM_TORCHVISION = ("alexnet", "squeezenet1_0")
PAPER_ENCODER = "vit_large_patch16_224"
MLP_DROPOUT = 0.1  # Fan et al. 2024, the two-layer variant of the heads

Head = Literal["linear", "mlp"]


class UnknownEncoder(ValueError):
    """No encoder has this name, or it cannot take 224 x 224 pixels."""


class DTViT(nn.Module):
    def __init__(
        self,
        encoder: str = PAPER_ENCODER,
        location_classes: int = 3,
        head: Head = "linear",
        *,
        pretrained: bool | Path = False,
        drop_path: float = 0.0,
    ) -> None:
        """`pretrained`: ImageNet weights, from a file or, if True, over the network; `drop_path`: stochastic depth.

        Raises UnknownEncoder, and for `pretrained` whatever fetching or reading them raises (`train.learning`).
        """
        super().__init__()
        self.encoder = _encoder(encoder, pretrained=pretrained, drop_path=drop_path)
        # VGG ends in two hidden layers, so its heads see more features than its convolutions give.
        width: int = getattr(self.encoder, "head_hidden_size", None) or self.encoder.num_features  # type: ignore[assignment]
        self.presence = _head(width, 2, head)
        self.location = _head(width, location_classes, head)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`images`: (B, 3, 224, 224), normalised. Logits of presence (B, 2: absent, present) and location (B, C)."""
        features = self.encoder(images)  # (B, D)
        return self.presence(features), self.location(features)


def check_encoder(name: str) -> None:
    """Raises UnknownEncoder if neither library has one of this name; whether its size fits, `DTViT` finds out."""
    if name not in FROM_TORCHVISION and not timm.is_model(name):
        near = difflib.get_close_matches(name, [*FROM_TORCHVISION, *timm.list_models()], n=3)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UnknownEncoder(f"timm {timm.__version__} has no encoder {name!r}{hint}")


class _FromTorchvision(nn.Module):
    """AlexNet up to its last hidden layer, SqueezeNet up to its pooled maps."""

    def __init__(self, name: str, pretrained: bool | Path) -> None:
        super().__init__()
        whole = models.get_model(name, weights=None)
        if isinstance(pretrained, Path):
            whole.load_state_dict(_weights(pretrained))
        elif pretrained:  # not by get_model, which runs whatever program the cached file holds
            published = models.get_model_weights(name)["DEFAULT"]
            whole.load_state_dict(published.get_state_dict(progress=True, check_hash=True, weights_only=True))
        self.features = whole.features
        if name == "alexnet":
            self.pool, self.hidden, self.num_features = whole.avgpool, whole.classifier[:-1], 4096
        else:
            self.pool, self.hidden, self.num_features = nn.AdaptiveAvgPool2d(1), nn.Identity(), 512

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.pool(self.features(images))  # (B, 256, 6, 6) or (B, 512, 1, 1)
        hidden: torch.Tensor = self.hidden(maps.flatten(1))  # (B, D)
        return hidden


def _encoder(name: str, *, pretrained: bool | Path, drop_path: float) -> nn.Module:
    if name in FROM_TORCHVISION:
        return _FromTorchvision(name, pretrained)
    check_encoder(name)
    config = timm.get_pretrained_cfg(name)
    options: dict[str, object] = {}
    if config is not None and config.fixed_input_size:
        options["img_size"] = INPUT_PIXELS  # a ViT made for other sizes gets position embeddings for ours
    if drop_path:
        options["drop_path_rate"] = drop_path
    if isinstance(pretrained, Path):
        options["pretrained_cfg_overlay"] = _from_file(pretrained)
    try:
        encoder: nn.Module = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **options)
    except (TypeError, AssertionError, ValueError) as exc:
        raise UnknownEncoder(
            f"encoder {name!r} cannot be made for {INPUT_PIXELS} x {INPUT_PIXELS} pixels: {exc}"
        ) from exc
    if isinstance(kept := getattr(encoder, "pretrained_cfg", None), dict):
        kept.pop("state_dict", None)  # a second copy of the weights
    return encoder


def _from_file(path: Path) -> dict[str, object]:
    """Where timm takes weights from."""
    if path.suffix == ".npz":  # in an order of their own, which only timm knows; numpy unpickles nothing
        return {"file": str(path), "custom_load": True}
    return {"state_dict": _weights(path), "custom_load": False}


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """Of a safetensors or pth file. A pth file is a pickle, which may hold a program to run: nothing but weights is
    read, whatever a version of timm does by default."""
    try:
        state: dict[str, torch.Tensor] = load_state_dict(str(path), weights_only=True)
    except AttributeError as exc:  # a list, a number
        raise RuntimeError("no table of weights") from exc
    if not state:  # timm would fetch its own instead
        raise RuntimeError("no weight in it")
    return state


def _head(width: int, classes: int, kind: Head) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, classes)
    if kind == "mlp":
        return nn.Sequential(
            nn.Linear(width, width // 2), nn.ReLU(), nn.Dropout(MLP_DROPOUT), nn.Linear(width // 2, classes)
        )
    raise ValueError(f"a head is 'linear' or 'mlp', not {kind!r}")
