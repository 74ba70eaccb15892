"""Where the presence head looked: a relevance map of a plain ViT, one number per patch.

Source: gradient-weighted attention rollout. Chefer, Gur and Wolf, CVPR 2021, "Transformer Interpretability Beyond
Attention Visualization", in the simpler form of their ICCV 2021 paper, "Generic Attention-model Explainability", where
the attention itself stands for its layer-wise relevance: in each block A' = mean over the heads of the positive part of
(d score / d A) * A, and R <- R + A' R, beginning with R = 1. The score is the logit of "present" less that of "absent",
on which alone the probability depends. The row of R is that of what the head reads from: the class token, or, if
patches are pooled, the patches, each weighted with the positive part of gradient times token. The latter is ours (the
papers have only class tokens), with the rule for LayerNorm of Ali et al., ICML 2022, "XAI for Transformers".

Limits. The map is not a segmentation and not evidence of a hemorrhage: it has 14 x 14 patches, it is scaled to its own
maximum (a slice that the model calls clear has a bright spot too, and brightness cannot be compared between slices),
it shows only what spoke for "present", and it can be bright where a large ViT keeps global information in patches of
the background (Darcet et al., ICLR 2024). Saliency maps found lesions poorly in radiographs (Arun et al. 2021,
Radiology: Artificial Intelligence), so it stands beside a slice, never over it, and no finding is derived from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from dtvit.model import DTViT


class NoAttention(TypeError):
    """The encoder has no attention among the patches of one grid, so there is no map; leave it out."""


def relevance(model: DTViT, images: torch.Tensor) -> NDArray[np.float32]:
    """`images`: (N, 3, 224, 224), normalised, on the model's device. Returns (N, grid rows, grid columns).

    Each map is divided by its own maximum, so it spans 0..1 with 0 for no relevance; one without any stays all zero.
    The model must be in evaluation mode. It is left untouched: no hook, no switch and no gradient is set on it, so that
    other threads may use it meanwhile. A ViT-L needs about 0.5 GB for each image, so give it few at a time.
    Raises NoAttention, and FloatingPointError for pixels or a relevance that are not finite.
    """
    encoder = model.encoder
    if not isinstance(encoder, VisionTransformer):
        raise NoAttention(f"{type(encoder).__name__} is not a plain timm ViT: it has no relevance maps")
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode, where dropout makes maps differ; call model.eval() first")
    if not torch.isfinite(images).all():
        raise FloatingPointError("images hold a pixel that is not a finite number")
    rows, columns = encoder.patch_embed.grid_size
    prefix: int = encoder.num_prefix_tokens
    device = images.device.type
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device, enabled=False):
        images = images.detach().float().clone()  # a tensor from inference_mode may enter no gradient
        with _Attentions() as seen:
            tokens = encoder.forward_features(images)  # (N, prefix + patches, D)
        _check(seen.maps, blocks=len(encoder.blocks), tokens=tokens.shape[1], expected=prefix + rows * columns)
        with _ConstantScale():
            logits = model.presence(encoder.forward_head(tokens))  # (N, 2)
        # Images of a batch do not mix, so the gradient of the sum is each image's own.
        of_tokens, *of_maps = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), [tokens, *seen.maps])
    with torch.no_grad(), torch.autocast(device, enabled=False):
        if encoder.global_pool == "token":  # it has no place in the picture, so it need not itself speak for "present"
            read = (of_tokens != 0).any(-1).float()  # (N, tokens): the class token, in DeiT the distilled one too
        else:
            read = (of_tokens * tokens).sum(-1).clamp(min=0)
        grid = _rollout(read, seen.maps, of_maps, blocks=len(encoder.blocks))[:, prefix:]
        if not torch.isfinite(grid).all():
            raise FloatingPointError("the model gave a relevance that is not a finite number")
        peak = grid.amax(1, keepdim=True)
        scaled = torch.where(peak > 0, grid / torch.where(peak > 0, peak, 1.0), 0.0)
    return np.asarray(scaled.view(-1, rows, columns).cpu().numpy(), np.float32)


def _rollout(
    read: torch.Tensor, maps: list[torch.Tensor], gradients: list[torch.Tensor], *, blocks: int
) -> torch.Tensor:
    """(N, tokens): `read` times R, from the last block to the first, which avoids the square matrix R."""
    parallel = len(maps) // blocks  # attentions side by side in one block: one, except in ParallelThingsBlock
    row = read[:, None]  # (N, 1, tokens)
    for last in range(len(maps), 0, -parallel):
        side_by_side = range(last - parallel, last)
        row = row + sum(row @ (gradients[i] * maps[i]).clamp(min=0).mean(1) for i in side_by_side)
    return row[:, 0]


def _check(maps: list[torch.Tensor], *, blocks: int, tokens: int, expected: int) -> None:
    whole = all(a.ndim == 4 and a.shape[-2:] == (tokens, tokens) for a in maps)
    if tokens != expected or not maps or len(maps) % blocks or not whole:
        found = sorted({tuple(a.shape[1:]) for a in maps})
        raise NoAttention(
            f"expected attention among {expected} tokens in each of {blocks} blocks, found {len(maps)} of shape {found}"
        )


class _Attentions(TorchFunctionMode):
    """Within it, fused attention is computed in steps, and every attention is kept, in order, with its gradient.

    A mode of torch rather than timm's switch `fused_attn` and hooks: it holds for this thread alone.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.maps: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            return self._in_steps(*args, **kwargs)
        result = func(*args, **kwargs)
        return self._keep(result) if func in (torch.Tensor.softmax, torch.softmax, functional.softmax) else result

    def _in_steps(
        self,
        query: torch.Tensor,  # (N, heads, tokens, width), as key and value
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if attn_mask is not None or dropout_p or is_causal or enable_gqa:
            raise NoAttention("attention with a mask, dropout or groups has no relevance maps")
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        return self._keep((query * factor @ key.transpose(-2, -1)).softmax(-1)) @ value

    def _keep(self, attention: torch.Tensor) -> torch.Tensor:
        if not attention.requires_grad:
            attention.requires_grad_()  # nothing before it does: the encoder is frozen
        self.maps.append(attention)
        return attention


class _ConstantScale(TorchFunctionMode):
    """Within it, what LayerNorm divides by counts as a constant for the gradient.

    Without this, gradient times token sums to zero over pooled tokens, as LayerNorm takes back every change of scale;
    then half of them speak for "present" whatever they show.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_layer_norm if func is functional.layer_norm else func)(*args, **(kwargs or {}))


def _layer_norm(
    features: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    scale = (features.detach().var(axes, correction=0, keepdim=True) + eps).sqrt()
    normed = (features - features.mean(axes, keepdim=True)) / scale
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias
