"""Attention in single steps, for bfloat16 on a CPU without matrix instructions.

torch's fused kernel takes a fifth of a small ViT's time there, since its matrices are too small (decision 0012).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

LEAST, MOST = 1e-30, 1e30
"""Bounds of a row's sum of exponentials, which leaves them where no logit exceeds -69 or one exceeds 69."""


class InSteps(TorchFunctionMode):
    """Within it, `scaled_dot_product_attention` becomes `attention` where it is called as a ViT calls it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        if func is functional.scaled_dot_product_attention and _as_a_vit_does(args, given):
            return attention(*args)
        return func(*args, **given)


def _as_a_vit_does(tensors: Sequence[Tensor], options: Mapping[str, Any]) -> bool:
    """With neither mask nor dropout nor causality, and without shared heads."""
    return (
        len(tensors) == 3
        and all(each.ndim == 4 and each.shape[:2] == tensors[0].shape[:2] for each in tensors)
        and not any(isinstance(option, Tensor) or option for option in options.values())
    )


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query key^T / sqrt(D)) value: (B, heads, M, D) of `query` (B, heads, M, D), `key` and `value`
    (B, heads, N, D).

    Softmax without its first step, subtracting each row's maximum, which is meant for types of smaller range than
    bfloat16; and divided by its sum only after the product with the values, which are fewer. A batch in which a row
    still goes too far is left to torch's own softmax.
    """
    batch, heads = query.shape[:2]
    q, k, v = (each.reshape(batch * heads, *each.shape[2:]) for each in (query, key, value))
    weights = _logits(q, k).exp_()
    total = weights.sum(-1, keepdim=True)
    least, most = torch.aminmax(total)
    weighed = (weights @ v).div_(total) if least > LEAST and most < MOST else _logits(q, k).softmax(-1) @ v
    return weighed.reshape(batch, heads, *weighed.shape[1:])


def _logits(query: Tensor, key: Tensor) -> Tensor:
    """(B, M, N) of (B, M, D) and (B, N, D), scaled."""
    return torch.baddbmm(query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0.0, alpha=query.shape[-1] ** -0.5)
