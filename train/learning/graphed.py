"""On a GPU: forward and backward pass of a ViT, each launched at once (CUDA graphs) instead of kernel by kernel.

A ViT-S keeps a GPU busy for a fifth of the time that its host needs to launch a thousand small kernels; what was
launched once can be launched again with one call, in the same order over the same memory, on weights that the optimiser
changes in place (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs). Random numbers in it follow torch's
generator, as they do outside.

Not torch.cuda.make_graphed_callables: for a second input shape it reuses what autograd keeps of the parameters for the
first, on another stream, which a capture may not touch; and each backward pass ends in as many small calls as there are
parameters. Here gradients are put where they belong without autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from train.learning.learner import Learner, Outputs

WARM_UP = 3  # passes before a capture, as torch advises: its libraries set themselves up at first use

T = TypeVar("T")


class Graphed:
    """Called as the learner is, outside of autocast, and for one batch at a time: its gradients overwrite the last
    ones, so they cannot be added up over the parts of a batch.
    """

    def __init__(self, learner: Learner, autocast: torch.autocast) -> None:
        self._learner, self._autocast = learner, autocast
        self._passes: dict[tuple[torch.Size, ...], Passes] = {}
        device = next(learner.parameters()).device
        self._recorder = Recorder(device)
        self._gpus = [device] if device.type == "cuda" else []
        self._anchor = torch.zeros((), device=device, requires_grad=True)  # leads autograd here on its way back

    def __call__(self, pictures: torch.Tensor, kept: torch.Tensor | None = None) -> Outputs:
        given = (pictures,) if kept is None else (pictures, kept)
        shapes = tuple(each.shape for each in given)
        if shapes not in self._passes:
            # Random numbers are left as they were: a resumed run captures at another step than one never stopped.
            with torch.random.fork_rng(self._gpus):
                self._passes[shapes] = Passes(self._learner, self._autocast, given, self._recorder)
        presence, location, *blood = _Launched.apply(self._anchor, self._passes[shapes], *given)  # type: ignore[no-untyped-call]
        return presence, location, blood[0] if blood else None


class Recorder:
    """Captures what a GPU is asked to do. All captures share their memory: no two may be launched at once."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def tried(self, work: Callable[[], object]) -> None:
        """Run `work` for real, on the stream of the captures."""
        now = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(now)
        with torch.cuda.stream(self._stream):
            work()
        now.wait_stream(self._stream)

    def captured(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        """Where its results will lie, and what launches it."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            made = work()
        return made, graph.replay


class Passes:
    """Forward and backward, for inputs of one shape."""

    def __init__(
        self, learner: Learner, autocast: torch.autocast, given: Sequence[torch.Tensor], recorder: Recorder
    ) -> None:
        self._learner, self._autocast = learner, autocast
        self._given = [each.clone() for each in given]
        named = {name: each for name, each in learner.named_parameters() if each.requires_grad}
        self._parameters = list(named.values())
        # The same memory as leaves of their own: autograd ties a leaf to the stream on which it first met it.
        self._leaves = {name: each.detach().requires_grad_() for name, each in named.items()}
        for _ in range(WARM_UP):
            recorder.tried(self._there_and_back)
        self._outputs, self._launch_forward = recorder.captured(self._forward)
        self._wanted = [torch.zeros_like(each) for each in self._outputs]
        self._gradients, self._launch_backward = recorder.captured(lambda: self._backward(self._outputs, self._wanted))

    def forward(self, given: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Presence, location and, if there is that head, blood; valid until the next call."""
        for mine, its in zip(self._given, given, strict=True):
            mine.copy_(its)
        self._launch_forward()
        return tuple(each.detach() for each in self._outputs)

    def backward(self, wanted: Sequence[torch.Tensor]) -> None:
        """From the gradients of the outputs to those of the parameters, which are replaced."""
        for mine, its in zip(self._wanted, wanted, strict=True):
            mine.copy_(its)
        self._launch_backward()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def _there_and_back(self) -> None:
        outputs = self._forward()
        self._backward(outputs, [torch.ones_like(each) for each in outputs])

    def _forward(self) -> tuple[torch.Tensor, ...]:
        with torch.enable_grad(), self._autocast:
            outputs: Outputs = torch.func.functional_call(self._learner, self._leaves, tuple(self._given))
        return tuple(each for each in outputs if each is not None)

    def _backward(
        self, outputs: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor | None, ...]:
        leaves = list(self._leaves.values())
        found = torch.autograd.grad(outputs, leaves, wanted, allow_unused=True)
        return tuple(map(_laid_out, found, leaves))


class _Launched(torch.autograd.Function):
    """Passes as one node of autograd; the parameters' gradients are set behind its back."""

    @staticmethod
    def forward(ctx: Any, _anchor: torch.Tensor, passes: Passes, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.passes, ctx.count = passes, len(given)
        return passes.forward(given)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *wanted: torch.Tensor) -> Any:
        ctx.passes.backward(wanted)
        return (None,) * (2 + ctx.count)


def _laid_out(gradient: torch.Tensor | None, leaf: torch.Tensor) -> torch.Tensor | None:
    """With the leaf's memory layout, which autograd ensures where it accumulates, and which fused optimisers expect."""
    if gradient is None or gradient.stride() == leaf.stride():
        return gradient
    return torch.empty_like(leaf).copy_(gradient)
