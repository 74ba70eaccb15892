"""First lessons: what blood looks like in one patch, before the ViT looks at a whole picture.

From random weights a ViT needs thousands of pictures before attention finds anything worth attending to. One patch
needs no attention: patch embedding, the place of the patch and the layers' MLPs alone learn to tell blood from brain
and bone, at the cost of a few hundred pictures. The attention of all layers starts at nothing, so that the whole ViT
begins as exactly what was learned here, and learns from there to look around. Weights that know how to look, be they
ImageNet's or a checkpoint's, would lose that; they get no lessons (`train.learning.loop`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 - the field's own name for it
from timm.layers import PatchEmbed
from timm.models import VisionTransformer
from timm.models.vision_transformer import Block
from torch import nn

from train.learning.learner import FULL_AT, Learner, patch_means
from train.learning.optimiser import FUSED
from train.making.augment import HU
from train.progress import SAY_EVERY_S
from train.sending import sent

DEPTH = 6  # layers whose MLPs take part; the others start as the identity
POSITIVES, NEGATIVES = 192, 384
RATE = 1e-3


def first_lessons(
    learner: Learner,
    pictures: torch.Tensor,
    blood: torch.Tensor,
    steps: int,
    autocast: torch.autocast,
    *,
    limit_s: float = math.inf,
    tell: Callable[[float, str], None] = lambda done, text: None,
) -> float:
    """Teach patches for `steps` steps; `pictures` (N, 224, 224) and `blood` (N, 56, 56), uint8, of slices whose
    blood is traced. Returns the last mean loss. Draws from torch's global generators of host and device.

    `limit_s`: time within which the steps, with their schedule, have to fit; fewer are made if it is short. `tell` is
    called now and then with the share that is done, and what to say of it.

    Does nothing, and returns 0, for an encoder that is not made as the papers' ViTs are and for pictures that show no
    blood.
    """
    encoder = learner.model.encoder
    if learner.blood is None or steps < 1 or not len(pictures) or not _can_be_taught(encoder):
        return 0.0
    assert isinstance(encoder, VisionTransformer)
    lessons = _Lessons.of(pictures, blood, learner.grid())
    if not len(lessons.shown) or not len(lessons.bare):
        return 0.0
    _quiet(encoder)
    optimiser = _optimiser(learner, encoder, fused=pictures.device.type in FUSED)
    losses: list[torch.Tensor] = []  # on the device, for which nothing waits before the end
    started = said_at = time.monotonic()
    step, done = 0, 0.0
    while done < 1:
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / 20, 2 * (1 - done))
        patches, rows, columns, wanted = lessons.drawn()
        with autocast:
            logits = _alone(learner, encoder, patches, rows, columns)
        cost = F.binary_cross_entropy_with_logits(logits.float(), wanted)
        optimiser.zero_grad(set_to_none=True)
        cost.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses = [*losses[-19:], cost.detach()]
        step += 1
        now = time.monotonic()
        done = max(step / steps, (now - started) / limit_s)
        if now - said_at > SAY_EVERY_S and done < 1:
            said_at = now
            tell(done, f"first lessons: step {step} of {steps}, loss {_mean(losses):.3f}")
    return _mean(losses)


@dataclass(frozen=True, eq=False)
class _Lessons:
    """Patches to learn from."""

    pictures: torch.Tensor
    """(N, 224, 224) uint8."""
    share: torch.Tensor
    """(N, rows, columns): of each patch that shows blood."""
    shown: torch.Tensor
    """(P, 3): slice, row and column of patches that show blood."""
    bare: torch.Tensor
    """(Q, 3): of those that show none, but more than the background."""

    @classmethod
    def of(cls, pictures: torch.Tensor, blood: torch.Tensor, grid: tuple[int, int]) -> _Lessons:
        share = _means(blood, grid) / 255
        bare = (share == 0) & (_means(pictures, grid) > 5)
        return cls(pictures, share, (share > 0.1).nonzero(), bare.nonzero())

    def drawn(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Patches (B, 1, p, p), their rows and columns (B,), and what is to be said of them (B,), 0..1."""
        of_shown, of_bare = torch.randint(len(self.shown), (POSITIVES,)), torch.randint(len(self.bare), (NEGATIVES,))
        (chosen,) = sent([torch.cat((of_shown, len(self.shown) + of_bare))], self.shown.device)
        slices, rows, columns = self.places[chosen].T
        patches = _varied(_cut(self.pictures, slices, rows, columns, self.grid))
        return patches, rows, columns, (self.share[slices, rows, columns] / FULL_AT).clamp(max=1)

    @cached_property
    def places(self) -> torch.Tensor:
        return torch.cat((self.shown, self.bare))

    @property
    def grid(self) -> tuple[int, int]:
        _, rows, columns = self.share.shape
        return rows, columns


