"""On a GPU: forward and backward pass of a ViT, each launched at once (CUDA graphs) instead of kernel by kernel.

A ViT-S keeps a GPU busy for a fifth of the time that its host needs to launch a thousand small kernels; what was
launched once can be launched again with one call, in the same order over the same memory.
"""

from __future__ import annotations

import torch
from torch import nn

from train.learner import Learner, Outputs


class Graphed:
    """Called as the learner is, outside of autocast, and for one batch at a time: its gradients lie where the last
    ones lay, so that they cannot be added up over the parts of a batch.
    """

    def __init__(self, learner: Learner, autocast: torch.autocast) -> None:
        self._learner, self._autocast = learner, autocast
        self._captured: dict[tuple[torch.Size, ...], nn.Module] = {}

    def __call__(self, pictures: torch.Tensor, kept: torch.Tensor | None = None) -> Outputs:
        given = (pictures,) if kept is None else (pictures, kept)
        shapes = tuple(each.shape for each in given)
        if shapes not in self._captured:
            self._captured[shapes] = self._capture(given)
        presence, location, *blood = self._captured[shapes](*given)
        return presence, location, blood[0] if blood else None

    def _capture(self, given: tuple[torch.Tensor, ...]) -> nn.Module:
        # Random numbers are left as they were: a run that goes on captures at another step than one that never stopped.
        device = given[0].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            passes = _Passes(self._learner, self._autocast).train()
            torch.cuda.make_graphed_callables(passes, tuple(each.clone() for each in given))  # changes its forward
            return passes


class _Passes(nn.Module):
    """The learner as graphs can have it: nothing but tensors in and out."""

    def __init__(self, learner: Learner, autocast: torch.autocast) -> None:
        super().__init__()
        self.learner, self.autocast = learner, autocast

    def forward(self, pictures: torch.Tensor, kept: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        with self.autocast:
            return tuple(each for each in self.learner(pictures, kept) if each is not None)