def _optimiser(learner: Learner, encoder: VisionTransformer, *, fused: bool) -> torch.optim.AdamW:
    """Of all that a single patch goes through."""
    assert learner.blood is not None
    parameters = [
        *encoder.patch_embed.parameters(),
        *(p for block in encoder.blocks[:DEPTH] for part in (block.norm2, block.mlp) for p in part.parameters()),
        *encoder.norm.parameters(),
        *learner.blood.parameters(),
    ]
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01, betas=(0.9, 0.98), fused=fused)


def _mean(losses: list[torch.Tensor]) -> float:
    return float(torch.stack(losses).mean())


def _can_be_taught(encoder: nn.Module) -> bool:
    """Whether one convolution makes a token of a patch, and each layer is attention and then an MLP; timm's ViTs are
    others, too: with a small ResNet before the first layer, or with attention and MLP side by side."""
    if not isinstance(encoder, VisionTransformer) or type(encoder.patch_embed) is not PatchEmbed:
        return False
    return all(type(block) is Block for block in encoder.blocks)


@torch.no_grad()
def _quiet(encoder: VisionTransformer) -> None:
    """Silence attention in every layer, and the later layers altogether; their gradients are not zero."""
    for number, block in enumerate(encoder.blocks):
        silent = [block.attn.proj] + ([block.mlp.fc2] if number >= DEPTH else [])  # type: ignore[union-attr]
        for layer in silent:
            for parameter in layer.parameters():  # type: ignore[union-attr]
                parameter.zero_()


def _alone(
    learner: Learner, encoder: VisionTransformer, patches: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    """Blood logits (B,) of patches (B, 1, p, p) at their rows and columns (B,), each seeing nothing but itself."""
    assert learner.blood is not None
    tokens = encoder.patch_embed.proj(learner.normalised(patches)).flatten(1)  # (B, D)
    if encoder.pos_embed is not None:
        height, width = learner.grid()
        tokens = tokens + encoder.pos_embed[0, -height * width :][rows * width + columns].detach()
    for block in encoder.blocks[:DEPTH]:
        tokens = tokens + block.ls2(block.mlp(block.norm2(tokens)))  # type: ignore[operator]
    found: torch.Tensor = learner.blood(encoder.norm(tokens))[:, 0]
    return found


def _means(pictures: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Means per patch, (N, rows, columns), of (N, H, W) uint8; only some at a time are turned into floats."""
    return torch.cat([patch_means(part[:, None].float(), grid).view(-1, *grid) for part in torch.split(pictures, 256)])


def _cut(
    pictures: torch.Tensor, slices: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, grid: tuple[int, int]
) -> torch.Tensor:
    """The patches (B, 1, p, p), in 0..1, at these places (B,)."""
    count, height, width = pictures.shape
    cells = pictures.view(count, grid[0], height // grid[0], grid[1], width // grid[1])
    return cells[slices, rows, :, columns][:, None] / 255


def _varied(patches: torch.Tensor) -> torch.Tensor:
    """Turned, mirrored, with other noise, offset and gain."""
    patches = torch.rot90(patches, int(torch.randint(4, ())), (2, 3))
    if torch.rand(()) < 0.5:
        patches = patches.flip(3)
    count = len(patches)
    each = torch.rand(3, count, 1, 1, 1, device=patches.device)
    noise = torch.randn_like(patches) * each[0] * 5 * HU
    return (patches * (0.94 + 0.12 * each[1]) + (each[2] - 0.5) * 6 * HU + noise).clamp(0, 1)
